"""The chat page in a real browser, in front of the real service: asked, read, attacked, and used without a mouse."""

import html
import json
import re
import shutil
import socket
import threading
import time
from pathlib import Path

import pytest

from llmguide.enterprise.page import contrasts, theme_colours, WEB

playwright = pytest.importorskip("playwright.sync_api", reason="no Playwright: pip install playwright")
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
needs_chromium = pytest.mark.skipif(not CHROMIUM, reason="no Chromium: apt install chromium")

HANDBOOK = {"remote.md": "# Remote work\n\nYou may work from home on two days a week.\n",
            "travel.md": "# Travel\n\n## Flights\n\nEconomy class is the rule. "
                         "A manager approves\nbusiness class for flights of more than eight hours.\n",
            "报销.md": "# 报销\n\n## 期限\n\n出差报销须在返回后十四天内提交发票。\n"}
HOSTILE = "<img src=x onerror=\"window.hacked = 'yes'\"><script>window.hacked = 'yes'</script><b>bold</b>"


# ---- one service and one browser for all

@pytest.fixture(scope="module")
def service(tmp_path_factory):
    """Address of a service that is open to this machine."""
    import uvicorn

    from llmguide.enterprise.configuration import ServiceSettings
    from llmguide.enterprise.service import create_app

    home = tmp_path_factory.mktemp("service")
    for name, text in HANDBOOK.items():
        (home / "handbook").mkdir(exist_ok=True)
        (home / "handbook" / name).write_text(text, encoding="utf-8")
    app = create_app(ServiceSettings(service_dir=home, handbooks=home / "handbook", port=0, rate=1000, burst=1000,
                                     tools="llmguide.enterprise.orders:sample_tools"))
    listening = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, ws="none", log_level="warning", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run, args=([listening],), daemon=True)
    thread.start()
    while not server.started and thread.is_alive(): time.sleep(0.05)
    yield f"http://127.0.0.1:{listening.getsockname()[1]}/"
    server.should_exit = True
    thread.join(10)


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as started:
        chromium = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture
def visit(service, browser):
    """visit(path, ...): a page of its own; whatever its console complains about fails the test."""
    contexts, complaints = [], []

    def opened(path="", allowed=(), **options):
        context = browser.new_context(**{"viewport": {"width": 1280, "height": 800}, "locale": "en"} | options)
        contexts.append(context)
        context.set_default_timeout(8000)
        page = context.new_page()
        page.on("pageerror", lambda problem: complaints.append(str(problem)))
        ours = lambda said: said.type == "error" and "Failed to load resource" not in said.text  # noqa: E731
        page.on("console", lambda said: ours(said) and complaints.append(said.text))
        page.goto(service + path)
        page.locator("#question:focus, .view:not([hidden]) h1:focus").first.wait_for()
        return page

    yield opened
    for context in contexts: context.close()
    assert complaints == []


def ask(page, question):
    """Ask as a reader does, and wait for the end of the answer."""
    answers = page.locator("#messages .answer .tools")
    before = answers.count()
    page.fill("#question", question)
    page.press("#question", "Enter")
    answers.nth(before).wait_for()
    return page.locator("#messages > .answer").last


def stand_in(page, **reply):
    """Let a reply of our own come instead of the service's."""
    empty = {"response": "", "sources": [], "refused": False, "message_id": None, "trace": []}
    whole = empty | {"conversation": "0" * 32, "state": "bot"} | reply
    events = f"event: token\ndata: {json.dumps({'text': whole['response']})}\n\nevent: done\ndata: {json.dumps(whole)}\n\n"
    page.route("**/api/chat", lambda route: route.fulfill(body=events, content_type="text/event-stream"))


# ---- without a browser

