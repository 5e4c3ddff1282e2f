"""How much of 116 real files is read; run by `llmguide evidence documents`.

Every file of the set of documents is read, or refused with a reason. What was read is compared with what another, simpler
program finds in the same file: pypdf in a PDF, the bare XML of an Office file, the text of a page without its tags. Tables
are compared with the cells that the makers of the files expect. A file takes seconds; what is done is kept.
"""

import csv
import email
import io
import json
import re
import sys
import time
import warnings
import zipfile
from collections import Counter
from email import policy
from pathlib import Path

from llmguide.enterprise.documents import FORMAT, document_version, read_document
from llmguide.enterprise.text import DocumentError, decode_text, lost_share
from llmguide.evidence import record_curve
from llmguide.settings import get_settings, write_atomically


def without_tags(text):
    """Text of a page or XML file: no scripts, styles, comments and tags; entities stay as letters do."""
    from html import unescape
    text = re.sub(r"(?is)<(script|style|head|noscript|template|svg|iframe)\b.*?</\1\s*>|<!--.*?-->", " ", text)
    return unescape(re.sub(r"<[^>]*>", " ", text))


def pdf_text(data, password):
    """Text of all pages by pypdf, which shares no code with our readers."""
    import pypdf
    reader = pypdf.PdfReader(io.BytesIO(data), password=password or None)
    return "\n".join(page.extract_text() for page in reader.pages)


def archive_text(data, wanted, tag):
    """What stands in the elements of a name in the members of an Office file, without the copies for old programs."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        parts = [archive.read(name).decode("utf-8", "replace") for name in archive.namelist() if re.search(wanted, name)]
    parts = [re.sub(r"(?s)<mc:Fallback>.*?</mc:Fallback>", "", part) for part in parts]
    pattern = rf"(?s)<(?:{tag})(?: [^>]*)?>(.*?)</(?:{tag})>|</(?:[wa]:p|si)>|<w:tab/>|<w:br/>"
    found = [[match[1] for match in re.finditer(pattern, part)] for part in parts]
    return "\n".join("".join("\n" if text is None else without_tags(text) for text in part) for part in found)


def mail_text(data):
    """The plain parts of a mail, or its pages where it has none."""
    parts = [part for part in email.message_from_bytes(data, policy=policy.default).walk() if part.get_content_maintype() == "text"]
    kinds = {kind: [decode_text(part.get_payload(decode=True), part.get_content_charset()).text for part in parts
                    if part.get_content_subtype() == kind] for kind in ("plain", "html")}
    return "\n".join(kinds["plain"] or map(without_tags, kinds["html"]))


def simple_text(path, password=None):
    """What a simple program finds in a file; None where there is no such program."""
    data, ending = path.read_bytes(), path.suffix.lower()
    if ending == ".pdf" and data.startswith(b"%PDF"): return pdf_text(data, password)
    if ending == ".docx": return archive_text(data, r"word/(document|header\d*|footer\d*|footnotes|endnotes|comments)\.xml", "w:t")
    if ending == ".pptx": return archive_text(data, r"ppt/(slides|notesSlides)/[^/]*\.xml", "a:t")
    if ending == ".xlsx": return archive_text(data, r"xl/(sharedStrings|comments\d*)\.xml", "t")
    if ending in (".odt", ".epub"): return archive_text(data, r"content\.xml|\.x?html?$", "office:text|body")
    if ending in (".html", ".pdf"): return without_tags(decode_text(data).text)
    if ending == ".eml": return mail_text(data)
    if ending in (".txt", ".md", ".csv", ".rst", ".xml"): return decode_text(data).text
    return None


def words_lost(whole, kept):
    """The share of words of a text that another lacks; a Chinese character is a word."""
    words = [Counter(re.findall(r"[^\W\u3400-\u9fff]+|[\u3400-\u9fff]", text.casefold())) for text in (whole, kept)]
    return (words[0] - words[1]).total() / max(1, words[0].total())


def cells_found(document, expected):
    """Cells of an expected table that stand in one row of one of our tables, all cells of that row together: (found, all)."""
    plain = lambda text: re.sub(r"\W+", "", text.casefold())  # noqa: E731
    ours = [[plain(cell) for cell in re.split(r"(?<!\\)\|", line)] for block in document.blocks if block.kind == "table"
            for line in block.text.split("\n")]
    found = total = 0
    for row in expected:
        cells = Counter(filter(None, map(plain, row)))
        total += cells.total()
        found += max(((cells & Counter(filter(None, line))).total() for line in ours), default=0)
    return found, total


def read_one(folder, name, password):
    """One row of the table: what became of a file."""
    path, start = folder / name, time.perf_counter()
    row = {"file": name, "folder": name.partition("/")[0]}
    try: document = read_document(path, source=name, password=password or None)
    except DocumentError as problem: return row | {"status": "refused", "reason": problem.reason, "detail": str(problem)}
    row |= {"status": "read", "blocks": len(document.blocks), "notes": len(document.notes),
            "seconds": round(time.perf_counter() - start, 3)}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            whole = simple_text(path, password)
    except Exception as problem:  # a simple program gives up on files that ours can read
        whole, row["simple_program"] = None, type(problem).__name__
    if whole and whole.strip():
        everything = "\n".join([document.text, *(heading for block in document.blocks for heading in block.headings[-1:])])
        row |= {"letters": len(re.findall(r"\w", whole)), "letters_kept": 1 - lost_share(whole, document.text),
                "words_kept": 1 - words_lost(whole, everything)}
    expected = folder / "pdf_tables_expected" / f"{path.stem}.csv"
    if expected.exists():
        with expected.open(encoding="utf-8", newline="") as file: row["cells_found"], row["cells"] = cells_found(document, csv.reader(file))
    return row


def main():
    """Read every file of the manifest, those with a password twice."""
    datasets = get_settings().datasets_dir
    folder = datasets / "documents" if datasets else None
    if not folder or not folder.is_dir():
        sys.exit("the set of documents isn't here: set LLMGUIDE_DATASETS_DIR to the folder that holds documents/")
    kept = get_settings().cache_dir / "evidence" / f"documents-{FORMAT}"
    with (folder / "manifest.csv").open(encoding="utf-8", newline="") as file: manifest = list(csv.DictReader(file))
    rows = []
    for entry in manifest:
        if entry["file"].startswith("pdf_tables_expected"): continue
        for password in dict.fromkeys(["", entry["password"]]):
            place = kept / f"{document_version(folder / entry['file'])}-{Path(entry['file']).name}{'-password' if password else ''}.json"
            if not place.exists():
                row = read_one(folder, entry["file"], password) | {"password": bool(password)}
                write_atomically(place, json.dumps(row, ensure_ascii=False))
            rows.append(json.loads(place.read_text(encoding="utf-8")))
            print("   ", {key: value for key, value in rows[-1].items() if key not in ("detail", "folder")}, flush=True)
    record_curve("enterprise_documents", rows, note="compared with what a simpler program finds in the same file", data="documents")


if __name__ == "__main__": main()
