"""Model: a classifier with what it takes to explain photos by it; load() makes one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast, overload

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from whycam.cam.registry import Method, get_method, iter_methods
from whycam.data.images import image_from_pil, load_image
from whycam.data.loader import Photo, stream_batches
from whycam.data.pixels import image_from_array
from whycam.data.preprocess import Preprocess
from whycam.data.samples import make_probe
from whycam.errors import UserError
from whycam.explainer.exact import ExactReader, describe_output, is_answered
from whycam.explainer.explain import Names, explain
from whycam.explainer.explanation import Explanation
from whycam.explainer.fits import WITHOUT_FEATURES
from whycam.explainer.reading import Reading
from whycam.explainer.targets import Target, describe_target, is_one
from whycam.intake.door import open_classifier
from whycam.model.classifier import Classifier
from whycam.model.cut.layer import NoCellsError
from whycam.model.input import normalise_on

if TYPE_CHECKING:
    from whycam.maps.refine import Refiner

ImageLike = str | Path | Image.Image | np.ndarray | Tensor


@dataclass(frozen=True)
class Model:
    """A classifier that explains photos by every method: `whycam.load` makes one.

    Attributes:
        classifier: what answers for pixels.
    """

    classifier: Classifier
    _refiners: list[Refiner] = field(default_factory=list, init=False, repr=False, compare=False)

    @property
    def network(self) -> nn.Module:
        """The module, in eval mode, on `device`."""
        return self.classifier.network

    @property
    def class_names(self) -> tuple[str, ...]:
        """K names, in the order of the logits."""
        return self.classifier.card.class_names

    @property
    def preprocess(self) -> Preprocess:
        """From a photo to the network's input."""
        return self.classifier.card.preprocess

    @property
    def name(self) -> str:
        """What it was loaded by."""
        return self.classifier.card.name

    @property
    def origin(self) -> Mapping[str, Any]:
        """Backbone, weights, identity error: recorded with each result."""
        return self.classifier.card.origin

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return torch.device(self.classifier.card.device)

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
                pixels (N, 3, H, W) uint8; or a normalised batch (N, 3, H, W) of floats, of the network's input size.
            target: class index or name; `top:N`; `all`; a list of them (each photo then has a map of each); a tensor
                of N indices (one for each photo); a callable on the output; None explains each photo's top class. What
                a number or a word means is said in `whycam.explain`.
            method: a name that `whycam methods` lists; a list of them gives a dict of explanations.
            how: what `whycam.explain` takes beside these: layer, versus, smooth, fuse, and options of the method;
                refine=True gives maps that tell where the object is, not how much each place counts
                (docs/localization.md).

        Raises:
            UserError: an unreadable photo, an unknown class, method or layer, or a model that the method can't explain.
        """
        if isinstance(images, Tensor) and images.ndim == 4 and images.is_floating_point():
            return self._explain(images.to(self.device), target, method, **how)
        listed = _list_images(images)
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
        if self.classifier.card.is_exact and is_answered(method, target, how):
            names = [method] if isinstance(method, str) else method
            classes = target.detach().cpu().numpy() if isinstance(target, Tensor) else target
            read = ExactReader(self.classifier, classes, how.get("versus"))
            why = join_readings(read(pixels, photos or [None] * len(pixels)), paths, is_single=is_one(target))
            why = replace(why, record={**why.record, "target": describe_target(target)})
            return why if isinstance(method, str) else dict.fromkeys(names, why)
        inputs = normalise_on(torch.from_numpy(pixels).to(self.device), self.preprocess)
        return self._explain(inputs, target, method, photos=photos, paths=paths, **how)

    def _check_refined(self, method: str | Names, target: Target, how: Mapping[str, Any]) -> None:
        self.classifier.card.check_exact("Refined maps start from exact class maps.")
        given = {"method": method, **how}
        others = [f"{name} {value!r}" for name, value in given.items() if value not in {"cam", None}]
        if others or callable(target):
            raise UserError(
                f"Refined maps are made of the plain class maps of classes; found {', '.join(others) or 'a callable'} "
                "beside. Leave it out, or leave out refine."
            )

    def _refine(self, why: Explanation, pixels: np.ndarray) -> Explanation:
        """The same explanation with refined maps in the place of its class maps."""
        from whycam.maps.refine import make_refiner  # noqa: PLC0415 - timm, which the maps of an exported graph do without

        if not self._refiners:
            self._refiners.append(make_refiner(self.classifier.exact_network))
        refiner = self._refiners[0]
        photos = why.photos or [Image.fromarray(np.ascontiguousarray(one.transpose(1, 2, 0))) for one in pixels]
        maps = refiner(photos, why.targets)
        record = {**why.record, "refined": asdict(refiner.recipe), "is_signed": False}
        return replace(why, maps=maps if why.target.ndim == 2 else maps[:, 0], record=record, is_signed=False)

    def check_methods(self, names: Iterable[str]) -> list[Method]:
        """The methods of these names.

        Raises:
            UserError: an unknown one, or one that needs what this model has not; those that work are named.
        """
        card, methods = self.classifier.card, [get_method(name) for name in names]

        def is_given(method: Method) -> bool:
            # What combines layers would take gradients at those before a head that another library runs.
            return card.answers_for(method.needs) and (method.layers == 1 or card.answers is None)

        for method in methods:
            if method.needs == "linear head":
                card.check_exact()
            elif not is_given(method):
                works = [one.name for one in iter_methods() if is_given(one)]
                raise UserError(
                    f"{method.name} needs {method.needs}, which {card.a_kind} such as {card.name!r} does not give. "
                    f"What works on it: {', '.join(works)}."
                )
        return methods

    def find_fault(self, name: str, **how: Any) -> str:
        """Why a method can't explain this model, tried on an installed photo; empty where it can."""
        try:
            self.explain_pixels(make_probe(self.preprocess)[:1], None, name, **how)
        except UserError as error:
            return str(error)
        return ""

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
        how["layer"] = self._cut(inputs, how.get("layer"), self.check_methods(names), how.get("output"))
        about = {"model": self.name, **self.origin, **describe_output(self.classifier.card)}
        about["preprocess"] = self.preprocess.model_dump()
        why = explain(
            self.network,
            inputs,
            target,
            method=list(names),
            class_names=self.class_names,
            origin=about,
            multi_label=self.classifier.card.is_multi_label,
            **how,
        )
        return why[method] if isinstance(method, str) else why

    def _cut(self, inputs: Tensor, layer: Any, methods: Sequence[Method], output: str | int | None) -> Any:
        """The layer, as a cut that is made once: a search for it costs a few forward passes."""
        if (layer is None and any(m.layers > 1 for m in methods)) or not isinstance(layer, str | None):
            return layer
        if self.classifier.is_torch_free:
            return layer  # it remembers its cuts itself
        try:
            return self.classifier.cut(inputs, layer, reads_tail=any(m.reads_tail for m in methods), output=output)
        except NoCellsError:
            if layer is not None or any(method.needs not in WITHOUT_FEATURES for method in methods):
                raise
            return None  # methods of scores alone do without


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


