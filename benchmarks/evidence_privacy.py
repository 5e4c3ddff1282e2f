"""How much personal data is found and how much else is taken; run by `llmguide evidence privacy`.

Labelled sentences (the half on which no rule was chosen), made-up values in English and Chinese sentences from generators that
share no code with the rules, harmless numbers, and ordinary texts. The other arm is the patterns that articles copy.
"""

import csv
import hashlib
import json
import random
import re
import string
import sys
import time
from datetime import date, timedelta
from ipaddress import IPv4Address, IPv6Address

import phonenumbers
from stdnum import luhn
from stdnum.iso7064 import mod_11_2, mod_97_10

from llmguide.enterprise.privacy import PATTERNED, find_pii
from llmguide.evidence import record_curve, wilson_interval
from llmguide.settings import get_settings

LABELS = {
    "CREDIT_CARD": "CARD",
    "US_SSN": "SSN",
    "DOMAIN_NAME": "URL",
    "EMAIL_ADDRESS": "EMAIL",
    "PHONE_NUMBER": "PHONE",
    "IBAN_CODE": "IBAN",
    "IP_ADDRESS": "IP",
    "US_DRIVER_LICENSE": "DRIVER_LICENSE",
    "PERSON": "NAME",
    "STREET_ADDRESS": "ADDRESS",
}
SAME = {
    "CARD": {"CARD", "BANK_CARD"},
    "BANK_CARD": {"CARD", "BANK_CARD"},
    "URL": {"URL", "DOMAIN"},
    "DOMAIN": {"URL", "DOMAIN"},
}
COPIED = {
    "EMAIL": r"\b[A-Za-z0-9._%+-]+@[A-Za-z0-9.-]+\.[A-Z|a-z]{2,}\b",
    "CARD": r"\b(?:\d{4}[- ]?){3}\d{4}\b",
    "SSN": r"\b\d{3}-\d{2}-\d{4}\b",
    "PHONE": r"\b\d{3}[-.]?\d{3}[-.]?\d{4}\b|1[3-9]\d{9}",
    "IP": r"\b(?:\d{1,3}\.){3}\d{1,3}\b",
    "URL": r"https?://\S+",
    "CHINESE_ID": r"\b\d{17}[\dXx]\b",
    "IBAN": r"\b[A-Z]{2}\d{2}[A-Z0-9]{4}\d{7}[A-Z0-9]{0,16}\b",
    "NAME": r"\b[A-Z][a-z]+ [A-Z][a-z]+\b",
}
VALUES = 150  # of each kind and language


def copied(text):
    """What the patterns of articles find."""
    return [
        {"type": kind, "start": match.start(), "end": match.end()}
        for kind, pattern in COPIED.items()
        for match in re.finditer(pattern, text)
    ]


ARMS = {"rules": find_pii, "copied patterns": copied}


def covered(found, kinds=None):
    """The places that were found."""
    return {place for each in found if kinds is None or each["type"] in kinds for place in range(each["start"], each["end"])}


def share(figure, name, arm, kind, count, total):
    """One line of the table."""
    interval = wilson_interval(count, total)
    row = {"figure": figure, "set": name, "arm": arm, "kind": kind, "found": count, "total": total, **interval._asdict()}
    print(f"{figure:32} {name:26} {arm:16} {kind:15} {count} of {total}: {interval}", flush=True)
    return row


def measured(name, rows):
    """Recall by kind and the share of other characters untouched: rows of (text, [(kind, start, end)])."""
    table, kinds = [], list(dict.fromkeys(kind for _, spans in rows for kind, _, _ in spans))
    for arm, find in ARMS.items():
        hits, totals, others, left = dict.fromkeys(kinds, 0), dict.fromkeys(kinds, 0), 0, 0
        for text, spans in rows:
            found = find(text)
            for kind, start, end in spans:
                totals[kind] += 1
                hits[kind] += set(range(start, end)) <= covered(found, SAME.get(kind, {kind}))
            other = set(range(len(text))) - {place for _, start, end in spans for place in range(start, end)}
            others, left = others + len(other), left + len(other - covered(found))
        table += [share("recall", name, arm, kind, hits[kind], totals[kind]) for kind in kinds]
        table.append(share("other characters untouched", name, arm, "", left, others))
    return table


def labelled():
    """The sentences of presidio-research on which no rule was chosen."""
    rows = json.loads((get_settings().datasets_dir / "pii" / "synth_dataset_v2.json").read_text(encoding="utf-8"))
    rows = [row for row in rows if hashlib.sha256(row["full_text"].encode()).digest()[0] % 2]
    place = lambda span: (LABELS[span["entity_type"]], span["start_position"], span["end_position"])  # noqa: E731
    return [(row["full_text"], [place(span) for span in row["spans"] if span["entity_type"] in LABELS]) for row in rows]


