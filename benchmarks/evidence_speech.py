"""Speech: invented words, word errors, noise, times, confidence and speed; run by `llmguide evidence speech`.

Each part writes a table of its own and is left alone when the table is there; name parts to measure them again:
python benchmarks/evidence_speech.py speed
"""

import os
import sys
import time

import numpy as np
import pandas as pd

from llmguide.catalog import resolve
from llmguide.evidence import Interval, bootstrap_interval, load_curve, ratio_interval, record_curve, wilson_interval
from llmguide.multimodal.sound import load_sound, wordless_sounds
from llmguide.multimodal.speech import _loaded, _recognizer, transcribe
from llmguide.multimodal.word_errors import spoken_words, word_error_rate
from llmguide.settings import get_settings

MODEL = "whisper-tiny-en"
DIGITS = "zero one two three four five six seven eight nine".split()
OFF = {"temperature": 0.0, "no_speech_threshold": None, "log_prob_threshold": None, "compression_ratio_threshold": None}


def text_of(segments):
    """The text of segments, ours or the library's."""
    return " ".join(segment.text.strip() for segment in segments)


def bare(samples, **options):
    """faster-whisper without anything of ours."""
    return text_of(_loaded(MODEL).transcribe(samples, language="en", **options)[0])


def clips():
    """(table with samples, where it came from): all sentences and commands, and the digits' own test part."""
    found = resolve("speech-clips")
    table = pd.read_csv(found.path)
    table["kind"] = ["digits" if f.startswith("digits/") else "commands" if f.startswith("cards/") else "sentences" for f in table.file]
    test = table.file.str.extract(r"_(\d+)\.wav$")[0].isin(["3", "4"]) | (table.kind != "digits")
    table = table[test].reset_index(drop=True)
    table["samples"] = [load_sound(found.path.parent / file) for file in table.file]
    return table, found.source


def measure_wordless():
    """Words written for sounds without a word, by guard."""
    guards = {"no checks": lambda x: bare(x, **OFF), "faster-whisper's own checks": bare,
              "voice gate": lambda x: bare(x, vad_filter=True, temperature=0.0), "transcribe (all gates)": lambda x: text_of(transcribe(x))}
    rows = []
    for guard, write in guards.items():
        for seed, level, seconds in [(0, 0.1, 10), (1, 0.02, 20)]:
            for sound, samples in wordless_sounds(seconds, level=level, seed=seed).items():
                words = len(spoken_words(write(samples)))
                row = {"guard": guard, "sound": sound, "level": level, "seconds": seconds, "minutes": seconds / 60}
                rows.append(row | {"words": words})
                print(rows[-1], flush=True)
    record_curve("speech_wordless", rows, model=MODEL, dataset="wordless_sounds", note="made sounds without a word")


def rate_row(kind, method, said, heard):
    """One line of the table of error rates."""
    rate = word_error_rate(list(said), list(heard)).scale(100)
    print(kind, method, rate, flush=True)
    words = sum(len(spoken_words(text)) for text in said)
    return {"clips": kind, "method": method, "count_clips": len(said), "words": words, **rate._asdict()}


def measure_words():
    """Word error rates, and confidence of the digits against being right."""
    table, source = clips()
    rows, method_of = [], {"any words": {}, "only the ten digits": {"only": DIGITS}}
    for kind in ("sentences", "commands", "digits"):
        part = table[table.kind == kind]
        if not len(part): continue
        if kind == "digits":
            prompt = "zero, one, two, three, four, five, six, seven, eight, nine."
            third = part.iloc[::6]  # it rambles and is slow
            prompted = [bare(x, initial_prompt=prompt, temperature=0.0) for x in third.samples]
            rows.append(rate_row(kind, "words in a prompt", third.text, prompted))
        for method, options in method_of.items():
            if options and kind != "digits": continue
            found = [transcribe(x, **options) for x in part.samples]
            rows.append(rate_row(kind, method, part.text, list(map(text_of, found))))
            if kind == "digits" and not options: confidence_bands(part, found, source)
    note = "digits: the set's own test part"
    record_curve("speech_word_errors", rows, note, model=MODEL, dataset="speech-clips", source=source)


def confidence_bands(part, found, source):
    """Share of right digits in fifths by confidence."""
    heard = [(segments, said) for segments, said in zip(found, part.text) if segments]
    sure = [(segments[0].confidence, spoken_words(text_of(segments)) == [said]) for segments, said in heard]
    rows = []
    for band in np.array_split(np.array(sorted(sure)), 5):
        share = wilson_interval(int(band[:, 1].sum()), len(band))
        rows.append({"confidence": float(band[:, 0].mean()), "rows": len(band), **share._asdict()})
    silent = len(part) - len(sure)
    record_curve("speech_confidence", rows, model=MODEL, dataset="speech-clips digits", source=source, silent=silent)


