"""Service times of the knowledge base and of a small model; run by `llmguide evidence economics_times`.

Seconds, and CPU-seconds with one thread, of every answer with quotations, then of the small model for texts and answers of
several lengths, in random order. About four minutes. `evidence_economics.py` computes E6 to E8 from them.
"""

import csv
import os
import random
import sys
import tempfile
import time
from pathlib import Path

from llmguide.chat import connect
from llmguide.enterprise.knowledge_base import EnterpriseKnowledgeBase
from llmguide.evidence import record_curve

os.environ["LLMGUIDE_THREADS"] = "1"
ROUNDS, MODEL = 3, "smollm2-135m-instruct"
READ, WRITTEN = (40, 120, 300, 700, 1200), (4, 16, 48, 96)  # tokens, about
HOW = "one thread; seconds need a quiet machine, cpu_seconds don't"
DATA = Path(__file__).parent.parent / "data"


def questions():
    """The questions on our English handbook that need no earlier question."""
    with open(DATA / "handbook_questions" / "en.csv", encoding="utf-8", newline="") as file:
        return [row["question"] for row in csv.DictReader(file) if not row["previous"]]


def times():
    """Wall and processor seconds of every answer, one question at a time, the first round left out."""
    asked, rows = questions(), []
    with tempfile.TemporaryDirectory() as folder:
        base = EnterpriseKnowledgeBase(str(DATA / "handbooks" / "en"), store=f"{folder}/store")
        for number in range(ROUNDS + 1):
            for place, question in enumerate(asked):
                start, cpu = time.perf_counter(), time.process_time()
                answer = base.query(question)
                rows.append({"round": number, "question": place, "seconds": round(time.perf_counter() - start, 5),
                             "cpu_seconds": round(time.process_time() - cpu, 5), "refused": bool(answer["refused"])})
            print(f"    round {number} of {ROUNDS}: {len(rows)} answers", flush=True)
        base.close()
    record_curve("enterprise_service_times", [row for row in rows if row["round"]], questions=len(asked), rounds=ROUNDS,
                 data="data/handbooks/en", note=f"knowledge base with quotations, one question at a time, {HOW}")


def generation():
    """Seconds of the small model for each length of text and answer, in random order; every text begins differently."""
    words = " ".join(file.read_text(encoding="utf-8") for file in sorted((DATA / "handbooks" / "en").glob("*.md"))).split()
    chat, draw, rows = connect(MODEL), random.Random(0), []
    grid = [(read, written, number) for number in range(ROUNDS + 1) for read in READ for written in WRITTEN]
    draw.shuffle(grid)
    for read, written, number in grid:
        begin = draw.randrange(len(words) - read)
        text = f"{draw.random()} " + " ".join(words[begin:begin + int(read * 0.7)]) + "\nTell a long story about this."
        start, cpu = time.perf_counter(), time.process_time()
        usage = chat([{"role": "user", "content": text}], max_tokens=written, temperature=1.0, seed=number).usage
        rows.append({"round": number, "read_tokens": usage["prompt_tokens"], "written_tokens": usage["completion_tokens"],
                     "seconds": round(time.perf_counter() - start, 4), "cpu_seconds": round(time.process_time() - cpu, 4)})
    record_curve("enterprise_generation_times", rows, model=MODEL, note=f"one request at a time, llama.cpp, {HOW}")
    return 0


if __name__ == "__main__":
    times()
    sys.exit(generation())
