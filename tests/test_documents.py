"""Reading documents: every file is read or refused with a reason, nothing stops a run, and no letter of a good file is lost."""

import io
import os
import signal
import subprocess
import sys
import threading
import time
import zipfile
from pathlib import Path

import pytest

from llmguide.enterprise.documents import Document, Unread, document_version, read_document, read_documents
from llmguide.enterprise.formats import Reading, format_of, read_bytes
from llmguide.enterprise.text import DocumentError, decode_text, lost_share, read_csv, read_markdown, read_plain, table_text
from llmguide.enterprise.web import html_blocks, read_html
from llmguide.enterprise.worker import Limits, read_guarded, stop_worker
from llmguide.settings import get_settings

REASONS = {"broken", "encrypted", "empty", "unsupported", "too large", "too slow", "unreadable"}


@pytest.fixture(autouse=True)
def _no_worker_left():
    yield
    stop_worker()


def zipped(members):
    """An archive of some members."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items(): archive.writestr(name, content)
    return file.getvalue()


def texts(name, data): return [block.text for block in read_bytes(name, data)[0]]


# Text


@pytest.mark.parametrize("text, encoding", [
    ("员工每年享有十天带薪年假，须提前三天申请。", "gb18030"), ("报销", "gbk"), ("會議室須事先預約，使用後請復原。", "big5"),
    ("Größe: 12 m², Öffnung: 8 €", "cp1252"), ("naïve café", "latin-1"), ("The policy – “remote” work", "cp1252"),
    ("員工 handbook\n第一章", "utf-16"), ("Ünïcode", "utf-8-sig"), ("plain", "ascii"), ("Правила внутреннего распорядка", "cp1251"),
    ("Handbuch für Mitarbeiter\n" * 3, "utf-16-le"), ("会社の規則は次のとおりです。休暇は十日です。", "shift_jis")])
def test_letters_survive_every_encoding(text, encoding): assert decode_text(text.encode(encoding)).text == text


def test_long_chinese_text_in_gb18030_with_english_and_figures():
    text = "第三章 Remote work 远程办公\n每周最多 2 天，须经 manager 批准；费用上限为 ¥300。\n" * 50
    assert decode_text(text.encode("gb18030")) == (text, "gb18030", 0)


def test_random_bytes_are_decoded_or_refused_but_never_crash():
    import random
    for seed in range(200):
        data = random.Random(seed).randbytes(seed * 3)
        try: read_bytes("a.txt", data)
        except DocumentError as problem: assert problem.reason in REASONS


def test_markdown_structure():
    blocks = read_markdown("Intro\n\n## B\n~~~\n# no heading\n~~~\n| a | b |\n|---|---|\n| 1 | 2 |\n\n# A\n1. x\n2. y\n\n> quoted\n")
    assert [(block.kind, block.headings) for block in blocks] == [
        ("paragraph", ()), ("heading", ()), ("code", ("B",)), ("table", ("B",)), ("heading", ()), ("list", ("A",)), ("paragraph", ("A",))]


def test_html_inside_markdown_keeps_its_table_and_loses_its_frames():
    table = "<table><tr><th>Band</th><th>Euro</th></tr><tr><td>A</td><td>1</td></tr></table>"
    blocks = read_markdown(f'# Pay\n<div class="x">\n\nText\n\n</div>\n\n{table}\n')
    assert [block.kind for block in blocks] == ["heading", "paragraph", "table"] and blocks[2].headings == ("Pay",)


def test_tables_lose_no_value():
    assert table_text([["a", "b|c"], ["1"], [None, "x\ny", "more"]]).split("\n") == [
        "| a | b\\|c |  |", "| --- | --- | --- |", "| 1 |  |  |", "|  | x y | more |"]
    assert read_csv('q,a\n"one, two","say ""hi"""')[0].text.endswith('| one, two | say "hi" |')


@pytest.mark.parametrize("page", [
    "<p>a<p>b", "<table><tr><td>", "<<<>>>", "<ul><li>x<ul><li>y", "&#xD800; &bogus;", "<body>" * 3000 + "x", "<!--"])
def test_broken_pages_never_crash(page): html_blocks(page)


def test_what_a_visitor_does_not_see_is_no_text():
    shown = str(read_html(b"<title>T</title><script>evil()</script><style>p{}</style><!-- note --><noscript>off</noscript><p>seen</p>"))
    assert "seen" in shown and not any(word in shown for word in ("evil", "p{}", "note", "off"))


