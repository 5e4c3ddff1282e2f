"""Prices, predictions that refuse to go beyond what was measured, queues against theory, break-even and advice."""

import math
from pathlib import Path

import numpy as np
import pytest

from llmguide.enterprise.capacity import (
    Predictor, draw_groups, most_load, reserve, servers_needed, simulate_queue, slowest_percent, waiting_seconds,
)  # fmt: skip
from llmguide.enterprise.costs import add, best_distance, cost, exactly, read_prices, spot_hours, times
from llmguide.enterprise.economics import (
    Option, advise, break_even, payback_years, present_value, read_scenarios, roi, share, yearly_costs,
)  # fmt: skip
from llmguide.enterprise.diagrams import flowchart
from llmguide.enterprise.roadmap import gantt, pie, read_table, timeline
from llmguide.intervals import Interval

HEAD = "item,unit,low,price,high,currency,source,date\n"


# --- prices

@pytest.mark.parametrize("row, said", [
    ("gpu,hour,1,2,3,USD,,2024-06", "needs a source"),
    ("gpu,hour,1,2,3,USD,a list,", "needs a source"),
    ("gpu,hour,3,2,4,USD,a list,2024", "low <= price"),
    ("gpu,hour,-1,2,4,USD,a list,2024", "low <= price"),
    ("gpu,hour,1,cheap,4,USD,a list,2024", "line 2"),
    ("gpu,hour,1,nan,4,USD,a list,2024", "low <= price"),
    ("gpu,hour", "line 2"),
    ("显卡,小时,1,2,inf,USD,目录,2024", "显卡"),
])  # fmt: skip
def test_a_bad_row_of_prices_is_named(tmp_path, row, said):
    (tmp_path / "prices.csv").write_text(HEAD + row + "\n", encoding="utf-8")
    with pytest.raises(ValueError, match=said): read_prices(tmp_path / "prices.csv")


def test_prices_of_ones_own_replace_ours_even_from_a_spreadsheet(tmp_path):
    (tmp_path / "prices.csv").write_text(HEAD + "处理器,小时,1,2,3,CNY,合同,2026-01\n", encoding="utf-8-sig")
    prices = read_prices(tmp_path / "prices.csv")
    assert cost({"处理器": 10}, prices) == {"处理器": Interval(20, 10, 30)}


def test_every_price_of_ours_has_a_source_and_is_used_in_a_known_unit():
    prices = read_prices()
    assert {"processor", "gpu", "read tokens", "written tokens", "storage", "people"} <= set(prices)
    assert all(price.source and price.date for price in prices.values())
    assert prices["article tokens"].value == exactly(2)  # $0.002 for 1,000, the claim's price


def test_ranges_add_and_multiply_end_by_end():
    assert add(Interval(2, 1, 3), Interval(20, 10, 30)) == Interval(22, 11, 33)
    assert times(Interval(2, 1, 3), exactly(10)) == Interval(20, 10, 30)
    assert add() == exactly(0)


@pytest.mark.parametrize("quantity", [-1, float("nan"), float("inf"), Interval(1, -1, 2)])
def test_impossible_quantities_are_refused(quantity):
    with pytest.raises(ValueError, match="below zero"): cost({"storage": quantity}, read_prices())


def test_saving_at_the_best_distance_costs_least():
    best = best_distance(0.02, 1 / 12)
    at = lambda distance: spot_hours(48, 1 / 12, 0.02, 0.1, distance)  # noqa: E731
    assert at(best) <= min(at(best * 0.8), at(best * 1.25)) and at(best) > 48


# --- predictions

def points(count=40, noise=0.02, seed=0):
    """Points of a known line, with known noise."""
    draw = np.random.default_rng(seed)
    read, written = draw.uniform(50, 1000, count), draw.uniform(5, 100, count)
    seconds = (0.1 + 0.005 * read + 0.02 * written) * draw.normal(1, noise, count)
    return [{"read": float(a), "written": float(b), "seconds": float(s)} for a, b, s in zip(read, written, seconds)]


