"""What `intake.py` asks of a model that came in; everything it is held against is computed here, without whycam."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from intake_cases import read_logits
from torch import Tensor, nn

import whycam
from whycam.errors import UserError
from whycam.intake.door import open_classifier
from whycam.model.classifier import Classifier

Row = dict[str, Any]


def make_pixels(side: int) -> np.ndarray:
    """(5, 3, S, S) uint8: coarse noise, and the same with another patch in one quarter after the other."""
    draw = np.random.default_rng(0)
    coarse = draw.integers(0, 256, (2, 3, -(-side // 8), -(-side // 8)), dtype=np.int64)
    fine = np.kron(coarse, np.ones((1, 1, 8, 8), dtype=np.int64))[..., :side, :side]
    both = np.clip(0.7 * fine + draw.normal(38, 25, fine.shape), 0, 255).astype(np.uint8)
    images = np.repeat(both[:1], 5, axis=0)
    for at, (row, column) in enumerate(PARTS, start=1):
        area = tuple(
            slice(int(side * (0.06 if p < 0 else 0.56)), int(side * (0.44 if p < 0 else 0.94))) for p in (row, column)
        )
        images[at][:, *area] = 255 - both[1][:, *area]
    return images


PARTS = ((-1, -1), (-1, 1), (1, -1), (1, 1))


def measure(
    thing: object, side: int, ask: Callable[[np.ndarray], np.ndarray], *, with_gradients: bool, takes_size: bool = True
) -> Row:
    """A row: what the model answers, and how far that is from what it should be.

    Args:
        thing: a module, a folder or a file.
        side: of its input in pixels.
        ask: normalised images (N, 3, S, S) -> the model's own logits, by its own library.
        with_gradients: whether Grad-CAM is held against the gradient taken by hand.
        takes_size: whether it is told the size.
    """
    row: Row = {"answer": "refused", "reason": "", "failure": ""}
    step = "open"
    try:
        model = open_classifier(thing, device="cpu", preprocess="imagenet", image_size=side if takes_size else None)
        step = "read"
        pixels = make_pixels(side)
        images = model.card.preprocess.normalise(pixels)
        row |= _measure_scores(model, pixels, ask(images))
        row["reason"] = model.card.no_exact_map
        step = "explain"
        row |= _explain(model, torch.from_numpy(images[:1]), row["reason"], with_gradients=with_gradients)
        step = "place"
        if row["answer"] != "scores":
            row |= measure_place(_read_cells(model, pixels, images))
    except UserError as error:
        row["reason"] = str(error)
        if step != "open":
            row["failure"] = f"{step}: {error}"
    except Exception:  # noqa: BLE001 - whatever is raised is what is looked for
        row["failure"] = f"{step}: " + " | ".join(traceback.format_exc().strip().splitlines()[-6:])
        row["answer"] = "traceback"
    return row


def _measure_scores(model: Classifier, pixels: np.ndarray, own: np.ndarray) -> Row:
    size = np.ptp(own, axis=1, keepdims=True)
    # A net of random weights may hardly tell its classes apart, and is no finer than float32.
    size = np.maximum(size, 1e-3 * np.abs(own).max())
    found = {"scores": float((np.abs(model.scores(pixels) - own) / size).max())}
    if model.card.is_exact:
        answer = model.read(pixels)
        sums = answer.maps.mean((2, 3), dtype=np.float64) + np.asarray(model.bias)
        found["identity"] = float((np.abs(sums - own) / size).max())
        found["cells"] = int(np.prod(answer.maps.shape[2:]))
    return found


def _explain(model: Classifier, images: Tensor, reason: str, *, with_gradients: bool) -> Row:
    """What answers, and how far Grad-CAM is from the gradient by hand where there is one."""
    is_exact = model.card.is_exact
    if model.card.answers_for("gradients") and (with_gradients or not is_exact):
        try:
            gap, layer = compare_grad_cam(model, images)
        except UserError as error:
            if is_exact:
                raise
            reason += f" [grad-cam: {error}]"
        else:
            return {"answer": "exact" if is_exact else "gradients", "grad_cam": gap, "layer": layer}
    if is_exact:
        return {"answer": "exact"}
    if model.card.answers_for("tail scores"):
        try:
            whycam.explain(model.network, images, method="recipro-cam", layer=model.cut(images))
        except UserError as error:
            reason += f" [recipro-cam: {error}]"
        else:
            return {"answer": "tail scores"}
    whycam.explain(model.network, images, method="rise", masks=32)
    return {"answer": "scores", "reason": reason}


def _read_cells(model: Classifier, pixels: np.ndarray, images: np.ndarray) -> np.ndarray:
    """(5, C, h, w): every class's map, or else the features that all maps are made of."""
    if model.card.is_exact:
        return model.read(pixels).maps
    given = torch.from_numpy(images)
    return model.cut(given).features(given).detach().numpy()


