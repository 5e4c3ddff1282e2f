"""Masking: bad input, odd writing, harmless numbers, placeholders, and lines that were built to hang a pattern."""

import json
import random
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from llmguide.enterprise.privacy import KINDS, PATTERNED, find_pii, mask_pii, number_pii, unmask

KNOWN = {
    "CARD": [
        "4111 1111 1111 1111",
        "378282246310005",
        "5555-5555-5555-4444",
        "４１１１１１１１１１１１１１１１",
        "4111\u00a01111\u00a01111\u00a01111",
        "4111\u200b111111111111",
        "4111\u2066111111111111",
        "4111\u034f1111\ufe0f1111\U000e00201111",
        "4111\x001111\x0711111111",
    ],
    "BANK_CARD": ["6222021001116245702", "6222 0210 0111 6245 702"],
    "IBAN": ["DE89 3704 0044 0532 0130 00", "GB29NWBK60161331926819", "fr1420041010050500013m02606"],
    "EMAIL": ["a.b+c@mail.example.co.uk", "zhang＠qq.com", "li (at) 163 [dot] com", "müller@straße.de", "jo\u2063@a.com", "ｊｏ＠ａ.cn"],
    "IP": ["10.0.0.7", "2001:db8::1", "fe80::1ff:fe23:4567:890a"],
    "PHONE": [
        "+44 7911 123456",
        "(212) 555-0187 ext. 12",
        "138-1234-5678",
        "１３８１２３４５６７８",
        "0571-87654321转8001",
        "+86 138 1234 5678",
        "٠٥٠ ١٢٣ ٤٥٦٧",
    ],
    "SSN": ["078-05-1120"],
    "URL": ["https://a.example.com/x?y=1", "www.example.cn/a"],
    "DOMAIN": ["shop.example.com"],
    "CHINESE_ID": ["11010519491231002X", "110105 19491231 002x"],
}
FRAMES = ["{}", "at {} now", "是{}，谢谢", "（{}）", '"{}".', "first\n{}\nlast"]


@pytest.mark.parametrize("kind", KNOWN)
def test_known_values_are_found_to_the_character_in_both_languages(kind):
    for value in KNOWN[kind]:
        for frame in FRAMES:
            text = frame.format(value)
            masked, found = mask_pii(text, PATTERNED)
            assert [(each["type"], each["text"]) for each in found] == [(kind, value)], text
            assert masked == frame.format(f"[{kind}]")
            assert text[found[0]["start"] : found[0]["end"]] == value


@pytest.mark.parametrize(
    "text",
    [
        "",
        " \n\t",
        "plain words",
        "价格为12345元",
        "on 2024-05-06 12:30:45",
        "version 1.2.3.4",
        "1,234,567.89",
        "Node.js and readme.md",
        "order 4111111111111111",
        "订单号202405061234567890",
        "3.14159265358979",
        "1990-2000",
        "x = 1234567 * 7654321",
        "10:30 to 11:45",
        "ISBN 978-3-16-148410-0",
        "std::vector",
        "\0\x01\x7f",
        "🙂" * 50,
        "@ @@ a@ @b",
        "[EMAIL] [CARD_1]",
    ],
)
def test_text_without_anything_personal_is_not_altered(text):
    assert mask_pii(text) == (text, [])


