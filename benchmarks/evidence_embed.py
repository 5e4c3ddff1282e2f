"""Recall of texts and pictures, and of a collection of both; run by `llmguide evidence embed`, about two minutes.

Photographs and class names come from the imagenet-sample data set, questions in other words from data/paraphrases.csv.
The network's class probabilities are kept in the cache folder, so that a second run is short.
"""

import hashlib
import io
import sys

import numpy as np

from llmguide.catalog import file_hash, resolve
from llmguide.evidence import bootstrap_interval, record_curve
from llmguide.load import read_table
from llmguide.multimodal.embed import ConceptEncoder, MultimodalEmbedder, class_texts, class_vectors, mix, ranks
from llmguide.multimodal.images import load_image
from llmguide.multimodal.rag import MARKS
from llmguide.multimodal.vision import ImageEncoder
from llmguide.settings import get_settings, write_atomically

COLOURS = {"black": (20, 20, 20), "white": (240, 240, 240), "grey": (128, 128, 128), "red": (200, 40, 40), "orange": (235, 140, 40),
           "yellow": (230, 215, 60), "green": (60, 130, 60), "blue": (60, 90, 180), "brown": (115, 75, 45), "pink": (235, 160, 180)}


def photographs():
    """Paths, questions by class name and questions in own words, row by row."""
    folder = resolve("imagenet-sample").path
    rows, own = read_table(folder / "labels.csv"), {row["wnid"]: row["paraphrase"] for row in read_table(resolve("paraphrases").path)}
    return ([folder / row["file"] for row in rows], [f"a photo of a {row['class_name']}" for row in rows],
            [own[row["wnid"]] for row in rows])


class Remembered:
    """The image network with its answers for the photographs kept in the cache folder, so that none is asked for twice."""

    def __init__(self, paths):
        weights = next(resolve("efficientnet-lite0").path.glob("*.pth"))
        file = get_settings().cache_dir / "evidence" / f"embed-{file_hash(weights)[:12]}-{len(paths)}.npy"
        if not file.exists():
            content = io.BytesIO()
            np.save(content, ImageEncoder().probabilities(paths))
            write_atomically(file, content.getvalue())
        self.all = np.load(file, allow_pickle=False)
        self.places = {self.key(load_image(path)): place for place, path in enumerate(paths)}

    def key(self, image): return hashlib.sha256(image.tobytes()).hexdigest()

    def probabilities(self, images):
        return self.all[[self.places[self.key(load_image(image))] for image in images]]


def colour_vectors(questions, paths):
    """The dumbest bridge: words for colours in a question, colours of the pixels in a picture."""
    words = np.array([[name in question.replace("golden", "yellow").split() for name in COLOURS] for question in questions], float) + 0.01
    palette, shares = np.array(list(COLOURS.values()), float), []
    for path in paths:
        pixels = np.asarray(load_image(path).resize((32, 32)), float).reshape(-1, 1, 3)
        nearest = np.square(pixels - palette).sum(-1).argmin(1)
        shares.append(np.bincount(nearest, minlength=len(COLOURS)) / len(pixels))
    pictures = np.array(shares) - np.mean(shares, 0)
    return words / np.linalg.norm(words, axis=1, keepdims=True), pictures / np.linalg.norm(pictures, axis=1, keepdims=True)


def points(questions, method, first, second):
    """Recall at 1 and 5 in both directions, each with its interval by bootstrap."""
    for direction, a, b in (("text → image", first, second), ("image → text", second, first)):
        found = ranks(a, b)
        for k in (1, 5):
            interval = bootstrap_interval((found <= k).astype(float))
            yield {"questions": questions, "method": method, "direction": direction, "k": k, **interval._asdict()}


def chance(questions, count):
    """What drawing blindly gives."""
    for direction in ("text → image", "image → text"):
        for k in (1, 5):
            ends = dict.fromkeys(("value", "low", "high"), k / count)
            yield {"questions": questions, "method": "chance", "direction": direction, "k": k, **ends}


def embedding(encoder, paths, asked):
    """Every method on every kind of question."""
    known, rows = encoder.sight.all, []
    for name, questions in asked.items():
        vectors = encoder.texts(questions)
        rows += chance(name, len(paths))
        rows += points(name, "colours", *colour_vectors(questions, paths))
        for method, bridge in bridges(encoder, known).items(): rows += points(name, method, vectors, bridge)
    return rows