def digits(rng, count):
    return "".join(rng.choices(string.digits, k=count))


def grouped(rng, number, sizes):
    """A number as people write it: in one piece, or in groups with spaces or dashes."""
    sign, pieces, rest = rng.choice(["", " ", "-"]), [], number
    for size in sizes:
        pieces, rest = [*pieces, rest[:size]], rest[size:]
    return sign.join(filter(None, [*pieces, rest]))


def bank_number(rng, starts):
    start, length = rng.choice(starts)
    number = start + digits(rng, length - len(start) - 1)
    number += luhn.calc_check_digit(number)
    return grouped(rng, number, (4, 6) if length == 15 else (4, 4, 4, 4))


# country, letters of the bank, digits
IBANS = [("DE", 0, 18), ("GB", 4, 14), ("NL", 4, 10), ("ES", 0, 20), ("PL", 0, 24),
         ("CH", 0, 17), ("BE", 0, 12), ("FI", 0, 14), ("NO", 0, 11), ("SE", 0, 20)]  # fmt: skip


def iban(rng):
    country, letters, count = rng.choice(IBANS)
    account = "".join(rng.choices(string.ascii_uppercase, k=letters)) + digits(rng, count)
    number = country + f"{98 - int(mod_97_10.checksum(account + country + '00')):02d}" + account
    return number if rng.random() < 0.5 else " ".join(re.findall(".{1,4}", number))


def phone(rng, language):
    if language == "zh":
        mobile = f"1{rng.choice('3456789')}{digits(rng, 9)}"
        area, sign = rng.choice(["010", "021", "0571", "0755", "028"]), rng.choice(["-", "", " "])
        land, parts = area + sign + rng.choice("2345678") + digits(rng, 7), (mobile[:3], mobile[3:7], mobile[7:])
        return rng.choice([mobile, " ".join(parts), "-".join(parts), f"+86 {mobile}", land, land + f"转{digits(rng, 3)}"])
    region = rng.choice(sorted(phonenumbers.SUPPORTED_REGIONS))
    example = phonenumbers.example_number_for_type(region, rng.choice([0, 1])) or phonenumbers.example_number("GB")
    number = phonenumbers.format_number(example, rng.choice([0, 1, 2]))
    return re.sub(r"\d{2}$", lambda _: digits(rng, 2), number) if len(re.sub(r"\D", "", number)) >= 7 else phone(rng, language)


def word(rng):
    return "".join(rng.choices(string.ascii_lowercase, k=rng.randint(4, 9)))


def domain(rng):
    ends = [".com", ".org", ".net", ".de", ".co.uk", ".com.cn", ".cn", ".fr", ".io"]
    return rng.choice(["", "", "shop.", "my-"]) + word(rng) + rng.choice(ends)


def chinese_id(rng):
    born = date(1950, 1, 1) + timedelta(days=rng.randrange(20_000))
    county = rng.choice(["110101", "310104", "440305", "330106", "510107", "620102", "320106"])
    number = county + born.strftime("%Y%m%d") + digits(rng, 3)
    number += mod_11_2.calc_check_digit(number)
    return rng.choice([number, number.lower(), f"{number[:6]} {number[6:14]} {number[14:]}"])


def chinese_address(rng):
    city = rng.choice(["北京市海淀区", "上海市浦东新区", "浙江省杭州市西湖区", "深圳市南山区", "四川省成都市武侯区"])
    street = rng.choice(["中山", "建国", "文三", "长安", "科技"]) + rng.choice(["路", "街", "大道"])
    return f"{city}{street}{rng.randint(1, 900)}号{rng.choice(['', '3栋501室', '2单元1102室'])}"


def email(rng, language):
    local = f"{word(rng)}{rng.choice(['.', '_', '-', '+', ''])}{word(rng)}{rng.choice(['', digits(rng, 2)])}"
    return f"{local}{rng.choice('@@@@@＠') if language == 'zh' else '@'}{domain(rng)}"


def url(rng):
    start = rng.choice(["https://", "http://", "https://www.", "www."])
    return f"{start}{domain(rng)}/{rng.choice(['', word(rng), word(rng) + '?id=' + digits(rng, 3)])}"


