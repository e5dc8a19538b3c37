"""Class names in pictures: with and without a font for their letters, of any length, and told apart."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from matplotlib import font_manager
from matplotlib.ft2font import FT2Font
from PIL import Image

from whycam.show import lettering
from whycam.show.lettering import MAX_LETTERS, find_families, find_fonts, label_classes, shorten_text, split_runs
from whycam.show.plots import make_sheet, plot_confusion

SUNFLOWER, HEBREW, ARABIC = "向日葵", "תות שדה", "زهرة"
LONG = [f"{'long' * 59}name{number}" for number in range(2)]


@pytest.fixture
def forget() -> Iterator[None]:
    """What is known of fonts is found anew, and again after the test."""
    found = [one for one in vars(lettering).values() if hasattr(one, "cache_clear")]
    for one in found:
        one.cache_clear()
    yield
    for one in found:
        one.cache_clear()


@pytest.fixture
def _dejavu_alone(monkeypatch: pytest.MonkeyPatch, forget: None) -> None:
    """A machine whose fonts are those that matplotlib brings."""
    monkeypatch.setattr(font_manager, "findSystemFonts", lambda: [])


@pytest.fixture
def _with_font(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, forget: None) -> None:
    """A machine with a font of the sunflower's letters, a damaged one, and no other."""
    (tmp_path / "damaged.ttf").write_bytes(b"no font")
    monkeypatch.setattr(
        font_manager, "findSystemFonts", lambda: [str(tmp_path / "damaged.ttf"), str(make_font(tmp_path / "own.ttf"))]
    )


def make_font(path: Path) -> Path:
    """A font in which each of the sunflower's letters is a black box as large as a letter."""
    pen = TTGlyphPen(None)
    pen.moveTo((0, 0))
    for corner in ((0, 800), (800, 800), (800, 0)):
        pen.lineTo(corner)
    pen.closePath()
    names = [".notdef", *(f"uni{ord(letter):04X}" for letter in SUNFLOWER)]
    font = FontBuilder(1000)
    font.setupGlyphOrder(names)
    font.setupCharacterMap(dict(zip(map(ord, SUNFLOWER), names[1:], strict=True)))
    font.setupGlyf({name: pen.glyph() if name != ".notdef" else TTGlyphPen(None).glyph() for name in names})
    font.setupHorizontalMetrics({name: (1000, 0) for name in names})
    font.setupHorizontalHeader(ascent=800, descent=-200)
    font.setupNameTable({"familyName": "Whycam Test Sans", "styleName": "Regular"})
    font.setupOS2()
    font.setupPost()
    font.save(path)
    return path


@pytest.mark.usefixtures("_dejavu_alone")
def test_names_that_no_font_has_are_told_by_number_and_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    names = ("rose", SUNFLOWER, "tulip 🌷", "ひまわり", HEBREW, ARABIC, "กุหลาบ")
    with caplog.at_level(logging.WARNING, logger="whycam"):
        labels = label_classes(names)
        assert label_classes(names) == labels
    assert labels == ("rose", "class 1", "class 2: tulip", "class 3", HEBREW, ARABIC, "class 6")
    (record,) = caplog.records
    told = record.getMessage()
    assert "4 class names, such as '向日葵': pictures call it 'class 1'" in told
    assert "apt install fonts-noto-cjk fonts-noto-core fonts-symbola" in told


