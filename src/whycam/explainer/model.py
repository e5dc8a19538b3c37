"""Model: a classifier with what it takes to explain photos by it; load() makes one."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, cast, overload

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from whycam.cam.registry import Method, get_method
from whycam.data.images import image_from_pil, load_image
from whycam.data.loader import Photo, stream_batches
from whycam.data.pixels import image_from_array
from whycam.data.preprocess import Preprocess
from whycam.errors import UserError
from whycam.explainer.exact import EngineReader, is_answered
from whycam.explainer.explain import Names, explain
from whycam.explainer.explanation import Explanation
from whycam.explainer.passes import cut_layers
from whycam.explainer.reading import Reading
from whycam.explainer.targets import Target, is_one
from whycam.maps.refine import Refiner, make_refiner
from whycam.model.backbone import Backbone, hash_tensors
from whycam.model.cache import is_cached
from whycam.model.cut.tap import Cut
from whycam.model.gap import (
    GapClassifier,
    HeadError,
    load_classifier,
    load_network,
    make_exact,
    name_classes,
    probe_identity,
    probe_images,
)
from whycam.model.input import normalise_on
from whycam.model.onnx.engine import OnnxEngine, check_engine, find_engine, open_kept, place_engine
from whycam.model.onnx.export import open_cached
from whycam.runs import read_versions

log = logging.getLogger("whycam.explain")
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
        engine: the exported graph, which answers for `cam` and `contrast` without torch, several times faster.
    """

    network: nn.Module
    class_names: tuple[str, ...]
    preprocess: Preprocess
    name: str
    origin: Mapping[str, Any]
    device: torch.device
    no_exact_map: str = ""
    engine: OnnxEngine | None = None
    _cuts: dict[object, list[Cut | None]] = field(default_factory=dict, init=False, repr=False, compare=False)
    _refiners: list[Refiner] = field(default_factory=list, init=False, repr=False, compare=False)

    @overload
    def explain(
        self, images: ImageLike | Iterable[ImageLike], target: Target = None, *, method: str = "cam", **how: Any
    ) -> Explanation: ...

    @overload
    def explain(
        self, images: ImageLike | Iterable[ImageLike], target: Target = None, *, method: Names, **how: Any
    ) -> dict[str, Explanation]: ...

    def explain(
        self,
        images: ImageLike | Iterable[ImageLike],
        target: Target = None,
        *,
        method: str | Names = "cam",
        **how: Any,
    ) -> Explanation | dict[str, Explanation]:
        """Class maps of photos.

        Args:
            images: one or several of: path, PIL image, array (H, W, 3) or (H, W), tensor (3, H, W) in [0, 1] or uint8;
                or a normalised batch (N, 3, H, W) of the network's input size.
            target: class index or name; `top:N`; `all`; a list of them (each photo then has a map of each); a tensor
                of N indices (one for each photo); a callable on the output; None explains each photo's top class.
            method: a name that `whycam methods` lists; a list of them gives a dict of explanations.
            how: what `whycam.explain` takes beside these: layer, versus, smooth, fuse, and options of the method;
                refine=True gives maps that tell where the object is, not how much each place counts
                (docs/localization.md).

        Raises:
            UserError: an unreadable photo, an unknown class, method or layer, or a model that the method can't explain.
        """
        if isinstance(images, Tensor) and images.ndim == 4:
            return self._explain(images.to(self.device), target, method, **how)
        listed = [images] if isinstance(images, str | Path | Image.Image | np.ndarray | Tensor) else list(images)
        if not listed:
            raise UserError("Found no images; expected at least one. Pass a path, an image, an array or a tensor.")
        photos = tuple(to_photo(image) for image in listed)
        pixels = np.stack([self.preprocess.to_pixels(photo) for photo in photos])
        paths = tuple(Path(image) for image in listed if isinstance(image, str | Path))
        return self.explain_pixels(
            pixels, target, method, photos=photos, paths=paths if len(paths) == len(photos) else (), **how
        )

    def explain_pixels(
        self,
        pixels: np.ndarray,
        target: Target = None,
        method: str | Names = "cam",
        *,
        photos: tuple[Image.Image, ...] = (),
        paths: tuple[Path, ...] = (),
        **how: Any,
    ) -> Explanation | dict[str, Explanation]:
        """Class maps of (N, 3, H, W) uint8, the network's input before normalisation; see `explain`."""
        if how.pop("refine", False):
            self._check_refined(method, target, how)
            why = self.explain_pixels(pixels, target, photos=photos, paths=paths)
            return self._refine(cast(Explanation, why), pixels)
        if self.engine is not None and is_answered(method, target, how):
            names = [method] if isinstance(method, str) else method
            read = EngineReader(self.engine, self.name, target, how.get("versus"))
            why = join_readings(read(pixels, photos or [None] * len(pixels)), paths, is_single=is_one(target))
            return why if isinstance(method, str) else dict.fromkeys(names, why)
        inputs = normalise_on(torch.from_numpy(pixels).to(self.device), self.preprocess)
        return self._explain(inputs, target, method, photos=photos, paths=paths, **how)

    def _check_refined(self, method: str | Names, target: Target, how: Mapping[str, Any]) -> None:
        if not isinstance(self.network, GapClassifier):
            raise UserError(f"Refined maps start from exact class maps. {self.no_exact_map}")
        given = {"method": method, **how}
        others = [f"{name} {value!r}" for name, value in given.items() if value not in {"cam", None}]
        if others or callable(target):
            raise UserError(
                f"Refined maps are made of the plain class maps of classes; found {', '.join(others) or 'a callable'} "
                "beside. Leave it out, or leave out refine."
            )

    def _refine(self, why: Explanation, pixels: np.ndarray) -> Explanation:
        """The same explanation with refined maps in the place of its class maps."""
        if not self._refiners:
            self._refiners.append(make_refiner(cast(GapClassifier, self.network)))
        refiner = self._refiners[0]
        photos = why.photos or [Image.fromarray(np.ascontiguousarray(one.transpose(1, 2, 0))) for one in pixels]
        maps = refiner(photos, why.targets)
        record = {**why.record, "refined": asdict(refiner.recipe), "is_signed": False}
        return replace(why, maps=maps if why.target.ndim == 2 else maps[:, 0], record=record, is_signed=False)

    def stream(
        self, paths: Iterable[Path], target: Target = None, *, batch_size: int = 16, method: str = "cam", **how: Any
    ) -> Iterator[tuple[Photo, Explanation | None]]:
        """Photos of any number of files, in order, each with its explanation; unreadable ones carry their reason.

        Memory does not grow with the number of files, and large ones make smaller batches. `how` is what `explain`
        takes.
        """
        for batch in stream_batches(paths, self.preprocess, batch_size):
            yield from self._explain_batch(batch, target, method, how)
            del batch  # else it stays in memory while the next one is decoded

    def _explain_batch(
        self, batch: Sequence[Photo], target: Target, method: str, how: Mapping[str, Any]
    ) -> Iterator[tuple[Photo, Explanation | None]]:
        good = [photo for photo in batch if photo.pixels is not None]
        found: Iterator[Explanation] = iter(())
        if good:
            pixels = np.stack([photo.pixels for photo in good if photo.pixels is not None])
            images = tuple(photo.image for photo in good if photo.image is not None)
            files = tuple(photo.path for photo in good)
            why = self.explain_pixels(pixels, target, method, photos=images, paths=files, **how)
            found = iter(cast(Explanation, why))
        for photo in batch:
            yield photo, next(found) if photo.pixels is not None else None

    @overload
    def _explain(self, inputs: Tensor, target: Target, method: Names, **how: Any) -> dict[str, Explanation]: ...

    @overload
    def _explain(
        self, inputs: Tensor, target: Target, method: str | Names, **how: Any
    ) -> Explanation | dict[str, Explanation]: ...

    def _explain(
        self, inputs: Tensor, target: Target, method: str | Names, **how: Any
    ) -> Explanation | dict[str, Explanation]:
        names = [method] if isinstance(method, str) else method
        if self.no_exact_map and not {"cam", "contrast"}.isdisjoint(names):
            raise UserError(self.no_exact_map)
        how["layer"] = self._cut(inputs, how.get("layer"), [get_method(name) for name in names])
        about = {"model": self.name, **self.origin, "preprocess": self.preprocess.model_dump()}
        why = explain(
            self.network, inputs, target, method=list(names), class_names=self.class_names, origin=about, **how
        )
        return why[method] if isinstance(method, str) else why

    def _cut(self, inputs: Tensor, layer: Any, methods: Sequence[Method]) -> Any:
        """The layer, as a cut where one has been made before: a search for it costs a few forward passes."""
        if layer is None and (isinstance(self.network, GapClassifier) or any(m.layers > 1 for m in methods)):
            return None
        if not (layer is None or isinstance(layer, str)):
            return layer
        key = (layer, inputs.shape[1:], inputs.dtype, any(m.reads_tail for m in methods))
        if key not in self._cuts:
            self._cuts[key] = cut_layers(self.network, inputs, layer, methods)
        return self._cuts[key][0]