def measure_noise():
    """Word error rate of the sentences in white noise."""
    table, source = clips()
    part, rows = table[table.kind == "sentences"], []
    for decibels in (20, 10, 5, 0):
        heard = []
        for place, x in enumerate(part.samples):
            noise = np.random.default_rng(place).normal(size=len(x))
            heard.append(text_of(transcribe((x + noise * np.sqrt(np.mean(x**2)) * 10 ** (-decibels / 20)).astype(np.float32))))
        row = rate_row("sentences", f"{decibels} dB", part.text, heard)
        rows.append({"decibels": decibels, **{key: row[key] for key in ("value", "low", "high")}})
    record_curve("speech_noise", rows, model=MODEL, dataset="speech-clips", source=source, note="white noise")


def voiced(samples, window=320):
    """(first, last) second at which a clip is louder than a twentieth of its loudest moment."""
    loud = np.abs(samples[: len(samples) // window * window]).reshape(-1, window).max(axis=1)
    places = np.flatnonzero(loud > 0.05 * loud.max())
    return places[0] * window / 16_000, (places[-1] + 1) * window / 16_000


def measure_times():
    """How far the beginning and the end of speech are off, in recordings put together from clips and pauses."""
    table, source = clips()
    part, random = list(table[table.kind == "sentences"].samples), np.random.default_rng(0)
    begins, ends = [], []
    for clip in part * 2:
        pause = random.uniform(0.5, 8)
        start, end = voiced(clip)
        silence = [np.zeros(int(length * 16_000), np.float32) for length in (pause, 2)]
        words = transcribe(np.concatenate([silence[0], clip, silence[1]]), by_word=True)
        if not words: continue
        begins.append(abs(words[0].start - pause - start))
        ends.append(abs(words[-1].end - pause - end))
    measured = {"beginning of speech": begins, "end of speech": ends}
    rows = [{"what": what, "rows": len(off), **bootstrap_interval(off)._asdict()} for what, off in measured.items()]
    note = "mean absolute difference, seconds"
    record_curve("speech_times", rows, note, model=MODEL, dataset="speech-clips", source=source)


def seconds(job, runs):
    """Times of several runs of a job, after one that is not counted."""
    job()
    taken = []
    for _ in range(runs):
        start = time.perf_counter()
        job()
        taken.append(time.perf_counter() - start)
    return taken


def measure_speed(runs=5):
    """Times real time, the time of loading, and what our gates cost."""
    table, source = clips()
    part = list(table[table.kind == "sentences"].samples)
    joined = np.concatenate([piece for clip in part for piece in (clip, np.zeros(8_000, np.float32))])
    load = []
    for _ in range(runs):
        _recognizer.cache_clear()
        start = time.perf_counter()
        _loaded(MODEL)
        load.append(time.perf_counter() - start)
    one, whole = max(part, key=len), len(joined) / 16_000
    ours, theirs = seconds(lambda: transcribe(joined), runs), seconds(lambda: bare(joined), runs)
    single, by_word = seconds(lambda: transcribe(one), runs), seconds(lambda: transcribe(joined, by_word=True), runs)
    quiet = seconds(lambda: transcribe(wordless_sounds(30)["white noise"]), runs)
    ratio = lambda length, taken: ratio_interval([length] * len(taken), taken)._asdict()  # noqa: E731
    rows = [
        {"what": f"sentences in one recording of {whole:.0f} s", "unit": "times real time", **ratio(whole, ours)},
        {"what": "the same with times of words", "unit": "times real time", **ratio(whole, by_word)},
        {"what": f"one clip of {len(one) / 16_000:.0f} s", "unit": "times real time", **ratio(len(one) / 16_000, single)},
        {"what": "noise without a voice", "unit": "times real time", **ratio(30, quiet)},
        {"what": "our time over that of faster-whisper alone", "unit": "times", **ratio_interval(ours, theirs)._asdict()},
        {"what": "loading the model", "unit": "s", **bootstrap_interval(load)._asdict()},
    ]
    for row in rows: print(row["what"], Interval(row["value"], row["low"], row["high"]), row["unit"], flush=True)
    threads = get_settings().threads or os.cpu_count()
    rows = [row | {"threads": threads} for row in rows]
    record_curve("speech_speed", rows, "int8", model=MODEL, dataset="speech-clips", source=source, runs=runs, threads=threads)


PARTS = {"wordless": (measure_wordless, "speech_wordless"), "words": (measure_words, "speech_word_errors"),
         "noise": (measure_noise, "speech_noise"), "times": (measure_times, "speech_times"),
         "speed": (measure_speed, "speech_speed")}  # fmt: skip


def main(names):
    """Measure what is missing, or what is named."""
    for name, (measure, table) in PARTS.items():
        if names and name not in names: continue
        try: there = bool(load_curve(table)) and not names
        except FileNotFoundError: there = False
        if not there: measure()


if __name__ == "__main__": main(sys.argv[1:])