@pytest.mark.usefixtures("_with_font")
def test_a_font_of_the_machine_is_found(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    with caplog.at_level(logging.WARNING, logger="whycam"):
        assert label_classes(("rose", SUNFLOWER)) == ("rose", SUNFLOWER)
    assert not caplog.records
    assert find_families(["rose", SUNFLOWER]) == ["DejaVu Sans", "Whycam Test Sans"]
    assert [piece for piece, _ in split_runs(f"0.9 {SUNFLOWER} rose", 11)] == ["0.9 ", SUNFLOWER, " rose"]
    assert find_fonts(frozenset("rose")) == (font_manager.findfont("DejaVu Sans"),)


@pytest.mark.usefixtures("_dejavu_alone")
def test_labels_are_short_on_one_line_and_no_two_alike() -> None:
    names = ("a\nb", "  ", "caf\udce9", "class 1", *LONG, "x" * 200 + "1" + "y" * 200, "x" * 200 + "2" + "y" * 200)
    labels = label_classes(names)
    assert len(set(labels)) == len(names)
    assert all("\n" not in label and len(label) <= MAX_LETTERS + len("class 10: ") for label in labels)
    assert labels[:1] == ("a b",)
    assert labels[2] == "caf"
    assert labels[4].startswith("long")
    assert labels[4].endswith("name0")
    assert labels[6].startswith("class 6: xxx")


def test_a_long_text_loses_its_middle() -> None:
    assert shorten_text("sunflower", 9) == "sunflower"
    assert shorten_text("sunflower of the field", 9) == "sunf…ield"
    assert all(len(shorten_text("sunflower", letters)) <= letters for letters in range(1, 10))


def draw(folder: Path, names: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray]:
    """A confusion matrix and a sheet of these classes; the pictures' pixels."""
    count = len(names)
    photos = [Image.new("RGB", (40, 30), "white")] * count
    captions = [(f"0.97 {name}\nis {name}", True) for name in label_classes(names)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plot_confusion(np.eye(count, dtype=int), names, folder / "confusion.png")
        make_sheet([photos], [captions], folder / "sheet.png", width_px=160)
    confusion, sheet = (Image.open(folder / name).convert("L") for name in ("confusion.png", "sheet.png"))
    return np.asarray(confusion), np.asarray(sheet)


@pytest.mark.usefixtures("_dejavu_alone")
@pytest.mark.parametrize(
    "names",
    [(SUNFLOWER, "🌷"), (HEBREW, ARABIC), tuple(LONG), ("costs $5 or $6", r"$\frac"), ("caf\udce9", "a\nb")],
    ids=["no font", "from right to left", "long", "dollars", "controls"],
)
def test_pictures_of_any_names_are_drawn_without_a_warning(names: tuple[str, ...], tmp_path: Path) -> None:
    confusion, sheet = draw(tmp_path, names)
    assert confusion.shape[1] < 1000
    captions = sheet[:36]
    for column in range(2):
        left = 6 + column * 166
        assert (captions[:, left : left + 160] < 200).sum() > 60  # something is written over each picture
        assert (captions[:, left + 160 : left + 166] > 200).all()  # and nothing runs into the next column


@pytest.mark.usefixtures("_with_font")
def test_letters_of_a_further_font_are_drawn_in_both_pictures(tmp_path: Path) -> None:
    confusion, sheet = draw(tmp_path, (SUNFLOWER, "rose"))
    # Each letter of the test's font is a box of solid black (in the sheet: green), 0.8 of the font's size.
    assert FT2Font(find_fonts(frozenset(SUNFLOWER))[1]).family_name == "Whycam Test Sans"
    assert count_solid(confusion, 9) >= 2
    assert count_solid(sheet, 6) >= 2


def count_solid(pixels: np.ndarray, side: int) -> int:
    """How many places hold a square of dark pixels of that side, which no thin letter does."""
    windows = np.lib.stride_tricks.sliding_window_view(pixels < 160, (side, side))
    return int(windows.all(axis=(2, 3)).sum())


def test_a_sheet_with_a_very_tall_photo_is_saved(tmp_path: Path) -> None:
    photos = [Image.new("RGB", size, "black") for size in ((2, 3000), (3000, 2), (40, 30))]
    make_sheet([photos], [[("", True)] * 3], tmp_path / "sheet.jpg", width_px=160)
    with Image.open(tmp_path / "sheet.jpg") as sheet:
        assert sheet.height < 600
        dark = np.asarray(sheet.convert("L")) < 100
    assert all(dark[:, left : left + 160].any() for left in (172, 338))  # the flat one and the plain one