CARDS = [("4", 16), ("51", 16), ("55", 16), ("34", 15), ("37", 15), ("6011", 16), ("3530", 16), ("2223", 16)]
BANK_CARDS = [("622202", 19), ("621700", 19), ("622848", 19), ("622588", 16), ("621483", 16)]
MAKERS = {
    "CARD": lambda rng, _: bank_number(rng, CARDS),
    "BANK_CARD": lambda rng, _: bank_number(rng, BANK_CARDS),
    "EMAIL": email,
    "PHONE": phone,
    "IBAN": lambda rng, _: iban(rng),
    "IP": lambda rng, _: str(rng.choice([IPv4Address(rng.getrandbits(32)), IPv6Address(rng.getrandbits(128)),
                                         IPv6Address((0x20010DB8 << 96) + rng.getrandbits(20))])),
    "SSN": lambda rng, _: grouped(rng, f"{rng.randint(1, 665):03d}{rng.randint(1, 99):02d}{rng.randint(1, 9999):04d}", (3, 2)),
    "URL": lambda rng, _: url(rng),
    "DOMAIN": lambda rng, _: domain(rng),
    "CHINESE_ID": lambda rng, _: chinese_id(rng),
    "PASSPORT": lambda rng, _: rng.choice("EG") + digits(rng, 8),
    "LICENSE_PLATE": lambda rng, _: (rng.choice("京沪粤浙川") + rng.choice("ABC") + rng.choice(["", "·"])
                                     + rng.choice([digits(rng, 5), "D" + digits(rng, 5)])),
    "NAME": lambda rng, _: (rng.choice("王李张刘陈杨赵黄周吴")
                            + "".join(rng.choices("伟芳娜敏静丽强磊军洋勇艳杰涛明超", k=rng.randint(1, 2)))),
    "ADDRESS": lambda rng, _: chinese_address(rng),
}  # fmt: skip
FULL_WIDTH = {ord(digit): chr(ord(digit) + 0xFEE0) for digit in string.digits}


def value(kind, rng, language):
    """A made-up value of a kind, as written in a language."""
    chosen = MAKERS[kind](rng, language)
    full = language == "zh" and kind in ("CARD", "PHONE", "CHINESE_ID") and rng.random() < 0.15
    return chosen.translate(FULL_WIDTH) if full else chosen


WORDS = {
    "CARD": ("card", "信用卡"), "BANK_CARD": ("bank card", "银行卡号"), "EMAIL": ("mail", "邮箱"), "PHONE": ("phone", "电话"),
    "IBAN": ("account", "国际账号"), "IP": ("machine", "服务器"), "SSN": ("SSN", "社保号"), "URL": ("page", "网页"),
    "DOMAIN": ("site", "网站"), "CHINESE_ID": ("identity", "身份证号"), "PASSPORT": ("passport", "护照号"),
    "LICENSE_PLATE": ("plate", "车牌"), "NAME": ("", "姓名"), "ADDRESS": ("", "地址"),
}  # fmt: skip
FRAMES = {
    "en": ["My {word} is {value}.", "Is {value} still the right {word}?", "Please note {word}: {value}, thank you",
           "Changed to {value} yesterday"],
    "zh": ["我的{word}是{value}，谢谢", "{word}：{value}已经变更了", "请把{word}改成{value}。", "从昨天起改用{value}了"],
}  # fmt: skip


def made_up(language):
    """Sentences with one made-up value each; unsigned SSNs, names and addresses only where a word says what they are."""
    rng, rows = random.Random(7), []
    for kind in WORDS:
        if language == "en" and kind in ("NAME", "ADDRESS", "LICENSE_PLATE"):
            continue
        for number in range(VALUES):
            plain = kind in ("SSN", "NAME", "ADDRESS", "PHONE", "PASSPORT")
            made, frame = value(kind, rng, language), FRAMES[language][number % (1 if plain else 3)]
            if number % 4 == 3 and kind not in ("SSN", "NAME", "PASSPORT"):
                frame = FRAMES[language][3]
            start = frame.replace("{word}", WORDS[kind][language == "zh"]).index("{value}")
            rows.append((frame.format(word=WORDS[kind][language == "zh"], value=made), [(kind, start, start + len(made))]))
    return rows


NAME_FRAMES = ["{}的手机号是多少？", "请问{}在哪个部门？", "{}说她明天不来", "{}、{}参加会议", "昨天{}提出了申请。", "我和{}去了北京",
               "请联系{}。", "{}，你好", "把表格交给{}以后再说", "经办此事的{}"]  # fmt: skip
# written after the first rules, and looked at since: they showed that those rules knew their own ten frames and no others
LATER_FRAMES = ["下午{}会过来拿钥匙", "文件在{}手里", "由{}审批后归档", "谁认识{}？", "收到{}的来信", "{}昨晚没回家", "明天轮到{}值班",
                "{}的妈妈住院了", "会议由{}主持", "这件事{}最清楚"]  # fmt: skip

