"""`whycam export`: a model to a file or folder that other runtimes load, written only if it gives the same numbers."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from whycam.aside import name_beside
from whycam.config import ExportOptions
from whycam.config.wrong import name_option
from whycam.data.listed import refuse_listed
from whycam.data.loader import stream_photos
from whycam.data.walk import find_images
from whycam.errors import UserError, as_clause
from whycam.explainer.exact import record_methods
from whycam.explainer.model import Model, load
from whycam.intake.door import open_classifier
from whycam.jobs.outputs import check_file
from whycam.made import check_free, check_name
from whycam.model.gap import GapClassifier, probe_identity, save_classifier
from whycam.model.onnx.export import export_onnx, quiet
from whycam.model.onnx.parity import ExplainingNet, GraphOptions, check_parity, make_batches, measure_parity
from whycam.model.onnx.quantise import FLOAT_FIRST, Drift, check_drift, measure_drift, quantise
from whycam.runs import open_atomic, open_run, tell_disk_errors
from whycam.show.web.network import GRAPH, write_graph
from whycam.show.web.runtime import find_runtime
from whycam.show.web.site import write_site

# Photos that the ranges are taken from, and others that the result is measured on.
_CALIBRATION_PHOTOS, _MEASURED_PHOTOS, _LEAST_PHOTOS = 100, 400, 20
# What a page may ask a visitor to load.
_WEB_LIMIT_MB = 100
# Of the formats that are one file: what programs know them by. The others are folders.
_ENDINGS = {"onnx": (".onnx",), "torchscript": (".pt", ".pth", ".ts", ".torchscript")}


@dataclass(frozen=True)
class Exported:
    """What was written, and how near it is to PyTorch.

    Attributes:
        parity_error: the largest difference of logits and maps, as a share of their range.
        drift: of a quantised model, measured on photos.
    """

    out: Path
    size_mb: float
    parity_error: float
    drift: Drift | None = None


def export(model_name: str, out: Path, options: ExportOptions) -> Exported:
    """Writes the model in the format that the options name.

    Raises:
        UserError: a model without exact maps, an output that exists, numbers that are not PyTorch's, or a format whose
            library is missing.
    """
    _check_options(options)
    with tell_disk_errors(out):
        # Before a model is loaded; a folder's name is looked at again where it is made.
        if endings := _ENDINGS.get(options.format):
            check_file(out, "an export", endings, overwrite=options.overwrite)
        else:
            check_name(out)
            check_free(out, overwrite=options.overwrite)
        drawn = _draw_photos(options.calibrate) if options.int8 and options.calibrate else ()
        model = Model(open_classifier(model_name, **options.describe_model() | {"device": "cpu"}, engine="torch"))
        network = model.classifier.exact_network
        if options.format == "onnx":
            parity, drift = _write_onnx(model, network, out, options, drawn)
        else:
            parity, drift = _WRITERS[options.format](model, network, out, options), None
        files = [out] if out.is_file() else [path for path in out.rglob("*") if path.is_file()]
        return Exported(out, sum(path.stat().st_size for path in files) / 1e6, parity, drift)


def _check_options(options: ExportOptions) -> None:
    graph = [name for name in ("int8", "topk", "dynamic_size", "uint8_input") if getattr(options, name)]
    everything = {"safetensors": set(graph), "web": set(graph)}
    refused = {"openvino": {"int8"}, "torchscript": {"int8"}, **everything}.get(options.format, set())
    if found := refused.intersection(graph):
        words = ", ".join(map(name_option, sorted(found)))
        raise UserError(f"--format {options.format} does not go with {words}. Leave it out, or take --format onnx.")
    if options.runtime is not None and options.format != "web":
        raise UserError(f"--runtime goes with --format web; found --format {options.format}. Leave it out.")
    if options.calibrate is not None:
        if not options.int8:
            raise UserError("--calibrate gives photos to --int8, which is not asked for. Add --int8, or leave it out.")
        refuse_listed(options.calibrate)
        if not options.calibrate.exists():
            raise UserError(f"--calibrate: there is no '{options.calibrate.absolute()}'; expected a folder of photos.")
    if options.int8 and options.calibrate is None:
        raise UserError("--int8 takes its ranges from photos; found no --calibrate FOLDER. Give a folder of photos.")


def _read_graph_options(options: ExportOptions) -> GraphOptions:
    return GraphOptions(options.uint8_input, options.topk, options.dynamic_size)


def _write_onnx(
    model: Model, network: GapClassifier, out: Path, options: ExportOptions, drawn: Sequence[Path]
) -> tuple[float, Drift | None]:
    graph = _read_graph_options(options)
    if not drawn or options.calibrate is None:
        card = export_onnx(network, out, graph, **_describe(model))
        return card.parity_error, None
    pixels = _read_pixels(model, drawn, options.calibrate)
    count = min(_CALIBRATION_PHOTOS, len(pixels) // 2)
    with open_atomic(out) as part:
        whole = name_beside(out, ".", ".float")
        try:
            card = export_onnx(
                network, whole, graph, origin=model.origin, records=record_methods(model.classifier.card)
            )
            for float_first in FLOAT_FIRST:
                quantise(whole, part, pixels[:count], float_first)
                drift = measure_drift(whole, part, pixels[count:])
                if drift.is_small:
                    break
        finally:
            whole.unlink(missing_ok=True)
        check_drift(drift)
    return card.parity_error, drift


def _describe(model: Model) -> dict[str, Any]:
    return {"origin": model.origin, "records": record_methods(model.classifier.card)}


def _draw_photos(folder: Path) -> list[Path]:
    """Photos of the folder, in an order drawn by a seed; that they are too few is told before a model is loaded."""
    paths = find_images([folder])
    _check_count(len(paths), folder)
    order = np.random.default_rng(0).permutation(len(paths))[: _CALIBRATION_PHOTOS + _MEASURED_PHOTOS]
    return [paths[i] for i in order]


def _read_pixels(model: Model, drawn: Sequence[Path], folder: Path) -> np.ndarray:
    """(N, 3, H, W) uint8 of those that can be read."""
    pixels = [photo.pixels for photo in stream_photos(drawn, model.preprocess) if photo.pixels is not None]
    _check_count(len(pixels), folder, "that can be read ")
    return np.stack(pixels)


def _check_count(photos: int, folder: Path, which: str = "") -> None:
    if photos < _LEAST_PHOTOS:
        raise UserError(
            f"Found {photos} photos {which}in '{folder}'; expected {_LEAST_PHOTOS} or more: half give the ranges, half "
            "measure the result. Give a folder with more photos."
        )


def _write_openvino(model: Model, network: GapClassifier, out: Path, options: ExportOptions) -> float:
    """A folder with model.xml and model.bin, converted from the ONNX graph."""
    try:
        import openvino  # noqa: PLC0415 - an extra
    except ImportError:
        raise UserError("--format openvino needs the package openvino. Run: pip install 'whycam[openvino]'") from None
    graph = _read_graph_options(options)
    with open_run(out, overwrite=options.overwrite) as folder:
        onnx_file = folder / "model.onnx"
        card = export_onnx(
            network, onnx_file, graph, origin=model.origin, records=record_methods(model.classifier.card)
        )
        converted = openvino.convert_model(onnx_file)
        try:
            openvino.save_model(converted, folder / "model.xml", compress_to_fp16=False)
        except RuntimeError as error:  # its writer says neither what nor why
            raise UserError(
                f"OpenVINO could not write '{out.absolute()}' ({as_clause(error)}). Nothing was left under the final "
                "name. Free some space, or choose a folder on another disk."
            ) from None
        onnx_file.unlink()
        said = card.model_dump(mode="json", exclude={"thresholds"} if card.thresholds is None else None)
        (folder / "card.json").write_text(json.dumps(said, indent=2), encoding="utf-8")
        compiled = openvino.compile_model(folder / "model.xml", "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        return _check(network, graph, lambda images: list(compiled(images).values()), "OpenVINO")


def _write_torchscript(model: Model, network: GapClassifier, out: Path, options: ExportOptions) -> float:
    graph = _read_graph_options(options)
    net = ExplainingNet(network, graph).eval()
    with open_atomic(out) as part, quiet():
        traced = torch.jit.trace(net, make_batches(network, graph)[0])
        # Into memory first: on a full disk PyTorch's own writer ends the process.
        buffer = io.BytesIO()
        about = {"class_names": json.dumps(model.class_names)}
        if network.thresholds:  # classes that go together: each logit's sigmoid is its probability
            about["thresholds"] = json.dumps(network.thresholds)
        torch.jit.save(traced, buffer, _extra_files=about)
        part.write_bytes(buffer.getbuffer())
        buffer.seek(0)  # what was written: PyTorch's own reader takes no path that isn't UTF-8
        loaded = torch.jit.load(buffer)
        return _check(
            network, graph, lambda images: [v.numpy() for v in loaded(torch.from_numpy(images))], "TorchScript"
        )


def _check(network: GapClassifier, graph: GraphOptions, run: object, runtime: str) -> float:
    net = ExplainingNet(network, graph).eval()
    found = measure_parity(net, run, make_batches(network, graph))  # type: ignore[arg-type]
    check_parity(found, runtime)
    return max(found.values())


def _write_safetensors(model: Model, network: GapClassifier, out: Path, options: ExportOptions) -> float:
    """A model folder: whycam loads it, and with a linear head timm does (`local-dir:`)."""
    with open_run(out, overwrite=options.overwrite) as folder:
        save_classifier(network, folder, probe_identity(network))
        again = load(folder, device="cpu", engine="torch").network
        return _check(network, GraphOptions(), lambda images: _run_torch(again, images), "The folder")


def _write_web(model: Model, network: GapClassifier, out: Path, options: ExportOptions) -> float:
    """A folder that any host serves: the page, the graph with maps, and what runs it in the browser."""
    size_mb = sum(4 * values.numel() for values in network.state_dict().values()) / 1e6
    if size_mb > _WEB_LIMIT_MB:
        raise UserError(
            f"{model.classifier.card.name!r} has {size_mb:.0f} MB of weights; expected {_WEB_LIMIT_MB} MB at the most "
            "in a page. Train a smaller backbone (--backbone tf_efficientnet_lite0), or take --format onnx."
        )
    runtime = find_runtime(options.runtime)
    with open_run(out, overwrite=options.overwrite) as folder:
        card = write_graph(model, folder / GRAPH)
        write_site(folder, model, card, runtime)
        return card.parity_error


@torch.no_grad()
def _run_torch(network: object, images: np.ndarray) -> list[np.ndarray]:
    net = ExplainingNet(network, GraphOptions())  # type: ignore[arg-type]
    return [value.numpy() for value in net(torch.from_numpy(images))]


_WRITERS = {
    "openvino": _write_openvino,
    "torchscript": _write_torchscript,
    "safetensors": _write_safetensors,
    "web": _write_web,
}