def measure_place(cells: np.ndarray) -> Row:
    """How well the cells that answer follow the patch, and how many answer to another place than their own.

    Attributes of the row:
        place: from -1 to 1, the lesser correlation of the two axes; of a net whose every cell sees the whole image it
            may be anything.
        away: of the cells the share that answer more than twice as much to a patch in another quarter as to theirs.
    """
    if min(cells.shape[2:]) < 2:
        return {}
    change = (cells[1:] - cells[:1]).astype(np.float64)
    change -= change.mean((2, 3), keepdims=True)
    answer = np.sqrt(np.square(change).sum(1))
    answer /= answer.sum((1, 2), keepdims=True) + 1e-30
    lines = [np.linspace(-1, 1, side) for side in cells.shape[2:]]
    own = np.stack([(lines[0][:, None] * row >= 0) & (lines[1] * column >= 0) for row, column in PARTS])
    away = np.where(own, 0, answer).max(0) > 2 * np.where(own, answer, 0).max(0)
    answer -= answer.min((1, 2), keepdims=True)
    answer /= answer.sum((1, 2), keepdims=True) + 1e-30
    found = []
    for axis, line in enumerate(lines):
        centre = (answer.sum(2 - axis) * line).sum(1)
        centre -= centre.mean()
        patch = np.array([part[axis] for part in PARTS], dtype=np.float64)
        found.append(float(centre @ patch / (np.linalg.norm(centre) * np.linalg.norm(patch) + 1e-12)))
    return {"place": min(found), "away": float(away.mean()), "grid": list(cells.shape[2:])}


def compare_grad_cam(model: Classifier, images: Tensor) -> tuple[float, str]:
    """How far ours is from the formula by a hook on the same layer, as a part of the map's largest; and the layer."""
    net = model.network
    found = whycam.explain(net, images, method="grad-cam", layer=model.cut(images))
    label, maps = str(found.record["layer"]), found.maps[0].detach()
    name, _, number = label.removeprefix("relu of ").partition("#")
    if name == "features before pooling":
        return float("nan"), label
    raw = _run_watched(net, images, name, int(number) - 1 if number else -1, int(found.target[0]))
    gaps = []
    for features, gradient in _list_layouts(*raw, maps.shape):
        weight, cells = gradient.mean((1, 2)), features
        if label.startswith("relu of "):
            # Behind the ReLU the gradient is the same in every cell; in front of it that is seen where a cell is on.
            cells = features.relu()
            weight = gradient.flatten(1).gather(1, features.flatten(1).argmax(1, keepdim=True))[:, 0]
        by_hand = torch.einsum("c,chw->hw", weight, cells).relu()
        scale = max(float(by_hand.abs().max()), 1e-6 * float((weight.abs()[:, None, None] * cells.abs()).sum(0).max()))
        gaps.append(float((by_hand - maps).abs().max()) / max(scale, 1e-30))
    return min(gaps, default=float("inf")), label