def test_a_known_line_is_found_and_its_interval_holds_what_it_says():
    fitted, inside = Predictor(points(), ("read", "written")), []
    assert fitted.weights == pytest.approx([0.1, 0.005, 0.02], rel=0.3)
    for row in points(400, seed=1):
        try: interval = fitted.predict(read=row["read"], written=row["written"])
        except ValueError: continue  # beyond: these are counted in the next test
        inside.append(interval.low <= row["seconds"] <= interval.high)
    assert len(inside) > 200 and 0.82 < np.mean(inside) < 0.97


@pytest.mark.parametrize("read, written", [(2000, 50), (10, 50), (500, 200), (float("nan"), 50), (float("inf"), 50)])
def test_nothing_is_said_beyond_what_was_measured(read, written):
    with pytest.raises(ValueError, match="never measured"): Predictor(points(), ("read", "written")).predict(read=read, written=written)


def test_within_each_range_and_still_unlike_everything_measured():
    rows = [{"read": 10.0 * one, "written": float(one + one % 3), "seconds": 0.1 * one} for one in range(5, 60)]  # both grow together
    fitted = Predictor(rows, ("read", "written"))
    fitted.predict(read=300, written=31)
    with pytest.raises(ValueError, match="together"): fitted.predict(read=580, written=6)


@pytest.mark.parametrize("rows", [points(5), [points(1)[0]] * 40, [{**row, "seconds": 0} for row in points()]])
def test_too_little_to_fit_is_said(rows):
    with pytest.raises(ValueError, match="measure more"): Predictor(rows, ("read", "written"))


# --- queues

@pytest.mark.parametrize("servers, load", [(1, 0.7), (3, 0.8), (8, 0.9)])
def test_a_queue_with_exponential_times_agrees_with_erlang(servers, load):
    """M/M/c is the case with an exact answer; the formula must be it, and the simulation near it."""
    draw, count = np.random.default_rng(0), 150_000
    services, arrivals = draw.exponential(1, count), np.cumsum(draw.exponential(1 / (load * servers), count))
    offered = load * servers
    above = offered**servers / math.factorial(servers) / (1 - load)
    exact = above / (above + sum(offered**k / math.factorial(k) for k in range(servers))) / (servers * (1 - load))
    assert waiting_seconds(services / services.mean(), load, servers) == pytest.approx(exact, rel=0.03)
    assert (simulate_queue(services, arrivals, servers) - services).mean() == pytest.approx(exact, rel=0.1)


def test_the_simulation_by_hand():
    assert simulate_queue([2, 2, 1], [0, 1, 1.5], 1).tolist() == [2, 3, 3.5]
    assert simulate_queue([2, 2, 1], [0, 1, 1.5], 2).tolist() == [2, 2, 1.5]


def test_more_load_waits_longer_and_more_servers_need_less_reserve():
    services = np.random.default_rng(0).gamma(4, 0.025, 300)
    slow = [slowest_percent(services, load, 2, 5_000) for load in (0.2, 0.6, 0.9)]
    assert slow == sorted(slow)
    one, many = (reserve(services, servers, 0.5, draws=4, questions=5_000) for servers in (1, 8))
    assert many.value < one.value and one.low <= one.value <= one.high
    assert most_load(services, 2, 0.01, 2_000) == 0
    with pytest.raises(ValueError, match="faster first"): reserve(services, 2, 0.01, questions=2_000)


def test_times_of_one_question_are_drawn_together():
    """Three equal times of a question say no more than one: means of what is drawn stray as widely as those of the questions alone."""
    once = np.random.default_rng(3).gamma(2, 0.05, 20)
    thrice, groups = np.repeat(once, 3), np.repeat(np.arange(20), 3)
    strays = lambda services, groups: np.std([draw_groups(services, groups, seed).mean() for seed in range(400)])  # noqa: E731
    assert strays(thrice, groups) == pytest.approx(strays(once, None), rel=0.1)
    assert strays(thrice, groups) > 1.5 * strays(thrice, None)
    found = [reserve(thrice, 2, 1.0, draws=6, questions=3_000, groups=each) for each in (None, groups)]
    assert found[0].value == found[1].value and found[0] != found[1]


