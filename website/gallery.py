"""A picture of every map method, of an installed photo by the installed network: `python website/gallery.py`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from whycam.cam.registry import iter_methods
from whycam.data.samples import load_samples
from whycam.errors import UserError
from whycam.explainer.model import load
from whycam.maps.render import join_pictures

OUT = Path(__file__).parents[1] / "build" / "gallery"
# Methods that ask about each channel take a layer of few, and those that ask about many masks take fewer.
HOW: dict[str, dict[str, Any]] = {
    "score-cam": {"layer": "backbone.blocks.3"},
    "ss-cam": {"layer": "backbone.blocks.3", "samples": 2},
    "is-cam": {"layer": "backbone.blocks.3", "samples": 4},
    "rise": {"masks": 300},
    "contrast": {"versus": "lynx"},
}
SIDE_PX = 280


def make_gallery(out: Path) -> None:
    """Writes METHOD.jpg, and gallery.json with how each was made, or why there is none."""
    out.mkdir(parents=True, exist_ok=True)
    model, (photo,) = load("imagenet", engine="torch"), load_samples(1)
    side = min(photo.size)
    left, top = ((length - side) // 2 for length in photo.size)
    photo = photo.crop((left, top, left + side, top + side)).resize((SIDE_PX, SIDE_PX))
    told: dict[str, str] = {}
    for method in iter_methods():
        how = HOW.get(method.name, {})
        try:
            why = model.explain(photo, method=method.name, **how)
        except UserError as error:
            told[method.name] = f"No picture: {error}"
            continue
        options = "".join(f", {name} {value}" for name, value in how.items() if name != "layer")
        layers = why.record.get("layer", [])
        named = layers if isinstance(layers, str) else ", ".join(layers)
        told[method.name] = (
            f"Left the photo, right the map of {why.name(int(why.targets[0, 0]))!r}{options}; of {named}."
        )
        join_pictures([photo, why.overlay()]).save(out / f"{method.name}.jpg", quality=85)
    (out / "gallery.json").write_text(json.dumps(told, indent=1), encoding="utf-8")


if __name__ == "__main__":
    make_gallery(OUT)
