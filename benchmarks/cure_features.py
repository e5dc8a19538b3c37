"""Mean features of photos by the frozen default network, kept by their pixels: what repeats is computed once."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from whycam.data.images import load_image
from whycam.data.loader import in_batches
from whycam.model.backbone import make_backbone
from whycam.model.gap import GapClassifier
from whycam.model.input import normalise_on
from whycam.model.onnx.export import open_features


class Features:
    """The network, and what it made of pixels so far."""

    def __init__(self, work: Path) -> None:
        work.mkdir(parents=True, exist_ok=True)
        self.origin = make_backbone("imagenet")
        self._run = open_features(work / "features.onnx", GapClassifier(self.origin, ["a", "b"]).eval())
        self._kept = sqlite3.connect(work / "features.sqlite", timeout=120)
        self._kept.execute("pragma journal_mode = wal")
        self._kept.execute("create table if not exists kept (key blob primary key, value blob)")
        self._files: dict[Path, torch.Tensor] = {}
        self.computed = 0

    def of_files(self, paths: Sequence[Path]) -> torch.Tensor:
        """(N, C) of photos."""
        missing = [path for path in dict.fromkeys(paths) if path not in self._files]
        if missing:
            self._files |= dict(zip(missing, self.of_images(load_image(path) for path in missing), strict=True))
        return torch.stack([self._files[path] for path in paths])

    def of_images(self, images: Iterable[Image.Image]) -> torch.Tensor:
        """(N, C) of photos as they come."""
        return torch.cat(
            [self._read([self.origin.preprocess.to_pixels(i) for i in some]) for some in in_batches(images, 32)]
        )

    def _read(self, pixels: list[np.ndarray]) -> torch.Tensor:
        keys = [hashlib.blake2b(one.tobytes(), digest_size=16).digest() for one in pixels]
        found = {key: self._kept.execute("select value from kept where key = ?", (key,)).fetchone() for key in keys}
        missing = [i for i, key in enumerate(keys) if found[key] is None]
        if missing:
            images = normalise_on(torch.from_numpy(np.stack([pixels[i] for i in missing])), self.origin.preprocess)
            with torch.no_grad():
                values = self._run(images).mean(dim=(2, 3)).half().numpy()
            rows = [(keys[i], value.tobytes()) for i, value in zip(missing, values, strict=True)]
            with self._kept:
                self._kept.executemany("insert or ignore into kept values (?, ?)", rows)
            found |= {key: (value,) for key, value in rows}
            self.computed += len(missing)
        return torch.from_numpy(np.stack([np.frombuffer(found[key][0], np.float16) for key in keys]).astype(np.float32))
