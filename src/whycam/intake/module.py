"""Any torch module: the user's own network, or one that another kind of model here was turned into."""

from __future__ import annotations

import copy
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from whycam.data.preprocess import Preprocess
from whycam.data.samples import make_probe
from whycam.errors import UserError, as_clause
from whycam.intake.request import Found, Kind, Request
from whycam.model.activation import describe_activation
from whycam.model.card import Card, Output
from whycam.runs import read_versions

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True)
class Known:
    """What is known of a network beside itself.

    Attributes:
        preprocess: from a photo to the input; None where nobody says.
        preprocess_from: where that is known from, in words.
        size: (height, width) of the input where it is fixed.
        class_names: K names; None where nobody says.
        origin: recorded with each result.
        is_multi_label: whether the labels are said not to exclude each other.
        channels: of the images; None finds them by the first convolution.
    """

    preprocess: Preprocess | None = None
    preprocess_from: str = ""
    size: tuple[int, int] | None = None
    class_names: Sequence[str] | None = None
    origin: Mapping[str, Any] | None = None
    is_multi_label: bool = False
    channels: int | None = None


def open_module(network: nn.Module, request: Request, kind: str, known: Known) -> Found:
    """A network as a classifier: its outputs counted, its last activation taken off, its tail measured.

    Raises:
        UserError: it takes no images of the size that is said, gives no scores (N, K), or nobody says how photos are
            prepared.
    """
    network = network.requires_grad_(requires_grad=False).to(request.device).eval()
    size = known.size or _read_size(known.preprocess)
    channels = known.channels or _count_channels(network)
    preprocess, told = request.choose_preprocess(size, known.preprocess, known.preprocess_from, channels=channels)
    import torch  # noqa: PLC0415 - whoever has a network has imported it

    from whycam.model.bare import take_off  # noqa: PLC0415 - torch
    from whycam.model.input import normalise_on  # noqa: PLC0415 - torch

    images = normalise_on(torch.from_numpy(make_probe(preprocess)).to(request.device), preprocess)
    scores = _ask(network, images, is_size_known=bool(size or request.image_size))
    names = request.name_classes(scores.shape[1], known.class_names)

    bare, activation, is_layer = take_off(network, images)
    is_several = known.is_multi_label or (activation == "sigmoid" and scores.shape[1] > 1)
    output: Output = "multi-label logits" if is_several else "logits"
    origin = {**(known.origin or {"network": type(network).__name__}), "versions": read_versions()}
    card = Card(
        request.name,
        names,
        preprocess,
        origin,
        request.device,
        kind=kind,
        preprocess_from=told,
        output=output,
        activation=describe_activation(activation, is_taken_off=is_layer),
        is_exportable=False,
    )
    return Found(_measure_tail(bare, images, card), bare)


def _measure_tail(network: nn.Module, images: Tensor, card: Card) -> Card:
    """The card with where exact maps come from, or why there are none."""
    from whycam.model.cut.choose import cut_by_itself  # noqa: PLC0415 - torch
    from whycam.model.gap import measure_identity  # noqa: PLC0415 - torch

    try:
        cut = cut_by_itself(network, images, reads_tail=False)
    except UserError as error:
        return replace(card, no_exact_map=_tell_inexact(card.name, as_clause(error)))
    if cut.weight is None or cut.bias is None:
        reason = cut.why_not_linear or "its tail is more than pooling and a linear layer"
        return replace(card, no_exact_map=_tell_inexact(card.name, reason))
    gap = float(measure_identity(*cut.read(images), cut.bias).max())
    return replace(card, origin={**card.origin, "identity_error": gap}, layer=cut.layer, tail=cut.how)


def _tell_inexact(name: str, reason: str) -> str:
    return (
        f"{name!r} has no exact class maps: {reason}. Use a gradient method (--method grad-cam), or train a GAP head "
        "on a backbone: whycam train FOLDER."
    )


def _read_size(preprocess: Preprocess | None) -> tuple[int, int] | None:
    return None if preprocess is None else (preprocess.height_px, preprocess.width_px)


def _count_channels(network: nn.Module) -> int:
    """Of the images, by the first convolution; 3 where there is none."""
    from torch import nn  # noqa: PLC0415 - whoever has a network has imported it

    first = next((part for part in network.modules() if isinstance(part, nn.Conv2d)), None)
    return 1 if first is not None and first.in_channels == 1 else 3


def _ask(network: nn.Module, images: Tensor, *, is_size_known: bool) -> Tensor:
    import torch  # noqa: PLC0415 - whoever has a network has imported it

    from whycam.model.cut.blame import blame  # noqa: PLC0415 - torch
    from whycam.model.cut.output import select_output  # noqa: PLC0415 - torch
    from whycam.model.cut.tap import as_input  # noqa: PLC0415 - torch

    try:
        with blame(network, images), torch.no_grad():
            output = network(as_input(network, images))
    except UserError as error:
        height, width = images.shape[-2:]
        told = f"Nobody said which size it takes, so {height} x {width} px was tried: give --image-size."
        if is_size_known:
            told = f"Or it takes another size than {height} x {width} px: see --image-size."
        raise UserError(f"{as_clause(error)}. {told}") from error
    scores = select_output(output)
    if not bool(scores.isfinite().all()):
        raise UserError(
            f"The scores of {type(network).__name__} for a photo are not finite; expected numbers. Look for NaN in its "
            "weights, or in how photos are prepared."
        )
    return scores


def _is_it(request: Request) -> bool:
    torch = sys.modules.get("torch")  # who has a module has imported it
    return torch is not None and isinstance(request.model, torch.nn.Module)


def _open(request: Request) -> Found:
    request.refuse("module", "weights")
    network: Any = request.model
    return open_module(_share(network), request, "module", read_known(network, request))


def _share(network: nn.Module) -> nn.Module:
    """A copy with the same weights, not copied, of which nothing is trained: the caller's own module stays as it is.

    Once the caller's module has other weights the copy refuses to answer. A module that can't be copied, say with an
    open file in it, is taken itself.
    """
    from torch import nn  # noqa: PLC0415 - whoever has a network has imported it

    same: dict[int, Any] = {id(own): nn.Parameter(own.detach(), requires_grad=False) for own in network.parameters()}
    same |= {id(own): own for own in network.buffers()}
    try:
        made = copy.deepcopy(network, same)
    except Exception:  # noqa: BLE001 - any attribute of a stranger's module may raise anything
        return network
    weights = [id(own) for own in network.parameters()]

    def check(*_: object) -> None:
        if [id(own) for own in network.parameters()] != weights:
            raise UserError(
                f"Weights of the {type(network).__name__} that was loaded were replaced by others since; expected the "
                "same ones, which may be trained. Load it again."
            )

    made.register_forward_pre_hook(check)
    return made


def read_known(network: Any, request: Request) -> Known:
    """What a module says of itself: timm's table, or Hugging Face's config; else nothing."""
    if isinstance(getattr(network, "pretrained_cfg", None), Mapping) and "input_size" in network.pretrained_cfg:
        from whycam.model.backbone import make_preprocess  # noqa: PLC0415 - timm
        from whycam.model.gap import name_classes  # noqa: PLC0415 - timm

        count = getattr(network, "num_classes", 0)
        return Known(
            make_preprocess(network, request.image_size),
            "timm's table",
            class_names=name_classes(count) if count == 1000 else None,
        )
    return Known()


KIND = Kind("a torch module", _is_it, _open)