def _list_images(images: object) -> list[ImageLike]:
    if isinstance(images, Tensor) and images.ndim == 4:
        return list(images)
    if isinstance(images, str | Path | Image.Image | np.ndarray | Tensor):
        return [images]
    if isinstance(images, Mapping) or not isinstance(images, Iterable):
        raise UserError(
            f"Found {type(images).__name__}; expected a path, an image, an array or a tensor, or several of them. Pass "
            "those alone."
        )
    return list(images)


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
    model: object,
    *,
    device: str = "auto",
    weights: Path | None = None,
    class_names: Sequence[str] | Path | None = None,
    preprocess: object = None,
    image_size: int | None = None,
    engine: str = "auto",
) -> Model:
    """A model to explain with.

    Args:
        model: a run or model folder; `imagenet` (the installed network), a timm or torchvision name; a Hugging Face
            folder or `hf:org/name`; an .onnx, .keras, .h5, .pt2 or TorchScript file; `file.py:attribute` or
            `package.module:attribute`, whose code is run; a torch module; or a function, normalised images
            (N, C, H, W) -> scores (N, K). docs/models.md has a section on each. A module stays as it is; what is
            trained of it later is seen, and once its weights are replaced by others it must be loaded again.
        device: auto, cpu, cuda or mps.
        weights: a local file, for a name or for code.
        class_names: K names in the order of the outputs, or a file of them, a name a line [the model's own].
        preprocess: imagenet, half, unit, bytes, caffe, a JSON file of a Preprocess, a Preprocess, or a transform of
            torchvision's or timm's [the model's own; where it has none, it must be given].
        image_size: side of the network's input in pixels, where it takes any; more pixels make finer maps.
        engine: what makes exact maps. onnx: the exported graph, made now if it isn't in the cache (some seconds, once);
            auto: the same where it is in the cache and there is no GPU; torch: never.

    Raises:
        UserError: no such model, a missing or tampered file, weights out of reach, a broken identity, class names of
            another number than the outputs, or no word on how photos are prepared.
    """
    opened = open_classifier(
        model,
        device=device,
        weights=weights,
        classes=class_names,
        preprocess=preprocess,
        image_size=image_size,
        engine=engine,
    )
    return Model(opened.ready())
