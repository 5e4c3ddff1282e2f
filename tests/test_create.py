"""Advertisements: nothing unsupported gets through, pictures can be drawn in both languages, pages are safe."""

import base64
import io
import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import numpy as np
import pytest
from PIL import Image

from llmguide.chat import ScriptedChat
from llmguide.multimodal import cards, create
from llmguide.multimodal.cards import LOOKS, contrast, draw_card, font_for, wrap
from llmguide.multimodal.create import LENGTHS, TONES, AdCreativeGenerator, generate_ad_campaign, keywords
from llmguide.multimodal.facts import catalogue_facts, numbers, sentences, strike, unsupported
from llmguide.multimodal.painters import diffusion, image_service

COFFEE = {"name": "Dawn 2", "category": "coffee maker", "language": "en", "audience": "people who get up early",
          "facts": ["jug of 1.2 litres", "timer for 24 hours", "keeps coffee warm for 2 hours", "2-year warranty", "79 euros"]}  # fmt: skip
HEADPHONES = {"name": "云帆", "category": "耳机", "facts": ["续航 30 小时", "主动降噪", "一年质保", "499 元"]}


def chinese_font():
    try: return bool(font_for("字", 20))
    except RuntimeError: return False


@pytest.mark.parametrize("product", [COFFEE, HEADPHONES], ids=["en", "zh"])
@pytest.mark.parametrize("tone", TONES)
@pytest.mark.parametrize("length", LENGTHS)
def test_templates_claim_nothing(product, tone, length):
    copy = AdCreativeGenerator(ScriptedChat(lambda _: "nonsense"), draws=1).generate_text(product, tone, length)
    assert copy.written_by == "template" and product["name"] in copy.text and strike(copy.text, catalogue_facts(product))[1] == []
    assert sum(fact in copy.text for fact in product["facts"]) == (3 if length == "short" else len(product["facts"]))


LIES = ["The best Dawn 2.", "The Dawn 2 keeps coffee warm for 12 hours.", "Dawn 2 has an app.", "Experts love the Dawn 2.",
        "The Dawn 2 is better than any other.", "Dawn 2 now 50% off.", "The Dawn 2 jug of 1.5 litres.",
        "The Dawn 2 jug of 79 litres."]  # fmt: skip


@pytest.mark.parametrize("lie", LIES)
def test_a_lie_never_reaches_the_campaign(lie):
    chat = ScriptedChat(lambda _: f"The Dawn 2 has a timer for 24 hours. {lie}")
    campaign = AdCreativeGenerator(chat, draws=1).generate_ad_campaign(COFFEE)
    assert campaign["short_ad"] == "The Dawn 2 has a timer for 24 hours." and lie not in campaign["page"]
    assert {struck.sentence for struck in campaign["struck"]} == {lie}
    assert {"short_ad", "long_ad", "image_urls", "keywords"} <= set(campaign)


def test_a_campaign_in_one_call():
    said = ScriptedChat(lambda _: "The Dawn 2 has a timer for 24 hours.")
    campaign = generate_ad_campaign(COFFEE, generator=AdCreativeGenerator(said, draws=1))
    assert campaign["short_ad"] == "The Dawn 2 has a timer for 24 hours." and len(campaign["image_urls"]) == 2


def test_the_draw_with_most_facts_wins():
    replies = ["The Dawn 2 has a timer for 24 hours.", "The Dawn 2 has a timer for 24 hours and a jug of 1.2 litres.", "Hello."]
    assert AdCreativeGenerator(ScriptedChat(replies)).generate_text(COFFEE).text == replies[1]


def test_a_text_that_is_cut_off_loses_its_last_sentence():
    chat = ScriptedChat(lambda _: "The Dawn 2 has a timer for 24 hours. And then it")
    assert AdCreativeGenerator(chat, draws=1).generate_text(COFFEE).text == "The Dawn 2 has a timer for 24 hours."


def test_the_default_model_is_not_asked_for_chinese(monkeypatch):
    def never(*_): raise AssertionError("connected")
    monkeypatch.setattr(create, "connect", never)
    assert AdCreativeGenerator().generate_text(HEADPHONES).written_by == "template"


def test_another_model_is_asked_for_chinese_and_checked():
    chat = ScriptedChat(lambda messages: "云帆续航 30 小时。全网最好的耳机！" if "耳机" in messages[-1]["content"] else "")
    copy = AdCreativeGenerator(chat, draws=1).generate_text(HEADPHONES)
    assert copy.text == "云帆续航 30 小时。" and copy.written_by == "scripted"


def test_a_folder_gets_the_page_and_the_pictures(tmp_path):
    found = AdCreativeGenerator(ScriptedChat(lambda _: ""), draws=1).generate_ad_campaign(COFFEE, folder=tmp_path / "out")
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == ["campaign.html", "card_1.png", "card_2.png"]
    assert all(url.startswith("file:") for url in found["image_urls"])
    assert [Image.open(tmp_path / "out" / f"card_{number}.png").size for number in (1, 2)] == [(800, 800), (1200, 628)]


def test_a_page_with_bad_words_in_it_stays_a_page():
    product = {"name": "<script>$x</script>", "facts": ["\"><img src=x onerror=alert(1)>", "a & b"]}
    page = AdCreativeGenerator(ScriptedChat(lambda _: "<script>alert(2)</script>"), draws=1).generate_ad_campaign(product)["page"]
    assert "<script" not in page and "<img src=x" not in page and page.count("<img src=\"data:image/png;base64,") == 2


