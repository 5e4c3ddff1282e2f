"""M1: inspection of magnetic tiles never seen, beside simpler ways; run by `llmguide evidence inspection`.

The inspector is trained with five-fold cross-validation by tile; each picture is judged by the network that never
saw its tile. A training that was interrupted goes on with the next network; what is done is kept.
Speed and size (M2, M4) are measured by `llmguide evidence inspection_edge`, which wants the machine to itself.
"""

import sys

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from llmguide.evidence import Measurement, load_curve, record, record_curve
from llmguide.multimodal.inspection import QualityInspector, inspector_file
from llmguide.multimodal.judges import FOLDS, STEPS
from llmguide.multimodal.patches import PatchDetector
from llmguide.multimodal.threshold import choose_threshold
from llmguide.multimodal.tiles import darkest_spot, read_grey, read_tiles, tile_folds, tile_interval, tiles_folder
from llmguide.multimodal.vision import ImageEncoder
from llmguide.settings import get_settings

DATA, MODEL = "magnetic-tiles", "efficientnet-lite0"


def say(line): print("   ", line, flush=True)


def the_inspector():
    """The inspector that `llmguide build inspection` keeps; trained now if it isn't there."""
    try: return QualityInspector.load()
    except FileNotFoundError: inspector = QualityInspector.train(tiles_folder(), report=say)
    inspector.save(inspector_file())
    return inspector


def record_pictures(tiles):
    """What was said of each picture: group, kind, score, and the single feature beside it."""
    rows = [{"picture": number, **judged, "darkest_spot": darkest_spot(read_grey(tile.path))}
            for number, (tile, judged) in enumerate(zip(tiles, the_inspector().judged))]
    note = "each picture judged by a network that never saw its tile; inside: the worst place lies in the mask or beside it"
    record_curve("inspection_pictures", rows, note=note, data=DATA, model=MODEL, folds=FOLDS, steps=STEPS,
                 seed=get_settings().seed)
    return rows


def pooled(tiles, folds):
    """Scores of a logistic regression on pooled vectors, out of fold."""
    vectors, scores = ImageEncoder().vectors([tile.path for tile in tiles]), np.zeros(len(tiles))
    bad = np.array([tile.is_defect for tile in tiles])
    for fold in range(FOLDS):
        known = folds != fold
        scores[~known] = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=1000)).fit(
            vectors[known], bad[known]).decision_function(vectors[~known])
    return scores


def odd_patches(tiles, folds):
    """Scores of the normal-only detector, out of fold; it remembers one exposure of each good tile."""
    scores = np.zeros(len(tiles))
    for fold in range(FOLDS):
        good = {tile.group: tile.path for tile, number in zip(tiles, folds) if number != fold and not tile.is_defect}
        detector = PatchDetector(list(good.values()))
        for row in np.flatnonzero(folds == fold): scores[row] = detector.score(tiles[row].path)
        say(f"patches: fold {fold + 1} of {FOLDS}")
    return scores


def record_methods(tiles, pictures):
    """AUROC of each way on the same pictures; a way that is recorded already isn't run again."""
    folds, groups, bad = tile_folds(tiles, FOLDS, get_settings().seed), [t.group for t in tiles], [t.is_defect for t in tiles]
    ways = {"darkest spot": lambda: [row["darkest_spot"] for row in pictures], "pooled vector, regression": lambda: pooled(tiles, folds),
            "odd patches, good only": lambda: odd_patches(tiles, folds), "network with masks": lambda: [row["score"] for row in pictures]}
    try: done = {row["method"]: row for row in load_curve("inspection_methods")}
    except FileNotFoundError: done = {}
    for name, scores_of in ways.items():
        if name in done and name != "network with masks": continue
        interval = tile_interval(groups, bad, scores_of())
        done[name] = {"method": name, **interval._asdict()}
        say(f"{name}: AUROC {interval}")
        rows = [done[name] for name in ways if name in done]
        record_curve("inspection_methods", rows, note="AUROC, intervals over tiles", data=DATA, model=MODEL)


def alarms_at_recall(bad, scores, recall):
    """False alarms, in %, at the highest threshold that reaches a recall."""
    bad, scores = np.asarray(bad, bool), np.asarray(scores)
    caught = np.sort(scores[bad])[::-1]
    value = caught[max(0, int(np.ceil(recall * len(caught))) - 1)]
    return 100 * float((scores[~bad] >= value).mean())


def chosen_elsewhere(tiles, bad, scores, groups):
    """Is each picture an alarm, when the threshold for 2.1 % comes from the pictures of the other folds?"""
    folds, over = tile_folds(tiles, FOLDS, get_settings().seed), np.zeros(len(bad), bool)
    for fold in range(FOLDS):
        others = folds != fold
        over[~others] = scores[~others] > choose_threshold(bad[others], scores[others], groups[others]).value
    return over


def record_alarms(tiles, pictures):
    """M1: false alarms at the recall of the single feature, and with a threshold that was chosen on other tiles."""
    bad, groups = np.array([row["kind"] != "" for row in pictures]), np.array([row["group"] for row in pictures])
    scores, single = (np.array([row[name] for row in pictures]) for name in ("score", "darkest_spot"))
    recall = float((single[bad] > np.quantile(single[~bad], 1 - 0.083)).mean())
    at_recall = tile_interval(groups, bad, scores, statistic=lambda b, s: alarms_at_recall(b, s, recall))
    over = chosen_elsewhere(tiles, bad, scores, groups)
    alarms, caught = (tile_interval(groups[bad == kind], over[bad == kind], statistic=np.mean).scale(100) for kind in (False, True))
    notes = {
        f"at the single feature's recall of {recall:.0%}": "the single feature has 8.3 % of false alarms there; cross-validated by tile",
        f"threshold for 2.1 % from other tiles, recall {caught.value:.0f} %": f"recall {caught:.0f} %",
    }
    for (method, note), found in zip(notes.items(), (at_recall, alarms)):
        record(Measurement("M1", found, dataset=DATA, dataset_source="data folder", model=MODEL, rows=len(bad),
                           config={"method": f"network with masks, {method}", "single_feature_recall": recall}, note=note))
        say(f"{method}: false alarms {found} % ({note})")


def main():
    folder = tiles_folder()
    if folder is None: return say("no magnetic tiles in the data folder: nothing measured") or 0
    tiles = read_tiles(folder)
    pictures = record_pictures(tiles)
    record_alarms(tiles, pictures)
    record_methods(tiles, pictures)
    return 0


if __name__ == "__main__":
    sys.exit(main())
