"""Does the rubric's mark predict how often a model is right? Run by `llmguide evidence rubric`.

Forty-two prompts for each of three tasks: 24 that vary instruction, layout, labels, examples and limits by plan, and 18 written by
hand, from careless to careful. Each is marked by the rubric and asked about the same test rows, by the likelihood of the labels.
Every score is kept, so that a stopped run goes on, and the table is recorded with more rows at each of three stages.
"""

import random
import sys
from dataclasses import replace

from evidence_optimize import Remembering, narrowed

from llmguide.evidence import record_curve
from llmguide.load import Rows
from llmguide.prompting.candidates import Prompt, draw_examples, in_turn
from llmguide.prompting.optimize import ask, evened, judge
from llmguide.prompting.rubric import score_prompt
from llmguide.prompting.scoring import Scorer
from llmguide.prompting.tasks import load_task
from llmguide.settings import choose_runtime, get_settings

MODEL, LONGEST = "smollm2-135m-instruct", {"sentiment": 100, "intents": 100, "chinese": 30}  # characters of a text
ROWS = ({"sentiment": 12, "intents": 14, "chinese": 8}, {"sentiment": 30, "intents": 28, "chinese": 16},
        {"sentiment": 60, "intents": 56, "chinese": 60})  # test rows, stage by stage: each records, and the next adds rows
SCORES = get_settings().cache_dir / "evidence" / "rubric.jsonl"

ENGLISH = (  # {what} is the kind of text, {labels} the answers, {shown} two examples, {text} the text
    "{text}", "{text}\n\nHm?", "Do something with this: {text}", "Tell me about this {what}.\n{text}",
    "Please be so kind and have a look at this, maybe say something about it, thanks a lot, it would be really nice etc.\n\n{text}",
    "{labels}?\n{text}", "{what}: {text}\nanswer:", "Label this {what}: {text}",
    "Classify this {what} as one of: {labels}.\n\n{text}",
    "You are an expert with twenty years of experience. Classify the {what} below.\n\n\"\"\"\n{text}\n\"\"\"",
    "### Task\nClassify the {what}.\n\n### Labels\n{labels}\n\n### Text\n{text}\n\n### Answer:",
    "Q: Which of these fits the {what} \"{text}\": {labels}?\nA:",
    "{shown}\n\n{text} =>", "Continue the list.\n\n{shown}\n{text} =>",
    "Classify each {what} as {labels}. Answer with the label only, in lower case, and never explain.\n\n{shown}\n\n{text} =>",
    "Read the {what} twice. Think about who wrote it and why. Do not guess, and do not explain. Then choose exactly one of these answers: "
    "{labels}. If you are unsure, choose the closest one.\n\nText: {text}\nAnswer:",
    "I will give you a {what}. Your job, which matters a great deal to our customers and to everybody in this department who has waited so "
    "long for a system that finally works as it was promised to us, is to find the right label for it among {labels}.\n\n{text}",
    "<labels>{labels}</labels>\n<text>{text}</text>\nReturn one of the labels and nothing else.\nLabel:",
)  # fmt: skip
CHINESE = (
    "{text}", "{text}\n\n嗯？", "处理一下这个：{text}", "说说这条{what}。\n{text}",
    "麻烦您有空的时候帮忙随便看一下，大概说点什么之类的就可以，非常感谢等等。\n\n{text}",
    "{labels}？\n{text}", "{what}：{text}\n答案：", "给这条{what}分类：{text}",
    "把这条{what}分为：{labels}。\n\n{text}",
    "你是有二十年经验的专家。请给下面的{what}分类。\n\n\"\"\"\n{text}\n\"\"\"",
    "### 任务\n给{what}分类。\n\n### 类别\n{labels}\n\n### 文本\n{text}\n\n### 答案：",
    "问：下面这条{what}“{text}”属于哪一类：{labels}？\n答：",
    "{shown}\n\n{text} =>", "接着写下去。\n\n{shown}\n{text} =>",
    "把每条{what}分为{labels}。只写类别，不要解释。\n\n{shown}\n\n{text} =>",
    "把这条{what}读两遍，想想是谁写的、为什么写。不要猜，也不要解释。然后从{labels}中选择一个。如果不确定，选最接近的。\n\n文本：{text}\n答案：",
    "我会给你一条{what}。你的工作对我们的客户以及这个部门里所有等了很久、盼望有一个真正像承诺的那样能用的系统的同事来说都非常重要，"
    "就是从{labels}里给它找到合适的类别。\n\n{text}",
    "<类别>{labels}</类别>\n<文本>{text}</文本>\n只回答其中一个类别，不要写别的。\n答案：",
)  # fmt: skip
KINDS = {"sentiment": "sentence from financial news", "intents": "message to a bank", "chinese": "酒店评论"}


