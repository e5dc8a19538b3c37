"""A network within a page of one file: it answers where there is no host, from the disk."""

from __future__ import annotations

import base64
import gzip
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from whycam.data.samples import write_samples
from whycam.explainer.model import Model
from whycam.show.layout import read_static
from whycam.show.page import Program, as_script_address
from whycam.show.web.network import GRAPH, SAMPLE, describe_network, write_graph
from whycam.show.web.runtime import GLUE, PACKED, SCRIPT, WebRuntime, read_licence

# What may come before a module's name where the site's thread imports it: it has no map of imports.
_IMPORTED = re.compile(r'from "\.{1,2}/(?:runtime/)?([\w.-]+)"')
_MODULES = ("app.js", "site_model.js", "site_start.js", "site_thread.js")
# A letter of text holds six bits.
TEXT_SHARE = 4 / 3


@dataclass(frozen=True)
class EmbeddedNetwork:
    """What the page holds for it.

    Attributes:
        data: what its script reads: the model's description; and as addresses two modules, the thread that runs it and
            the runtime's glue.
        files: name -> base64 of the large ones, the graph packed by gzip.
        licence: of what runs it.
    """

    data: Mapping[str, Any]
    files: Mapping[str, str]
    licence: str

    program = Program(
        script="report_live.js",
        modules=_MODULES,
        # Its thread stands in the page's memory, and so do pictures of photos that are dropped there.
        allowed={"script-src": "'wasm-unsafe-eval'", "worker-src": "blob:", "img-src": "blob:"},
    )

    @property
    def size_mb(self) -> float:
        """What it adds to the page, about."""
        return sum(map(len, self.files.values())) / 1e6


def embed_network(model: Model, runtime: WebRuntime) -> EmbeddedNetwork:
    """The same graph and scripts as those of an exported site, as text.

    Args:
        model: with PyTorch.
        runtime: what runs the graph in the browser.

    Raises:
        UserError: a model without exact maps, or numbers that are not PyTorch's.
    """
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        card = write_graph(model, folder / GRAPH)
        graph = gzip.compress((folder / GRAPH).read_bytes(), 6, mtime=0)
        write_samples(folder)
        described = describe_network(model, card, runtime, folder / SAMPLE)
        sample = (folder / SAMPLE).read_bytes()
    scripts = {SCRIPT: runtime.files[SCRIPT], "site_pillow.js": read_static(["site_pillow.js"]).encode()}
    worker = _IMPORTED.sub(
        lambda found: f'from "{as_script_address(scripts[found[1]])}"', read_static(["site_worker.js"])
    )
    data = {
        "model": described,
        "worker": as_script_address(worker.encode()),
        "glue": as_script_address(runtime.files[GLUE]),
    }
    files = {GRAPH: graph, f"runtime/{PACKED}": runtime.files[PACKED], SAMPLE: sample}
    return EmbeddedNetwork(
        data, {name: base64.b64encode(held).decode() for name, held in files.items()}, read_licence()
    )
