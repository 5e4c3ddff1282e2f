"""How fast texts are encoded, documents taken in, and large stores searched; run by `llmguide evidence kb_speed [PART]`.

PART is encoder, start, quality, ingest or scale; none: all of them, in about an hour on two cores. All arms of a comparison run in turn,
the round repeated. The part scale keeps the stores it builds in the cache folder and goes on where it was stopped;
LLMGUIDE_SCALE_PASSAGES sets their sizes (100000,1000000). The part ingest needs LangChain and LlamaIndex in an environment of their
own, named by LLMGUIDE_PEERS_PYTHON: `peer_ingest.py` has the command. Run it on a quiet machine.
"""

import json
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from llmguide.catalog import resolve
from llmguide.enterprise.encoder import FastEncoder, _check_kind, _write_fused, _write_graph, converted
from llmguide.enterprise.scale import DIMENSION, made_up_passages, made_up_questions, made_up_vectors, made_up_words, readers_of
from llmguide.evidence import bootstrap_interval, paired_difference, ratio_interval, record_curve
from llmguide.finetuning.cost import in_own_process
from llmguide.graphs import open_graph
from llmguide.passages import EVERYONE, TextEncoder, may_see, searchable
from llmguide.settings import choose_runtime, get_settings, require, write_atomically
from llmguide.store import LanceStore

MODEL, ROUNDS, TEXTS, BLOCK, QUESTIONS = "all-minilm-l6-v2", 3, 96, 20_000, 200
FILES = 20  # of handbooks, to be taken in
DISTURBED = 0.05  # share of the processor that other programs may use during a reading that counts
KEPT = get_settings().cache_dir / "evidence" / "kb_speed"


# --- texts

def squad():
    """Paragraphs and (question, number of its paragraph) of SQuAD."""
    rows = json.loads((resolve("squad").path / "dev-v1.1.json").read_text(encoding="utf-8"))["data"]
    paragraphs = [paragraph for article in rows for paragraph in article["paragraphs"]]
    asked = [(one["question"], place) for place, paragraph in enumerate(paragraphs) for one in paragraph["qas"]]
    return [paragraph["context"] for paragraph in paragraphs], asked


def handbook():
    """Files of two real handbooks where they are, our own otherwise."""
    real = [folder for name in ("handbook_basecamp", "handbook_sourcegraph") if (folder := get_settings().datasets_dir / name).is_dir()]
    folders = real or [Path(__file__).parent.parent / "data" / "handbooks" / "en"]
    files = sorted(str(file) for folder in folders for file in folder.rglob("*.md") if file.name != "SOURCE.md")
    return random.Random(0).sample(files, min(FILES, len(files)))


def handbook_chunks(files):
    """Passages of some files, as the knowledge base cuts them."""
    from llmguide.enterprise.documents import Document, read_documents
    from llmguide.enterprise.split import split_document

    return [chunk for one in read_documents(files) if isinstance(one, Document) for chunk in split_document(one)]


# --- the encoder

class Batched:
    """A graph on batches of texts sorted by length, the layers spread over all threads."""

    def __init__(self, file, encoder, rows=32):
        runtime = require("onnxruntime", "enterprise")
        options = runtime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = get_settings().threads or os.cpu_count(), 3
        self.session = runtime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        self.tokenizer, self.rows = encoder._tokenizer, rows

    def encode(self, texts):
        """Unit vectors."""
        tokens = [one.ids for one in self.tokenizer.encode_batch(texts)]
        order = sorted(range(len(tokens)), key=lambda row: -len(tokens[row]))
        vectors = np.zeros((len(texts), 384), np.float32)
        for some in (order[start : start + self.rows] for start in range(0, len(order), self.rows)):
            mask = np.arange(len(tokens[some[0]])) < np.array([[len(tokens[row])] for row in some])
            ids = np.zeros(mask.shape, np.int64)
            ids[mask] = np.concatenate([tokens[row] for row in some])
            states = self.session.run(None, {"ids": ids, "mask": mask.astype(np.int64)})[0]
            mean = (states * mask[..., None]).sum(1) / mask.sum(1, keepdims=True)
            vectors[some] = mean / np.linalg.norm(mean, axis=1, keepdims=True)
        return vectors