# written before the reader of Chinese names and the lists of English ones, and never used to change them
LAST_FRAMES = ["派{}去上海出差三天", "{}欠我两千块钱还没还", "听说{}升职了", "附件是{}与{}签的合同", "帮{}订一张机票", "上个月{}生了二胎",
               "{}今年三十五岁，未婚", "投诉的人叫{}", "老板让{}马上回电", "感谢{}一直以来的支持"]  # fmt: skip
ENGLISH_FRAMES = ["The parcel went to {} by mistake.", "{} has not paid since March.", "I spoke with {} about the refund.",
                  "Approved by {} on Friday", "Is {} still on sick leave?", "{}'s salary is too low",
                  "The contract between {} and {} ends soon.", "Forwarded to {} (legal)", "According to {}, nothing was signed.",
                  "We hired {} last week"]  # fmt: skip
PEOPLE = """Oliver Hartley, Grace Okafor, Priya Raman, Thomas Becker, Ingrid Solheim, Mateo Fuentes, Aisha Rahman, Kenji Morita, Chloe
Beaumont, Dmitri Volkov, Siobhan Gallagher, Wei Zhang, Fatima Haddad, Luca Moretti, Hannah Fitzgerald, Kwame Mensah, Rosa
Delgado, Erik Lindqvist, Meera Joshi, Jamal Washington, Beatriz Carvalho, Noah Whitaker, Xiuying Chen, Tariq Aziz, Marta
Kowalczyk, Sven Jorgensen, Lindiwe Dlamini, Callum Reid, Yuki Tanaka, Abigail Stone, Ravi Iyer, Elena Petrova, Patrick
Nguyen, Soo-Jin Park, Emeka Obi, Ruth Goldberg, Ahmet Yilmaz, Francesca Conti, Derek Sutton, Jasmine Brooks"""


def chinese_person(rng):
    """A made-up name."""
    given = "".join(rng.choices("琴岩媛斌凯嘉俊露倩哲薇旭松波辉玲萍桂兰红琳蕾志国建平庆", k=rng.choice([1, 2, 2])))
    return rng.choice("宋郑谢韩唐冯董萧程曹袁邓许傅沈曾彭吕苏卢蒋蔡") + given


def filled(frame, rng, person=chinese_person):
    """A frame with made-up names, and their places."""
    first, *others = frame.split("{}")
    text, spans = first, []
    for other in others:
        name = person(rng)
        spans.append(("NAME", len(text), len(text) + len(name)))
        text += name + other
    return text, spans


def chinese_names(frames, rows=500):
    """Sentences in which no word announces the name; family and given names by which no rule was chosen."""
    rng = random.Random(11)
    return [filled(frames[number % len(frames)], rng) for number in range(rows)]


def english_names(rows=400):
    """Sentences with each of the people in each of the frames."""
    person = lambda rng: rng.choice(PEOPLE.replace("\n", " ").split(", "))  # noqa: E731
    rng = random.Random(13)
    return [filled(ENGLISH_FRAMES[number % len(ENGLISH_FRAMES)], rng, person) for number in range(rows)]


def names_taken(name, texts):
    """Characters of ordinary text that no rule for names takes; the persons in it count as taken too."""
    total, taken = sum(map(len, texts)), sum(len(covered(find_pii(text, ["NAME"]))) for text in texts)
    return [share("text untouched by names", name, "rules", "", total - taken, total)]