def test_servers_needed_keeps_the_promise_and_one_less_does_not():
    services = np.random.default_rng(0).gamma(4, 0.025, 300)
    found = servers_needed(services, 30, 0.5)
    mean = services.mean()
    assert slowest_percent(services, 30 * mean / found, found) <= 0.5
    fewer = 30 * mean / (found - 1)
    assert fewer >= 1 or slowest_percent(services, fewer, found - 1) > 0.5


# --- money

def test_break_even_by_hand_and_never():
    assert break_even(exactly(100), exactly(2), exactly(1)) == exactly(100)
    wide = break_even(Interval(100, 80, 120), Interval(2, 1, 4), Interval(1, 0, 1.5))
    assert (wide.low, wide.high) == (20, math.inf)
    assert payback_years(exactly(100), exactly(0)).value == math.inf


def test_return_is_discounted():
    assert present_value(100, 2, 0) == 200 and present_value(121, 2, 0.1) == pytest.approx(210)
    assert roi(exactly(100), exactly(50), 2, 0).value == pytest.approx(0)
    found = roi(Interval(100, 80, 120), Interval(50, -10, 90))
    assert found.low < -100 < found.value < found.high
    with pytest.raises(ValueError, match="above zero"): roi(exactly(0), exactly(1))


def test_shares_add_up_to_a_hundred_and_grow_with_questions():
    one, prices = read_scenarios()[0], read_prices()
    year = yearly_costs(one, {"quotation": exactly(0.1)}, prices)
    assert sum(share(year, part).value for part in year) == pytest.approx(100)
    more = yearly_costs(one._replace(questions_a_day=1e7), {"quotation": exactly(0.1)}, prices)
    assert share(more).value > share(year).value and share(more, without=("people",)).value > share(more).value
    with pytest.raises(ValueError, match="share of nothing"): share({"inference": exactly(0)})


def test_the_advisor_takes_the_cheapest_that_is_surely_good_enough():
    good, dear = Option("good", Interval(0.9, 0.85, 0.95), exactly(1)), Option("dear", Interval(0.95, 0.9, 1), exactly(5))
    lucky, unknown = Option("lucky", Interval(0.9, 0.5, 1), exactly(0.1)), Option("API", Interval(0.99, 0.98, 1), exactly(0.01), False)
    assert advise([dear, good, lucky], 0.8)[0] == good
    assert advise([dear, good, lucky, unknown], 0.8)[0] == unknown and advise([dear, good, lucky, unknown], 0.8, private=True)[0] == good
    best, reasons = advise([Option("rumour", None, exactly(0)), lucky], 0.8)
    assert best is None and "rumour: not measured" in reasons and len(reasons) == 2
    assert advise([], 0.5) == (None, [])


# --- the road map's tables

def test_every_lesson_of_the_road_map_exists():
    folder = Path(__file__).parents[1] / "nbs"
    for row in read_table("challenges"): assert (folder / f"{row['lesson']}.ipynb").exists(), row["lesson"]


def test_a_rating_without_a_source_is_refused(tmp_path, monkeypatch):
    (tmp_path / "roadmap").mkdir()
    (tmp_path / "roadmap" / "challenges.csv").write_text("challenge,harm,source\nx,5,a study\ny,4,\n")
    monkeypatch.setattr("llmguide.enterprise.roadmap.assets", lambda: tmp_path)
    with pytest.raises(ValueError, match="line 3"): read_table("challenges")


def test_no_text_of_a_table_breaks_a_diagram():
    evil = 'a"]; click n0 "javascript:1"\n|x| {end}'
    chart = flowchart([{"from": evil, "to": "预算", "label": evil}])
    assert chart.count("\n") == 3 and chart.count('"') == 4 and ";" not in chart and "click n0" in chart.split('"')[1]
    lines = gantt([{"section": evil, "task": evil, "start": "2027-01", "months": "2"}]).splitlines()
    assert len(lines) == 6 and lines[-1].count(":") == 1
    with pytest.raises(ValueError, match="above zero"): pie({"a": 0}, "x")
    assert timeline(read_table("milestones")).count(" : ") == len(read_table("milestones"))