@pytest.mark.parametrize("theme", ["light", "dark"])
def test_every_text_stands_out_from_its_ground(theme):
    colours = theme_colours((WEB / "style.css").read_text(encoding="utf-8"))[theme]
    assert min(contrasts(colours).values()) >= 4.5
    assert all(ratio >= 3 for ratio in contrasts(colours | {"ink": colours["edge"]}).values())  # edges of fields


def test_nothing_can_write_markup_or_call_elsewhere():
    scripts = "".join(file.read_text(encoding="utf-8") for file in WEB.glob("*.js"))
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function", scripts)
    assert set(re.findall(r"https?://[^\"' ]+", scripts)) == {"http://www.w3.org/2000/svg"}
    page = (WEB / "index.html").read_text(encoding="utf-8")
    assert not re.search(r"<script>|<style|\sstyle=|\son\w+=|https?://", page)


def test_both_languages_have_the_same_words():
    words = (WEB / "words.js").read_text(encoding="utf-8")
    part = lambda name: words.split(f"const {name} = {{")[1].split("\n};")[0]  # noqa: E731
    english, chinese = (dict(re.findall(r"\b(\w+): \"([^\"]*)\"", part(name))) for name in ("en", "zh"))
    assert english.keys() == chinese.keys()
    for key, text in english.items(): assert set(re.findall(r"\{\w+\}", text)) == set(re.findall(r"\{\w+\}", chinese[key])), key
    used = re.findall(r"data-t(?:-label|-placeholder)?=\"(\w+)\"", (WEB / "index.html").read_text(encoding="utf-8"))
    used += [key for file in WEB.glob("*.js") for key in re.findall(r"\b(?:t|label): \"(\w+)\"", file.read_text(encoding="utf-8"))]
    assert set(used) <= english.keys()


# ---- reading

@needs_chromium
def test_an_answer_comes_with_sources_that_open_at_the_passage(visit):
    page = visit()
    answer = ask(page, "How many days a week may I work from home?")
    assert "two days a week" in answer.locator(".text").inner_text()
    assert "remote.md" in answer.locator(".place").first.inner_text()
    assert "two days" in page.locator("#announcer").inner_text()  # what a screen reader says
    answer.locator("button.place").first.click()
    mark = page.locator("#panel mark")
    mark.wait_for()
    assert "two days a week" in mark.inner_text() and mark.is_visible()
    assert "Remote work" in page.locator("#panel header").inner_text()
    page.keyboard.press("Escape")
    assert not page.locator("#panel").is_visible()
    assert page.evaluate("document.activeElement.className") == "place"
    assert page.locator("#conversations a[aria-current]").inner_text().startswith("How many days")


@needs_chromium
def test_a_refusal_is_plain_and_offers_a_person(visit):
    page = visit()
    answer = ask(page, "Who won the football world cup in 1974?")
    box = answer.locator(".refused")
    assert box.is_visible() and box.get_by_role("button", name="Ask a person").is_visible()
    assert answer.get_by_role("heading", name="Sources").count() == 0
    assert "Write" not in box.inner_text() and box.get_by_role("heading", name="Not sure enough to answer").is_visible()
    text = box.locator(".place .excerpt").first.inner_text()
    box.locator("button.place").first.click()
    page.locator("#panel mark").wait_for()
    assert len(text) > 10 and text[:30] in page.locator("#panel mark").inner_text()


@needs_chromium
def test_quotes_of_one_section_are_one_card(visit):
    page = visit()
    place = {"source": "travel.md", "page": None, "headings": ["Travel", "Flights"], "quote": "a", "start": 0, "end": 1}
    places = [place, place | {"quote": "b", "start": 2, "end": 3}, place | {"headings": ["Travel"]}]
    stand_in(page, response="a b c", message_id="1", sources=places)
    assert ask(page, "Which class?").locator(".place").count() == 2


