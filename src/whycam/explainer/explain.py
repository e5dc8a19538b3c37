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
from whycam.explainer.fits import check_methods
from whycam.explainer.inputs import Images, check_module, read_images
from whycam.explainer.passes import (
    Layer,
    MethodOptions,
    Prepared,
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
from whycam.explainer.views import Smoothing, parse_smooth
from whycam.maps import render
from whycam.model.activation import describe_activation, look_alike
from whycam.model.bare import Bare, take_off
from whycam.model.cut.base import Cut
from whycam.model.cut.blame import blame
from whycam.model.cut.own import SelfCut
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
    multi_label: bool = False,
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
        multi_label: each logit has a probability of its own, its sigmoid; a sigmoid at the module's end is found.
        options: of the method.

    A module that ends in a softmax or sigmoid is explained by the logits before it; its own probabilities are shown.

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
        check_methods(module, cuts, list(methods.values()))
        views = prepare_views(module, images, cuts, smoothing)
    logits = _check_rows(read_scores(views[0][-1].trace[1], output, function), len(images), smoothing.copies)
    scale = "multi-label logits" if multi_label else "logits"
    if function is None and not isinstance(unwrap(module), Bare | SelfCut) and look_alike(logits.cpu().numpy()):
        bare, activation, is_layer = take_off(unwrap(module), images, output)
        if activation != "none" and not _holds_cut(layer):
            told = {"activation": describe_activation(activation, is_taken_off=is_layer)}
            again: dict[str, Any] = {
                **{"versus": versus, "layer": layer, "fuse": fuse, "smooth": smooth, "class_names": class_names},
                **{"photos": photos, "paths": paths, "chunk": chunk, "seed": seed, **options},
                "origin": {**(origin or _describe_module(module)), **told},
                "multi_label": multi_label or (activation == "sigmoid" and logits.shape[1] > 1),
            }
            return explain(bare, images, target, method=method, **again)
        scale = "probabilities" if activation in {"softmax", "sigmoid"} else scale
    known = number_classes(class_names, logits.shape[1])
    targets = torch.from_numpy(resolve_target(target, logits.cpu().numpy(), known)).to(logits.device)
    against = None if versus is None else find_class(versus, known)
    question = Question(targets, logits, function, against, output, chunk, seed, MethodOptions(options))
    about = origin or _describe_module(module)
    result = {}
    for name, chosen in methods.items():
        # Of the layers that were found for a method that combines several, the others read the last.
        views_of = [layers if layer is not None else layers[-chosen.layers :] for layers in views]
        maps, notes = _run(chosen, views_of, question, smoothing, fuse, known)
        record = {
            **_describe_method(chosen, question, known),
            **describe_layers(chosen, views_of[0], fuse),
            "target": describe_target(target),
            "smooth": str(smoothing) or "none",
            **about,
        }
        result[name] = Explanation(
            maps=maps[:, 0] if is_one(target) else maps,
            logits=logits,
            probabilities=torch.from_numpy(to_probabilities(logits.cpu().numpy(), scale)).to(logits.device),
            target=targets[:, 0] if is_one(target) else targets,
            class_names=known,
            record=record,
            is_signed=chosen.is_signed,
            photos=photos,
            notes=notes,
            paths=paths,
        )
    if unread := question.options.unread:
        raise UserError(
            f"Found options that {', '.join(names)} does not have: {', '.join(sorted(unread))}. "
            "docs/methods.md lists those of each method."
        )
    return result[method] if isinstance(method, str) else result


def _run(  # noqa: PLR0917 - what one method of a call takes
    method: Method,
    views: Sequence[Sequence[Prepared]],
    question: Question,
    smoothing: Smoothing,
    fuse: Rule | None,
    names: Sequence[str],
) -> tuple[Tensor, tuple[tuple[str, ...], ...]]:
    """A method's maps (N, T, h, w), and each image's notes."""
    repeated = question.repeat(smoothing.copies)
    remarks = describe_noise(views[0][-1])
    asked = replace(repeated, remarks=remarks)
    maps = smoothing.average([run_method(method, layers, asked, fuse or "mean") for layers in views])
    why_zero = explain_zeros(method, views[0][-1], repeated, maps)
    return maps, _make_notes(maps, question, names, why_zero, remarks)


def _holds_cut(layer: object) -> bool:
    """Whether a layer is given as a cut, which is of the module as it is."""
    return any(isinstance(one, Cut) for one in (layer if isinstance(layer, list | tuple) else [layer]))


def _describe_module(module: nn.Module) -> dict[str, Any]:
    return {"model": type(unwrap(module)).__name__, "versions": dict(_read_versions())}


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