def in_bfloat16():
    """sentence-transformers in bfloat16, for processors and cards that have it."""
    encoder = TextEncoder(MODEL)
    encoder.model = encoder.model.bfloat16()
    return encoder


def encoders(folder):
    """Every arm by its name, the baseline first and ours last."""
    source, fast = resolve(MODEL).path, FastEncoder(MODEL)
    config = _check_kind(source)
    _write_graph(source, folder / "plain.onnx")
    _write_fused(folder / "plain.onnx", folder / "fused.onnx", config["num_attention_heads"], config["hidden_size"])
    alone = FastEncoder(MODEL)
    alone._session = open_graph(folder / "fused.onnx", 1)
    arms = {"sentence-transformers, float32": TextEncoder(MODEL)}
    if choose_runtime().precision == "bfloat16": arms["sentence-transformers, bfloat16"] = in_bfloat16()
    return arms | {
        "fused graph, float32, batches": Batched(folder / "fused.onnx", fast),
        "fused graph, float32, one text at a time": alone,
        "fused graph, eight bits, batches": Batched(converted(source) / "model.onnx", fast),
        "FastEncoder (eight bits, one text at a time)": fast,
    }


def busy():
    """Seconds of processor time that the whole machine, and this program with its children, have used; Linux only."""
    file, own = Path("/proc/stat"), os.times()
    if not file.exists(): return 0.0, 0.0
    user, nice, system, _, _, hard, soft, stolen = map(int, file.read_text().split("\n")[0].split()[1:9])
    return (user + nice + system + hard + soft + stolen) / os.sysconf("SC_CLK_TCK"), sum(own[:4])


def timed(call, *arguments):
    """Seconds of one call, and the share of the processor that other programs took meanwhile."""
    everybody, own = busy()
    start = time.perf_counter()
    call(*arguments)
    seconds = time.perf_counter() - start
    everybody, own = busy()[0] - everybody, busy()[1] - own
    return seconds, max(0.0, everybody - own) / (seconds * os.cpu_count())


def in_turn(arms, name, rounds=ROUNDS, patience=30):
    """Seconds of each arm, all in turn, until each has enough readings during which other programs did nearly nothing.

    Readings are kept, so that a run that was stopped goes on; without patience for more, those with the least disturbance stand.
    """
    file = KEPT / f"{name}-readings.json"
    readings = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {arm: [] for arm in arms}
    calm = lambda arm: sum(others < DISTURBED for _, others in readings[arm])  # noqa: E731
    while any(calm(arm) < rounds and len(readings[arm]) < patience for arm in arms):
        for arm, call in arms.items(): readings[arm].append(call())
        write_atomically(file, json.dumps(readings))
        print("   ", {arm: tuple(round(each, 2) for each in taken[-1]) for arm, taken in readings.items()}, flush=True)
    return {arm: [seconds for seconds, _ in sorted(taken, key=lambda one: one[1])[:rounds]] for arm, taken in readings.items()}


def worked(call, *arguments):
    """Processor seconds of one call, whatever else the machine does."""
    start = time.process_time()
    call(*arguments)
    return time.process_time() - start, 0.0