def short_task(name, rows):
    """A task with short examples and short test rows, its labels in turn."""
    task = narrowed(load_task(name, rows=10_000), LONGEST[name], LONGEST[name])
    return replace(task, rows=Rows(in_turn(task.rows, random.Random(0))[:rows], task.rows.name, task.rows.source))


def planned(task):
    """Name -> prompt: half of the combinations of instruction, layout, labels, examples and limits."""
    zh = task.language == "zh"
    mark, answer = ("文本", "答案") if zh else ("Text", "Label")
    named = f"可选答案：{'、'.join(task.labels)}。" if zh else f"The answers are: {', '.join(task.labels)}."
    limit = "只写答案，不要解释。" if zh else "Write the answer only, do not explain."
    for number in range(48):
        clear, apart, labels, limits, count = number % 2, number // 2 % 2, number // 4 % 2, number // 8 % 2, (0, 2, 6)[number // 16]
        if (clear + apart + labels + limits) % 2: continue
        said = task.instruction if clear else ("这个呢？" if zh else "What about this?")
        said = " ".join([said, *([named] * labels), *([limit] * limits)])
        examples = draw_examples(task.examples, count, random.Random(number))
        if apart: blocks = [f"{mark}: {text}\n{answer}: {label}" for text, label in examples] + [f"{mark}: {{text}}\n{answer}:"]
        else: blocks = [f"{text} {label}" for text, label in examples] + ["{text}"]
        name = f"clear {clear}, apart {apart}, labels {labels}, limits {limits}, examples {count}"
        yield name, ("\n\n" if apart else " ").join([said, *blocks])


def by_hand(task):
    """Name -> prompt: the texts above with the task's words in place."""
    shown = "\n".join(f"{text} => {label}" for text, label in draw_examples(task.examples, 4, random.Random(0)))
    places = {"{what}": KINDS[task.name], "{labels}": ("、" if task.language == "zh" else ", ").join(task.labels), "{shown}": shown}
    for number, text in enumerate(CHINESE if task.language == "zh" else ENGLISH, 1):
        for place, value in places.items(): text = text.replace(place, value)
        yield f"by hand {number}", text


def measured(task, text, scorer):
    """Marks and accuracy of a prompt, as it is and with each label's average over the rows taken off."""
    found = score_prompt(text, task)
    prompt = Prompt(({"role": "user", "content": text},), {label: label for label in task.labels})
    scores = ask(prompt, task.rows, scorer)
    shares = [100 * float(judge(each, task.rows, scores)[0].mean()) for each in (prompt, evened(prompt, scores))]
    return {"characters": len(text), "total": found["total"], **found["parts"], "accuracy": shares[0], "accuracy, evened": shares[1]}


def trial(rows, scorer):
    """A line for each prompt of each task, measured on so many rows."""
    table = []
    for name, count in rows.items():
        task = short_task(name, count)
        for which, prompt in (*planned(task), *by_hand(task)):
            about = {"task": name, "data": task.rows.name, "chance": 100 / len(task.labels), "prompt": which}
            table.append({**about, **measured(task, prompt, scorer)})
            print(f"    {name}, {which}: mark {table[-1]['total']:.0f}, {table[-1]['accuracy']:.0f} % right", flush=True)
    return table


def main():
    """Measure each prompt, stage by stage, and record a table after each."""
    scorer = Remembering(SCORES)
    for rows in ROWS:
        record_curve("prompting_rubric", trial(rows, scorer), note="a row a prompt: its mark, and its accuracy on the same test rows",
                     model=MODEL, test_rows=rows, longest_text=LONGEST, scorer=Scorer.how,
                     precision=choose_runtime().precision)  # fmt: skip
    SCORES.unlink(missing_ok=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