@needs_chromium
def test_whoever_waits_for_a_person_can_go_on_with_the_assistant(visit):
    page = visit()
    ask(page, "Who won the football world cup in 1974?").get_by_role("button", name="Ask a person").click()
    page.get_by_role("button", name="Go on with the assistant").click()
    page.locator("#handoff").wait_for(state="hidden")
    assert "two days" in ask(page, "How many days a week may I work from home?").inner_text()


@needs_chromium
def test_a_reader_sees_why_the_administration_is_empty(visit):
    page = visit()
    page.route("**/api/me", lambda route: route.fulfill(json={"user": "ben", "roles": ["reader"], "open": False}))
    for view, words in (("admin", "Only for administrators."), ("requests", "Only for people who answer requests.")):
        page.goto(page.url.split("#")[0] + f"#/{view}")
        page.reload()
        page.get_by_text(words).wait_for()
        assert page.locator(f"#view-{view} :is(form, h2, ul):visible").count() == 0 and page.locator("#notice .notice").count() == 0


@needs_chromium
def test_a_conversation_can_be_opened_again_and_deleted(visit):
    page = visit()
    ask(page, "Which class may I fly?")
    page.click("#new")
    assert page.locator("#messages > li").count() == 0
    page.locator("#conversations a", has_text="Which class").first.click()
    page.locator("#messages .answer .text").first.wait_for()
    page.reload()
    page.locator("#messages .answer .text").first.wait_for()
    row = page.locator("#conversations li", has_text="Which class").first
    row.hover()
    row.get_by_role("button").click()
    page.locator("#sure").get_by_role("button", name="Cancel").click()
    assert page.locator("#conversations a", has_text="Which class").count() == 1
    row.get_by_role("button").click()
    page.click("#sure-yes")
    page.locator("#conversations a", has_text="Which class").wait_for(state="detached")


@needs_chromium
def test_feedback_with_a_correction_is_kept(visit):
    page = visit()
    answer = ask(page, "Who approves business class?")
    assert "A manager approves business class" in answer.locator(".text").inner_text()  # the document's own line break is gone
    answer.get_by_role("button", name="Not helpful").click()
    answer.locator("textarea[name=comment]").fill("too short")
    answer.locator("textarea[name=correct]").fill("the manager")
    answer.get_by_role("button", name="Send").click()
    answer.get_by_text("Thank you").wait_for()
    page.goto(page.url.split("#")[0] + "#/admin")
    row = page.locator("#feedback-list li", has_text="too short")
    row.get_by_role("button").click()
    row.get_by_text("approved").wait_for()


# ---- language, theme, keyboard, small screens

@needs_chromium
def test_language_and_theme_are_switched_and_remembered(visit):
    page = visit(locale="zh-CN", color_scheme="dark")
    assert page.evaluate("document.documentElement.lang") == "zh"
    answer = ask(page, "出差报销须在几天内提交发票？")
    assert "十四天" in answer.inner_text() and answer.get_by_role("heading", name="出处").is_visible()
    ground = "getComputedStyle(document.body).backgroundColor"
    dark = page.evaluate(ground)
    page.click("#language")
    assert answer.get_by_role("heading", name="Sources").is_visible()
    page.click("#theme")
    light = page.evaluate(ground)
    page.reload()
    page.locator("#messages .answer").first.wait_for()
    assert (page.evaluate("document.documentElement.lang"), page.evaluate(ground)) == ("en", light) and light != dark


@needs_chromium
def test_everything_can_be_done_with_the_keyboard(visit):
    page = visit()
    page.keyboard.type("How many days a week")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("may I work from home?")
    page.keyboard.press("Enter")
    page.locator("#messages .tools").wait_for()
    assert page.locator(".said .text").inner_text() == "How many days a week\nmay I work from home?"
    reached = []
    for _ in range(40):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.id || document.activeElement.className || document.activeElement.tagName"))
    assert {"skip", "new", "language", "theme", "scroll", "place", "question", "send"} <= set(reached)  # and round again: no trap
    page.locator("button.place").first.focus()
    page.keyboard.press("Enter")
    page.locator("#panel mark").wait_for()
    page.keyboard.press("Escape")
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.id") == "question" and page.input_value("#question") == ""
    page.keyboard.type("十四天")
    page.evaluate("""document.querySelector('#question').dispatchEvent(
        new KeyboardEvent('keydown', {key: 'Enter', isComposing: true, bubbles: true}))""")  # as an input method does
    assert page.locator(".said").count() == 1