def join_readings(readings: Sequence[Reading], paths: tuple[Path, ...], *, is_single: bool) -> Explanation:
    """The explanation of a batch, of its photos' readings."""
    first = readings[0]
    maps = torch.from_numpy(np.stack([reading.maps for reading in readings]))
    targets = torch.from_numpy(np.stack([reading.targets for reading in readings]))
    return Explanation(
        maps=maps[:, 0] if is_single else maps,
        logits=torch.from_numpy(np.stack([reading.logits for reading in readings])),
        probabilities=torch.from_numpy(np.stack([reading.probabilities for reading in readings])),
        target=targets[:, 0] if is_single else targets,
        class_names=first.class_names,
        record=first.record,
        is_signed=True,
        photos=tuple(reading.photo for reading in readings if reading.photo is not None),
        notes=tuple(reading.notes for reading in readings),
        paths=paths,
    )


def make_engine(model: Model, path: Path | None = None, threads: int | None = None) -> OnnxEngine:
    """The model's exported graph, from the cache, or made now.

    Args:
        model: on the CPU.
        path: its place, where `find_engine` knows one; None finds it by the model's tensors.
        threads: that one call uses; None takes one for each core.

    Raises:
        UserError: it has no exact maps, or can't be exported; a cache that can't be written to.
    """
    network = model.network
    if not isinstance(network, GapClassifier):
        raise UserError(model.no_exact_map)
    path = path or place_engine(
        [hash_tensors(network.state_dict()), model.preprocess.model_dump_json(), *model.class_names]
    )
    # What is recorded takes two passes of the network: only a graph that is made needs it.
    return open_kept(path, threads) or open_cached(
        path, network, origin=model.origin, records=record_methods(model), threads=threads
    )


