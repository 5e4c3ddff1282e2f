"""Sounds as people send them, broken ones included, and speech: what must not be heard, killed programs, bad input."""

import io
import os
import stat
import struct
import threading
import warnings
import wave

import numpy as np
import pytest

from llmguide.catalog import resolve
from llmguide.multimodal.sound import load_sound, save_sound, wordless_sounds
from llmguide.multimodal.speech import NOT_HEARD, speak, transcribe, voice_answer
from llmguide.multimodal.word_errors import spoken_words, word_error_rate, word_errors


def wav(samples, rate=16_000, channels=1, width=2):
    """A WAV file of samples in [-1, 1]."""
    whole = np.repeat(np.round(np.asarray(samples) * (2 ** (8 * width - 1) - 1)).astype("<i4"), channels)
    if width == 1: whole = whole + 128
    file = io.BytesIO()
    with wave.open(file, "wb") as opened:
        opened.setparams((channels, width, rate, 0, "NONE", ""))
        opened.writeframes(whole.view(np.uint8).reshape(-1, 4)[:, :width].tobytes())
    return file.getvalue()


def tone(rate=16_000, seconds=0.5, frequency=440):
    return 0.5 * np.sin(2 * np.pi * frequency * np.arange(int(rate * seconds)) / rate)


def float_wav(samples):
    """A WAV file of 32-bit floats, which the standard library can't write."""
    data = np.asarray(samples, "<f4").tobytes()
    form = struct.pack("<HHIIHH", 3, 1, 16_000, 64_000, 4, 32)
    body = b"WAVEfmt " + struct.pack("<I", len(form)) + form + b"data" + struct.pack("<I", len(data)) + data
    return b"RIFF" + struct.pack("<I", len(body)) + body


@pytest.fixture(scope="module")
def clip():
    """A sentence: the public clip where there is one, else one of ours."""
    folder = resolve("speech-clips").path.parent
    names = [name for name in ("jfk.flac", "pump.ogg") if (folder / name).exists()]
    return folder / names[0]


@pytest.mark.parametrize("rate", [4_000, 8_000, 11_025, 22_050, 44_100, 48_000, 96_000])
@pytest.mark.parametrize("channels", [1, 2, 6])
def test_every_rate_and_number_of_channels_gives_the_same_tone(rate, channels):
    samples = load_sound(wav(tone(rate), rate, channels))
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples))))
    assert abs(len(samples) - 8_000) < 60 and abs(np.fft.rfftfreq(len(samples), 1 / 16_000)[spectrum.argmax()] - 440) < 4
    assert 0.4 < np.abs(samples).max() < 0.6


@pytest.mark.parametrize("width", [1, 2, 3, 4])
def test_every_number_of_bits_is_read(width):
    assert 0.45 < np.abs(load_sound(wav(tone(), width=width))).max() < 0.55


def test_floats_are_read_clipped_and_must_be_numbers():
    assert np.abs(load_sound(float_wav(3 * tone()))).max() == 1.0
    with pytest.raises(ValueError, match="no numbers"): load_sound(float_wav([0.1, np.nan, 0.2] * 100))


WHOLE = wav(tone(), channels=2)
LYING = WHOLE[:24] + (1_092_676).to_bytes(4, "little") + WHOLE[28:]
NO_SAMPLES = wav([])


BROKEN = b"RIFF\x24\x00\x00\x00WAVEfmt ffff\x01\x00\x01\x00\x80>\x00\x00\x00}\x00\x00\x02\x00\x10\x00data\x00\x00\x00\x00"


@pytest.mark.parametrize("data, words", [
    (b"", "is empty"), (b"Dear Sir, " * 50, "can't be read as sound"), (WHOLE[:20], "can't be read"),
    (WHOLE[:44], "holds no samples"), (NO_SAMPLES, "holds no samples"),
    (LYING, "1,092,676 samples a second"), (os.urandom(5_000), "sound|samples"),
    (BROKEN, "can't be read")])  # fmt: skip
def test_what_is_no_sound_is_one_clear_line(tmp_path, data, words):
    file = tmp_path / "sent.wav"
    file.write_bytes(data)
    with pytest.raises(ValueError, match=words) as problem: load_sound(file)
    assert "sent.wav" in str(problem.value) and "\n" not in str(problem.value)


def test_a_folder_a_missing_file_and_a_name_in_chinese(tmp_path):
    with pytest.raises(ValueError, match="is a folder"): load_sound(tmp_path)
    with pytest.raises(FileNotFoundError, match="没有.wav"): load_sound(tmp_path / "没有.wav")
    assert len(load_sound(save_sound(tmp_path / "录音 1.wav", tone()))) == 8_000
    with pytest.raises(TypeError, match="a recording is a path or bytes, not NoneType"): load_sound(None)


def test_too_long_is_refused_before_it_fills_the_memory():
    with pytest.raises(ValueError, match="longer than 1 seconds"): load_sound(wav(np.zeros(40_000)), max_seconds=1)