@needs_chromium
def test_on_a_phone_nothing_sticks_out_and_the_menu_opens_and_closes(visit):
    page = visit(viewport={"width": 375, "height": 700})
    ask(page, "Which class may I fly?").locator("button.place").first.click()
    page.locator("#panel mark").wait_for()
    page.keyboard.press("Escape")
    page.click("#menu")
    page.locator("#language").wait_for()
    page.keyboard.press("Escape")
    page.locator("#language").wait_for(state="hidden")
    for path in ("#/documents", "#/requests", "#/admin"):
        page.goto(page.url.split("#")[0] + path)
        page.locator("h1:focus").wait_for()
        assert page.evaluate("document.documentElement.scrollWidth") <= 375, path
    page.route("**/api/documents", lambda route: route.fulfill(status=500, json={"error": {"message": "No.", "remedy": "Wait."}}))
    page.goto(page.url.split("#")[0] + "#/documents")
    close = page.locator("#notice .notice .icon").bounding_box()
    assert close["y"] < page.locator("#notice .notice > span").bounding_box()["y"] + 60  # beside the words, not below them


LOOK = (Path(__file__).parent / "look_at_page.js").read_text(encoding="utf-8").partition("\n")[2]  # names, landmarks, contrast


@needs_chromium
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_names_landmarks_and_contrast_in_every_view(visit, theme):
    page = visit(color_scheme=theme)
    ask(page, "How many days a week may I work from home?").get_by_role("button", name="Not helpful").click()
    ask(page, "Who won the football world cup in 1974?")
    assert page.evaluate(LOOK) == []
    for path in ("#/documents", "#/requests", "#/admin"):
        page.goto(page.url.split("#")[0] + path)
        page.locator("h1:focus").wait_for()
        page.wait_for_load_state("networkidle")
        assert page.evaluate(LOOK) == [], path


# ---- attacked

@needs_chromium
def test_hostile_text_stays_text_wherever_it_comes_from(visit):
    page = visit()
    place = {"source": f"a/{HOSTILE}.md", "page": 1, "headings": [HOSTILE], "quote": HOSTILE, "start": 0, "end": 9}
    stand_in(page, response=HOSTILE, sources=[place], trace=[HOSTILE, {HOSTILE: HOSTILE}], message_id="1",
             confirm={"id": "1", "tool": HOSTILE, "text": HOSTILE, "arguments": {HOSTILE: HOSTILE}})
    passage = {"text": HOSTILE, "before": HOSTILE, "after": HOSTILE, "headings": [HOSTILE], "page": None}
    page.route("**/api/passage*", lambda route: route.fulfill(json=passage))
    answer = ask(page, HOSTILE)
    assert answer.locator(".text").first.inner_text() == HOSTILE
    answer.locator("summary").click()
    answer.locator("button.place").click()
    page.locator("#panel mark").wait_for()
    page.unroute("**/api/chat")
    stand_in(page, response="", refused=True, nearest=[place])
    page.keyboard.press("Escape")
    page.fill("#question", "again")
    page.press("#question", "Enter")
    page.locator(".refused .place").wait_for()
    document = {"source": HOSTILE, "chunks": 1, "status": "not indexed", "reason": HOSTILE, "readers": [HOSTILE]}
    page.route("**/api/documents", lambda route: route.fulfill(json=[document]))
    page.route("**/api/conversations", lambda route: route.fulfill(json=[{"id": HOSTILE, "title": HOSTILE}]))
    page.route("**/api/audit*", lambda route: route.fulfill(json=[{"time": 1, HOSTILE: HOSTILE}]))
    for path in ("#/documents", "#/admin"):
        page.goto(page.url.split("#")[0] + path)
        page.locator("li", has_text="onerror").last.wait_for()
    page.wait_for_timeout(100)
    assert page.evaluate("window.hacked") is None
    assert page.locator("main img, main script, main b, #side b, #panel b").count() == 0


