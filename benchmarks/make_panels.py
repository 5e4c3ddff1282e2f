"""Draw the control panels of data/panels with their readings; needs Pillow and, for the Chinese ones, a Chinese font.

The devices are made up. Run it from the project's folder: python benchmarks/make_panels.py
"""

import csv
import io
from pathlib import Path

from PIL import Image, ImageDraw, ImageFilter

from llmguide.multimodal.cards import font_for
from llmguide.settings import write_atomically

FOLDER, SIZE = Path(__file__).parent.parent / "data" / "panels", (720, 440)
COLOURS = {"off": (70, 74, 80), "green": (40, 190, 90), "amber": (245, 170, 20), "red": (225, 45, 45)}

PUMP_HOT = {"device": "KP-200 CIRCULATION PUMP",
            "readings": [("TEMPERATURE", "94.6", "°C"), ("PRESSURE", "2.1", "bar"), ("FLOW", "38", "l/min")],
            "code": "E-17", "code_label": "CODE", "lamps": [("RUN", "off"), ("WARN", "amber"), ("ALARM", "red")]}
PANELS = {
    "pump_e17_en": PUMP_HOT,
    "pump_ok_en": PUMP_HOT | {"readings": [("TEMPERATURE", "62.3", "°C"), ("PRESSURE", "2.2", "bar"), ("FLOW", "52", "l/min")],
                              "code": None, "lamps": [("RUN", "green"), ("WARN", "off"), ("ALARM", "off")]},
    "pump_e05_en": PUMP_HOT | {"readings": [("TEMPERATURE", "71.8", "°C"), ("PRESSURE", "0.4", "bar"), ("FLOW", "3", "l/min")],
                               "code": "E-05"},
    "pump_e17_zh": {"device": "KP-200 循环泵", "readings": [("温度", "94.6", "°C"), ("压力", "2.1", "bar"), ("流量", "38", "l/min")],
                    "code": "E-17", "code_label": "故障", "lamps": [("运行", "off"), ("警告", "amber"), ("报警", "red")]},
    "compressor_e42_en": {"device": "C-40 AIR COMPRESSOR", "readings": [("PRESSURE", "3.1", "bar"), ("OIL TEMPERATURE", "71.0", "°C")],
                          "code": "E-42", "code_label": "CODE", "lamps": [("RUN", "green"), ("WARN", "amber"), ("ALARM", "off")]},
    "compressor_e42_zh": {"device": "C-40 空气压缩机", "readings": [("压力", "3.1", "bar"), ("油温", "71.0", "°C")],
                          "code": "E-42", "code_label": "故障", "lamps": [("运行", "green"), ("警告", "amber"), ("报警", "off")]},
    "compressor_e99_en": {"device": "C-40 AIR COMPRESSOR", "readings": [("PRESSURE", "7.4", "bar"), ("OIL TEMPERATURE", "82.5", "°C")],
                          "code": "E-99", "code_label": "CODE", "lamps": [("RUN", "off"), ("WARN", "off"), ("ALARM", "red")]},
    "mixer_e03_en": {"device": "Q-7 PLANETARY MIXER", "readings": [("SPEED", "120", "rpm"), ("TORQUE", "46", "Nm")],
                     "code": "E-03", "code_label": "CODE", "lamps": [("RUN", "off"), ("WARN", "off"), ("ALARM", "red")]},
}  # fmt: skip


def lamp(draw, place, name, colour):
    """A round lamp with its name below."""
    x, y = place
    draw.ellipse((x - 26, y - 26, x + 26, y + 26), fill=COLOURS[colour], outline=(25, 28, 32), width=4)
    draw.text((x, y + 36), name, font=font_for(name, 22), fill=(235, 238, 240), anchor="ma")


def draw_panel(panel):
    """A panel as an image."""
    image = Image.new("RGB", SIZE, (52, 58, 66))
    draw = ImageDraw.Draw(image)
    draw.rectangle((14, 14, SIZE[0] - 15, SIZE[1] - 15), outline=(110, 118, 128), width=3)
    draw.text((40, 34), panel["device"], font=font_for(panel["device"], 30), fill=(235, 238, 240))
    draw.rectangle((36, 92, 500, 404), fill=(12, 22, 18))
    rows = [(label, f"{value} {unit}") for label, value, unit in panel["readings"]]
    rows += [(panel["code_label"], panel["code"])] if panel["code"] else []
    for line, (label, value) in enumerate(rows):
        y, alarm = 112 + 70 * line, label == panel["code_label"]
        draw.text((56, y + 4), label, font=font_for(label, 24), fill=(150, 200, 175))
        draw.text((480, y), value, font=font_for(value, 34), fill=(255, 110, 90) if alarm else (190, 255, 215), anchor="ra")
    for number, (name, colour) in enumerate(panel["lamps"]): lamp(draw, (605, 130 + 104 * number), name, colour)
    return image


def with_glare(image):
    """The same panel with a bright, blurred patch over temperature and code, as a lamp behind the photographer makes."""
    blurred = image.filter(ImageFilter.GaussianBlur(11))
    white = Image.blend(blurred, Image.new("RGB", SIZE, (255, 255, 255)), 0.45)
    mask = Image.new("L", SIZE, 0)
    for box in ((330, 92, 500, 168), (330, 305, 500, 390)): ImageDraw.Draw(mask).rectangle(box, fill=255)
    return Image.composite(white, image, mask.filter(ImageFilter.GaussianBlur(6)))


def main():
    """Write the images and readings.csv."""
    lines = []
    for name, panel in PANELS.items():
        images = {f"{name}.png": draw_panel(panel)}
        hidden = {f"{name}.png": set()}
        if name == "pump_e17_en":
            images["pump_glare_en.png"], hidden["pump_glare_en.png"] = with_glare(images[f"{name}.png"]), {"TEMPERATURE", "CODE"}
        for file, image in images.items():
            data = io.BytesIO()
            image.save(data, "PNG", optimize=True)
            write_atomically(FOLDER / file, data.getvalue())
            fields = [*panel["readings"], (panel["code_label"], panel["code"] or "", "")]
            lines += [(file, label, "" if label in hidden[file] else value, unit) for label, value, unit in fields]
            lines += [(file, label, colour, "lamp") for label, colour in panel["lamps"]]
    table = io.StringIO()
    csv.writer(table, lineterminator="\n").writerows([("file", "field", "value", "unit"), *lines])
    write_atomically(FOLDER / "readings.csv", table.getvalue())


if __name__ == "__main__": main()
