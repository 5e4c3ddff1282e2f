"""Write data/speech: a few sentences spoken by espeak-ng, as small Opus files with transcripts; run from the project's folder.

They let the notebooks run where the public clips are absent. A synthetic voice is easy to understand and says nothing
about how well people are.
"""

import csv
import io
import tempfile
from pathlib import Path

import av
import numpy as np

from llmguide.multimodal.sound import load_sound
from llmguide.multimodal.speech import speak
from llmguide.settings import write_atomically

FOLDER = Path(__file__).parent.parent / "data" / "speech"
SENTENCES = {
    "pump.ogg": "The pump in the cellar is too hot, please send somebody today.",
    "invoice.ogg": "I paid the invoice last week and it is still marked as open.",
    "train.ogg": "The next train to the coast leaves from platform seven at noon.",
    "garden.ogg": "After the rain the garden smelled of earth and wet leaves.",
    "library.ogg": "The library stays open until nine in the evening on weekdays.",
    "bridge.ogg": "Two workers painted the old bridge in a dark shade of green.",
}


def opus(samples, rate=16_000):
    """Samples as the bytes of an Ogg Opus file."""
    file = io.BytesIO()
    with av.open(file, "w", format="ogg") as container:
        stream = container.add_stream("libopus", rate=rate, layout="mono")
        stream.bit_rate = 24_000
        frame = av.AudioFrame.from_ndarray((samples * 32767).astype(np.int16)[None], format="s16", layout="mono")
        frame.sample_rate = rate
        resampler = av.AudioResampler(format=stream.format.name, layout="mono", rate=rate, frame_size=stream.frame_size or 320)
        for part in [*resampler.resample(frame), *resampler.resample(None)]: container.mux(stream.encode(part))
        container.mux(stream.encode(None))
    return file.getvalue()


def main():
    """Speak, encode, and list."""
    lines = [("file", "text", "source")]
    with tempfile.TemporaryDirectory() as folder:
        for name, text in SENTENCES.items():
            write_atomically(FOLDER / name, opus(load_sound(speak(text, f"{folder}/one.wav"))))
            lines.append((name, text, "espeak-ng"))
    table = io.StringIO()
    csv.writer(table, lineterminator="\n").writerows(lines)
    write_atomically(FOLDER / "transcripts.csv", table.getvalue())


if __name__ == "__main__": main()