def bridges(encoder, known):
    """Vectors of the photographs: the naive bridge, ten names, ten names with descriptions."""
    names = encoder.texts(class_texts()[0])
    return {"best name only": mix(known, names, 1), "ten names": mix(known, names),
            "names and looks": mix(known, class_vectors(encoder.encoder))}


TOWNS = ("Lisbon", "Oslo", "Kyoto", "Quito", "Perth", "Riga", "Cairo", "Lima", "Delhi", "Turin",
         "Bergen", "Dakar", "Seoul", "Porto", "Hanoi", "Tunis", "Ghent")
MONTHS = ("January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November", "December")


def two_kinds_of_questions(encoder, paths, own_words):
    """Recall@1 where every second question asks for what the picture shows, the others for what only the caption says."""
    places = [(TOWNS[number % len(TOWNS)], MONTHS[number // len(TOWNS)]) for number in range(len(paths))]
    captions = [f"taken in {town} in {month}" for town, month in places]
    asked = [f"the one we took in {town}, it was {month}" for town, month in places]
    asked[1::2] = own_words[1::2]
    texts, pictures, queries = encoder.texts(captions), encoder.images(paths), encoder.texts(asked)
    fused = MultimodalEmbedder(encoder=encoder).fuse_modalities(texts, pictures)
    right = {name: ranks(queries, items) <= 1 for name, items in
             (("captions only", texts), ("pictures only", pictures), ("one fused vector", fused))}
    scores = np.maximum(queries @ texts.T - MARKS["text"], queries @ pictures.T - MARKS["image"])  # as `retrieve_relevant`
    right["two vectors"] = scores.argmax(1) == np.arange(len(paths))
    return [{"figure": "recall@1", "method": name, **bootstrap_interval(np.array(found, float))._asdict()} for name, found in right.items()]


def gate(encoder, paths, by_name, own_words, order, absent_are):
    """Marks (as `calibrate` sets them) from a quarter of the questions, whose photographs are missing; then the others."""
    here, gone, queries = order[: len(paths) // 2], order[len(paths) // 2 :], encoder.texts(own_words)
    best = {"text": (queries @ encoder.texts([by_name[n] for n in here]).T).max(1),
            "image": (queries @ encoder.images([paths[n] for n in here]).T).max(1)}
    marks = {kind: float(np.quantile(scores[gone[::2]], 0.95)) for kind, scores in best.items()}
    found = np.any([scores >= marks[kind] for kind, scores in best.items()], axis=0)
    figures = {"finds something where nothing is": found[gone[1::2]], "finds something where something is": found[here]}
    return [{"figure": absent_are, "method": name, "marks": marks, **bootstrap_interval(values.astype(float))._asdict()}
            for name, values in figures.items()]


def questions_to_a_collection(encoder, paths, by_name, own_words):
    """The figures of multimodal RAG."""
    rows = two_kinds_of_questions(encoder, paths, own_words)
    in_order = np.arange(len(paths))  # animals come first in WordNet's numbers, things later
    rows += gate(encoder, paths, by_name, own_words, in_order, "another subject")
    return rows + gate(encoder, paths, by_name, own_words, np.random.default_rng(0).permutation(len(paths)), "a near relative is there")


def main():
    paths, by_name, own_words = photographs()
    encoder = ConceptEncoder(image_encoder=Remembered(paths))
    about = {"data": "imagenet-sample", "model": encoder.name, "photographs": len(paths), "top_k": encoder.top_k}
    rows = embedding(encoder, paths, {"class name": by_name, "own words": own_words})
    note = "one photograph a class; the weight of the descriptions was settled on these questions"
    record_curve("multimodal_embed", rows, note=note, **about)
    more = questions_to_a_collection(encoder, paths, by_name, own_words)
    for row in rows + more: print(row, flush=True)
    note = "recall@1: made-up places as captions; the other figures: half of the photographs are in the collection"
    record_curve("multimodal_rag", more, note=note, **about)
    return 0


if __name__ == "__main__":
    sys.exit(main())
