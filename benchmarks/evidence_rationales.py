"""The table of nbs/2_prompting/01_3_rationales: LoRA on sums with their steps or without; run by `llmguide evidence rationales`.

The same sums train the small model twice, once with worked steps and once with the answer alone; sums held back are asked.
What is done stands in results/prompting_rationales.json and the cache folder; a run that was ended goes on from there.
"""

import sys

from llmguide.evidence import load_curve, record_curve
from llmguide.finetuning.methods import apply, merge, method
from llmguide.load import load_causal
from llmguide.prompting.rationales import make_sums, right_sums, teach_sums
from llmguide.prompting.reasoning import reasoning_rows
from llmguide.settings import get_settings

MODEL, RESULT, ROWS, EACH, EPOCHS = "smollm2-135m-instruct", "prompting_rationales", 240, 20, 1
ARMS = (("as it came", False), ("as it came", True), ("answers", False), ("rationales", True))  # what was taught; asked in steps?


def held_back():
    """Sums of each level that no training row is among."""
    rows = [row for row in reasoning_rows("arithmetic", 120) if row["name"] == "chain_sum"]
    return [row for level in (1, 2, 3, 4) for row in [row for row in rows if row["level"] == level][:EACH]]


def adapted(taught, steps):
    """The model after its lessons, its tokenizer, and the tokens it was trained on."""
    model, tokenizer = load_causal(MODEL)
    if taught == "as it came": return model, tokenizer, 0
    chosen, folder = method("lora", learning_rate=1e-3), get_settings().cache_dir / "rationales" / taught
    avoid = {row["question"] for row in reasoning_rows("arithmetic", 120)}
    run = teach_sums(model := apply(model, chosen, 0), tokenizer, make_sums(ROWS, avoid), steps, chosen, folder,
                     epochs=EPOCHS, batch=8, precision="float32", resume=True)
    return merge(model, chosen), tokenizer, run.tokens


def one_arm(taught, steps):
    """One line for each level."""
    model, tokenizer, tokens = adapted(taught, steps)
    rows = held_back()
    answers = right_sums(model, tokenizer, rows, steps)
    for level in (1, 2, 3, 4):
        own = [(answer, row) for answer, row in zip(answers, rows) if row["level"] == level]
        yield {"taught": taught, "steps": steps, "level": level, "right": "".join(str(int(answer["right"])) for answer, _ in own),
               "tokens": tokens, "example": f"{own[0][1]['question']} {own[0][0]['reply'][:160]}"}


def main():
    try:
        table = load_curve(RESULT)
    except FileNotFoundError:
        table = []
    for taught, steps in ARMS:
        if any((row["taught"], row["steps"]) == (taught, steps) for row in table): continue
        table += one_arm(taught, steps)
        for row in table[-4:]: print("   ", row, flush=True)
        record_curve(RESULT, table, "one seed; the same sums in both trainings", model=MODEL, training_rows=ROWS, epochs=EPOCHS, batch=8,
                     method="lora")
    return 0


if __name__ == "__main__":
    sys.exit(main())