# Containers


def test_a_bomb_is_refused_before_it_is_unpacked():
    bomb = zipped({f"{number}.txt": b"0" * 60_000_000 for number in range(10)})
    start = time.perf_counter()
    with pytest.raises(DocumentError, match="too large"): read_bytes("bomb.zip", bomb)
    assert time.perf_counter() - start < 1 and len(bomb) < 1_000_000


def test_sizes_count_over_nested_archives():
    inner = zipped({"a.txt": b"0" * 900})
    blocks, notes = read_bytes("a.zip", zipped({"1.zip": inner, "2.zip": inner}), Reading(unpacked=len(inner) * 2 + 1000))
    assert "too large" in notes[0] and "2.zip" in notes[0] and blocks


def test_a_locked_member_is_a_note_and_a_locked_archive_an_error():
    data = bytearray(zipped({"open.txt": "Hello", "locked.txt": "secret"}))
    place = data.rindex(b"PK\x01\x02")
    data[place + 8] |= 1  # says that the second member is encrypted
    data[data.index(b"PK\x03\x04", 10) + 6] |= 1
    blocks, notes = read_bytes("a.zip", bytes(data))
    assert blocks[-1].text == "Hello" and notes[0].startswith("locked.txt: encrypted: it needs a password")


def test_a_mail_keeps_its_attachments_apart():
    from email.message import EmailMessage
    mail = EmailMessage()
    mail["Subject"] = "年会"
    mail.set_content("见附件。")
    mail.add_attachment(b"# Plan\nStart at nine.", maintype="text", subtype="markdown", filename="plan.md")
    inner = EmailMessage()
    inner["Subject"] = "Re: hall"
    inner.set_content("Hall B is booked.")
    mail.add_attachment(inner)
    blocks, _ = read_bytes("a.eml", mail.as_bytes())
    assert [block.headings for block in blocks if block.text == "Start at nine."] == [("plan.md", "Plan")]
    assert [block.headings[-1] for block in blocks if block.text == "Hall B is booked."] == ["Re: hall"]


def docx_of(body):
    """A Word document around some XML."""
    import docx
    from docx.oxml import parse_xml
    made, file = docx.Document(), io.BytesIO()
    names = ('xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main" '
             'xmlns:mc="http://schemas.openxmlformats.org/markup-compatibility/2006"')
    for number, element in enumerate(parse_xml(f"<w:body {names}>{body}</w:body>")): made.element.body.insert(number, element)
    made.save(file)
    return file.getvalue()


def paragraph(text): return f"<w:p><w:r><w:t>{text}</w:t></w:r></w:p>"


def test_text_boxes_changes_and_controls_of_a_word_file():
    box = f"<w:txbxContent>{paragraph('in a box')}</w:txbxContent>"
    boxed = f"<mc:AlternateContent><mc:Choice>{box}</mc:Choice><mc:Fallback>{box}</mc:Fallback></mc:AlternateContent>"
    changed = "<w:del><w:r><w:delText>old</w:delText></w:r></w:del><w:ins><w:r><w:t>new</w:t></w:r></w:ins>"
    body = (f"<w:p><w:r><w:t>around</w:t>{boxed}</w:r></w:p><w:p>{changed}</w:p>"
            f"<w:sdt><w:sdtContent>{paragraph('chosen')}</w:sdtContent></w:sdt>")
    assert texts("a.docx", docx_of(body)) == ["around", "in a box", "new", "chosen"]


def test_nested_and_framing_tables_of_a_word_file():
    inner = f"<w:tbl><w:tr><w:tc>{paragraph('x')}</w:tc><w:tc>{paragraph('y')}</w:tc></w:tr></w:tbl>"
    frame = f"<w:tbl><w:tr><w:tc>{paragraph('Notice')}{inner}</w:tc></w:tr></w:tbl>"
    assert texts("a.docx", docx_of(frame)) == ["Notice", "| x | y |\n| --- | --- |"]