def test_a_wrong_checksum_is_no_card_unless_a_word_says_so():
    assert find_pii("4111111111111112") == []
    assert [each["type"] for each in find_pii("my card 4111111111111112 is lost")] == ["CARD"]
    assert find_pii("110105194912310021") == [] and find_pii("DE88370400440532013000") == []
    assert [each["type"] for each in find_pii("身份证号110105194912310021")] == ["CHINESE_ID"]


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("tel:+4915112345678, +672 10 6632", "tel:[PHONE], [PHONE]"),  # would pass as a card, and as a social security number
        ("手机号 138 0013 8000，备用 159-1234-5678", "手机号 [PHONE]，备用 [PHONE]"),
        ("电话:0571—8765 4321", "电话:[PHONE]"),
        ("10.0.0.1-10.0.0.9, ::ffff:10.0.0.1", "[IP]-[IP], [IP]"),
        ("齿式是1-3.1.4.2", "齿式是1-3.1.4.2"),
        ("client_ip = ?%20\\|192.52.12.3|%20/", "client_ip = ?%20\\|[IP]|%20/"),
        ("https://例子.中国/a 和 <jo@a.com>", "[URL] 和 <[EMAIL]>"),
        ("服务器：::1，fe80::1%eth0，网络2001:db8::/32", "服务器：[IP]，[IP]，网络[IP]/32"),  # a full-width colon is no part of an address
        ("第1.2.3.4条、4.5.6.7节与节点10.0.0.7", "第1.2.3.4条、4.5.6.7节与节点[IP]"),
        ("https://en.example.org/wiki/Bank_(river) (see www.a.com/x)", "[URL] (see [URL])"),
        ("新网站example.com（旧的作废），os.path(x)", "新网站[DOMAIN]（旧的作废），os.path(x)"),
        ("2024-01-02,13812345678,19.99 和 1,234,567", "2024-01-02,[PHONE],19.99 和 1,234,567"),
        ('{"phone": 1, "tel":"0721 234 567"}', '{"phone": 1, "tel":"[PHONE]"}'),
        ("phone=07911 123456", "phone=[PHONE]"),
        ("x=1234567", "x=1234567"),
        ("**8 (495) 123-45-67** 或 070-123 45 67", "**[PHONE]** 或 [PHONE]"),
        ("4030  0010  0001  8998", "[CARD]"),  # two spaces
        ("tom @ example.com, 9558800200101234561", "[EMAIL], [BANK_CARD]"),
        ("main.rs、user.name、销量123 456 789、条形码6901234567892", "main.rs、user.name、销量123 456 789、条形码6901234567892"),
        ("+1 (415) 555-2671;ext=33 or 00 44 20 7946 0958", "[PHONE] or [PHONE]"),
    ],
)
def test_odd_neighbours(text, masked):
    assert mask_pii(text, PATTERNED)[0] == masked


def test_kinds_choose_and_unknown_ones_are_named():
    text = "jo@a.com 10.0.0.7"
    assert (
        mask_pii(text, ["ip"])[0] == "jo@a.com [IP]"
        and mask_pii(text, "EMAIL")[0] == "[EMAIL] 10.0.0.7"
        and mask_pii(text, [])[0] == text
    )
    with pytest.raises(ValueError, match="MAIL.*choose from URL"):
        mask_pii(text, ["MAIL"])


def test_what_was_numbered_comes_back_exactly():
    rng, values = random.Random(3), [value for kind in KNOWN.values() for value in kind]
    for _ in range(200):
        text = "; ".join(rng.choices([*values, "[EMAIL_1]", "[CARD_2]", "Dr. Lopez", "联系人：张伟", "nothing"], k=6))
        masked, originals = number_pii(text)
        assert unmask(masked, originals) == text
        assert not set(originals.values()) & set(masked.split("; "))
    masked, originals = number_pii(" ".join(f"u{number}@a.com" for number in range(12)) + " u1@a.com")
    assert len(originals) == 12 and masked.endswith("[EMAIL_12] [EMAIL_2]") and unmask(masked, originals).endswith("u11@a.com u1@a.com")


def test_numbering_takes_no_time_out_of_proportion():
    """A list of ten thousand addresses, once each; the numbers that the text holds already are left out."""
    text = " ".join(f"u{number}@a.com" for number in range(10_000)) + " [EMAIL_5]"
    start = time.process_time()
    masked, originals = number_pii(text)
    assert len(originals) == 10_000 and "[EMAIL_5]" not in originals and unmask(masked, originals) == text
    assert time.process_time() - start < 3


def test_spans_are_in_order_apart_and_inside_for_any_text():
    rng = random.Random(5)
    alphabet = "0123456789 .-()+@:/aAzZxX\n卡号电话王先生路１２\u200b\u00a0٣é\ud800"
    for _ in range(400):
        text = "".join(rng.choices(alphabet, k=rng.randrange(120)))
        masked, found = mask_pii(text)
        ends = [0, *(each["end"] for each in found)]
        assert all(end <= each["start"] < each["end"] <= len(text) for end, each in zip(ends, found, strict=False))
        assert all(each["type"] in KINDS and each["text"] == text[each["start"] : each["end"]] for each in found)
        assert len(masked) == len(text) + sum(len(each["type"]) + 2 - len(each["text"]) for each in found)


