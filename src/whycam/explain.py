"""explain() and Model: own the forward pass, modes and devices; give back an Explanation.

Methods are in `cam/`; this file names none but the default.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from whycam import render
from whycam.cam.registry import Method, Pass, get_method
from whycam.data.images import image_from_array, image_from_pil, load_image
from whycam.data.loader import Photo, in_batches, stream_photos
from whycam.data.preprocess import Preprocess
from whycam.errors import UserError, make_unknown_name
from whycam.explanation import Explanation
from whycam.model.backbone import Backbone
from whycam.model.classifier import (
    GapClassifier,
    HeadError,
    load_classifier,
    load_network,
    make_exact,
    name_classes,
    probe_identity,
)
from whycam.model.features import normalise_on
from whycam.model.output import select_output
from whycam.model.tail import run_linear, undisturbed
from whycam.model.tap import cut_model
from whycam.runs import read_versions
from whycam.targets import Target, describe_blank, find_class, make_score, resolve_target, to_probabilities

ImageLike = str | Path | Image.Image | np.ndarray | Tensor


@dataclass(frozen=True)
class Model:
    """A classifier with what it takes to explain it: `whycam.load` makes one.

    Attributes:
        network: the module, in eval mode, on `device`.
        class_names: K names, in the order of the logits.
        preprocess: from a photo to the network's input.
        name: what it was loaded by.
        origin: backbone, weights, identity error: recorded with each result.
        device: where it computes.
        no_exact_map: why it has no exact maps; empty where it has.
    """

    network: nn.Module
    class_names: tuple[str, ...]
    preprocess: Preprocess
    name: str
    origin: Mapping[str, Any]
    device: torch.device
    no_exact_map: str = ""

    def explain(
        self,
        images: ImageLike | Iterable[ImageLike],
        target: Target = None,
        *,
        method: str = "cam",
        versus: int | str | None = None,
        layer: str | nn.Module | None = None,
        **options: object,
    ) -> Explanation:
        """Class maps of photos.

        Args:
            images: one or several of: path, PIL image, array (H, W, 3) or (H, W), tensor (3, H, W) in [0, 1] or uint8;
                or a normalised batch (N, 3, H, W) of the network's input size.
            target: class index or name; `top:N`; `all`; a list of them (each photo then has a map of each); a tensor
                of N indices (one for each photo); a callable on the output; None explains each photo's top class.
            method: a name that `whycam methods` lists.
            versus: explain the target against this class: the exact difference of two maps.
            layer: whose features are used; None finds it.
            options: of the method.

        Raises:
            UserError: an unreadable photo, an unknown class, method or layer, or a model that the method can't explain.
        """
        if isinstance(images, Tensor) and images.ndim == 4:
            return self._explain(images.to(self.device), (), (), target, method, versus, layer, options)
        listed = [images] if isinstance(images, str | Path | Image.Image | np.ndarray | Tensor) else list(images)
        if not listed:
            raise UserError("Found no images; expected at least one. Pass a path, an image, an array or a tensor.")
        photos = [to_photo(image) for image in listed]
        pixels = torch.from_numpy(np.stack([self.preprocess.to_pixels(photo) for photo in photos]))
        paths = tuple(Path(image) for image in listed if isinstance(image, str | Path))
        inputs = normalise_on(pixels.to(self.device), self.preprocess)
        kept_paths = paths if len(paths) == len(photos) else ()
        return self._explain(inputs, tuple(photos), kept_paths, target, method, versus, layer, options)

    def stream(
        self, paths: Iterable[Path], target: Target = None, *, batch_size: int = 16, **how: Any
    ) -> Iterator[tuple[Photo, Explanation | None]]:
        """Photos of any number of files, in order, each with its explanation; unreadable ones carry their reason.

        Memory does not grow with the number of files. `how` is what `explain` takes.
        """
        decoded = stream_photos(paths, self.preprocess, keep_image=True, ahead=2 * batch_size)
        options = {
            key: how.pop(key, default) for key, default in (("method", "cam"), ("versus", None), ("layer", None))
        }
        for batch in in_batches(decoded, batch_size):
            good = [photo for photo in batch if photo.pixels is not None]
            found: Iterator[Explanation] = iter(())
            if good:
                inputs = normalise_on(
                    torch.from_numpy(np.stack([photo.pixels for photo in good])).to(self.device), self.preprocess
                )
                images = tuple(photo.image for photo in good if photo.image is not None)
                files = tuple(photo.path for photo in good)
                found = iter(self._explain(inputs, images, files, target, options=how, **options))
            for photo in batch:
                yield photo, next(found) if photo.pixels is not None else None

    def _explain(
        self,
        inputs: Tensor,
        photos: tuple[Image.Image, ...],
        paths: tuple[Path, ...],
        target: Target,
        method: str,
        versus: int | str | None,
        layer: str | nn.Module | None,
        options: Mapping[str, object],
    ) -> Explanation:
        if self.no_exact_map and method in {"cam", "contrast"}:
            raise UserError(self.no_exact_map)
        return explain(
            self.network,
            inputs,
            target,
            method=method,
            versus=versus,
            layer=layer,
            class_names=self.class_names,
            photos=photos,
            paths=paths,
            origin={"model": self.name, **self.origin, "preprocess": self.preprocess.model_dump()},
            **options,
        )


def to_photo(image: ImageLike) -> Image.Image:
    """An upright RGB photo of whatever a caller has.

    Raises:
        UserError: unreadable, or an array that is no picture.
    """
    if isinstance(image, str | Path):
        return load_image(image)
    if isinstance(image, Image.Image):
        return image_from_pil(image)
    return image_from_array(image.detach().cpu().numpy() if isinstance(image, Tensor) else image)


def load(
    model: str | Path, *, device: str = "auto", weights: Path | None = None, image_size: int | None = None
) -> Model:
    """A model to explain with.

    Args:
        model: a run folder, a model folder, `imagenet` (the installed network), or a timm name.
        device: auto, cpu, cuda or mps.
        weights: a local file, for a timm name.
        image_size: side of the network's input in pixels, for a name; more pixels make finer maps.

    Raises:
        UserError: no such model, a missing or tampered file, weights out of reach, a broken identity.
    """
    folder, chosen = Path(model), choose_device(device)
    if folder.is_dir():
        network: nn.Module = load_classifier(folder / "model" if (folder / "model").is_dir() else folder)
        return _wrap(network, network.origin, str(model), chosen)
    if folder.exists() or len(folder.parts) > 1:
        found = "a file" if folder.exists() else "nothing"
        raise UserError(
            f"Found {found} at '{folder.absolute()}'; expected a run folder, a model folder, 'imagenet' or a timm name. Check the path."
        )
    whole, origin = load_network(str(model), weights=weights, image_size=image_size)
    try:
        return _wrap(make_exact(whole, origin), origin, str(model), chosen)
    except HeadError as error:
        return _wrap(whole, origin, str(model), chosen, str(error))


def _wrap(network: nn.Module, origin: Backbone, name: str, device: torch.device, no_exact_map: str = "") -> Model:
    about: dict[str, Any] = {"backbone": origin.architecture, "weights": origin.source}
    names = name_classes(getattr(network, "num_classes", 0))
    if isinstance(network, GapClassifier):
        about |= {
            "head": network.head,
            "map_stride": network.origin.map_stride,
            "identity_error": probe_identity(network),
        }
        names = list(network.class_names)
    network.requires_grad_(requires_grad=False)
    about["versions"] = read_versions()
    return Model(network.to(device).eval(), tuple(names), origin.preprocess, name, about, device, no_exact_map)


def choose_device(name: str) -> torch.device:
    """The device of that name; auto takes a GPU where there is one.

    Raises:
        UserError: this machine has no such device.
    """
    has = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        return torch.device(next((kind for kind in ("cuda", "mps") if has[kind]), "cpu"))
    kind = name.split(":")[0]
    if not has.get(kind, False):
        there = ", ".join(kind for kind, is_there in has.items() if is_there)
        raise UserError(
            f"Device {name!r} is not on this machine; it has {there}. Give --device {there.split(', ')[0]}, or leave it out."
        )
    return torch.device(name)


@dataclass(frozen=True)
class Prepared:
    """One forward pass of a model, cut at a layer: what every method of one call shares."""

    images: Tensor
    features: Tensor
    logits: Tensor
    tail: Callable[[Tensor, Tensor], object]
    model: Callable[[Tensor], object]
    weight: Tensor | None
    bias: Tensor | None
    layer: str
    how: str


def prepare(
    module: nn.Module, images: Tensor, layer: str | nn.Module | None, output: str | int | None, *, needs_gradient: bool
) -> Prepared:
    """One forward pass: the features at the layer, the logits, and the tail between them."""
    if isinstance(module, GapClassifier) and layer is None:
        weight, bias = module.classifier.weight.detach(), module.classifier.bias.detach()
        with undisturbed(module, with_grad=False):
            features = module.features(images)
            logits = module.classify(features)

        def run(batch: Tensor) -> object:
            with undisturbed(module, with_grad=False):
                return module(batch)

        return Prepared(
            images,
            features,
            logits,
            lambda f, _: run_linear(f, weight, bias),
            run,
            weight,
            bias,
            "features before pooling",
            "GAP + linear",
        )
    cut = cut_model(module, images, layer, needs_gradient=needs_gradient)
    trace = cut.trace(images)
    logits = select_output(trace.output, output).detach().float()
    features = trace.features.detach()
    return Prepared(
        trace.images, features, logits, trace.tail, lambda x: cut.run(x)[0], cut.weight, cut.bias, cut.layer, cut.how
    )


def explain(
    module: nn.Module,
    images: Tensor,
    target: Target = None,
    *,
    method: str = "cam",
    versus: int | str | None = None,
    layer: str | nn.Module | None = None,
    output: str | int | None = None,
    class_names: Sequence[str] | None = None,
    photos: tuple[Image.Image, ...] = (),
    paths: tuple[Path, ...] = (),
    origin: Mapping[str, Any] | None = None,
    chunk: int = 32,
    seed: int = 0,
    **options: object,
) -> Explanation:
    """Class maps for a batch, of any image classifier.

    Args:
        module: any module whose output is, or holds, logits (N, K).
        images: (N, channels, H, W) as the module takes them (normalised).
        target: class index or name; `top:N`; `all`; a list of them; a tensor of N indices; a callable on the output
            (N numbers); None explains each image's top class.
        method: a name that `whycam methods` lists.
        versus: a second class: the map of the difference of the two scores.
        layer: a module or its dotted name; None finds the last one with positions.
        output: which entry of a dict or tuple holds the logits; None finds it.
        class_names: K names; None numbers them.
        photos, paths: what the images were made of, kept with the result.
        origin: what to record about the model.
        chunk: the most images that one forward pass of a perturbation method holds.
        seed: for methods that draw at random.
        options: of the method.
    """
    chosen = get_method("contrast" if versus is not None and method == "cam" else method)
    prepared = prepare(module, images, layer, output, needs_gradient=chosen.needs in {"gradients", "scores"})
    names = tuple(class_names) if class_names else tuple(f"class {k}" for k in range(prepared.logits.shape[1]))
    targets, is_single = resolve_target(target, prepared.logits, names)
    against = None if versus is None else find_class(versus, names)
    columns = []
    for t in range(targets.shape[1]):
        p = Pass(
            images=prepared.images,
            features=prepared.features,
            target=targets[:, t],
            score=make_score(targets[:, t], target if callable(target) else None, against, prepared.logits, output),
            tail=prepared.tail,
            model=prepared.model,
            weight=prepared.weight,
            bias=prepared.bias,
            chunk=chunk,
            seed=seed,
            options=dict(options) | ({} if against is None else {"versus": against}),
            module=module,
        )
        columns.append(chosen.run(p).float())
    maps = torch.stack(columns, dim=1).detach()
    record = {
        "method": chosen.name,
        "paper": chosen.paper,
        "layer": prepared.layer,
        "cut": prepared.how,
        "target": target if isinstance(target, str | int) else "predicted" if target is None else type(target).__name__,
        "versus": None if against is None else names[against],
        "relu": "none: the raw map is kept",
        "is_signed": chosen.is_signed,
        "draws_both_signs": against is not None,
        "scale": render.SCALE_SIGNED if against is not None else render.SCALE_POSITIVE,
        "resize": render.RESIZE,
        "options": {key: value for key, value in options.items() if isinstance(value, str | int | float | bool)},
        "seed": seed,
        **(origin or {"model": type(module).__name__, "versions": read_versions()}),
    }
    notes = tuple(tuple(describe_blank(maps[i], targets[i].tolist(), names)) for i in range(len(maps)))
    return Explanation(
        maps=maps[:, 0] if is_single else maps,
        logits=prepared.logits,
        probabilities=to_probabilities(prepared.logits),
        target=targets[:, 0] if is_single else targets,
        class_names=names,
        record=record,
        is_signed=chosen.is_signed,
        photos=photos,
        notes=notes,
        paths=paths,
    )
