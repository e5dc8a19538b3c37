"""A network that a package brings (`imagenet`), or a timm or torchvision name, with weights of its own or a file's."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from whycam.errors import UserError, as_clause
from whycam.intake.folder import describe
from whycam.intake.request import SUFFIXES, Found, Kind, Request
from whycam.model.installed import PACKAGED

if TYPE_CHECKING:
    from torch import Tensor, nn


def _is_it(request: Request) -> bool:
    name = request.model
    if not isinstance(name, str | Path):
        return False
    path = Path(name)
    return not path.exists() and len(path.parts) == 1 and ":" not in request.name and path.suffix not in SUFFIXES


def _open(request: Request) -> Found:
    import timm  # noqa: PLC0415 - slow, and other kinds do without

    name = request.name
    if name not in PACKAGED and not timm.is_model(name.split(".")[0]) and _is_torchvisions(name):
        return _open_torchvision(request)
    return _open_timm(request)


def _open_timm(request: Request) -> Found:
    from whycam.intake.module import Known, open_module  # noqa: PLC0415 - torch
    from whycam.model.gap import HeadError, load_network, make_exact, name_classes  # noqa: PLC0415 - torch

    name = request.name
    try:
        whole, origin = load_network(name, weights=request.weights, image_size=request.image_size)
    except UserError:
        # torchvision has networks of timm's names whose tensors are named otherwise, such as vgg16.
        if request.weights is None or not _is_torchvisions(name):
            raise
        try:
            return _open_torchvision(request)
        except UserError:
            pass
        raise
    count = int(getattr(whole, "num_classes", 0))
    names = request.name_classes(count, name_classes(count))
    try:
        exact = make_exact(whole, origin, names)
    except HeadError as error:
        about = {"backbone": origin.architecture, "weights": origin.source}
        found = open_module(
            whole, request, "timm network", Known(origin.preprocess, "timm's table", None, names, about)
        )
        # The reason that the head gives says more than that of a cut.
        return found if found.card.is_exact else found.describing(no_exact_map=str(error))
    size = (origin.preprocess.height_px, origin.preprocess.width_px)
    preprocess, told = request.choose_preprocess(size, origin.preprocess, "timm's table")
    exact.origin = replace(exact.origin, preprocess=preprocess)
    card = describe(exact, name, kind="timm network", device=request.device, preprocess_from=told)
    return Found(card, exact.requires_grad_(requires_grad=False).to(request.device).eval())


def _is_torchvisions(name: str) -> bool:
    from torchvision import models  # noqa: PLC0415 - slow, and other kinds do without

    return name in models.list_models(module=models)


def _open_torchvision(request: Request) -> Found:
    from torchvision import models  # noqa: PLC0415 - slow, and other kinds do without

    from whycam.intake.module import Known, open_module  # noqa: PLC0415 - torch
    from whycam.intake.transform import read_transform  # noqa: PLC0415 - torchvision
    from whycam.model.backbone import read_weights  # noqa: PLC0415 - torch

    name, best = request.name, models.get_model_weights(request.name).DEFAULT
    tensors = _read_hub(name, best) if request.weights is None else read_weights(request.weights)
    network = _build(name, tensors, request)
    known = Known(
        read_transform(best.transforms()),
        f"torchvision's {best}",
        class_names=best.meta["categories"] if len(best.meta["categories"]) == _count_outputs(tensors) else None,
        origin={
            "backbone": name,
            "weights": f"torchvision {best}" if request.weights is None else f"file {request.weights.name}",
        },
    )
    return open_module(network, request, "torchvision network", known)


def _build(name: str, tensors: dict[str, Tensor], request: Request) -> nn.Module:
    from torchvision import models  # noqa: PLC0415 - slow, and other kinds do without

    # Some have no auxiliary heads in their files, and none is asked.
    network: nn.Module = models.get_model(name, num_classes=max(1, _count_outputs(tensors)))
    own = network.state_dict()
    needed = [k for k in own if not k.startswith(("aux", "AuxLogits")) and not k.endswith("num_batches_tracked")]
    missing = [k for k in needed if k not in tensors or tensors[k].shape != own[k].shape]
    if missing:
        raise UserError(
            f"'{request.weights}' does not fit torchvision's {name!r}: {len(missing)} of its {len(needed)} tensors are "
            f"missing or of another shape, such as {missing[0]!r}. Give weights of that very network."
        )
    network.load_state_dict({k: v for k, v in tensors.items() if k in own and v.shape == own[k].shape}, strict=False)
    return network


def _count_outputs(tensors: dict[str, Tensor]) -> int:
    """Classes that weights are for: the rows of the last weight with a bias of as many."""
    last = [k for k in tensors if k.endswith(".weight") and tensors[k].ndim in {2, 4} and "aux" not in k.lower()]
    return len(tensors[last[-1]]) if last else 0


def _read_hub(name: str, best: Any) -> dict[str, Tensor]:
    import torch  # noqa: PLC0415 - slow, and other kinds do without

    from whycam.model.backbone import check_reachable  # noqa: PLC0415 - timm

    kept = Path(torch.hub.get_dir()) / "checkpoints" / Path(best.url).name
    try:
        if not kept.is_file():
            check_reachable(best.url)
        return dict(torch.hub.load_state_dict_from_url(best.url, weights_only=True, progress=False))
    except OSError as error:
        raise UserError(
            f"torchvision's weights of {name!r} are not on this machine and can't be fetched ({as_clause(error)}). "
            f"Give --weights FILE, or put {best.url} into '{kept.parent}'."
        ) from None


KIND = Kind("a timm or torchvision name", _is_it, _open)
