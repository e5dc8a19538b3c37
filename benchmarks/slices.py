"""Does the audit find blind spots? (first part: the pool of scenes)"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from slice_scenes import make_scene

from whycam.audit.generic import open_generic
from whycam.data.flowers import FLOWERS

SIZE_PX = 224


def make_pool(path: Path, first_seed: int, per_flower: int):
    net = open_generic("onnx").having(pools=True)
    pooled, scenes, labels = [], [], []
    for label, flower in enumerate(FLOWERS):
        for start in range(0, per_flower, 32):
            made = [make_scene(flower, first_seed + i, SIZE_PX) for i in range(start, min(start + 32, per_flower))]
            pixels = np.stack([net.card.preprocess.to_pixels(im) for im, _ in made])
            pooled.append(net.read(pixels).pooled.astype(np.float16))
            scenes += [json.dumps(s) for _, s in made]
            labels += [label] * len(made)
        print(flower, flush=True)
    np.savez(path, pooled=np.concatenate(pooled), scenes=np.array(scenes), labels=np.array(labels))


if __name__ == "__main__":
    w = Path("/tmp/h/slices-work")
    make_pool(w / "tune.npz", 1_000_000, 600)
    make_pool(w / "measure.npz", 0, 1200)
