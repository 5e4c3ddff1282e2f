"""E6, E7 and E8 from measured times and published prices; run by `llmguide evidence economics`, about two minutes.

The times come from `evidence_economics_times.py`, the prices from assets/prices.csv, the scenarios from assets/scenarios.csv.
"""

import sys

import numpy as np

from llmguide.enterprise.capacity import Predictor, reserve
from llmguide.enterprise.costs import exactly, read_prices, times
from llmguide.enterprise.economics import break_even, read_scenarios, share, yearly_costs
from llmguide.evidence import Measurement, bootstrap_interval, load_curve, record, record_curve

TARGET, SERVERS, QUESTIONS = 0.5, (1, 2, 4, 8), 60_000
READ, WRITTEN, FIXED = 600, 80, 100_000  # tokens of a question with its passages, and of an answer; dollars
SHOWN = ("company that writes", "public site with an API")  # the others are in the table
SMALL, SOURCE = "smollm2-135m-instruct", "data folder of the project"


def seconds_of_answers():
    """CPU-seconds of every answer with quotations, and which question each is of."""
    rows = load_curve("enterprise_service_times")
    return np.array([row["cpu_seconds"] for row in rows]), np.array([row["question"] for row in rows])


def seconds_of_the_small_model():
    """Seconds of a core for a question with passages, within what was measured."""
    rows = [row for row in load_curve("enterprise_generation_times") if row["round"]]
    return Predictor(rows, ("read_tokens", "written_tokens"), "cpu_seconds").predict(read_tokens=READ, written_tokens=WRITTEN)


def put(claim, interval, method, note, model, rows, **config):
    """Record one figure and show it."""
    record(Measurement(claim, interval, dataset="handbook-questions", dataset_source=SOURCE, model=model, rows=rows,
                       config={"method": method, **config}, note=note))
    print(f"    {claim} {method}: {interval}", flush=True)


def shares(prices):
    """E6: what inference is of a year's cost, with people and of the machines alone, for every scenario."""
    (answers, questions), rows = seconds_of_answers(), []
    means = [answers[questions == one].mean() for one in np.unique(questions)]  # a question that was asked three times counts once
    measured = {"quotation": bootstrap_interval(means), "small model": seconds_of_the_small_model()}
    for one in read_scenarios():
        year, note = yearly_costs(one, measured, prices), f"{one.questions_a_day:,.0f} questions a day; scenario: {one.source}"
        model = {"quotation": "none", "small model": SMALL, "API": "an API, list price"}[one.engine]
        for without, counted in (((), "with people"), (("people",), "machines alone")):
            found = share(year, without=without)
            rows.append({"scenario": one.scenario, "counted": counted, **found._asdict()})
            if one.scenario in SHOWN: put("E6", found, f"{one.scenario}, {counted}", note, model, len(answers))
    record_curve("enterprise_cost_shares", rows, note="inference, % of a year's cost; prices and scenarios from the project's tables")


def even(prices):
    """E7: tokens until a model of one's own has paid, if it ran for nothing and on the core that was measured."""
    tokens = READ + WRITTEN
    own = times(seconds_of_the_small_model().scale(1e6 / tokens / 3600), prices["processor"].value)
    rented, rows = prices["article tokens"].value, len(load_curve("enterprise_generation_times"))
    for method, value in (("running costs nothing", exactly(0)), ("running costs a core", own)):
        note = f"a million tokens of one's own cost {value} $; the small model isn't as good as the API's, which wasn't measured"
        put("E7", break_even(exactly(FIXED), rented, value).scale(1e6), method, note, SMALL, rows, read=READ, written=WRITTEN)


def reserves():
    """E8: what must stand idle so that 99 of 100 answers come within the target."""
    answers, groups = seconds_of_answers()
    for servers in SERVERS:
        note = (f"simulated queue, answers with quotations, 99 % within {TARGET:g} s; interval by drawing whole questions; "
                "failing machines and bursts come on top")
        found = reserve(answers, servers, TARGET, questions=QUESTIONS, groups=groups)
        put("E8", found, f"{servers} cores", note, "none", len(answers), target=TARGET)


def main():
    prices = read_prices()
    shares(prices)
    even(prices)
    reserves()
    return 0


if __name__ == "__main__":
    sys.exit(main())
