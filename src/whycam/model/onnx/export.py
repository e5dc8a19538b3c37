"""A GapClassifier as one ONNX graph that explains itself: images -> logits and maps; kept only if it is right.

The maps are one 1x1 convolution of the last features (Zhou et al., arXiv:1512.04150, eq. 2), so no gradient is needed.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnx
import torch
from onnxruntime import InferenceSession
from timm.layers import Conv2dSame
from timm.layers.padding import pad_same_arg
from torch import Tensor, nn
from torch.nn import functional

from whycam.errors import UserError, as_clause
from whycam.model.cache import open_or_make, prune_cached
from whycam.model.gap import GapClassifier, probe_images
from whycam.model.onnx.engine import (
    FORMAT,
    GraphMetadata,
    OnnxEngine,
    check_identity,
    find_engines,
    measure_identity,
    open_session,
)
from whycam.model.onnx.parity import ExplainingNet, GraphOptions, check_parity, make_batches, measure_parity
from whycam.model.onnx.relatives import KEY, Relative, iter_exchanged
from whycam.model.onnx.shared import share_weights
from whycam.runs import open_atomic, read_versions

log = logging.getLogger("whycam.model.onnx")
_OPSET = 18
_CACHE_LIMIT_BYTES = 4 * 2**30
_INPUT = (
    "Photos (N, 3, H, W), the whole photo squashed to the input size: {how}. "
    "Mean, deviation and interpolation are in the metadata whycam.preprocess."
)
_LOGITS = "(N, K) scores; names in the metadata whycam.class_names. mean(map of k) + bias of k = logit of k."
_MAPS = "(N, {count}, h, w) signed class maps in the logit's unit: positive speaks for the class; {order}."


def open_cached(
    path: Path,
    model: GapClassifier,
    options: GraphOptions,
    *,
    origin: Mapping[str, Any],
    records: Mapping[str, Mapping[str, Any]],
    threads: int | None = None,
) -> OnnxEngine:
    """The engine at that place of the cache; exported first where there is none, or none that can be believed.

    Raises:
        UserError: as `export_onnx`; a cache that can't be written to.
    """

    def make() -> dict[str, Any]:
        export_onnx(model, path, options, origin=origin, records=records)
        prune_cached(path, _CACHE_LIMIT_BYTES)
        relative = Relative.of(onnx.load(path), model, options).to_json()
        return {"model": dict(origin), "options": asdict(options), KEY: relative}

    return open_or_make(path, make, lambda path, _about: OnnxEngine(path, threads))[0]


def export_onnx(
    model: GapClassifier,
    path: Path,
    options: GraphOptions,
    *,
    origin: Mapping[str, Any],
    records: Mapping[str, Mapping[str, Any]],
) -> GraphMetadata:
    """Writes the graph, if ONNX Runtime gives PyTorch's logits and maps of photos and of noise; else nothing.

    Args:
        model: on the CPU.
        path: the file to write.
        options: what the graph takes and gives.
        origin: what is recorded of the model.
        records: method -> what is recorded with its results.

    Raises:
        UserError: a network that can't be exported, or whose exported numbers are not PyTorch's.
    """
    if options.topk is not None and not 1 <= options.topk <= len(model.class_names):
        raise UserError(
            f"--topk is {options.topk}; expected 1 to {len(model.class_names)}, the number of classes. "
            "Leave it out for all."
        )
    net = ExplainingNet(model, options).eval()
    batches = make_batches(model, options)
    metadata = GraphMetadata(
        format=FORMAT,
        class_names=model.class_names,
        bias=tuple(model.classifier.bias.tolist()),
        preprocess=model.preprocess,
        identity_error=0,
        parity_error=0,
        takes_uint8=options.takes_uint8,
        topk=options.topk,
        model=dict(origin),
        records={name: dict(record) for name, record in records.items()},
        versions=read_versions(),
        thresholds=model.thresholds or None,
    )
    with open_atomic(path) as part:
        for graph in iter_exchanged(find_engines(), model, options):
            with contextlib.suppress(UserError):
                return _save_checked(graph, metadata, part, net, batches)
        graph = _convert(net, batches[0], _list_outputs(options), is_dynamic=options.is_dynamic)
        return _save_checked(graph, metadata, part, net, batches)


def _save_checked(
    graph: onnx.ModelProto, metadata: GraphMetadata, path: Path, net: ExplainingNet, batches: list[Tensor]
) -> GraphMetadata:
    """Writes the graph with what was measured of it; a UserError where its numbers are not the network's."""
    share_weights(graph)
    _describe(graph, metadata)
    _save(graph, path)
    engine = OnnxEngine(path, is_checked=False)
    found = measure_parity(net, engine.run, batches)
    check_parity(found, "ONNX Runtime")
    identity_error = max(measure_identity(engine.run(images.numpy()), metadata) for images in batches)
    check_identity(identity_error, "The exported graph")
    metadata = metadata.model_copy(update={"identity_error": identity_error, "parity_error": max(found.values())})
    _describe(graph, metadata)
    _save(graph, path)
    return metadata