@needs_chromium
def test_scripts_from_outside_the_files_are_forbidden_by_the_service(service, browser):
    page = browser.new_page()
    policy = page.goto(service).headers["content-security-policy"]
    assert "unsafe" not in policy and "'self'" in policy
    page.evaluate("document.body.append(Object.assign(document.createElement('script'), {textContent: 'window.hacked = 1'}))")
    assert page.evaluate("window.hacked") is None
    page.close()


# ---- what a newcomer missed

@needs_chromium
def test_an_answer_that_is_not_certain_says_so_now_and_later(visit, service, monkeypatch):
    from llmguide.enterprise import knowledge_base

    monkeypatch.setattr(knowledge_base, "SURE", 1.1)  # from now on no answer is certain
    page = visit()
    asked = {"user_id": "local", "message": "On how many days a week may one work from home?", "stream": True}
    done = json.loads(page.request.post(service + "api/chat", data=asked).text().strip().splitlines()[-1].removeprefix("data: "))
    answer = ask(page, asked["message"])
    assert done["certain"] is False and 0 < done["confidence"] < 1 and not done["refused"]
    assert "read the source" in answer.locator(".doubt").inner_text()
    page.reload()
    page.locator("#messages .doubt").wait_for()
    monkeypatch.undo()
    assert ask(page, "What do business flights need?").locator(".doubt, .refused").count() == 1  # a refusal, or an answer that is certain
    fields = page.request.get(service + "openapi.json").json()["components"]["schemas"]["ChatReply"]["properties"]
    assert {"confidence", "certain"} <= fields.keys()


@needs_chromium
def test_a_refusal_that_is_opened_again_shows_its_nearest_passages(visit):
    for _ in ("the first time", "from the cache"):
        page = visit()
        places = ask(page, "Who won the football world cup in 1982?").locator(".refused .place .name").all_inner_texts()
        page.reload()
        page.locator(".refused .place").first.wait_for()
        assert page.locator(".refused .place .name").all_inner_texts() == places and places
        page.locator(".refused button.place").first.click()
        page.locator("#panel mark").wait_for()


@needs_chromium
def test_a_thumb_down_counts_at_once_and_its_form_amends_it(visit, service):
    page = visit()
    answer = ask(page, "Which class is the rule in flights?")
    with page.expect_response("**/api/feedback") as sent: answer.get_by_role("button", name="Not helpful").click()
    id = sent.value.json()["message_id"]
    given = lambda: [row for row in page.request.get(service + "api/feedback").json()["feedback"] if row["id"] == id]  # noqa: E731
    assert [(row["rating"], row["comment"]) for row in given()] == [("down", "")]
    answer.locator("textarea[name=comment]").fill("too vague")
    with page.expect_response("**/api/feedback"): answer.get_by_role("button", name="Send").click()
    assert [(row["rating"], row["comment"]) for row in given()] == [("down", "too vague")]
    answer.get_by_role("button", name="Not helpful").click()  # only opens the form
    assert [row["comment"] for row in given()] == ["too vague"]


@needs_chromium
def test_what_is_too_long_is_said_and_not_cut(visit):
    page = visit()
    page.fill("#question", "字" * 8_001)
    assert "8001 characters" in page.locator("#too-long").inner_text()
    page.press("#question", "Enter")
    assert len(page.input_value("#question")) == 8_001 and page.locator(".said").count() == 0
    page.fill("#question", "😀" * 8_000)  # two units each in JavaScript, one character for the service
    assert page.locator("#too-long").inner_text() == ""


