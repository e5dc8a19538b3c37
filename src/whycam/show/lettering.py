"""Class names in pictures: fonts of this machine that have their letters, short forms, and what stands for the rest."""

from __future__ import annotations

import logging
import unicodedata
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache

from matplotlib import font_manager
from matplotlib.ft2font import FT2Font
from PIL import ImageFont

log = logging.getLogger("whycam.pictures")

MAX_LETTERS = 32
# Marks, controls and bytes that are no letters: nothing is lost to the eye where no font has them.
_UNSEEN = {"Cc", "Cf", "Cn", "Co", "Cs", "Mn"}
_EAST_ASIAN = ("CJK", "HIRAGANA", "KATAKANA", "HANGUL", "BOPOMOFO", "FULLWIDTH", "HALFWIDTH", "IDEOGRAPHIC")


@lru_cache(maxsize=16)
def label_classes(class_names: tuple[str, ...]) -> tuple[str, ...]:
    """A label for each class that pictures can hold: one line, no two alike, short, of letters that a font here has.

    A name whose letters no font has is told by its number in the model's list of classes, with what is left of it;
    one line in the log says so, and which package of fonts helps.
    """
    labels, lost = [], {}
    for index, name in enumerate(class_names):
        line = " ".join(name.split())
        missing = _find_missing(line)
        seen = [character for character in missing if unicodedata.category(character) not in _UNSEEN]
        kept = " ".join("".join(character for character in line if character not in missing).split())
        short = shorten_text(kept, MAX_LETTERS)
        labels.append(short if not seen and short else f"class {index}: {short}" if short else f"class {index}")
        lost.update({index: seen} if seen else {})
    if lost:
        _tell(class_names, lost)
    uses = Counter(labels)
    return tuple(label if uses[label] == 1 else f"class {index}: {label}" for index, label in enumerate(labels))


def shorten_text(text: str, letters: int) -> str:
    """The text, where it has more letters with its middle left out: long names often differ at their ends."""
    if len(text) <= letters:
        return text
    head = letters // 2
    return f"{text[:head].rstrip()}…{text[len(text) - (letters - head - 1) :].lstrip()}"


def find_families(texts: Sequence[str]) -> list[str]:
    """Families for matplotlib, in the order in which a letter is looked for."""
    paths = find_fonts(frozenset("".join(texts)))
    for path in set(paths).difference(entry.fname for entry in font_manager.fontManager.ttflist):
        font_manager.fontManager.addfont(path)
    return [_open_face(path).family_name for path in paths]


def split_runs(text: str, size_px: int) -> list[tuple[str, ImageFont.FreeTypeFont]]:
    """The text in pieces, each with a font that has its letters; letters that no font has are left out."""
    runs: list[tuple[str, str]] = []
    for character in text:
        own = next((path for path in find_fonts(frozenset(text)) if _has(path, character)), None)
        if own is not None and runs and runs[-1][1] == own:
            runs[-1] = runs[-1][0] + character, own
        elif own is not None:
            runs.append((character, own))
    return [(piece, _open_font(path, size_px)) for piece, path in runs]


@lru_cache(maxsize=32)
def _open_font(path: str, size_px: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(path, size_px)


@lru_cache(maxsize=64)
def find_fonts(characters: frozenset[str]) -> tuple[str, ...]:
    """Files of fonts that together have all of the characters that any font here has, DejaVu Sans first."""
    found: list[str] = [font_manager.findfont("DejaVu Sans")]
    missing = _without(characters, found[0])
    for path in _list_fonts() if missing else ():
        left = _without(missing, path)
        if len(left) < len(missing):
            found.append(path)
            missing = left
    return tuple(found)


def _find_missing(text: str) -> set[str]:
    missing = frozenset(text)
    for path in find_fonts(missing):
        missing = _without(missing, path)
    return set(missing)


def _without(characters: frozenset[str], path: str) -> frozenset[str]:
    """Those characters that the font lacks."""
    return frozenset(one for one in characters if not _has(path, one))


def _has(path: str, character: str) -> bool:
    return _open_face(path).get_char_index(ord(character)) > 0


@lru_cache(maxsize=16)
def _open_face(path: str) -> FT2Font:
    return FT2Font(path)


@lru_cache(maxsize=1)
def _list_fonts() -> tuple[str, ...]:
    """The machine's fonts that can be drawn at any size, upright regular faces without serifs first.

    They are looked for on the disk: matplotlib's own list is as old as its cache.
    """
    usable = []
    for path in sorted(font_manager.findSystemFonts()):
        try:
            font = FT2Font(path)
        except (RuntimeError, OSError, ValueError):  # damaged, or bitmaps alone
            continue
        if font.scalable:
            words = f"{font.family_name} {font.style_name}"
            rank = font.style_name not in {"Regular", "Book", "Medium"}, "Sans" not in words, "Mono" in words
            usable.append((rank, path))
    return tuple(path for _, path in sorted(usable))


def _tell(class_names: Sequence[str], lost: dict[int, list[str]]) -> None:
    packages = sorted({_find_package(character) for missing in lost.values() for character in missing})
    first = next(iter(lost))
    log.warning(
        "No font on this machine has all letters of %d class name%s %r: pictures call it 'class %d', its number in the "
        "model's list of classes, from 0. Install fonts (on Debian and Ubuntu: apt install %s) and run again.",
        len(lost),
        "s, such as" if len(lost) > 1 else ",",
        class_names[first],
        first,
        " ".join(packages),
    )


def _find_package(character: str) -> str:
    if unicodedata.name(character, "").startswith(_EAST_ASIAN):
        return "fonts-noto-cjk"
    return "fonts-symbola" if unicodedata.category(character).startswith("S") else "fonts-noto-core"