def _convert(net: nn.Module, images: Tensor, outputs: list[str], *, is_dynamic: bool = False) -> onnx.ModelProto:
    try:
        with quiet():
            return _trace(net, images, outputs, is_size_free=True) if is_dynamic else _compile(net, images, outputs)
    except Exception as error:
        hint = "Leave --dynamic-size out." if is_dynamic else "Export it as --format torchscript."
        raise UserError(f"The network can't be exported: {str(error).strip().splitlines()[0]} {hint}") from error


class _FeatureNet(nn.Module):
    """Normalised images -> the backbone's last features."""

    def __init__(self, model: GapClassifier) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        """See the class."""
        return self.model.backbone_features(images)


def open_features(path: Path, model: GapClassifier) -> Callable[[Tensor], Tensor]:
    """The backbone as a graph: normalised images -> features, several times faster on a CPU than PyTorch.

    Args:
        path: its place in the cache; exported first where there is none.
        model: on the CPU, in eval mode.

    Raises:
        UserError: a backbone that can't be exported, or whose exported features are not PyTorch's; a cache that can't
            be written to.
    """
    about = {"features of": model.origin.architecture}
    net, images = _FeatureNet(model).eval(), probe_images(model.preprocess)
    session = open_or_export(path, net, images, ["features"], about, is_traced=True)
    return lambda images: torch.from_numpy(run_graph(session, images)[0])


@torch.no_grad()
def open_or_export(
    path: Path,
    net: nn.Module,
    images: Tensor,
    outputs: list[str],
    about: Mapping[str, Any],
    *,
    is_traced: bool = False,
) -> InferenceSession:
    """Any module of one input as a graph in the cache; kept only if it gives PyTorch's numbers.

    Args:
        path: its place in the cache; exported first where there is none.
        net: images -> a tensor for each name of `outputs`; on the CPU, in eval mode.
        images: an input to compare on, of two or more.
        outputs: names of the graph's outputs.
        about: what is recorded of it.
        is_traced: whether the older exporter is asked first, which takes a tenth of the time; for a module in which
            nothing hangs on the values.

    Raises:
        UserError: a module that can't be exported, or whose exported numbers are not PyTorch's; a cache that can't be
            written to.
    """
    expected = net(images)
    expected = (expected,) if isinstance(expected, Tensor) else expected

    def open_checked(path: Path, _about: object = None) -> InferenceSession:
        session = open_session(path)
        gaps = {
            name: float(np.abs(ours - theirs.numpy()).max() / (theirs.max() - theirs.min()))
            for name, ours, theirs in zip(outputs, run_graph(session, images), expected, strict=True)
        }
        check_parity(gaps, "ONNX Runtime")
        return session

    def trace(part: Path) -> bool:
        from onnxscript import optimizer  # noqa: PLC0415 - slow to import, and a graph is made once

        # Of one image: a number of images that got into the graph is found by the others.
        try:
            with quiet(), _pad_by_numbers(net, images[:1]):
                _save(optimizer.optimize(_trace(net, images[:1], outputs)), part)
            open_checked(part)
        except Exception as error:  # noqa: BLE001 - the tracer and ONNX Runtime raise almost anything
            log.debug("The graph is compiled, as its trace is of no use: %s", error)
            return False
        return True

    def make() -> Mapping[str, Any]:
        with open_atomic(path) as part:
            if not is_traced or not trace(part):
                _save(_convert(net, images, outputs), part)
                open_checked(part)
        prune_cached(path, _CACHE_LIMIT_BYTES)
        return about

    return open_or_make(path, make, open_checked)[0]


def run_graph(session: InferenceSession, images: Tensor) -> list[np.ndarray]:
    """What a graph of one input gives of images."""
    values: list[np.ndarray] = session.run(None, {"images": images.numpy()})
    return values


