"""M2 and M4: speed of the whole path from file to verdict, and the size of the exported inspector with its parity.

Run by `llmguide evidence inspection_edge`; it takes the inspector of `llmguide build inspection` or of
`llmguide evidence inspection`, and wants the machine to itself for two minutes.
"""

import sys
import tempfile
from pathlib import Path

import numpy as np

from llmguide.evidence import Interval, Measurement, bootstrap_interval, record, record_curve
from llmguide.multimodal.edge import EdgeInspector, export_onnx, parity, quantize_onnx, seconds_each
from llmguide.multimodal.inspection import QualityInspector
from llmguide.multimodal.tiles import read_tiles, tile_interval, tiles_folder

DATA, MODEL = "magnetic-tiles", "efficientnet-lite0"


def speed(inspector, paths):
    """Pictures a second of the whole path, 95 % interval by bootstrap over pictures."""
    seconds_each(inspector, paths[:5])
    return bootstrap_interval(seconds_each(inspector, paths), statistic=lambda times: 1 / times.mean())


def judge(inspector, tiles):
    """Probability of a defect for each tile."""
    return np.array([inspector.detect_defect(tile.path)["defect_prob"] for tile in tiles])


def main():
    folder = tiles_folder()
    if folder is None: return print("no magnetic tiles in the data folder: nothing measured") or 0
    inspector, tiles = QualityInspector.load(), list({tile.group: tile for tile in read_tiles(folder)}.values())
    paths, rows = [tile.path for tile in tiles], []
    with tempfile.TemporaryDirectory() as draft:
        whole = export_onnx(inspector, Path(draft) / "float32.onnx")
        small = quantize_onnx(whole, Path(draft) / "int8.onnx", paths[::3])
        forms = {"PyTorch": (inspector, inspector.save(Path(draft) / "inspector.safetensors")),
                 "ONNX float32": (EdgeInspector(whole), whole), "ONNX INT8": (EdgeInspector(small), small)}
        verdicts = np.array([inspector.detect_defect(path)["is_defect"] for path in paths])
        for name, (form, file) in forms.items():
            rate, alike = speed(form, paths), parity(inspector, form, paths)
            order = tile_interval([tile.group for tile in tiles], verdicts, judge(form, tiles), draws=200)
            rows.append({"form": name, "megabytes": file.stat().st_size / 1e6, "images_per_second": rate.value, "low": rate.low,
                         "high": rate.high, "auroc": order.value, **alike})
            print("   ", rows[-1], flush=True)
            record(Measurement("M2", rate, dataset=DATA, dataset_source="data folder", model=MODEL, rows=len(paths),
                               config={"method": name}, note="from file to verdict with heat map, one picture at a time"))
            if name == "PyTorch": continue
            note = f"all {len(inspector.networks)} networks in one file; {alike['other_verdicts']} of {len(paths)} verdicts differ, " \
                   f"the probability by {alike['mean']:.4f} on average"
            record(Measurement("M4", Interval(*[file.stat().st_size / 1e6] * 3), dataset=DATA, dataset_source="data folder", model=MODEL,
                               rows=len(paths), config={"method": name}, note=note))
    record_curve("inspection_edge", rows, note="auroc: how well the form's probabilities order PyTorch's verdicts", data=DATA, model=MODEL)
    return 0


if __name__ == "__main__":
    sys.exit(main())
