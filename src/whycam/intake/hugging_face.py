"""A Hugging Face image-classification folder, or `hf:org/name` from the hub or its cache."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from whycam.data.preprocess import Preprocess
from whycam.errors import UserError, as_clause
from whycam.intake.request import Found, Kind, Request, as_path

_HUB = "hf:"
_RESAMPLE = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}


def _is_it(request: Request) -> bool:
    path = as_path(request)
    return (path is not None and path.is_dir()) or request.name.startswith(_HUB)


def _open(request: Request) -> Found:
    request.refuse("Hugging Face model", "weights")
    where = request.name.removeprefix(_HUB) if request.name.startswith(_HUB) else request.name
    if (Path(where) / "saved_model.pb").is_file():
        raise UserError(
            f"'{where}' is a SavedModel of TensorFlow, which only TensorFlow opens. Save the model as a file, "
            "model.save('model.keras'), or convert it: python -m tf2onnx.convert --saved-model DIR --output model.onnx."
        )
    config = _read_json(where, "config.json", is_needed=True)
    if "architectures" not in config and "model_type" not in config:
        raise UserError(
            f"The config.json of '{where}' is neither whycam's nor Hugging Face's; expected a run folder, a model "
            "folder, or a folder that save_pretrained() made."
        )
    try:
        import transformers  # noqa: PLC0415 - an extra
    except ImportError:
        raise UserError(
            f"'{where}' is a Hugging Face model, which needs the package transformers. Run: "
            "pip install 'whycam[huggingface]'"
        ) from None
    from whycam.intake.module import Known, open_module  # noqa: PLC0415 - torch

    network = _load(transformers, where, config)
    preprocess = _read_preprocess(_read_json(where, "preprocessor_config.json"), request)
    if preprocess is None:
        preprocess = _read_timm(network, request)
    labels = {int(k): str(v) for k, v in dict(network.config.id2label or {}).items()}
    known = Known(
        preprocess,
        "preprocessor_config.json" if preprocess else "",
        _read_side(config),
        [labels[k] for k in sorted(labels)] or None,
        {"backbone": type(network).__name__, "weights": where},
        config.get("problem_type") == "multi_label_classification",
    )
    return open_module(network, request, "Hugging Face model", known)


def _load(transformers: Any, where: str, config: Mapping[str, Any]) -> Any:
    named = " ".join(config.get("architectures") or [])
    # Its bars and remarks on weights go to the terminal.
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    try:
        kind = transformers.AutoModelForImageClassification
        network, about = kind.from_pretrained(where, output_loading_info=True, trust_remote_code=False)
    except Exception as error:  # noqa: BLE001 - whatever the library stumbles over
        told = as_clause(str(error).strip().partition("\n")[0])  # behind it come lists and advice of its own
        raise UserError(
            f"'{where}' ({named or 'of no named architecture'}) can't be opened as an image classifier "
            f"({type(error).__name__}: {told}). Expected a folder of save_pretrained() of a "
            "...ForImageClassification model, with its weights in it."
        ) from None
    if lost := [name for name in about["missing_keys"] if "num_batches_tracked" not in name]:
        raise UserError(
            f"'{where}' lacks {len(lost)} of the classifier's tensors (such as {lost[0]!r}), which would be random; it "
            f"was saved as {named}. Expected a ...ForImageClassification model: fine-tune it and save it again."
        )
    return network


def _read_json(where: str, name: str, *, is_needed: bool = False) -> dict[str, Any]:
    path = Path(where) / name
    try:
        if not Path(where).is_dir():
            from huggingface_hub import hf_hub_download  # noqa: PLC0415 - only where it is used

            from whycam.model.backbone import check_hub  # noqa: PLC0415 - timm

            check_hub(where, name)
            path = Path(hf_hub_download(where, name, etag_timeout=3))
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8-sig"))
        return found if isinstance(found, dict) else {}
    except (OSError, ValueError, RecursionError) as error:
        if not is_needed:
            return {}
        raise UserError(
            f"'{where}' has no config.json that can be read ({as_clause(error)}); expected a folder that whycam or "
            "save_pretrained() made. Check the path; from the hub: hf:org/name."
        ) from None


def _read_side(config: Mapping[str, Any]) -> tuple[int, int] | None:
    side = config.get("image_size")
    if isinstance(side, int):
        return side, side
    return (int(side[0]), int(side[1])) if isinstance(side, list | tuple) and len(side) == 2 else None


def _read_preprocess(about: Mapping[str, Any], request: Request) -> Preprocess | None:
    """What preprocessor_config.json says; its crop is left out: the whole photo is squashed into the size."""
    if not about:
        return None
    size = about.get("crop_size") if about.get("do_center_crop") else about.get("size")
    size = size or about.get("size") or 224
    if isinstance(size, Mapping):
        side = size.get("shortest_edge", size.get("longest_edge", 224))
        height, width = int(size.get("height", side)), int(size.get("width", side))
    else:
        height = width = int(size)
    if request.image_size:
        height = width = request.image_size
    scale = 1.0 if about.get("do_rescale", True) else 1 / 255
    is_normal = about.get("do_normalize", True) and "image_mean" in about
    mean = tuple(v * scale for v in about["image_mean"]) if is_normal else (0.0, 0.0, 0.0)
    std = tuple(v * scale for v in about["image_std"]) if is_normal else (scale, scale, scale)
    how: Any = {"interpolation": _RESAMPLE.get(about.get("resample", 2), "bilinear")}
    return Preprocess(height_px=height, width_px=width, mean=mean, std=std, **how)


def _read_timm(network: Any, request: Request) -> Preprocess | None:
    """A timm network in Hugging Face's wrapper says it in timm's words."""
    inner = getattr(network, "timm_model", None)
    if inner is None:
        return None
    from whycam.model.backbone import make_preprocess  # noqa: PLC0415 - timm

    return make_preprocess(inner, request.image_size)


KIND = Kind("a Hugging Face folder or hf:org/name", _is_it, _open)