def _run_watched(net: nn.Module, images: Tensor, name: str, call: int, target: int) -> tuple[Tensor, Tensor]:
    """The output of one call of a layer, and the gradient of the class's logit there."""
    outputs: list[Tensor] = []

    def keep(_part: nn.Module, _args: object, output: Any) -> Any:
        # In place operations behind it would change what is kept.
        first = (output[0] if isinstance(output, tuple) else output).clone()
        first.requires_grad_() if first.is_leaf else first.retain_grad()
        outputs.append(first)
        return (first.clone(), *output[1:]) if isinstance(output, tuple) else first.clone()

    hook = net.get_submodule(name).register_forward_hook(keep)
    try:
        with torch.enable_grad():
            read_logits(net(images.clone().requires_grad_()))[0].flatten()[target].backward()
    finally:
        hook.remove()
    kept = outputs[call]
    return kept.detach()[0], kept.grad[0]


def _list_layouts(raw: Tensor, gradient: Tensor, grid: torch.Size) -> list[tuple[Tensor, Tensor]]:
    """Both as (C, h, w), in every order of the axes that their shape allows."""
    pairs = []
    if raw.ndim == 3 and raw.shape[1:] == grid:
        pairs.append((raw, gradient))
    if raw.ndim == 3 and raw.shape[:2] == grid:
        pairs.append((raw.permute(2, 0, 1), gradient.permute(2, 0, 1)))
    if raw.ndim == 2 and raw.shape[0] >= grid[0] * grid[1]:
        rest = raw.shape[0] - grid[0] * grid[1]
        pairs += [(x[0], x[1]) for x in [tuple(each[rest:].T.unflatten(1, grid) for each in (raw, gradient))]]
    return pairs


def find_head(net: nn.Module, images: Tensor) -> str:
    """The layer whose mean over more than one cell, weighed once, is the logits; empty where there is none.

    Every output is watched: of each map (N, C, h, w) or (N, h, w, C) and each row of tokens (N, L, C) the mean is held
    against what a linear layer takes that gives the logits, or against the logits themselves.
    """
    means: list[tuple[str, Tensor]] = []
    heads: list[tuple[Tensor, Tensor]] = []

    def watch(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def keep(part: nn.Module, inputs: Any, output: Any) -> None:
            first = output[0] if isinstance(output, tuple) and output else output
            if isinstance(first, Tensor) and first.is_floating_point():
                means.extend((name, mean) for mean in _list_means(first))
                if isinstance(part, nn.Linear | nn.Conv2d) and inputs:
                    heads.append((inputs[0].flatten(1), first.flatten(1)))

        return keep

    hooks = [part.register_forward_hook(watch(name)) for name, part in net.named_modules() if name]
    with torch.no_grad():
        logits = read_logits(net(images))
    for hook in hooks:
        hook.remove()
    wanted = [given for given, output in heads if is_near(output, logits)] + [logits]
    return next((name for name, mean in reversed(means) if any(is_near(mean, each) for each in wanted)), "")


def _list_means(output: Tensor) -> list[Tensor]:
    if output.ndim == 4:
        orders = [(2, 3), (1, 2)]
        maps = [(output, axes) for axes in orders if output.shape[axes[0]] * output.shape[axes[1]] > 1]
        return [mean for values, axes in maps for mean in (values.mean(axes), values.relu().mean(axes))]
    if output.ndim == 3 and output.shape[1] > 4:
        return [output[:, skip:].mean(1) for skip in (0, 1, 2)]
    return []


def is_near(found: Tensor, wanted: Tensor) -> bool:
    if found.shape != wanted.shape:
        return False
    return bool((found - wanted).abs().max() <= 1e-5 * wanted.abs().max())


def ask_module(net: nn.Module) -> Callable[[np.ndarray], np.ndarray]:
    def ask(images: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return read_logits(net(torch.from_numpy(images))).numpy()

    return ask


def ask_file(path: Path) -> Callable[[np.ndarray], np.ndarray]:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])

    def ask(images: np.ndarray) -> np.ndarray:
        return np.asarray(session.run(None, {session.get_inputs()[0].name: images})[0])

    return ask