SAMPLES = Path(__file__).parent.parent / "data" / "handbooks"
EXAMPLES = re.findall(r'source: "([^"]+)", text: "([^"]+)"', (WEB / "chat.js").read_text(encoding="utf-8"))


@needs_chromium
def test_examples_are_shown_where_their_documents_are(visit):
    page = visit()
    page.locator("#welcome-documents span").wait_for()
    assert page.locator("#examples button").count() == 0
    page.route("**/api/documents", lambda route: route.fulfill(json=[{"source": source} for source, _ in EXAMPLES]))
    page.reload()
    page.locator("#examples button").first.wait_for()
    assert page.locator("#examples button").all_inner_texts() == [text for _, text in EXAMPLES]
    page.locator("#examples button").first.click()
    page.locator("#messages .tools").wait_for()
    assert page.locator(".said .text").inner_text() == EXAMPLES[0][1]


def test_the_examples_are_answered_from_their_documents(tmp_path):
    from llmguide.enterprise.knowledge_base import EnterpriseKnowledgeBase

    base = EnterpriseKnowledgeBase(store=tmp_path / "store")
    base.add([SAMPLES / source for source, _ in EXAMPLES])
    for source, question in EXAMPLES:
        found = base.query(question)
        assert not found["refused"] and not found["nearest"] and found["sources"][0]["source"].endswith(source), question
    base.close()
    assert any(re.search("[\u4e00-\u9fff]", question) for _, question in EXAMPLES) and len(EXAMPLES) == 3


@needs_chromium
def test_a_table_of_a_document_is_a_table(visit):
    page = visit()
    text = f"**Rooms** of the year:\n\n| Room | Rent |\n| --- | ---: |\n| single | 900 |\n| double {HOSTILE} | 600 |\n\n2 * 3 * 4 beds."
    quote = "| single | 900 |"
    place = {"source": "rooms.md", "page": None, "headings": [], "start": 0, "end": 9, "quote": quote, "text": text}
    stand_in(page, response=quote, sources=[place], message_id="1")
    passage = {"text": text, "before": "*Before*", "after": "", "headings": [], "page": None}
    page.route("**/api/passage*", lambda route: route.fulfill(json=passage))
    answer = ask(page, "What does a single room cost?")
    assert answer.locator(".text td").all_inner_texts() == ["single", "900"] and answer.locator(".excerpt tr").count() == 3
    answer.locator("button.place").click()
    panel = page.locator("#panel-text")
    panel.locator("mark").first.wait_for()
    assert panel.locator("th").all_inner_texts() == ["Room", "Rent"] and panel.locator("tr").count() == 3
    assert panel.locator("mark").all_inner_texts() == ["single", "900"]
    words = panel.inner_text()
    assert "---" not in words and "**" not in words and words.startswith("Before") and "2 * 3 * 4 beds." in words and HOSTILE in words


@needs_chromium
def test_whoever_waits_sees_that_a_message_was_delivered(visit):
    page = visit()
    ask(page, "Who won the football world cup in 1974?").get_by_role("button", name="Ask a person").click()
    page.get_by_text("A person has been asked", exact=False).first.wait_for()
    page.fill("#question", "Is anybody there?")
    page.press("#question", "Enter")
    mark = page.locator(".said .delivered")
    mark.wait_for()
    assert mark.inner_text() == "Delivered, waiting for a person" and "anybody" in page.locator(".said").last.inner_text()
    page.reload()
    mark.wait_for()
    page.get_by_role("button", name="Go on with the assistant").click()
    mark.wait_for(state="detached")


