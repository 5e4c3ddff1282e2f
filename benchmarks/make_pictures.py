"""The drawn pictures of data/pictures: run  python benchmarks/make_pictures.py  from the project's folder.

Each function draws one thing on a canvas of 640 × 640, which is then halved so that edges are smooth.
"""

import csv
import io
import math
import random
from pathlib import Path

from PIL import Image, ImageDraw, ImageFilter

FOLDER = Path(__file__).parent.parent / "data" / "pictures"
SIDE, MIDDLE = 640, 320


def shaded(top, bottom):
    """A ground that turns from one colour into another, top to bottom."""
    column = Image.new("RGB", (1, 2))
    column.putpixel((0, 0), top), column.putpixel((0, 1), bottom)
    return column.resize((SIDE, SIDE), Image.BILINEAR)


def ball(image, box, light, dark):
    """A shaded ball: circles from dark to light, drawn towards the lamp at the upper left."""
    draw, (left, top, right, bottom) = ImageDraw.Draw(image), box
    for step in range(60):
        part = step / 60
        colour = tuple(round(d + (b - d) * part) for b, d in zip(light, dark))
        shift, width, height = part * 0.28, right - left, bottom - top
        draw.ellipse((left + width * shift, top + height * shift * 0.8,
                      right - width * part * 0.68, bottom - height * part * 0.75), fill=colour)


def around(centre, radius, degrees):
    """The point at an angle on a circle; 0 is up, 90 is right."""
    turn = math.radians(degrees)
    return centre[0] + radius * math.sin(turn), centre[1] - radius * math.cos(turn)


def maze():
    image, rng, cells = Image.new("RGB", (SIDE, SIDE), (236, 233, 222)), random.Random(4), 15
    draw, step = ImageDraw.Draw(image), SIDE / 16
    walls = {(x, y, side) for x in range(cells) for y in range(cells) for side in "ES"}
    seen, path = {(0, 0)}, [(0, 0)]
    while path:
        x, y = path[-1]
        ways = [(x + dx, y + dy) for dx, dy in ((1, 0), (-1, 0), (0, 1), (0, -1))]
        ways = [way for way in ways if way not in seen and 0 <= way[0] < cells and 0 <= way[1] < cells]
        if not ways:
            path.pop()
            continue
        nx, ny = rng.choice(ways)
        walls.discard((min(x, nx), min(y, ny), "E" if nx != x else "S"))
        seen.add((nx, ny)), path.append((nx, ny))
    for x, y, side in walls:
        left, top = step / 2 + x * step, step / 2 + y * step
        ends = (left + step, top, left + step, top + step) if side == "E" else (left, top + step, left + step, top + step)
        draw.line(ends, fill=(40, 90, 45), width=12)
    draw.rectangle((step / 2, step / 2, SIDE - step / 2, SIDE - step / 2), outline=(40, 90, 45), width=12)
    return image


def clock():
    image = shaded((205, 190, 165), (180, 160, 130))
    draw, centre = ImageDraw.Draw(image), (MIDDLE, MIDDLE)
    for radius, colour in ((285, (60, 40, 25)), (262, (120, 85, 50)), (245, (250, 248, 240))):
        draw.ellipse((MIDDLE - radius, MIDDLE - radius, MIDDLE + radius, MIDDLE + radius), fill=colour)
    for hour in range(1, 13):
        draw.text(around(centre, 200, hour * 30), str(hour), fill=(20, 20, 20), font_size=58, anchor="mm")
    for minute in range(60):
        draw.line((around(centre, 240, minute * 6), around(centre, 228, minute * 6)), fill=(20, 20, 20), width=4)
    draw.line((centre, around(centre, 120, 305)), fill=(15, 15, 15), width=18)
    draw.line((centre, around(centre, 185, 54)), fill=(15, 15, 15), width=11)
    draw.ellipse((304, 304, 336, 336), fill=(15, 15, 15))
    return image


def crossword():
    image, rng, step = Image.new("RGB", (SIDE, SIDE), "white"), random.Random(2), 48
    draw, number = ImageDraw.Draw(image), 1
    for y in range(13):
        for x in range(13):
            box = (8 + x * step, 8 + y * step, 8 + (x + 1) * step, 8 + (y + 1) * step)
            black = (x % 2 and y % 2) or rng.random() < 0.08
            draw.rectangle(box, fill="black" if black else "white", outline="black", width=2)
            if not black and rng.random() < 0.35:
                draw.text((box[0] + 5, box[1] + 3), str(number), fill="black", font_size=14)
                number += 1
            elif not black and y in (4, 6):
                draw.text((box[0] + 24, box[1] + 26), "MULTIMODALTEXT"[x], fill=(40, 40, 60), font_size=32, anchor="mm")
    return image