def test_a_recording_that_breaks_off_keeps_what_is_there(clip):
    whole = load_sound(clip)
    data = clip.read_bytes()
    with warnings.catch_warnings(record=True):
        warnings.simplefilter("always")
        half = load_sound(data[: len(data) // 2])
    assert 0.2 * len(whole) < len(half) < len(whole)


def test_the_broken_files_of_the_public_set():
    folder = resolve("speech-clips").path.parent / "broken"
    if not folder.exists(): pytest.skip("the public clips are not here")
    for name in ("bad.wav", "awful.wav"):
        with pytest.raises(ValueError, match=name): load_sound(folder / name)


def test_saving_leaves_no_half_file(tmp_path, monkeypatch):
    def full(*_): raise OSError("no space left")
    monkeypatch.setattr("os.replace", full)
    with pytest.raises(OSError, match="no space"): save_sound(tmp_path / "a.wav", tone())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("level", [0.3, 0.05, 0.005])
def test_nothing_is_written_where_nobody_speaks(level):
    for name, samples in wordless_sounds(6, level=level, seed=7).items():
        assert transcribe(samples) == [], name
        assert transcribe(samples, only=["yes", "no"]) == [], name


def test_speech_is_heard_with_times_and_confidence(clip):
    segments, words = transcribe(clip), transcribe(clip, by_word=True)
    text = " ".join(segment.text for segment in segments)
    assert {"country"} & set(spoken_words(text)) or {"pump"} & set(spoken_words(text))
    assert [w for word in words for w in spoken_words(word.text)] == spoken_words(text)
    length = len(load_sound(clip)) / 16_000
    assert all(0 <= word.start <= word.end <= length + 0.5 and 0 <= word.confidence <= 1 for word in words)


def test_only_the_given_words_are_written(clip):
    words = {word for segment in transcribe(clip, only=["apple", "country", "pump"]) for word in spoken_words(segment.text)}
    assert words <= {"apple", "country", "pump"}


def test_two_threads_hear_the_same(clip):
    heard = [None, None]
    def listen(place): heard[place] = transcribe(clip)
    threads = [threading.Thread(target=listen, args=(place,)) for place in (0, 1)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
    assert heard[0] == heard[1] and heard[0]


def test_an_unknown_model_names_the_ways_to_get_it(monkeypatch):
    monkeypatch.setenv("LLMGUIDE_OFFLINE", "1")
    with pytest.raises((ValueError, FileNotFoundError), match="whisper"): transcribe(tone().astype(np.float32), model="whisper-tiny")
    with pytest.raises(FileNotFoundError, match="offline"): transcribe(tone().astype(np.float32), model="Systran/faster-whisper-small")


def test_a_missing_synthesiser_says_how_to_get_it(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="apt-get install espeak-ng"): speak("hello", tmp_path / "a.wav")
    assert list(tmp_path.iterdir()) == []


def fake_synthesiser(folder, script):
    """A program called espeak-ng that does what the shell script says."""
    program = folder / "bin" / "espeak-ng"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(program.stat().st_mode | stat.S_IEXEC)
    return str(program.parent)


def test_a_synthesiser_that_fails_leaves_no_file(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", fake_synthesiser(tmp_path, "echo half > \"$6\"; echo 'no voice' >&2; exit 3"))
    with pytest.raises(RuntimeError, match="no voice"): speak("hello", tmp_path / "out" / "a.wav")
    assert list((tmp_path / "out").iterdir()) == []


def test_text_reaches_the_synthesiser_as_text_and_never_as_an_option(monkeypatch, tmp_path):
    path = fake_synthesiser(tmp_path, f'/bin/cat > {tmp_path}/heard; echo "$@" > {tmp_path}/options; : > "$6"')
    monkeypatch.setenv("PATH", path)
    speak("--help; rm -rf $HOME 你好", tmp_path / "a.wav")
    assert (tmp_path / "heard").read_text(encoding="utf-8") == "--help; rm -rf $HOME 你好"
    assert "rm" not in (tmp_path / "options").read_text() and "-v cmn" in (tmp_path / "options").read_text()


def test_a_question_is_answered_by_voice_and_noise_is_not_asked(monkeypatch, tmp_path, clip):
    monkeypatch.setenv("PATH", fake_synthesiser(tmp_path, f': > "$6"; /bin/cat > {tmp_path}/spoken'))
    asked = []
    answered = voice_answer(clip, lambda question: asked.append(question) or "Forty-two.", tmp_path / "reply.wav")
    assert answered.answer == "Forty-two." and asked == [answered.question] and answered.path.exists() and answered.confidence > 0.4
    noise = voice_answer(wav(wordless_sounds(3)["white noise"]), asked.append, tmp_path / "sorry.wav")
    assert (noise.question, noise.answer, len(asked)) == ("", NOT_HEARD, 1)
    assert (tmp_path / "spoken").read_text() == NOT_HEARD


@pytest.mark.parametrize("said, heard, errors", [
    ("one two three", "1, 2, 3.", 0), ("it's here", "It’s here", 0), ("温度高", "温度低", 1), ("a b", "", 2),
    ("", "a b c", 3), ("a b c", "c b a", 2), ("a c", "a b c", 1), ("a b c", "a c", 1)])  # fmt: skip
def test_word_errors(said, heard, errors):
    assert word_errors(said, heard) == errors


def test_word_error_rate_is_a_share_of_all_words_with_an_interval():
    said = ["a b c d", "e f", "g h i j k l"]
    rate = word_error_rate(said, ["a b c x", "e f", "g h"])
    assert rate.value == pytest.approx(5 / 12) and rate.low <= rate.value <= rate.high
    with pytest.raises(ValueError, match="same clips"): word_error_rate(["a"], [])
    with pytest.raises(ValueError, match="leave out"): word_error_rate([], [])