@needs_chromium
def test_steps_and_errors_read_well_in_the_language_of_the_page(visit):
    page = visit(locale="zh-CN")
    answer = ask(page, "谁赢得了1974年世界杯？")
    answer.locator("summary").click()
    step = answer.locator("details li").first.inner_text()
    assert re.fullmatch(r"文档：置信度 [\d.]+ 低于阈值 [\d.]+", step)
    page.click("#language")
    assert re.fullmatch(r"documents: confidence [\d.]+ is below the threshold [\d.]+", answer.locator("details li").first.inner_text())
    problem = {"error": {"message": "the bonus.md is away", "remedy": "send it again"}}
    page.route("**/api/chat", lambda route: route.fulfill(status=422, json=problem))
    page.fill("#question", "And now?")
    page.press("#question", "Enter")
    assert page.locator("#messages .notice small").inner_text() == "The bonus.md is away. Send it again."


def test_the_documentation_shows_fields_and_a_line_for_each_post(service):
    import subprocess

    import httpx

    page = httpx.get(service + "docs").text
    assert "$ref" not in page and "<code>message</code> (string)" in page and "at most 8000 characters" in page
    assert page.count("<pre>curl") == page.count("<h2>POST")
    line = html.unescape(re.search(r"<pre>(curl [^<]*/api/chat .*?)</pre>", page, re.DOTALL)[1])
    if not shutil.which("curl"): pytest.skip("no curl: apt install curl")
    done = subprocess.run(line.replace("http://127.0.0.1:8000/", service), shell=True, capture_output=True, text=True)
    assert "two days" in json.loads(done.stdout)["response"]


# ---- when something fails

@needs_chromium
def test_a_failure_says_what_to_do_and_waits_as_long_as_it_is_told(visit):
    page = visit()
    busy = {"error": {"message": "66 questions wait.", "type": "busy", "code": 503, "remedy": "ask again in a few seconds"}}
    page.route("**/api/chat", lambda route: route.fulfill(status=503, json=busy, headers={"Retry-After": "1"}))
    page.fill("#question", "How many days a week may I work from home?")
    page.press("#question", "Enter")
    box = page.locator("#messages .notice")
    box.wait_for()
    assert "busy" in box.inner_text() and "66 questions wait." in box.inner_text()
    again = box.get_by_role("button")
    assert again.is_disabled() and "1 s" in again.inner_text()
    page.unroute("**/api/chat")
    again.click()  # waits until it's enabled
    page.locator("#messages .tools").wait_for()
    assert "two days" in page.locator("#messages .answer").inner_text() and box.count() == 0
    page.route("**/api/chat", lambda route: route.abort())
    page.fill("#question", "And now?")
    page.press("#question", "Enter")
    assert "can't be reached" in page.locator("#messages .notice").inner_text()


@needs_chromium
def test_an_answer_can_be_stopped(visit):
    page = visit()
    page.route("**/api/chat", lambda route: None)  # no answer, ever
    page.fill("#question", "How many days?")
    page.press("#question", "Enter")
    page.get_by_role("button", name="Stop the answer").wait_for()
    page.keyboard.press("Escape")
    assert "Stopped" in page.locator("#messages .answer").inner_text()
    assert page.locator("#send").is_visible()


# ---- documents, tools, people, keys

@needs_chromium
def test_uploaded_files_are_answered_from_and_can_be_deleted(visit):
    page = visit("#/documents")
    parking = b"# Parking\n\nA parking space costs ninety euros a month.\n"
    page.set_input_files("#files", [
        {"name": f"Parking {HOSTILE.replace('/', '')}.md", "mimeType": "text/markdown", "buffer": parking},
        {"name": "noise.pdf", "mimeType": "application/pdf", "buffer": bytes(range(256))}])
    job = page.locator("#jobs .job")
    job.locator("li", has_text="noise.pdf").locator(".bad").wait_for()
    assert "ready" in job.locator("li", has_text="Parking").inner_text()
    assert len(job.locator("li", has_text="noise.pdf").locator(".reason").inner_text()) > 10
    page.locator("#document-list li", has_text="Parking").wait_for()
    page.goto(page.url.split("#")[0] + "#/chat")
    assert "ninety euros" in ask(page, "What does a parking space cost a month?").inner_text()
    page.goto(page.url.split("#")[0] + "#/documents")
    row = page.locator("#document-list li", has_text="Parking")
    row.get_by_role("button").click()
    page.click("#sure-yes")
    row.wait_for(state="detached")
    assert page.locator("#jobs li", has_text="Parking").count() == 0  # the card of the upload doesn't say ready any more
    assert page.evaluate("window.hacked") is None