def record_methods(model: Model) -> dict[str, dict[str, Any]]:
    """What is recorded with exact maps of that model, by method."""
    noise = probe_images(model.preprocess, 1).to(model.device)
    found: dict[str, dict[str, Any]] = {"cam": dict(model.explain(noise, 0).record)}
    if len(model.class_names) > 1:
        found["contrast"] = dict(model.explain(noise, 0, versus=1).record)
    return found


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
    model: str | Path,
    *,
    device: str = "auto",
    weights: Path | None = None,
    image_size: int | None = None,
    engine: str = "auto",
) -> Model:
    """A model to explain with.

    Args:
        model: a run folder, a model folder, `imagenet` (the installed network), or a timm name.
        device: auto, cpu, cuda or mps.
        weights: a local file, for a timm name.
        image_size: side of the network's input in pixels, for a name; more pixels make finer maps.
        engine: what makes exact maps. onnx: the exported graph, made now if it isn't in the cache (some seconds, once);
            auto: the same where it is in the cache and there is no GPU; torch: never.

    Raises:
        UserError: no such model, a missing or tampered file, weights out of reach, a broken identity.
    """
    check_engine(engine)
    found = _load(model, device, weights, image_size)
    if engine == "torch":
        return found
    # With weights or a size of the caller's own, the name does not say which graph it is.
    path = find_engine(found.name) if weights is None and image_size is None else None
    if engine == "onnx":
        return replace(found, engine=make_engine(found, path))
    if path is None or not is_cached(path) or found.device.type != "cpu":
        return found
    try:
        return replace(found, engine=make_engine(found, path))
    except UserError as error:
        log.warning("Explaining with torch: %s", error)
        return found


def _load(model: str | Path, device: str, weights: Path | None, image_size: int | None) -> Model:
    folder, chosen = Path(model), choose_device(device)
    if folder.is_dir():
        classifier = load_classifier(folder / "model" if (folder / "model").is_dir() else folder)
        return _wrap(classifier, classifier.origin, str(model), chosen)
    if folder.exists() or len(folder.parts) > 1:
        found = "a file" if folder.exists() else "nothing"
        raise UserError(
            f"Found {found} at '{folder.absolute()}'; expected a run folder, a model folder, 'imagenet' or a timm "
            "name. Check the path."
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
    kind = name.split(":", maxsplit=1)[0]
    if not has.get(kind, False):
        there = ", ".join(kind for kind, is_there in has.items() if is_there)
        raise UserError(
            f"Device {name!r} is not on this machine; it has {there}. "
            f"Give --device {there.split(', ', maxsplit=1)[0]}, or leave it out."
        )
    return torch.device(name)
