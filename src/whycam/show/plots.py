"""Curves, confusion matrix and contact sheets as pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, features

from whycam.runs import open_atomic
from whycam.show.curves import CURVES
from whycam.show.lettering import find_families, label_classes, shorten_text, split_runs
from whycam.train.epochs import Epoch, find_best

# Colour-blind-safe (Okabe and Ito).
_TRAIN, _VAL, _RIGHT, _WRONG = "#0072B2", "#D55E00", "#0b6e4f", "#b3261e"
_MAX_NUMBERED = 25
_FONT_PX, _LINE_PX, _GAP_PX = 11, 15, 6


def save_figure(figure: Figure, path: Path) -> None:
    """Writes a figure, whole or not at all."""
    with open_atomic(path) as part:
        figure.savefig(part, dpi=120, bbox_inches="tight", format=path.suffix[1:])


def plot_curves(epochs: Sequence[Epoch], folder: Path, *, is_multi_label: bool = False) -> None:
    """`accuracy.png` and `loss.png`: training and validation by epoch, the best epoch marked."""
    # A training on all photos for as many epochs as were chosen is measured by none; alone it is drawn as it is.
    epochs = [line for line in epochs if line.val_loss is not None] or epochs
    words_of = {"slice": "training photos set apart", "val": "val", "none": "not measured"}
    told = words_of[epochs[-1].measured_on]
    for name, unit in CURVES[is_multi_label].items():
        figure = Figure(figsize=(6, 4))
        axes = figure.subplots()
        steps = np.arange(1, len(epochs) + 1)
        sampled = [i for i, line in enumerate(epochs) if not line.is_val_whole]
        whole = [i for i, line in enumerate(epochs) if line.is_val_whole]
        marker = "o" if len(epochs) < 2 else ""
        axes.plot(steps, [getattr(e, f"train_{name}") for e in epochs], color=_TRAIN, label="train", marker=marker)
        values = np.array([getattr(e, f"val_{name}") for e in epochs], dtype=float)
        if sampled:
            words = f"{told}, a sample of {epochs[sampled[0]].val_photos} photos"
            axes.plot(steps[sampled], values[sampled], color=_VAL, alpha=0.5, label=words)
            words = f"{told}, all {epochs[whole[0]].val_photos} photos"
            axes.plot(steps[whole], values[whole], "o", color=_VAL, label=words)
        else:
            axes.plot(steps, values, color=_VAL, label=told, marker=marker)
        if told != words_of["none"]:
            best = find_best(epochs)
            axes.axvline(best + 1, color="0.6", linestyle=":", label=f"best epoch ({best + 1})")
        _mark_phases(axes, epochs)
        axes.set(xlabel="epoch", ylabel=f"{name} ({unit})", title=f"{name.capitalize()}")
        axes.legend()
        axes.grid(alpha=0.3)
        save_figure(figure, folder / f"{name}.png")


def _mark_phases(axes: Axes, epochs: Sequence[Epoch]) -> None:
    for i in range(1, len(epochs)):
        if epochs[i].phase != epochs[i - 1].phase:
            axes.axvline(i + 0.5, color="0.3")
            axes.text(i + 0.6, axes.get_ylim()[0], f" {epochs[i].phase}", va="bottom", color="0.3")


def plot_confusion(counts: np.ndarray, class_names: Sequence[str], path: Path) -> None:
    """The confusion matrix (K, K), truth in rows, as shares of each row with the counts written in."""
    side = min(14.0, max(4.0, 0.55 * len(class_names) + 2))
    figure = Figure(figsize=(side, side))
    axes = figure.subplots()
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    picture = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(picture, ax=axes, fraction=0.046, label="share of the true class")
    ticks = range(len(class_names))
    if len(class_names) <= 60:
        labels = label_classes(tuple(class_names))
        # A name with two dollar signs is no formula.
        look: dict[str, Any] = {"fontfamily": find_families(labels), "parse_math": False}
        axes.set_xticks(ticks, labels, rotation=90, **look)
        axes.set_yticks(ticks, labels, **look)
    axes.set(xlabel="predicted", ylabel="truth", title="Confusion matrix")
    if len(class_names) <= _MAX_NUMBERED:
        for row, column in np.argwhere(counts > 0):
            axes.text(
                column,
                row,
                str(int(counts[row, column])),
                ha="center",
                va="center",
                color="white" if shares[row, column] > 0.5 else "black",
            )
    save_figure(figure, path)


def make_sheet(
    rows: Sequence[Sequence[Image.Image]],
    captions: Sequence[Sequence[tuple[str, bool]]],
    path: Path,
    *,
    width_px: int = 200,
) -> None:
    """A contact sheet: rows of pictures, each under a caption that is green where right and red where wrong.

    Args:
        rows: the pictures.
        captions: a text, of one line or several, and whether it is right, for each picture; what does not fit the
            column is left out of the middle of its line.
        path: where to write.
        width_px: of a column; a picture is three times as high at the most, and a row as high as its highest.
    """
    columns = max(len(row) for row in rows)
    small = [[_shrink(picture, width_px) for picture in row] for row in rows]
    texts = [[_LINE_PX * (1 + text.count("\n")) + _GAP_PX for text, _ in row] for row in captions]
    tops = [max(row) for row in texts]
    heights = [top + max(p.height for p in row) for top, row in zip(tops, small, strict=True)]
    sheet = Image.new("RGB", (columns * (width_px + _GAP_PX) + _GAP_PX, sum(heights) + _GAP_PX), "white")
    draw = ImageDraw.Draw(sheet)
    for row, pictures in enumerate(small):
        top = sum(heights[:row])
        for column, picture in enumerate(pictures):
            left = _GAP_PX + column * (width_px + _GAP_PX)
            text, is_right = captions[row][column]
            for number, line in enumerate(text.split("\n")):
                _write_line(draw, (left, top + 4 + number * _LINE_PX), line, width_px, _RIGHT if is_right else _WRONG)
            sheet.paste(picture, (left, top + tops[row]))
    with open_atomic(path) as part:
        sheet.save(part, Image.registered_extensions()[path.suffix], quality=92)


def _shrink(picture: Image.Image, width_px: int) -> Image.Image:
    """As wide as the column; what would be higher than three times that is narrower, so that the sheet can be saved."""
    scale = min(width_px / picture.width, 3 * width_px / picture.height)
    return picture.resize((max(1, round(picture.width * scale)), max(1, round(picture.height * scale))))


def _write_line(draw: ImageDraw.ImageDraw, place: tuple[int, int], text: str, width_px: int, color: str) -> None:
    """The text from left to right, also where it begins with a name in Hebrew or Arabic; shortened to the width."""
    order = "ltr" if features.check("raqm") else None
    runs = split_runs(text, _FONT_PX)
    for letters in range(len(text) - 1, 0, -1):
        if sum(font.getlength(piece, direction=order) for piece, font in runs) <= width_px:
            break
        runs = split_runs(shorten_text(text, letters), _FONT_PX)
    left, top = float(place[0]), place[1] + _FONT_PX
    for piece, font in runs:
        draw.text((left, top), piece, font=font, fill=color, anchor="ls", direction=order)
        left += font.getlength(piece, direction=order)