def _list_outputs(options: GraphOptions) -> list[str]:
    return ["logits", "maps", *(["classes"] if options.topk else [])]


def _compile(net: nn.Module, images: Tensor, outputs: list[str]) -> onnx.ModelProto:
    program = torch.onnx.export(
        net,
        (images,),
        dynamo=True,
        dynamic_shapes={"images": {0: torch.export.Dim.DYNAMIC}},
        input_names=["images"],
        output_names=outputs,
        opset_version=_OPSET,
        external_data=False,
        verbose=False,
    )
    assert program is not None  # noqa: S101 - so it is typed, for the older exporter
    graph: onnx.ModelProto = program.model_proto
    return graph


def _trace(net: nn.Module, images: Tensor, outputs: list[str], *, is_size_free: bool = False) -> onnx.ModelProto:
    """By the older exporter: with free sizes the other one needs minutes for padding that depends on the size."""
    file = io.BytesIO()
    size = {2: "H", 3: "W"} if is_size_free else {}
    cells = {"maps": {2: "h", 3: "w"}} if is_size_free else {}
    axes = {name: {0: "N", **cells.get(name, {})} for name in outputs}
    torch.onnx.export(
        net,
        (images,),
        file,  # type: ignore[arg-type]
        dynamo=False,
        dynamic_axes={"images": {0: "N", **size}, **axes},
        input_names=["images"],
        output_names=outputs,
        opset_version=_OPSET,
    )
    return onnx.load_model_from_string(file.getvalue())


@contextlib.contextmanager
def _pad_by_numbers(net: nn.Module, images: Tensor) -> Iterator[None]:
    """In the block the net's "same" convolutions pad as for these images' size.

    A trace would compute each padding from the size again, and its graph takes half as long again for that.
    """
    sizes: dict[Conv2dSame, torch.Size] = {}

    def note(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        sizes[cast(Conv2dSame, layer)] = inputs[0].shape[-2:]

    layers = [layer for layer in net.modules() if isinstance(layer, Conv2dSame)]
    hooks = [layer.register_forward_pre_hook(note) for layer in layers]
    try:
        net(images)
    finally:
        for hook in hooks:
            hook.remove()
    try:
        for layer, size in sizes.items():
            pads = pad_same_arg(list(size), list(layer.kernel_size), list(layer.stride), list(layer.dilation))
            vars(layer)["forward"] = partial(_convolve, layer, pads)
        yield
    finally:
        for layer in layers:
            vars(layer).pop("forward", None)


def _convolve(layer: nn.Conv2d, pads: list[int], values: Tensor) -> Tensor:
    padded = functional.pad(values, pads)
    return functional.conv2d(padded, layer.weight, layer.bias, layer.stride, 0, layer.dilation, layer.groups)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without the exporter's advice on its own inner steps."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir", "torch.export")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), torch.no_grad():
        warnings.simplefilter("ignore")
        try:
            for logger in loggers:
                logger.setLevel(logging.ERROR)
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


def _describe(graph: onnx.ModelProto, metadata: GraphMetadata) -> None:
    """Metadata, and words that a graph viewer shows."""
    del graph.metadata_props[:]
    onnx.helper.set_model_props(graph, metadata.to_metadata())
    graph.producer_name, graph.producer_version = "whycam", metadata.versions.get("whycam", "")
    graph.doc_string = "A classifier that explains itself: class activation maps (arXiv:1512.04150) beside its scores."
    how = "uint8, 0 to 255" if metadata.takes_uint8 else "float32, normalised"
    count, order = (
        ("K", "in the order of the logits") if metadata.topk is None else ("T", "of the classes in `classes`")
    )
    words = {
        "images": _INPUT.format(how=how),
        "logits": _LOGITS,
        "maps": _MAPS.format(count=count, order=order),
        "classes": "(N, T) the classes of the highest scores, the best first.",
    }
    for value in (*graph.graph.input, *graph.graph.output):
        value.doc_string = words.get(value.name, "")


def _save(graph: onnx.ModelProto, path: Path) -> None:
    try:
        path.write_bytes(graph.SerializeToString())
    except ValueError as error:  # protobuf's limit
        raise UserError(
            f"The graph does not fit into one ONNX file ({as_clause(error)}); expected under 2 GB of weights. "
            "Take a smaller backbone, or --format torchscript."
        ) from error
