"""What a notebook shows of explanations: the photos with their heat, and the viewer of the one that is chosen.

It is a page of its own in a frame, so neither its style nor its script meets the notebook's; it asks for nothing
outside.
"""

from __future__ import annotations

import base64
import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from whycam.errors import UserError
from whycam.explainer.explanation import Explanation
from whycam.explainer.reading import Reading
from whycam.show.entries import encode_colormaps, encode_photo, make_entry
from whycam.show.page import render_page

# A notebook keeps what it shows: 30 kB a photo.
MOST_SHOWN = 24
_HEIGHT_PX = 620


@dataclass(frozen=True)
class Grid:
    """Explanations side by side: a row for each photo, a column for each explanation.

    Attributes:
        columns: title -> explanation; all of as many photos.
    """

    columns: Mapping[str, Explanation]

    def __repr__(self) -> str:
        count = len(next(iter(self.columns.values())))
        return f"Grid of {count} photo{'s' * (count != 1)} by {', '.join(self.columns)}; a notebook shows it"

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, str]:
        return {"text/plain": repr(self), "text/html": render_frame(self.columns)}


def grid(*explanations: Explanation, names: Sequence[str] | None = None) -> Grid:
    """Puts explanations of the same photos side by side in a notebook: several methods, or several models.

    Args:
        explanations: each of as many photos, with maps that can be drawn.
        names: what stands above each; the methods, if left out.

    Raises:
        UserError: none, of unlike numbers of photos, or without pictures; as many names as explanations are expected.
    """
    if not explanations:
        raise UserError("Found no explanation; expected some to put side by side: whycam.grid(why, other).")
    if wrong := next((one for one in explanations if not isinstance(one, Explanation)), None):
        raise UserError(
            f"Found a {type(wrong).__name__} among the explanations; expected what model.explain gives, one after the "
            "other: whycam.grid(why, other)."
        )
    counts = sorted({len(one) for one in explanations})
    if len(counts) > 1:
        raise UserError(
            f"Found explanations of {counts[0]} and of {counts[-1]} photos; expected all of the same photos."
        )
    _check_same_photos(explanations)
    titles = [str(name) for name in names] if names is not None else [str(one.record["method"]) for one in explanations]
    if len(titles) != len(explanations):
        raise UserError(f"Found {len(titles)} names of {len(explanations)} explanations; expected one for each.")
    for one in explanations:
        if not can_show(one):
            raise UserError(
                "Found an explanation that the viewer can't draw; expected maps of classes over photos. "
                "why.map(photo, target) has the numbers."
            )
    repeated = {title for title in titles if titles.count(title) > 1}
    unique = [f"{title} ({i})" if title in repeated else title for i, title in enumerate(titles, start=1)]
    return Grid(dict(zip(unique, explanations, strict=True)))


def _check_same_photos(explanations: Sequence[Explanation]) -> None:
    first = explanations[0]
    for other in explanations[1:]:
        for i, (own, its) in enumerate(zip(first.paths, other.paths, strict=False)):
            if own.absolute() != its.absolute():
                raise UserError(
                    f"Found '{own}' and '{its}' at place {i}; expected explanations of the same photos in the same "
                    "order: a row is one photo."
                )
        sizes = [[photo.size for photo in one.photos] for one in (first, other)]
        if all(sizes) and sizes[0] != sizes[1]:
            raise UserError("Found photos of other sizes; expected explanations of the same photos in the same order.")


def can_show(why: Explanation) -> bool:
    """Whether the viewer can draw it: maps of classes, of photos that are at hand, each of one sign's colours."""
    return why.has_pictures and bool(why.photos) and not why.draws_both_signs and bool((why.target >= 0).all())


def render_frame(columns: Mapping[str, Explanation]) -> str:
    """HTML: a frame that holds a page with a row for each photo, and a column for each explanation."""
    count = len(next(iter(columns.values())))
    rows = [[_make_entry(why, i, title) for title, why in columns.items()] for i in range(min(count, MOST_SHOWN))]
    page = render_page(
        "notebook.html",
        styles=("viewer.css", "notebook.css"),
        script="notebook.js",
        data={
            "models": [_describe_model(why) for why in columns.values()],
            "colormaps": encode_colormaps(),
            "columns": list(columns) if len(columns) > 1 else [],
            "rows": rows,
        },
        left_out=count - len(rows),
        count=count,
    )
    title = html.escape(f"WhyCAM: {', '.join(columns)}")
    return (
        f'<iframe title="{title}" srcdoc="{html.escape(page)}" '
        f'style="width: 100%; height: {_HEIGHT_PX}px; border: 0" loading="lazy"></iframe>'
    )


def _describe_model(why: Explanation) -> dict[str, Any]:
    """What the viewer has to know of the model."""
    return {
        "classNames": list(why.class_names),
        "isMultiLabel": "output" in why.record,
        "thresholds": why.record.get("thresholds"),
    }


def _make_entry(why: Explanation, index: int, title: str) -> dict[str, Any]:
    reading = why.reading(index)
    name = why.paths[index].name if why.paths else f"photo {index + 1}"
    entry = make_entry(reading, f"{index}-{title}", name, image=encode_photo(why.photos[index]))
    return entry | {"bias": _find_bias(reading)}


def _find_bias(reading: Reading) -> dict[int, float] | None:
    """Class -> what the mean of its map lacks to its score; None where maps are not exact."""
    if reading.record["method"] != "cam" or reading.record["smooth"] != "none" or len(reading.logits) == 1:
        return None
    means = reading.maps.mean((1, 2))
    return {int(k): float(reading.logits[k] - mean) for k, mean in zip(reading.targets, means, strict=True)}


def to_mimebundle(why: Explanation) -> dict[str, Any]:
    """MIME type -> what a notebook shows: the viewer, a picture for where no script may run, and a line of text."""
    bundle: dict[str, Any] = {"text/plain": repr(why)}
    picture = why.to_png()
    if picture is not None:
        bundle["image/png"] = base64.b64encode(picture).decode()
    if can_show(why):
        bundle["text/html"] = render_frame({str(why.record["method"]): why})
    return bundle