def test_a_page_of_text_and_a_scanned_page():
    pytest.importorskip("rapidocr")
    import pypdfium2
    from PIL import Image, ImageDraw, ImageFont
    scan = Image.new("RGB", (700, 300), "white")
    draw = ImageDraw.Draw(scan)
    draw.text((50, 40), "Keys", font=ImageFont.load_default(64), fill=(0, 0, 0))
    draw.text((50, 160), "Scanned words stand here.", font=ImageFont.load_default(36), fill=(0, 0, 0))
    file, mixed = io.BytesIO(), pypdfium2.PdfDocument.new()
    scan.save(file, "PDF", resolution=100)
    typed = (b"%PDF-1.4\n1 0 obj<</Type/Catalog/Pages 2 0 R>>endobj 2 0 obj<</Type/Pages/Kids[3 0 R]/Count 1>>endobj "
             b"3 0 obj<</Type/Page/Parent 2 0 R/MediaBox[0 0 400 300]/Contents 4 0 R/Resources<</Font<</F<</Type/Font/Subtype/Type1"
             b"/BaseFont/Helvetica>>>>>>>>endobj 4 0 obj<</Length 71>>stream\nBT /F 12 Tf 40 200 Td (A page with letters of its own, "
             b"many of them) Tj ET\nendstream endobj trailer<</Root 1 0 R>>\n%%EOF")
    for part in (typed, file.getvalue()): mixed.import_pages(pypdfium2.PdfDocument(part))
    whole = io.BytesIO()
    mixed.save(whole)
    blocks, notes = read_bytes("mixed.pdf", whole.getvalue())
    assert [(block.page, block.kind) for block in blocks] == [(1, "paragraph"), (2, "heading"), (2, "picture")] and not notes
    assert "letters of its own" in blocks[0].text and "Scanned words" in blocks[2].text


# Files and folders


def test_the_content_decides_not_the_name(tmp_path):
    (tmp_path / "report.pdf").write_text("<html><p>A page</p></html>")
    assert read_document(tmp_path / "report.pdf").text == "A page"
    assert format_of("letter.txt", b"{\\rtf1 x}") == "rtf" and format_of("x.png", b"%PDF-1.4") == "pdf"


def test_a_folder_with_everything_wrong(tmp_path):
    (tmp_path / "good.md").write_text("# Good\nText", encoding="utf-8")
    (tmp_path / "empty.md").touch()
    (tmp_path / "blank.txt").write_text(" \n\t\n")
    (tmp_path / "torn.docx").write_bytes(b"PK\x03\x04torn")
    (tmp_path / "gone.md").symlink_to(tmp_path / "nowhere")
    (tmp_path / "loop").symlink_to(tmp_path)
    os.mkfifo(tmp_path / "pipe.txt")
    (tmp_path / ".hidden.md").write_text("hidden")
    (tmp_path / "sub.md").mkdir()
    (tmp_path / "sub.md" / "z.txt").write_bytes("假期".encode("gb18030"))
    found = {os.path.relpath(each.source, tmp_path): each for each in read_documents(tmp_path)}
    assert [name for name, each in found.items() if isinstance(each, Document)] == ["good.md", "sub.md/z.txt"]
    assert {name: each.reason for name, each in found.items() if isinstance(each, Unread)} == {
        "loop": "unsupported", "blank.txt": "empty", "empty.md": "empty", "gone.md": "unreadable",
        "pipe.txt": "unsupported", "torn.docx": "broken"}


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="the administrator may read everything")
def test_no_permission(tmp_path):
    (tmp_path / "a.md").write_text("secret")
    (tmp_path / "a.md").chmod(0)
    assert [each.reason for each in read_documents(tmp_path)] == ["unreadable"]


def test_a_file_that_vanishes_while_the_folder_is_read(tmp_path):
    for name in "abc": (tmp_path / f"{name}.md").write_text("text")
    found = []
    for each in read_documents(tmp_path):
        found.append(each)
        (tmp_path / "b.md").unlink(missing_ok=True)
    assert [type(each).__name__ for each in found] == ["Document", "Unread", "Document"]