def measure_encoder():
    """Texts of every arm, in turn: a second of one core's work, and a second by the clock with all cores."""
    chunks = [searchable(chunk) for chunk in handbook_chunks(handbook())]
    texts = random.Random(0).sample(squad()[0], TEXTS // 2) + random.Random(0).sample(chunks, TEXTS // 2)
    with tempfile.TemporaryDirectory() as folder: return speeds(Path(folder), texts, 1) + speeds(Path(folder), texts, os.cpu_count())


def speeds(folder, texts, cores):
    """Every arm on so many cores; one core's work can be measured on a busy machine, the clock can't."""
    os.environ["LLMGUIDE_THREADS"] = str(cores)
    require("torch", "enterprise").set_num_threads(cores)
    arms, measured = encoders(folder), worked if cores == 1 else timed
    for arm in arms.values(): arm.encode(texts[::8])
    calls = {name: lambda arm=arm: measured(arm.encode, texts) for name, arm in arms.items()}
    seconds = in_turn(calls, f"encoder-{cores}")
    base = next(iter(seconds.values()))
    return [{"kind": "speed", "arm": name, "cores": cores, "texts_per_second": round(len(texts) / float(np.median(taken)), 1),
             "seconds": taken, **ratio_interval(base, taken)._asdict()} for name, taken in seconds.items() if taken is not base]


def started(name):
    """A fresh process that encodes one question and ends."""
    line = f"from llmguide.enterprise.encoder import open_encoder; open_encoder({name!r}).encode(['How do I book a flight?'])"
    everybody, own, start = *busy(), time.perf_counter()
    subprocess.run([sys.executable, "-c", line], check=True, capture_output=True)
    seconds = time.perf_counter() - start
    return seconds, max(0.0, (busy()[0] - everybody - busy()[1] + own) / (seconds * os.cpu_count()))


def measure_start():
    """Seconds from nothing to the first vector, as a command pays them."""
    arms = {"TextEncoder": MODEL, "FastEncoder": f"{MODEL}-int8"}
    seconds = in_turn({arm: lambda name=name: started(name) for arm, name in arms.items()}, "start", rounds=4)
    return [{"kind": "start", "arm": arm, "seconds": taken, **bootstrap_interval(np.array(taken))._asdict()}
            for arm, taken in seconds.items()]


def measure_quality(questions=1000):
    """Cosines between both vectors of a paragraph, and recall of both encoders on the same questions."""
    paragraphs, asked = squad()
    asked = random.Random(0).sample(asked, questions)
    truth = np.array([place for _, place in asked])
    KEPT.mkdir(parents=True, exist_ok=True)
    vectors = {}
    for encoder in (TextEncoder(MODEL), FastEncoder(MODEL)):
        for kind, texts in (("paragraphs", paragraphs), ("questions", [question for question, _ in asked])):
            file = KEPT / f"{encoder.name}-{kind}.npy"
            if not file.exists():
                np.save(file.with_suffix(".draft.npy"), encoder.encode(texts))
                os.replace(file.with_suffix(".draft.npy"), file)
            vectors[encoder.name, kind] = np.load(file, allow_pickle=False)
    cosines = (vectors[MODEL, "paragraphs"] * vectors[f"{MODEL}-int8", "paragraphs"]).sum(1)
    rows = [{"arm": "cosine to the exact vector", **bootstrap_interval(cosines)._asdict(), "smallest": float(cosines.min())}]
    ranks = {}
    for name in (MODEL, f"{MODEL}-int8"):
        scores = vectors[name, "questions"] @ vectors[name, "paragraphs"].T
        ranks[name] = 1 + (scores > scores[np.arange(len(truth)), truth][:, None]).sum(1)
    for k in (1, 5):
        found = {name: ranks[name] <= k for name in ranks}
        for name, label in ((MODEL, "exact"), (f"{MODEL}-int8", "eight bits")):
            rows.append({"arm": f"recall@{k}, {label}", **bootstrap_interval(found[name].astype(float))._asdict()})
        rows.append({"arm": f"recall@{k}, difference", **paired_difference(*found.values())._asdict()})
    return [{"kind": "quality", **row} for row in rows]


# --- taking documents in

def peer(library, files, texts):
    """Seconds and passages of a peer in its own environment, and the share of the processor that others took."""
    job = {"library": library, "model": str(resolve(MODEL).path), "files": files, "texts": texts}
    command = [os.environ["LLMGUIDE_PEERS_PYTHON"], str(Path(__file__).parent / "peer_ingest.py")]
    everybody, own, start = *busy(), time.perf_counter()
    done = subprocess.run(command, input=json.dumps(job), capture_output=True, text=True, check=False)
    if done.returncode: raise RuntimeError(f"{library} failed: {done.stderr[-600:]}")
    others = (busy()[0] - everybody - busy()[1] + own) / ((time.perf_counter() - start) * os.cpu_count())
    return json.loads(done.stdout) | {"others": max(0.0, others)}


def taken_in(encoder, files):
    """Seconds that a new knowledge base needs for some files."""
    from llmguide.enterprise.knowledge_base import EnterpriseKnowledgeBase

    with tempfile.TemporaryDirectory() as folder, EnterpriseKnowledgeBase(store=Path(folder) / "store", encoder=encoder) as base:
        return timed(base.add, files)


def tokens_read(texts, encoder):
    """Tokens that the model reads of some texts; what lies beyond its limit isn't."""
    return sum(len(one.ids) for one in encoder._tokenizer.encode_batch(texts))


def measure_ingest():
    """Our whole path against the encoder alone, and against two libraries with the same model, files and (once) passages."""
    files, fast, exact = handbook(), FastEncoder(MODEL), TextEncoder(MODEL)
    texts, passages = [searchable(chunk) for chunk in handbook_chunks(files)], {}

    def by_peer(name, library, given):
        found = peer(library, files, given)
        passages[name] = found["passages"]
        return found["seconds"], found["others"]

    arms = {"FastEncoder alone": lambda: timed(fast.encode, texts), "llmguide, FastEncoder": lambda: taken_in(fast, files),
            "TextEncoder alone": lambda: timed(exact.encode, texts), "llmguide, TextEncoder": lambda: taken_in(exact, files)}
    if os.environ.get("LLMGUIDE_PEERS_PYTHON"):
        for library in ("langchain", "llamaindex"):
            for name, given in ((f"{library}, its own splitter", None), (f"{library}, same passages", texts)):
                arms[name] = lambda name=name, library=library, given=given: by_peer(name, library, given)
    else: print("    LangChain and LlamaIndex left out: LLMGUIDE_PEERS_PYTHON names no Python that has them; see benchmarks/peer_ingest.py")
    for warm in (fast.encode, exact.encode): warm(texts[:8])
    taken_in(fast, files[:2])
    seconds = in_turn(arms, "ingest", rounds=4, patience=8)
    for name in arms.keys() - passages.keys():
        if "its own" in name: by_peer(name, name.split(",")[0], None)
    return [ingest_row(name, taken, passages.get(name, texts), texts, fast, seconds) for name, taken in seconds.items()]


def ingest_row(name, taken, passages, ours, encoder, seconds):
    """What an arm took for a token that the model read, over what ours took."""
    read, reference = tokens_read(passages, encoder), tokens_read(ours, encoder)
    ratio = ratio_interval([each / read for each in taken], [each / reference for each in seconds["llmguide, FastEncoder"]])
    return {"arm": name, "passages": len(passages), "tokens_read": read, "tokens_per_second": round(read / float(np.median(taken))),
            "passages_per_second": round(len(passages) / float(np.median(taken)), 1), "seconds": taken, **ratio._asdict()}


# --- large stores

def peak():
    """Peak of this process's memory, in GB; without PyTorch, which a store doesn't need."""
    status = Path("/proc/self/status")
    if not status.exists(): return float("nan")
    return int(re.search(r"VmHWM:\s+(\d+)", status.read_text())[1]) / 1e6


def opened(size):
    """The store of so many drawn passages."""
    return LanceStore(KEPT / f"store-{size}", SimpleNamespace(name="drawn", dimension=DIMENSION), tidy_every=10**9)


def built(size):
    """Fill the store and index it, going on where an earlier run stopped; returns what it took."""
    note = KEPT / f"store-{size}.json"
    if note.exists(): return json.loads(note.read_text(encoding="utf-8"))
    store, words = opened(size), made_up_words()
    start, progress = time.monotonic(), KEPT / f"store-{size}.progress"
    spent = float(progress.read_text()) if progress.exists() else 0.0
    for block in range(store.count() // BLOCK, size // BLOCK):
        chunks, vectors = made_up_passages(block, BLOCK, words)
        begun = time.monotonic()
        store.upsert(chunks, vectors)
        spent += time.monotonic() - begun
        write_atomically(progress, str(spent))
        print(f"    {(block + 1) * BLOCK:,} of {size:,} passages, {time.monotonic() - start:.0f} s", flush=True)
    begun = time.monotonic()
    store.compact()
    took = {"kind": "build", "passages": size, "write_seconds": round(spent), "index_seconds": round(time.monotonic() - begun),
            "peak_gb": round(peak(), 2), "disk_gb": round(sum(file.stat().st_size for file in store.path.rglob("*")) / 1e9, 2)}
    write_atomically(note, json.dumps(took))
    return took


FILTERS = {"everyone's and a group's (about 71 %)": ({"group7"}, None), "the same, of one year (about 3 %)": ({"group7"}, {"year": 2007}),
           "one document": ({"group7"}, {"source": "folder1/document1.md"})}


def allowed_rows(block):
    """For every filter, the passages of a block that it lets through, by the documents' numbers."""
    documents = block * BLOCK // 20 + np.arange(BLOCK) // 20
    seen = np.array([bool({EVERYONE, "group7"} & set(readers_of(int(document)))) for document in documents[::20]]).repeat(20)
    return dict(zip(FILTERS, (seen, seen & (documents % 25 == 7), documents == 1)))


def truly_nearest(size, points, k=10):
    """Numbers of the nearest k passages by comparing with all, for every filter and question; drawn again block by block."""
    file = KEPT / f"nearest-{size}.json"
    if file.exists(): return json.loads(file.read_text(encoding="utf-8"))
    best = {name: [[] for _ in points] for name in FILTERS}
    for block in range(size // BLOCK):
        scores = points @ made_up_vectors(block, BLOCK).T  # (questions, passages)
        for name, seen in allowed_rows(block).items():
            rows = np.flatnonzero(seen)
            for question, line in enumerate(scores[:, rows]):
                top = np.argpartition(-line, min(k, len(rows) - 1))[:k] if len(rows) else []
                merged = best[name][question] + [(float(line[place]), int(block * BLOCK + rows[place])) for place in top]
                best[name][question] = sorted(merged, reverse=True)[:k]
    found = {name: [[row for _, row in one] for one in questions] for name, questions in best.items()}
    write_atomically(file, json.dumps(found))
    return found


def number_of(chunk):
    """The number of a drawn passage."""
    return 20 * int(chunk.source.rpartition("document")[2].removesuffix(".md")) + chunk.start // 400


def high_interval(values, share=95):
    """A percentile with its interval by bootstrap."""
    return bootstrap_interval(np.asarray(values), statistic=lambda drawn: float(np.percentile(drawn, share)))


def asked_in_turn(store, texts, points, principal, where):
    """Milliseconds of each question; every answer must be full and allowed."""
    taken = []
    for text, point in zip(texts, points):
        start = time.perf_counter()
        hits = store.search(point, text, 5, principal, where)
        taken.append(1000 * (time.perf_counter() - start))
        assert len(hits) == 5 and all(may_see(hit.chunk, principal, where) for hit in hits)
    return taken


def searched(size, report=print):
    """Latency, recall and memory of one store."""
    texts, points = made_up_questions(QUESTIONS, made_up_words())
    truth, before, store, rows = truly_nearest(size, points), peak(), opened(size), []
    first = asked_in_turn(store, *made_up_questions(QUESTIONS + 20, made_up_words()), {"group7"}, None)  # other questions, read from disk
    rows.append({"kind": "first questions", "passages": size, "p50_ms": float(np.median(first)), "p95_ms": float(np.percentile(first, 95))})
    print(f"    {rows[-1]}", flush=True)
    for name, (principal, where) in FILTERS.items():
        taken = asked_in_turn(store, texts, points, principal, where)
        found = [{number_of(hit.chunk) for hit in store.search(point, k=10, principal=principal, where=where)} for point in points]
        right = np.array([len(one & set(true)) / len(true) for one, true in zip(found, truth[name])])
        slow, recall = high_interval(taken), bootstrap_interval(right)
        rows.append({"kind": "search", "passages": size, "filter": name, "p50_ms": float(np.median(taken)), "p95_ms": slow.value,
                     "p95_low_ms": slow.low, "p95_high_ms": slow.high, "recall": recall.value, "recall_low": recall.low,
                     "recall_high": recall.high})
        print(f"    {rows[-1]}", flush=True)
    return rows + [{"kind": "memory", "passages": size, "before_gb": round(before, 2), "peak_gb": round(peak(), 2)}]


def rewritten(size, times=10):
    """Milliseconds to replace and to delete one document of 20 passages in a store; the store is as before afterwards."""
    store, words = opened(size), made_up_words()
    chunks, vectors = made_up_passages(0, BLOCK, words)
    taken = {"replace": [], "delete": [], "add": []}
    for number in range(times):
        part = slice(20 * number, 20 * number + 20)
        for name, step in (("replace", lambda part=part: store.upsert(chunks[part], vectors[part], replace=True)),
                           ("delete", lambda part=part: store.delete(chunks[part][0].source)),
                           ("add", lambda part=part: store.upsert(chunks[part], vectors[part], replace=True))):
            start = time.perf_counter()
            step()
            taken[name].append(1000 * (time.perf_counter() - start))
    return [{"kind": "write", "passages": size, "step": name, "median_ms": float(np.median(each)), "slowest_ms": max(each)}
            for name, each in taken.items()]


def measure_scale():
    """Build, search and change stores of growing size."""
    sizes = [int(size) for size in os.environ.get("LLMGUIDE_SCALE_PASSAGES", "100000,1000000").split(",")]
    KEPT.mkdir(parents=True, exist_ok=True)
    rows = []
    for size in sizes:
        rows.append(built(size))
        truly_nearest(size, made_up_questions(QUESTIONS, made_up_words())[1])
        rows += in_own_process(searched, size=size)[0] + rewritten(size)  # the memory of searching is that of a process that only searches
    return rows


# --- all of it

PARTS = {"encoder": measure_encoder, "start": measure_start, "quality": measure_quality, "ingest": measure_ingest, "scale": measure_scale}


def measure(part):
    """The rows of one part, measured now; a part that is done is kept, so that all of them can be recorded together."""
    print(part, flush=True)
    rows = PARTS[part]()
    write_atomically(KEPT / f"{part}.json", json.dumps(rows))
    for row in rows: print("   ", {name: round(value, 3) if isinstance(value, float) else value for name, value in row.items()}, flush=True)
    return rows


def kept(part):
    """The rows of a part, if it was measured."""
    file = KEPT / f"{part}.json"
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else []


def main():
    """Measure the parts that were asked for, and record."""
    for part in sys.argv[1:] or PARTS: measure(part)
    note = "baseline: sentence-transformers as it comes, float32, batches of 32 sorted by length; its time over the arm's"
    if kept("encoder"):
        rows, data = kept("encoder") + kept("start"), "SQuAD 1.1 and handbook sections"
        record_curve("enterprise_encoder", rows, note=note, model=MODEL, texts=TEXTS, rounds=ROUNDS, data=data)
    if kept("quality"):
        note = "by vectors alone, all paragraphs of SQuAD 1.1's development part; differences are paired, eight bits less exact"
        record_curve("enterprise_encoder_quality", kept("quality"), note=note, model=MODEL, questions=1000)
    if kept("ingest"):
        note = "value: seconds a token that the model read, over those of llmguide; texts beyond 256 tokens are not read"
        record_curve("enterprise_ingest", kept("ingest"), note=note, model=MODEL, data=f"{FILES} files of two handbooks")
    if kept("scale"):
        note = "drawn vectors around 2,000 topics, words by Zipf's law; searched with vector and words, k = 5, one question at a time"
        record_curve("enterprise_scale", kept("scale"), note=note, dimension=DIMENSION)
    return 0


if __name__ == "__main__":
    sys.exit(main())