@pytest.mark.parametrize("product, words", [
    ({}, "name and facts"), ({"name": "A", "facts": []}, "facts missing"), ({"name": "A", "facts": "one"}, "give a list")])
def test_products_without_facts_are_refused(product, words):
    with pytest.raises(ValueError, match=words): AdCreativeGenerator(ScriptedChat(["x"])).generate_text(product)


def test_wrong_tone_length_and_type():
    generator = AdCreativeGenerator(ScriptedChat(["x"]))
    with pytest.raises(ValueError, match="tone is one of"): generator.generate_text(COFFEE, "loud")
    with pytest.raises(ValueError, match="short or long"): generator.generate_text(COFFEE, length="endless")
    with pytest.raises(TypeError, match="is a dict"): generator.generate_text("Dawn 2")
    with pytest.raises(TypeError, match="a fact is a text, got 7"): generator.generate_text({"name": "Dawn 2", "facts": ["grey", 7]})


class Painter(BaseHTTPRequestHandler):
    """A server that answers as an image service does, or with nonsense."""

    nonsense = False

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        width, height = map(int, asked["size"].split("x"))
        file = io.BytesIO()
        Image.new("RGB", (width, height), "teal").save(file, "PNG")
        image = "bm90IGEgcGljdHVyZQ==" if self.nonsense else base64.b64encode(file.getvalue()).decode()
        body = json.dumps({"created": 1, "data": [{"b64_json": image}]}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_): pass


@pytest.fixture
def service():
    server = HTTPServer(("127.0.0.1", 0), Painter)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/v1"
    server.shutdown()


def test_an_image_service_paints_behind_the_same_method(service):
    generator = AdCreativeGenerator(ScriptedChat(["x"]), painter=image_service("any", service, "key"))
    assert generator.generate_image(COFFEE, size=(256, 128)).getpixel((5, 5)) == (0, 128, 128)


def test_an_image_service_that_sends_nonsense_or_is_not_there(service, monkeypatch):
    monkeypatch.setattr(Painter, "nonsense", True)
    with pytest.raises(ConnectionError, match="painted nothing"): image_service("any", service, "key")("a cup", (64, 64))
    gone = image_service("any", "http://127.0.0.1:9/v1", "key", timeout=1)
    with pytest.raises(ConnectionError, match="leave painter out"): gone("a cup", (64, 64))


def test_diffusion_says_what_is_missing():
    pytest.importorskip("PIL")
    try: import diffusers  # noqa: F401
    except ImportError:
        with pytest.raises(ImportError, match="pip install diffusers"): diffusion("any/model")


def test_keywords_are_the_products_own_words():
    assert keywords(COFFEE)[:2] == ["Dawn 2", "coffee maker"]
    assert len(keywords({"name": "A", "facts": [f"fact {i}" for i in range(99)]})) == 10
    assert "主动降噪" in keywords(HEADPHONES)


@pytest.mark.parametrize("text, values", [
    ("1,200 g", [(1200, "gram")]), ("€79", [(79, "euro")]), ("twenty-four hours", [(24, "hour")]), ("两年", [(2, "year")]),
    ("三十小时", [(30, "hour")]), ("a 24-hour timer", [(24, "hour")]), ("one of them", []), ("一杯", []),
    ("八折", [(8, "discount")]), ("IP67", [(67, "")]), ("5.3", [(5.3, "")])])  # fmt: skip
def test_numbers(text, values):
    assert [tuple(number) for number in numbers(text)] == values


@pytest.mark.parametrize("sentence", [
    "It keeps coffee warm for two hours.", "Timer: 24 h.", "Only €79!", "Two years of warranty.", "A guarantee of 2 years."])
def test_true_sentences_stay(sentence):
    assert unsupported(sentence, catalogue_facts(COFFEE)) == []


def test_sentences_of_odd_texts():
    assert sentences("") == sentences("...!!!") == []
    assert sentences("**Bold** claim\n\n- item one\n- item two") == ["Bold claim", "item one", "item two"]


def test_cards_in_every_look_and_size():
    for look in LOOKS:
        for size in ((200, 200), (1200, 628), (300, 900)): assert draw_card("A", "A headline", ["one", "two"], look, size).size == size
        assert min(contrast((255, 255, 255), LOOKS[look].ground), contrast(LOOKS[look].accent, LOOKS[look].shape)) >= 4.5


def test_without_a_chinese_font_the_remedy_is_named(monkeypatch):
    monkeypatch.setattr(cards, "CHINESE_FONT_FILES", ("no-such-font.ttf",))
    cards._chinese_font.cache_clear()
    with pytest.raises(RuntimeError, match="fonts-noto-cjk"): draw_card("晨光", "咖啡")
    cards._chinese_font.cache_clear()


def test_chinese_cards_hold_chinese_letters():
    if not chinese_font(): pytest.skip("no Chinese font here")
    one, other = (np.asarray(draw_card("晨光", text, size=(300, 300))) for text in ("咖啡", "茶叶"))
    assert (one != other).any()
    lines = wrap("清晨六点，咖啡已经煮好。谁也不用起床！", font_for("清", 30), 100)
    assert "".join(lines) == "清晨六点，咖啡已经煮好。谁也不用起床！" and not any(line[0] in "，。！" for line in lines)