@pytest.mark.parametrize(
    "piece",
    [
        "1",
        "a",
        "a.",
        "a@",
        "1 ",
        "(1) ",
        "+1 ",
        "GB12",
        "::",
        "1.1.",
        "6222-",
        "is at ",
        "王",
        "路1号",
        "Dr. A",
        "A b 1 ",
        "1 A ",
        "address is 1",
        "http://!",
        "\u200b1",
        "卡号1",
    ],
)
def test_no_line_takes_time_out_of_proportion(piece):
    def seconds(length):
        start = time.process_time()
        mask_pii(piece * (length // len(piece)))
        return time.process_time() - start

    short, long = seconds(5_000), seconds(20_000)
    assert long < 8 * max(short, 0.03), f"{piece!r}: {short:.2f} s, four times as long {long:.2f} s"


@pytest.mark.soak
def test_a_line_of_a_megabyte_ends(repetitions):
    for piece in ["6222-", "::", "a.", "1 A ", "+1 ", "a", "1", "a@", "1 ", "王", "路1号"][: repetitions(1, 11)]:
        start = time.process_time()
        mask_pii(piece * (1_000_000 // len(piece.encode())))
        assert time.process_time() - start < 60, piece


def test_many_threads_find_the_same():
    texts = [f"mail u{number}@a.com or call +44 7911 1234{number:02d}" for number in range(60)]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(mask_pii, texts)) == list(map(mask_pii, texts))


def test_the_recorded_recall_of_every_patterned_kind_is_high():
    file = Path(__file__).parents[1] / "results" / "enterprise_privacy.json"
    if not file.exists():
        pytest.skip("`llmguide evidence privacy` has not run")
    rows = [row for row in json.loads(file.read_text(encoding="utf-8"))["rows"] if row["arm"] == "rules"]
    recall = [row for row in rows if row["figure"] == "recall" and row["kind"] in PATTERNED]
    assert len(recall) > 20 and all(row["value"] >= 0.95 for row in recall)
    assert all(row["value"] >= 0.95 for row in rows if "untouched" in row["figure"])


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("张伟的手机号是13812345678", "[NAME]的手机号是[PHONE]"),
        ("李小明、王芳参加会议", "[NAME]、[NAME]参加会议"),
        ("王国强说他不来，请联系陈静。", "[NAME]说他不来，请联系[NAME]。"),
        ("欧阳娜娜和赵敏在北京", "[NAME]和[NAME]在北京"),
        ("（黄伟）2024年", "（[NAME]）2024年"),
        ("Dear O'Brien-Müller,", "Dear [NAME],"),
        ("Ask Mr O'Brien-Müller", "Ask Mr [NAME]"),
        ("Maria told me", "[NAME] told me"),
        ("Dear Mari\u0301a Lo\u0301pez,", "Dear [NAME],"),  # letters and accents apart, as macOS writes file names
        ("把表格交给陈静以后再说", "把表格交给[NAME]以后再说"),
        ("经办此事的刘洋。", "经办此事的[NAME]。"),
    ],
)
def test_names_that_only_their_neighbours_give_away(text, masked):
    assert mask_pii(text)[0] == masked


ORDINARY = "高兴 王国 马上 方便 常常 金额 何时 于是 白天 黄金 周末 任何 成功 时间 安全 钱 项目 温馨 石林 方案 周围 高度 房间".split()


@pytest.mark.parametrize("frame", ["{}的", "{}说", "{}在这里", "{}、{}", "和{}，", "请{}", "{}首先", "{}。", "{}也有", "（{}）"])
def test_ordinary_chinese_words_are_no_names(frame):
    assert [word for word in ORDINARY if mask_pii(frame.format(word, word))[1]] == []


@pytest.mark.parametrize("text", [None, 5, b"ann@example.com", ["ann@example.com"]])
def test_what_is_no_text_is_refused(text):
    with pytest.raises(TypeError, match="a text is a string, got .*: decode it first"):
        mask_pii(text)