def harmless(rng):
    """A sentence with numbers and nothing personal."""
    day = date(1990, 1, 1) + timedelta(days=rng.randrange(15_000))
    number, amount = rng.randrange(10**6, 10**8), rng.randrange(1000, 10**7)
    return rng.choice(
        [
            f"The price is ${amount:,}.{rng.randint(10, 99)} and ${amount / 7:,.2f} with tax.",
            f"价格为{amount}元，优惠{rng.randint(10, 99)}.5元。",
            f"It was sent on {day} at 12:45:{rng.randint(10, 59)}.",
            f"会议定于{day.year}年{day.month}月{day.day}日14:30举行",
            f"Due {day:%d/%m/%Y}, paid {day:%m-%d-%Y}, closed {day:%d.%m.%Y}.",
            f"Upgrade to version {rng.randint(1, 9)}.{rng.randint(0, 20)}.{rng.randint(0, 99)}-rc1.",
            f"请升级到版本{rng.randint(1, 9)}.{rng.randint(0, 20)}.{rng.randint(0, 9)}.{rng.randint(0, 9)}",
            f"Order {number}{number} has shipped, invoice no. {number}.",
            f"订单号{day:%Y%m%d}{number}已发货，流水号{number}",
            f"ISBN 978-3-16-{rng.randint(100000, 999999)}-0, pages {rng.randint(100, 400)}-{rng.randint(401, 900)}.",
            f"About {amount:,} people, {rng.random():.7f} of all, from 1990-{day.year}.",
            f"占比{rng.random() * 100:.4f}%，共{amount}人，同比增长{rng.randint(1, 90)}.{rng.randint(10, 99)}%",
            f"Model HX-{number} weighs {rng.randint(100, 9999)} kg, {rng.randint(100, 999)} x {rng.randint(100, 999)} mm.",
            f"x = {number} * {amount} + {rng.random():.9f}",
            f"Open report_{day:%Y%m%d}.pdf in {word(rng)}.py, line {rng.randint(1, 9999)}, commit {rng.getrandbits(40):010x}.",
            f"Sales: {amount} {number} {amount * 3} {number // 7}",
            f"Room {rng.randint(100, 999)}, seat {rng.randint(1, 40)}B, "
            f"flight LH{rng.randint(100, 9999)}, {rng.randint(1000, 9999)} miles.",
            f"见第{rng.randint(1, 40)}章{rng.randint(1, 9)}.{rng.randint(1, 9)}.{rng.randint(1, 9)}节，编号{number}",
        ]
    )


def ordinary():
    """Name -> texts in which nothing is labelled and little is personal; the half that wasn't looked at."""
    folder = get_settings().datasets_dir
    articles = json.loads((folder / "squad/dev-v1.1.json").read_text(encoding="utf-8"))["data"]
    sums = [json.loads(line) for line in (folder / "gsm8k/test.jsonl").read_text(encoding="utf-8").splitlines()]
    with open(folder / "chnsenticorp/ChnSentiCorp_htl_all.csv", encoding="utf-8") as file:
        reviews = [row["review"] for row in csv.DictReader(file)]
    found = {
        "articles (SQuAD)": [part["context"] for article in articles for part in article["paragraphs"]],
        "sums (GSM8K)": [row["question"] + row["answer"] for row in sums],
        "hotel reviews, Chinese": reviews,
    }
    return {name: [text for text in texts if hashlib.sha256(text.encode()).digest()[0] % 2][:1000] for name, texts in found.items()}


def false_alarms(name, texts):
    """Characters of ordinary text that are left alone by each arm, patterned kinds only."""
    total = sum(map(len, texts))
    left = lambda find: total - sum(len(covered(find(text), set(PATTERNED))) for text in texts)  # noqa: E731
    return [share("ordinary text untouched", name, arm, "", left(find), total) for arm, find in ARMS.items()]


def speed(name, texts):
    """Megabytes a second of processor time of one long text, and the slowest and fastest of five goes."""
    text, rates = "\n".join(texts)[:500_000], []
    for _ in range(5):
        start = time.process_time()
        find_pii(text)
        rates.append(len(text.encode()) / 1e6 / (time.process_time() - start))
    print(name, rates)
    return {"figure": "speed", "set": name, "arm": "rules", "kind": "", "value": sorted(rates)[2], "low": min(rates), "high": max(rates)}


def main():
    """Measure all and record one table."""
    table = measured("labelled sentences", labelled())
    for language, name in (("en", "made-up values, English"), ("zh", "made-up values, Chinese")):
        table += measured(name, made_up(language))
    table += measured("names in first frames, Chinese", chinese_names(NAME_FRAMES))
    table += measured("names in later frames, Chinese", chinese_names(LATER_FRAMES))
    table += measured("names in the last frames, Chinese", chinese_names(LAST_FRAMES))
    table += measured("names in sentences, English", english_names())
    sentences = [harmless(random.Random(seed)) for seed in range(1000)]
    for arm, find in ARMS.items():
        untouched = sum(not find(text) for text in sentences)
        table.append(share("harmless sentences untouched", "made-up numbers", arm, "", untouched, len(sentences)))
    texts = ordinary()
    for name, some in texts.items():
        table += false_alarms(name, some)
        table += names_taken(name, some)
    table += [speed(name, some) for name, some in texts.items() if "GSM8K" not in name]
    record_curve(
        "enterprise_privacy",
        table,
        note="found: every character of the value is masked under its kind; Wilson intervals over values, for characters "
             "they are too narrow; speed: in processor time, median, slowest and fastest of five",
        labelled="presidio-research synth_dataset_v2, half by hash",
        values_of_a_kind=VALUES,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
