"""How much faster labels are scored when a shared beginning is read once; run by `llmguide evidence scoring`.

Three cases, each scored three ways on the same rows, in turn and several times: one forward pass for each row and label,
batches that share nothing, and `Scorer`. Seconds are compared as ratios with their intervals; scores as the largest difference.
Cases that are measured are kept.
"""

import sys
import time

import numpy as np

from llmguide.evidence import load_curve, ratio_interval, record_curve
from llmguide.finetuning.classify import score_labels
from llmguide.load import fit_attention, load_causal
from llmguide.prompting.scoring import Scorer, prompt_ids
from llmguide.prompting.tasks import load_task
from llmguide.prompting.techniques import few_shot, random_examples, zero_shot
from llmguide.settings import require

MODEL, ROWS, ROUNDS = "smollm2-135m-instruct", 8, 3


def cases():
    """Name, prompts and labels of each case."""
    sentiment, intents = load_task("sentiment", rows=ROWS), load_task("intents", rows=ROWS)
    shown = random_examples(sentiment)
    yield "question, 3 labels", [zero_shot(sentiment, row["text"]) for row in sentiment.rows], sentiment.labels
    yield "4 examples, 3 labels", [few_shot(sentiment, row["text"], shown) for row in sentiment.rows], sentiment.labels
    yield f"question, {len(intents.labels)} labels", [zero_shot(intents, row["text"]) for row in intents.rows], intents.labels


def one_by_one(scorer, prompts, tokens, end):
    """A forward pass for each row and label, with the tokens that `score_labels` counts."""
    torch = require("torch", "finetuning")
    single = len({label[0] for label in tokens}) == len(tokens)
    counted = [label[:1] if single else [*label, end] for label in tokens]
    found = np.zeros((len(prompts), len(tokens)))
    for row, prompt in enumerate(prompts):
        fit_attention(scorer.model, len(prompt))
        for column, label in enumerate(counted):
            ids = torch.tensor([prompt + label], device=scorer.model.device)
            with torch.inference_mode():
                logits = scorer.model(ids, logits_to_keep=len(label) + 1, use_cache=False).logits[0, :-1]
            found[row, column] = logits.float().log_softmax(-1)[range(len(label)), label].sum().item()
    return found - np.logaddexp.reduce(found, axis=1, keepdims=True)


def timed(function):
    start = time.perf_counter()
    return function(), time.perf_counter() - start


def measure(scorer, name, messages, labels):
    """The points of one case: how many times faster than each of the two other ways, and the largest difference of scores."""
    prompts = [prompt_ids(scorer.tokenizer, asked) for asked in messages]
    tokens = [scorer.tokenizer(label, add_special_tokens=False).input_ids for label in labels]
    ways = {
        "one row and label at a time": lambda: one_by_one(scorer, prompts, tokens, scorer.tokenizer.eos_token_id),
        "batches, nothing shared": lambda: score_labels(scorer.model, scorer.tokenizer, prompts, tokens),
        "shared": lambda: scorer.scores(messages, labels),
    }
    scorer.scores(messages[:2], labels)  # the first call pays for caches
    rounds = [{way: timed(function) for way, function in ways.items()} for _ in range(ROUNDS)]
    seconds = {way: [found[way][1] for found in rounds] for way in ways}
    for way in list(ways)[:2]:
        times = ratio_interval(seconds[way], seconds["shared"])
        apart = float(np.abs(rounds[0][way][0] - rounds[0]["shared"][0]).max())
        yield {"case": name, "baseline": way, "value": times.value, "low": times.low, "high": times.high, "difference": apart,
               "rows_a_second": len(messages) / float(np.mean(seconds["shared"])), "tokens": float(np.mean(list(map(len, prompts))))}


def main():
    scorer = Scorer(*load_causal(MODEL, "float32"))
    try: points = load_curve("prompting_scoring_speed")
    except FileNotFoundError: points = []
    for name, messages, labels in cases():
        if any(point["case"] == name for point in points): continue
        points += measure(scorer, name, messages, labels)
        record_curve("prompting_scoring_speed", points, model=MODEL, test_rows=ROWS, rounds=ROUNDS, precision="float32",
                     note="times faster, from the seconds of all ways in turn; difference: the largest one of the log-probabilities")
        print("   ", *points[-2:], flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
