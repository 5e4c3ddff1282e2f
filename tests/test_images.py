"""Pictures as they arrive: every broken and every odd kind is read rightly or refused in one clear line."""

import random
import struct
import threading
import zlib
from io import BytesIO

import numpy as np
import pytest
from PIL import Image, ImageDraw

from llmguide.multimodal.images import FORMATS, load_image


def drawn(mode="RGB"):
    "Left half dark, right half light, a mark at the top left."
    image = Image.new("L", (64, 48), 40)
    ImageDraw.Draw(image).rectangle((32, 0, 63, 47), fill=220)
    ImageDraw.Draw(image).rectangle((0, 0, 15, 11), fill=255)
    return image.convert(mode)


def as_file(image, kind="PNG", **options):
    file = BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def png(width, height):
    "A small PNG file that claims a size."
    def chunk(kind, data): return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(999))) + chunk(b"IEND", b"")


def grey(image): return np.asarray(image, float).mean(2)


def same(image, other, most=12): return np.abs(grey(image) - np.asarray(other.convert("L"), float)).mean() < most


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_every_format(kind, mode, tmp_path):
    file = tmp_path / "图片 of a café.bin"  # what counts is the content, not the name
    file.write_bytes(as_file(drawn(mode), kind))
    for source in (file, str(file), file.read_bytes()):
        image = load_image(source)
        assert image.mode == "RGB" and image.size == (64, 48) and same(image, drawn())


@pytest.mark.parametrize("orientation", range(1, 9))
def test_upright(orientation):
    turns = {2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
             5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_90, 7: Image.Transpose.TRANSVERSE,
             8: Image.Transpose.ROTATE_270}
    stored = drawn().transpose(turns[orientation]) if orientation in turns else drawn()
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = load_image(as_file(stored, "JPEG", exif=exif.tobytes(), quality=95))
    assert image.size == (64, 48) and same(image, drawn())


@pytest.mark.parametrize("exif", [b"Exif\x00\x00II*\x00garbage", b"Exif\x00\x00", b"Exif\x00\x00MM\x00*\x00\x00\x00\x08\xff\xff"])
def test_broken_exif_does_not_matter(exif):
    assert same(load_image(as_file(drawn(), "JPEG", exif=exif)), drawn())


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bits(kind):
    deep = np.asarray(drawn("L")).astype(np.uint16) * 257
    assert same(load_image(as_file(Image.fromarray(deep), kind)), drawn(), most=1)
    assert same(load_image(as_file(Image.fromarray(deep), "PPM")), drawn(), most=1)


def test_floats():
    floats = Image.fromarray(np.asarray(drawn("L"), np.float32) / 255)
    assert same(load_image(as_file(floats, "TIFF")), drawn(), most=1)
    for bad in (-1.0, 300.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="scale them"): load_image(Image.new("F", (4, 4), bad))


def test_transparent_is_white():
    clear = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    for kind in ("PNG", "WEBP", "TIFF"): assert load_image(as_file(clear, kind)).getpixel((4, 4)) == (255, 255, 255)
    half = load_image(Image.new("LA", (8, 8), (0, 128))).getpixel((0, 0))
    assert all(126 <= value <= 128 for value in half)
    palette = drawn().quantize(4)
    palette.info["transparency"] = palette.getpixel((50, 20))
    assert load_image(as_file(palette, "PNG", transparency=palette.getpixel((50, 20)))).getpixel((50, 20)) == (255, 255, 255)


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
def test_printing_inks(kind):
    red = load_image(as_file(Image.new("RGB", (16, 16), "red").convert("CMYK"), kind))
    assert red.getpixel((8, 8))[0] > 240 and max(red.getpixel((8, 8))[1:]) < 20


def test_other_modes():
    for mode in ("1", "P", "YCbCr", "HSV", "LAB", "RGBX", "RGBa", "La", "PA"):
        image = load_image(drawn({"RGBa": "RGBA", "La": "LA", "PA": "P"}.get(mode, "RGB")).convert(mode))
        assert image.mode == "RGB" and same(image, drawn(), most=70 if mode in ("1", "P", "PA") else 12), mode


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_first_frame(kind):
    frames = as_file(drawn(), kind, save_all=True, append_images=[Image.new("RGB", (64, 48), "red")] * 3)
    assert same(load_image(frames), drawn())


def test_tiny_and_narrow():
    for size in ((1, 1), (1, 5000), (5000, 1)): assert load_image(as_file(Image.new("RGB", size, "red"))).size == size
    with pytest.raises(ValueError, match="no pixels"): load_image(Image.new("RGB", (0, 5)))


