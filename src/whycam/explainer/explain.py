"""explain(): any image classifier and a batch of images -> class maps, by any method; owns the forward pass.

Methods are in `cam/`; this file names none but the default.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, overload

import torch
from PIL import Image
from torch import Tensor, nn

from whycam.cam.fusion import Rule
from whycam.cam.registry import Method, get_method
from whycam.errors import UserError
from whycam.explainer.explanation import Explanation
from whycam.explainer.inputs import Images, check_module, read_images
from whycam.explainer.passes import (
    Layer,
    MethodOptions,
    Question,
    cut_layers,
    describe_layers,
    describe_noise,
    explain_zeros,
    prepare_views,
    read_scores,
    run_method,
)
from whycam.explainer.targets import (
    Target,
    describe_blank,
    describe_side,
    describe_target,
    find_class,
    is_one,
    number_classes,
    resolve_target,
    to_probabilities,
)
from whycam.explainer.views import parse_smooth
from whycam.maps import render
from whycam.model.cut.blame import blame
from whycam.model.cut.tap import as_input, unwrap
from whycam.runs import read_versions

Names = list[str] | tuple[str, ...]


@overload
def explain(
    module: nn.Module, images: Images, target: Target = None, *, method: str = "cam", **how: Any
) -> Explanation: ...


@overload
def explain(
    module: nn.Module, images: Images, target: Target = None, *, method: Names, **how: Any
) -> dict[str, Explanation]: ...


def explain(
    module: nn.Module,
    images: Images,
    target: Target = None,
    *,
    method: str | Names = "cam",
    versus: int | str | None = None,
    layer: Layer | Sequence[Layer] | None = None,
    fuse: Rule | None = None,
    smooth: str | None = None,
    output: str | int | None = None,
    class_names: Sequence[str] | None = None,
    photos: tuple[Image.Image, ...] = (),
    paths: tuple[Path, ...] = (),
    origin: Mapping[str, Any] | None = None,
    chunk: int = 32,
    seed: int = 0,
    **options: object,
) -> Explanation | dict[str, Explanation]:
    """Class maps for a batch, of any image classifier.

    Args:
        module: any module whose output is, or holds, logits (N, K).
        images: (N, channels, H, W) as the module takes them (normalised): a tensor, an array, or a list of either.
        target: class index or name; `top:N`; `all`; a list of them; a tensor of N indices; a callable on the output
            (N numbers); None explains each image's top class. A whole number is always an index. A word is a name
            first, and an index only where no class is named by a number; `class:all` is the class of that name,
            `index:3` the one at that place.
        method: a name that `whycam methods` lists; a list of them gives a dict by name, all of one forward pass.
        versus: a second class: the map of the difference of the two scores.
        layer: a module, its dotted name or a `Cut`, or several to combine; None finds the last one with positions.
        fuse: how the maps of several layers become one: mean (if None), max, product or tanh-max; see `fuse_maps`.
        smooth: average over views of the images: `flips`, `scales` or `flips,scales`.
        output: which entry of a dict or tuple holds the logits; None finds it.
        class_names: K names; None numbers them.
        photos: what the images were made of, kept with the result.
        paths: the files of the photos, likewise.
        origin: what to record about the model.
        chunk: the most images that one forward pass of a perturbation method holds.
        seed: for methods that draw at random.
        options: of the method.

    Raises:
        UserError: an unknown class, method, layer or output, images that are none (photos need preprocessing: see
            `whycam.load`), a forward that raises, or a model that the method can't explain.
    """
    names = [method] if isinstance(method, str) else list(method)
    methods = {name: get_method("contrast" if versus is not None and name == "cam" else name) for name in names}
    check_module(module)
    images = read_images(module, images)
    _check_call(images, methods, layer, fuse)
    smoothing, function = parse_smooth(smooth, images), target if callable(target) else None
    with blame(module, as_input(unwrap(module), images)):
        cuts = cut_layers(module, images, layer, list(methods.values()), function or output)
        views = prepare_views(module, images, cuts, smoothing)
    logits = _check_rows(read_scores(views[0][-1].trace[1], output, function), len(images), smoothing.copies)
    known = number_classes(class_names, logits.shape[1])
    numbers = logits.cpu().numpy()
    is_single = is_one(target)
    targets = torch.from_numpy(resolve_target(target, numbers, known)).to(logits.device)
    against = None if versus is None else find_class(versus, known)
    question = Question(targets, logits, function, against, output, chunk, seed, MethodOptions(options))
    repeated, result = question.repeat(smoothing.copies), {}
    for name, chosen in methods.items():
        # Of the layers that were found for a method that combines several, the others read the last.
        views_of = [layers if layer is not None else layers[-chosen.layers :] for layers in views]
        remarks = describe_noise(views_of[0][-1])
        asked = replace(repeated, remarks=remarks)
        maps = smoothing.average([run_method(chosen, layers, asked, fuse or "mean") for layers in views_of])
        record = {
            **_describe_method(chosen, question, known),
            **describe_layers(chosen, views_of[0], fuse),
            "target": describe_target(target),
            "smooth": str(smoothing) or "none",
            **(origin or {"model": type(unwrap(module)).__name__, "versions": dict(_read_versions())}),
        }
        result[name] = Explanation(
            maps=maps[:, 0] if is_single else maps,
            logits=logits,
            probabilities=torch.from_numpy(to_probabilities(numbers)).to(logits.device),
            target=targets[:, 0] if is_single else targets,
            class_names=known,
            record=record,
            is_signed=chosen.is_signed,
            photos=photos,
            notes=_make_notes(maps, question, known, explain_zeros(chosen, views[0][-1], repeated, maps), remarks),
            paths=paths,
        )
    if unread := question.options.unread:
        raise UserError(
            f"Found options that {', '.join(names)} does not have: {', '.join(sorted(unread))}. "
            "docs/methods.md lists those of each method."
        )
    return result[method] if isinstance(method, str) else result


@cache
def _read_versions() -> dict[str, str]:
    # They are looked up in files, which takes longer than a map.
    return read_versions()


def _check_call(images: Tensor, methods: Mapping[str, Method], layer: object, fuse: object) -> None:
    if not methods or not len(images):
        raise UserError(
            f"Found {len(images)} images and {len(methods)} methods; expected one or more of each. "
            "For example: method='grad-cam'."
        )
    if fuse is not None and not isinstance(layer, list | tuple):
        raise UserError(
            f"fuse={fuse!r} combines several layers; got layer={layer!r}. Name them: layer=['early', 'late']."
        )


def _check_rows(logits: Tensor, count: int, copies: int) -> Tensor:
    """The logits of the images themselves, which come before those of their mirror images."""
    if len(logits) != count * copies:
        raise UserError(
            f"The model gives scores of {len(logits)} images for {count * copies}; expected a row for each, (N, K). "
            "A squeeze() in its forward that drops the axis of a single image has this effect: name the axis there."
        )
    return logits[:count]


def _describe_method(method: Method, question: Question, names: Sequence[str]) -> dict[str, Any]:
    draws_both_signs = question.versus is not None and method.is_signed
    options = {key: value for key, value in question.options.items() if isinstance(value, str | int | float | bool)}
    return {
        "method": method.name,
        "paper": method.paper,
        "versus": None if question.versus is None else names[question.versus],
        "relu": render.NO_RELU,
        "is_signed": method.is_signed,
        "draws_both_signs": draws_both_signs,
        "scale": render.SCALE_SIGNED if draws_both_signs else render.SCALE_POSITIVE,
        "resize": render.RESIZE,
        "options": options,
        "seed": question.seed,
    }


def _make_notes(
    maps: Tensor,
    question: Question,
    names: Sequence[str],
    why_zero: Sequence[Sequence[str]],
    remarks: Sequence[str],
) -> tuple[tuple[str, ...], ...]:
    has_sides = question.logits.shape[1] == 1 and question.function is None
    sides = describe_side(question.logits.cpu().numpy(), names) if has_sides else [""] * len(maps)
    return tuple(
        (*([side] if side else []), *describe_blank(values, target, names, reasons), *dict.fromkeys(remarks))
        for values, target, side, reasons in zip(
            maps.cpu().numpy(), question.targets.tolist(), sides, why_zero, strict=True
        )
    )