def test_a_name_that_is_not_utf8(tmp_path):
    try: (Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xc4\xea.txt"))).write_text("text")
    except OSError: pytest.skip("the file system refuses such names")
    found = next(read_documents(tmp_path))
    assert found.reason == "unreadable" and "rename it" in found.detail


def test_versions_follow_the_bytes(tmp_path):
    (tmp_path / "a.md").write_text("one")
    first = read_document(tmp_path / "a.md").version
    assert first == document_version(tmp_path / "a.md")
    (tmp_path / "a.md").write_text("two")
    assert read_document(tmp_path / "a.md").version != first


def test_sources_are_the_paths_as_given(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "handbook").mkdir()
    (tmp_path / "handbook" / "leave.md").write_text("text")
    assert [each.source for each in read_documents(["./handbook/", "handbook/leave.md"])] == ["handbook/leave.md"]


# Limits


def test_a_slow_file_is_given_up_and_the_next_one_read():
    start = time.monotonic()
    with pytest.raises(DocumentError, match="too slow"): read_guarded("slow.html", b"<ul><li>" * 60_000, Limits(seconds=1))
    assert time.monotonic() - start < 10
    assert read_guarded("a.html", b"<p>next</p>")[0][0].text == "next"


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits the memory of a process")
def test_a_file_that_needs_too_much_memory():
    large = zipped({"a.txt": b"0" * 400_000_000})
    with pytest.raises(DocumentError, match="memory"): read_guarded("a.zip", large, Limits(memory_gigabytes=0.4))
    assert read_guarded("a.html", b"<p>next</p>")[0][0].text == "next"


def test_a_crash_costs_one_file():
    from llmguide.enterprise import worker
    read_guarded("a.html", b"<p>warm</p>")
    threading.Timer(0.3, worker._current.process.kill).start()
    with pytest.raises(DocumentError, match="crashed"): read_guarded("slow.html", b"<ul><li>" * 60_000)
    assert read_guarded("a.html", b"<p>next</p>")[0][0].text == "next"


def test_two_threads_get_their_own_answers():
    found = {}
    def read(number): found[number] = read_guarded(f"{number}.html", f"<p>page {number}</p>".encode())[0][0].text
    threads = [threading.Thread(target=read, args=[number]) for number in range(20)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
    assert found == {number: f"page {number}" for number in range(20)}


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs signals")
def test_the_reader_ends_with_its_parent():
    code = ("from llmguide.enterprise import worker; worker.read_guarded('a.html', b'<p>x</p>');"
            "print(worker._current.process.pid, flush=True); import time; time.sleep(60)")
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    child = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    for _ in range(50):
        try: os.kill(child, 0)
        except ProcessLookupError: return
        if Path(f"/proc/{child}/stat").exists() and Path(f"/proc/{child}/stat").read_text().split(") ")[-1][0] == "Z": return
        time.sleep(0.1)
    raise AssertionError("the reading process outlived its parent")


def test_plain_folders_need_no_second_process(tmp_path):
    from llmguide.enterprise import worker
    for number in range(300): (tmp_path / f"{number}.md").write_text(f"# Page {number}\ntext")
    start = time.perf_counter()
    for each in read_documents(tmp_path): assert isinstance(each, Document) and worker._current is None
    assert time.perf_counter() - start < 3


# The public sets, where they are


def _datasets(name):
    folder = get_settings().datasets_dir
    if not folder or not (folder / name).is_dir(): pytest.skip(f"{name} isn't here: set LLMGUIDE_DATASETS_DIR")
    return folder / name


def test_a_real_handbook_is_read_whole_and_quickly():
    folder, start = _datasets("handbook_sourcegraph"), time.perf_counter()
    found = list(read_documents(folder))
    assert time.perf_counter() - start < 20 and all(isinstance(each, Document) for each in found) and len(found) > 300
    for document in found:
        whole = Path(document.source).read_text(encoding="utf-8")
        for block in document.blocks:  # nearly all text stands in the file as it was quoted
            assert block.kind in ("table", "list", "paragraph", "heading", "code", "picture")
        assert "<" in whole or lost_share(read_plain(whole)[0].text if whole.strip() else "", document.text) < 0.2


def test_real_files_are_read_or_refused():
    folder = _datasets("documents")
    wanted = {"broken/password_protected.xlsx": "encrypted", "pdf/password.pdf": "encrypted",
              "broken/empty.txt": "empty", "broken_derived/zero_bytes.pdf": "empty",
              "office/simple.doc": "unsupported", "broken_derived/truncated_tables.docx": "broken"}
    for name, reason in wanted.items():
        with pytest.raises(DocumentError) as problem: read_document(folder / name, source=name)
        assert problem.value.reason == reason and str(problem.value).startswith(f"{name}: {reason}: ")
    assert read_document(folder / "pdf/libreoffice-writer-password.pdf", password="openpassword").blocks
    table = [block for block in read_document(folder / "pdf_tables/spanning_cells.pdf").blocks if block.kind == "table"][0]
    assert "| Server rooms | 1,512 | 1,586 | 1,646 | 1,677 | 1,693 |" in table.text