@pytest.mark.parametrize("size", [(9_000, 9_000), (11_000, 11_000), (100_000, 100_000), (2**31 - 1, 1)])
@pytest.mark.filterwarnings("ignore:Image size")
def test_bombs(size, tmp_path):
    file = tmp_path / "bomb.png"
    file.write_bytes(png(*size))
    with pytest.raises(ValueError, match=r"bomb\.png .*(shrink|raise max_pixels|damaged)"): load_image(file)


def test_max_pixels():
    assert load_image(drawn(), max_pixels=64 * 48).size == (64, 48)
    with pytest.raises(ValueError, match="64 × 48 pixels, more than 3,071"): load_image(drawn(), max_pixels=64 * 48 - 1)


@pytest.mark.parametrize("name, content, words", [
    ("empty.png", b"", "is empty"),
    ("letter.jpg", "Dear Sir, 您好".encode(), "not a picture"),
    ("page.html", b"<html><img src='cat.png'></html>", "not a picture"),
    ("drawing.svg", b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not a picture"),
    ("program.eps", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not a picture"),
    ("table.zip", b"PK\x03\x04" + bytes(60), "not a picture"),
    ("only_header.png", b"\x89PNG\r\n\x1a\n", "not a picture"),
    ("zeros.jpg", bytes(5000), "not a picture"),
    ("begins.jpg", b"\xff\xd8\xff\xe0" + bytes(500), "letter|picture|damaged"),
])
def test_refused_with_name_and_remedy(name, content, words, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=words) as problem: load_image(tmp_path / name)
    assert name in str(problem.value) and ": " in str(problem.value) and "\n" not in str(problem.value)


@pytest.mark.parametrize("kind", FORMATS)
def test_cut_short(kind, tmp_path):
    whole, file = as_file(drawn(), kind), tmp_path / "half.bin"
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="half.bin"): load_image(file)


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.filterwarnings("ignore")
def test_damage_gives_a_picture_or_a_value_error(kind, repetitions):
    rng, whole = random.Random(kind), as_file(drawn(), kind)
    for _ in range(repetitions(60, 3000)):
        damaged = bytearray(whole)
        for _ in range(rng.choice((1, 5, 30))): damaged[rng.randrange(min(len(damaged), rng.choice((60, 10**6))))] = rng.randrange(256)
        try: assert load_image(bytes(damaged), max_pixels=10**6).mode == "RGB"
        except ValueError as problem: assert "the picture" in str(problem)


def test_places_that_hold_no_picture(tmp_path):
    with pytest.raises(FileNotFoundError, match="no picture .*nowhere.png: check"): load_image(tmp_path / "nowhere.png")
    with pytest.raises(ValueError, match="is a folder"): load_image(tmp_path)
    with pytest.raises(ValueError, match="^'' is a folder"): load_image("")
    for address in ("https://example.com/a.png", "data:image/png;base64,AAAA"):
        with pytest.raises(ValueError, match="is an address"): load_image(address)
    with pytest.raises((ValueError, FileNotFoundError)): load_image("A" * 5000)
    with pytest.raises((ValueError, FileNotFoundError)): load_image("a\0b.png")
    for wrong in (None, 7, np.zeros((3, 3)), ["a.png"]):
        with pytest.raises(TypeError, match="PIL image"): load_image(wrong)


def test_the_given_picture_stays_as_it_is(tmp_path):
    given = drawn("RGBA")
    before = given.tobytes()
    load_image(given).putpixel((0, 0), (1, 2, 3))
    assert given.mode == "RGBA" and given.tobytes() == before
    plain = drawn()
    load_image(plain).putpixel((0, 0), (1, 2, 3))
    assert plain.getpixel((0, 0)) == (255, 255, 255)
    file = tmp_path / "a.png"
    file.write_bytes(as_file(drawn()))
    with Image.open(file) as lazy:
        load_image(lazy)
        assert lazy.getpixel((0, 0)) == (255, 255, 255)  # still open


def test_file_is_closed_again(tmp_path):
    (tmp_path / "bad.png").write_bytes(as_file(drawn())[:120])
    for _ in range(2000):
        with pytest.raises(ValueError): load_image(tmp_path / "bad.png")  # 1,024 open files would be too many


def test_many_at_once():
    files, results = [as_file(drawn(), kind) for kind in ("PNG", "JPEG", "WEBP")] * 10, []
    threads = [threading.Thread(target=lambda f=f: results.append(load_image(f).size)) for f in files]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
    assert results == [(64, 48)] * len(files)