@needs_chromium
def test_a_tool_asks_before_it_acts(visit):
    page = visit()
    sent = []
    action = {"id": "c1", "tool": "order", "text": "Order a laptop", "arguments": {"model": "A13"}}
    stand_in(page, response="I can do that.", message_id="1", confirm=action)

    def decided(route):
        sent.append(route.request.post_data_json)
        route.fulfill(json={"response": "Order 4711."})

    page.route("**/api/confirm/c1", decided)
    answer = ask(page, "Order a laptop")
    assert "A13" in answer.locator(".ask").inner_text() and sent == []
    answer.get_by_role("button", name="Yes, do it").click()
    answer.get_by_text("Order 4711.").wait_for()
    assert sent == [{"accept": True}]


@needs_chromium
def test_a_real_tool_asks_and_says_what_became_of_it(visit):
    page = visit()
    answer = ask(page, "Please refund 50 EUR for BR-1001")
    assert "Pay 50.0 EUR back for order BR-1001?" in answer.locator(".ask").inner_text()
    answer.get_by_role("button", name="Yes, do it").click()
    answer.get_by_text("Nothing was paid: BR-1001 isn't yours").wait_for()  # it is Ann's


@needs_chromium
def test_a_person_takes_over_replies_and_hands_back(visit):
    reader, agent = visit(), visit("#/requests")
    ask(reader, "Who won the football world cup in 1974?").get_by_role("button", name="Ask a person").click()
    reader.get_by_text("A person has been asked", exact=False).wait_for()
    agent.get_by_role("button", name="Take over").first.click()
    agent.fill("#reply", "West Germany did.")
    agent.get_by_role("button", name="Reply").click()
    reader.locator(".from-person", has_text="West Germany").wait_for()
    assert "You are talking with a person" in reader.locator("#handoff").inner_text()
    reader.fill("#question", "Thank you")
    reader.press("#question", "Enter")
    agent.locator(".talk", has_text="Thank you").wait_for()
    assert reader.locator("#messages > li").last.inner_text().endswith("Thank you")  # the assistant is silent
    agent.get_by_role("button", name="Close and hand back").click()
    reader.locator("#handoff").wait_for(state="hidden")


@needs_chromium
def test_from_the_first_key_on_everybody_signs_in(visit):  # the last one: it closes the service
    page = visit("#/admin")
    page.fill("#key-user", "ann")
    page.get_by_role("button", name="Create key").click()
    page.locator("#new-key code").wait_for()
    key = page.locator("#new-key code").inner_text()
    page.locator("#key-list li", has_text="ann").wait_for()  # this tab goes on with it
    page.get_by_role("button", name="Sign out").click()
    page.locator("#key:focus").wait_for()
    assert page.locator("#question").is_hidden()
    page.fill("#key", "llmg_wrong")
    page.press("#key", "Enter")
    page.get_by_text("This key isn't known", exact=False).wait_for()
    page.fill("#key", key)
    page.press("#key", "Enter")
    page.locator("#question:focus, h1:focus").first.wait_for()
    page.goto(page.url.split("#")[0] + "#/chat")
    assert "two days" in ask(page, "How many days a week may I work from home?").inner_text()
    assert page.evaluate("[localStorage.getItem('key'), document.cookie]") == [None, ""]  # it's nowhere but in this tab
