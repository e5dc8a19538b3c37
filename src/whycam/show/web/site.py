"""The files of a site around an exported graph: page, scripts, manifest, what keeps it for later, icons, licences."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from whycam import __version__
from whycam.data.samples import write_samples
from whycam.explainer.model import Model
from whycam.made import LIST
from whycam.maps import render
from whycam.model.onnx.engine import GraphMetadata
from whycam.show.layout import open_templates, read_static
from whycam.show.web.network import SAMPLE, describe_network
from whycam.show.web.runtime import WebRuntime, read_licence

_SAMPLES = (SAMPLE, "espresso.png", "rocket.jpg")
_SCRIPTS = (
    "viewer.js",
    "app.js",
    "site.js",
    "site_files.js",
    "site_live.js",
    "site_model.js",
    "site_pillow.js",
    "site_start.js",
    "site_thread.js",
    "site_worker.js",
)
_STYLES = ("viewer.css", "app.css", "site.css")
_ICON_SIDES_PX = (192, 512)
# Nothing but the site's own files. A worker from a blob is under this policy, too; one from a file would not be.
POLICY = (
    "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; style-src 'self'; img-src 'self' blob:; "
    "connect-src 'self'; worker-src 'self' blob:; manifest-src 'self'; base-uri 'none'; form-action 'none'"
)


def write_site(folder: Path, model: Model, card: GraphMetadata, runtime: WebRuntime) -> None:
    """Completes the folder, in which the graph is: what the page shows and runs, and nothing that was not asked for.

    Args:
        folder: holds the graph, which takes uint8 pixels and gives all maps.
        model: what the graph was made of, with PyTorch.
        card: what the export measured.
        runtime: what runs the graph in the browser.
    """
    for inside in ("app", "runtime", "samples"):
        (folder / inside).mkdir()
    for name in (*_SCRIPTS, *_STYLES):
        _write_text(folder / "app" / name, read_static([name]))
    for name, data in runtime.files.items():
        (folder / "runtime" / name).write_bytes(data)
    for path in write_samples(folder / "samples"):
        if path.name not in _SAMPLES:
            path.unlink()
    _write_text(folder / "model.json", _to_json(describe_network(model, card, runtime, folder / "samples" / SAMPLE)))
    short_name = Path(model.classifier.card.name).name
    words = {
        "model": short_name,  # a path of this machine is nobody else's business
        "short_name": short_name,
        "is_multi_label": model.classifier.card.is_multi_label,
        "samples": {name.rpartition(".")[0]: name for name in _SAMPLES},
        "policy": POLICY,
    }
    _write_text(folder / "index.html", open_templates().get_template("site.html").render(words))
    for side_px in _ICON_SIDES_PX:
        (folder / f"icon-{side_px}.png").write_bytes(_draw_icon(side_px))
    _write_text(folder / "manifest.webmanifest", _to_json(_make_manifest(short_name)))
    _write_text(folder / "licenses.txt", _tell_licences(runtime))
    _write_text(folder / "sw.js", _make_worker(folder))


def _make_manifest(short_name: str) -> Mapping[str, Any]:
    icons = [{"src": f"icon-{side}.png", "sizes": f"{side}x{side}", "type": "image/png"} for side in _ICON_SIDES_PX]
    return {
        "name": f"WhyCAM: {short_name}",
        "short_name": short_name[:24],
        "description": "What a network takes a photo for, and where the evidence lies. Nothing leaves the machine.",
        "start_url": "./",
        "scope": "./",
        "display": "standalone",
        "background_color": "#15161a",
        "theme_color": "#1e2026",
        "icons": [*icons, {**icons[-1], "purpose": "maskable"}],
    }


def _draw_icon(side_px: int) -> bytes:
    """A warm place on a dark ground, in the colours of the heat."""
    y, x = (np.mgrid[:side_px, :side_px] + 0.5) / side_px
    heat = np.exp(-(((x - 0.56) / 0.2) ** 2 + ((y - 0.46) / 0.2) ** 2))
    heat = np.maximum(heat, 0.55 * np.exp(-(((x - 0.33) / 0.13) ** 2 + ((y - 0.68) / 0.13) ** 2)))
    colors = render.read_colors(render.COLORMAP_POSITIVE)
    file = io.BytesIO()
    Image.fromarray(colors[np.rint(12 + 240 * heat).astype(int)]).save(file, "PNG", optimize=True)
    return file.getvalue()


def _make_worker(folder: Path) -> str:
    """What keeps the site for later; changes with each of its files, so that browsers see that there are new ones."""
    files = sorted(
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file() and path.name != LIST
    )
    digest = hashlib.sha256()
    for name in files:
        digest.update(f"{name}\0".encode())
        digest.update(hashlib.sha256((folder / name).read_bytes()).digest())
    kept = ["./", *(name for name in files if name != "index.html")]
    site = {"version": digest.hexdigest()[:16], "files": kept, "policy": POLICY}
    return f"const SITE = {_to_json(site)};\n{read_static(['site_sw.js'])}"


def _tell_licences(runtime: WebRuntime) -> str:
    own = next(
        (str(file.read_text()) for file in metadata.files("whycam") or [] if file.name == "LICENSE"),
        "Apache License 2.0: https://www.apache.org/licenses/LICENSE-2.0",
    )
    return (
        f"The page is made by WhyCAM {__version__}, under the Apache License 2.0. The network, model.onnx, is its "
        "owner's.\nThe photos in samples/ are those of scikit-image: Chelsea by Stefan van der Walt, coffee by Rachel "
        "Michetti, and a rocket by\nSpaceX, all given to the public (CC0).\n\n"
        f"runtime/ is onnxruntime-web {runtime.version}:\n\n{read_licence()}\n\nWhyCAM:\n\n{own}"
    )


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8", newline="\n")


def _to_json(content: Any) -> str:
    return json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