def traffic_light():
    image = shaded((120, 165, 215), (190, 210, 230))
    draw = ImageDraw.Draw(image)
    draw.rectangle((304, 520, 336, 640), fill=(60, 60, 60))
    draw.rounded_rectangle((215, 40, 425, 540), 36, fill=(28, 30, 28), outline=(15, 15, 15), width=8)
    lamps = (((255, 120, 90), (215, 20, 15)), ((90, 80, 30), (45, 40, 15)), ((30, 80, 45), (15, 40, 22)))
    for place, (light, dark) in enumerate(lamps):
        top = 68 + place * 155
        draw.ellipse((247, top - 8, 393, top + 138), fill=(12, 12, 12))
        ball(image, (257, top, 383, top + 126), light, dark)
    return image


def honeycomb():
    image, rng, radius = Image.new("RGB", (SIDE, SIDE), (120, 70, 10)), random.Random(1), 44
    draw = ImageDraw.Draw(image)
    for row in range(-1, 11):
        for column in range(-1, 10):
            centre = (column * radius * 1.75 + (row % 2) * radius * 0.875, row * radius * 1.52)
            shade = rng.randint(-25, 25)
            wall, wax, honey = (235, 170, 50), (215 + shade // 2, 140 + shade, 25), (180 + shade, 105 + shade // 2, 15)
            for size, colour in ((0.93, wall), (0.82, wax), (0.55, honey)):
                draw.polygon([around(centre, radius * size, turn) for turn in range(0, 360, 60)], fill=colour)
    return image.filter(ImageFilter.GaussianBlur(1.5))


def spider_web():
    image = shaded((25, 50, 30), (55, 85, 50))
    draw, centre, rng = ImageDraw.Draw(image), (300, 290), random.Random(3)
    turns = [number * 22.5 + rng.uniform(-5, 5) for number in range(16)]
    for turn in turns: draw.line((centre, around(centre, 600, turn)), fill=(215, 220, 215), width=3)
    for ring in range(1, 17):
        points = [around(centre, ring * 20 * rng.uniform(0.95, 1.05), turn) for turn in turns]
        draw.line([*points, points[0]], fill=(220, 225, 220), width=2)
    return image


def stop_sign():
    image = shaded((135, 175, 215), (205, 215, 220))
    draw, centre = ImageDraw.Draw(image), (MIDDLE, 270)
    draw.rectangle((308, 400, 332, 640), fill=(125, 125, 125))
    for radius, colour in ((245, (235, 235, 235)), (228, (190, 20, 30))):
        draw.polygon([around(centre, radius, turn) for turn in range(22, 382, 45)], fill=colour)
    draw.text(centre, "STOP", fill="white", font_size=148, anchor="mm", stroke_width=5, stroke_fill="white")
    return image


def pumpkin():
    image = shaded((25, 20, 30), (60, 40, 25))
    draw = ImageDraw.Draw(image)
    for left, right in ((70, 270), (370, 570), (130, 370), (270, 510), (210, 430)):
        ball(image, (left, 170, right, 560), (255, 165, 50), (175, 75, 5))
    draw.polygon([(295, 185), (305, 95), (350, 85), (345, 185)], fill=(75, 90, 35))
    glow = (255, 225, 110)
    for points in ([(170, 330), (225, 250), (275, 335)], [(365, 335), (415, 250), (470, 330)], [(295, 385), (320, 340), (345, 385)],
                   [(150, 400), (210, 430), (235, 410), (255, 440), (385, 440), (405, 410), (430, 430), (490, 400),
                    (440, 490), (395, 505), (380, 480), (260, 480), (245, 505), (200, 490)]):
        draw.polygon(points, fill=glow)
    return image


def billiards():
    image = Image.new("RGB", (SIDE, SIDE), (20, 110, 65))
    draw = ImageDraw.Draw(image)
    for inset, colour in ((0, (85, 45, 20)), (40, (60, 30, 12)), (52, (22, 125, 75))):
        draw.rectangle((inset, 90 + inset, SIDE - inset, 550 - inset), fill=colour)
    draw.rectangle((0, 0, SIDE, 90), fill=(70, 60, 55)), draw.rectangle((0, 550, SIDE, SIDE), fill=(70, 60, 55))
    for x in (45, MIDDLE, 595):
        for y in (135, 505): draw.ellipse((x - 24, y - 24, x + 24, y + 24), fill="black")
    colours = (((255, 230, 90), (190, 140, 10)), ((120, 140, 255), (20, 30, 130)), ((255, 110, 90), (150, 15, 10)),
               ((190, 110, 220), (80, 20, 110)), ((255, 175, 80), (190, 90, 10)), ((130, 130, 130), (10, 10, 10)))
    for number, (light, dark) in enumerate(colours):
        column, row = divmod(number, 3) if number < 3 else divmod(number, 2)
        x, y = 380 + column * 44, 250 + row * 60 + column * 20
        ball(image, (x, y, x + 46, y + 46), light, dark)
    ball(image, (180, 300, 226, 346), (255, 255, 255), (190, 190, 185))
    draw.line((0, 340, 165, 325), fill=(215, 180, 120), width=12)
    return image


def envelope():
    image = shaded((120, 85, 60), (95, 65, 45))
    draw, paper, line = ImageDraw.Draw(image), (238, 228, 205), (165, 150, 125)
    draw.rectangle((62, 162, 588, 508), fill=(70, 48, 32))
    draw.rectangle((50, 150, 576, 496), fill=paper, outline=line, width=3)
    draw.line((50, 496, 270, 320), fill=line, width=4), draw.line((576, 496, 356, 320), fill=line, width=4)
    draw.polygon([(50, 150), (313, 350), (576, 150)], fill=(228, 216, 190), outline=line)
    ball(image, (275, 300, 351, 376), (215, 60, 60), (120, 10, 15))
    return image


def orange():
    image = shaded((225, 225, 220), (175, 170, 160))
    draw, rng = ImageDraw.Draw(image), random.Random(5)
    draw.ellipse((120, 500, 560, 590), fill=(140, 132, 120))
    ball(image, (110, 120, 530, 550), (255, 190, 80), (215, 100, 5))
    for _ in range(1500):
        x, y = around((MIDDLE, 335), 205 * math.sqrt(rng.random()), rng.uniform(0, 360))
        draw.ellipse((x, y, x + 4, y + 4), fill=(225, 125, 20))
    draw.polygon([(315, 150), (330, 90), (450, 60), (400, 130)], fill=(50, 110, 40))
    return image.filter(ImageFilter.GaussianBlur(1.2))


def keyboard():
    image, step = Image.new("RGB", (SIDE, SIDE), (150, 120, 90)), 44
    draw = ImageDraw.Draw(image)
    draw.rounded_rectangle((10, 170, 630, 470), 14, fill=(35, 36, 40))
    for row, keys in enumerate(("1234567890-=+", "QWERTYUIOP[]#", "ASDFGHJKL;'@~", "ZXCVBNM,./<>?")):
        for column, key in enumerate(keys):
            x, y = 24 + column * 46, 186 + row * 54
            draw.rounded_rectangle((x, y, x + step - 4, y + step + 2), 6, fill=(70, 72, 78), outline=(20, 20, 22), width=2)
            draw.text((x + 20, y + 22), key, fill=(230, 230, 230), font_size=22, anchor="mm")
    draw.rounded_rectangle((150, 406, 470, 450), 6, fill=(70, 72, 78), outline=(20, 20, 22), width=2)
    return image


PICTURES = {  # file -> (drawing, caption)
    "maze": (maze, "a labyrinth of green hedges seen from above"),
    "clock": (clock, "a round wooden clock on a wall shows nine minutes past ten"),
    "crossword": (crossword, "a word puzzle with black and white squares"),
    "traffic_light": (traffic_light, "a signal for cars that shows red"),
    "honeycomb": (honeycomb, "wax cells filled with honey"),
    "spider_web": (spider_web, "threads that a spider spun in front of trees"),
    "stop_sign": (stop_sign, "a red road sign that tells drivers to halt"),
    "pumpkin": (pumpkin, "a carved pumpkin glowing for Halloween"),
    "billiards": (billiards, "a green table with coloured balls and a cue"),
    "envelope": (envelope, "a letter closed with a red seal"),
    "orange": (orange, "a ripe citrus fruit with a leaf"),
    "keyboard": (keyboard, "the keys of a computer for typing"),
}


def main():
    FOLDER.mkdir(parents=True, exist_ok=True)
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(("file", "caption"))
    for name, (draw, caption) in PICTURES.items():
        draw().resize((SIDE // 2, SIDE // 2), Image.LANCZOS).save(FOLDER / f"{name}.jpg", quality=85, optimize=True)
        writer.writerow((f"{name}.jpg", caption))
    (FOLDER / "captions.csv").write_text(table.getvalue(), encoding="utf-8")


if __name__ == "__main__":
    main()
