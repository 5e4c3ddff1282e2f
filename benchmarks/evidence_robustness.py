"""Three prompts for one task under noise in the text and changes of format; run by `llmguide evidence robustness`.

The small model's choice among the labels is read off their likelihood, calibrated, on test rows of the sentiment task. How
many are right, and how many answers become others? Answers are kept in the cache folder, so a run that was ended goes on
where it was. Takes about five minutes on a quiet machine.
"""

import sys

from llmguide.evidence import record_curve
from llmguide.prompting.cache import LabelReader, cached
from llmguide.prompting.noise import robustness
from llmguide.prompting.scoring import Scorer
from llmguide.prompting.tasks import load_task
from llmguide.settings import get_settings
from llmguide.templates import Template

MODEL, RESULT, ROWS = "smollm2-135m-instruct", "prompting_robustness", {"laptop": 40, "full": 200}
SHOWN = ("News: The firm's profit fell by a third.\nSentiment: negative\n\nNews: The meeting will be held in June.\nSentiment: neutral\n\n"
         "News: The firm won a large new order.\nSentiment: positive\n\n")  # fmt: skip


def prompts(labels):
    """Plain, with a fixed form, and the same form with three examples."""
    plain = f"Is this news good for the company? Answer {', '.join(labels)}.\n\n{{text}}"
    form = f"Decide the sentiment of the news for the company: {', '.join(labels)}.\n\nNews: {{text}}\nSentiment:"
    return {"plain": Template("plain", plain), "form": Template("form", form),
            "form and examples": Template("examples", form.replace("News: {text}", SHOWN + "News: {text}"))}  # fmt: skip


def main():
    """Measure, and record a line for each prompt and change."""
    scale = get_settings().scale
    task = load_task("sentiment", rows=ROWS.get(scale, 6))
    chat = cached(LabelReader(Scorer(MODEL), list(task.labels), calibrate=True), get_settings().cache_dir / "answers" / RESULT)
    lines = []
    for name, prompt in prompts(task.labels).items():
        found = robustness({name: prompt}, task.rows, chat)
        spread, luck = found.spread(name)
        lines += [line | {"spread": spread, "luck": luck} for line in found.table()]
        print(f"    {name}: {lines[-len(found.right)]['value']:.1f} %, spread {spread:.1f} points, by luck {luck:.1f}", flush=True)
    note = "gain on the prompt as it is, in points; changed: answers that became others, in %; spread: best minus worst format"
    record_curve(RESULT, lines, note=note, data=task.rows.name, model=MODEL, scorer=f"{Scorer.how}, calibrated",
                 test_rows=len(task.rows), seed=0)  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())
