"""What is handed on: pages, servers, exported models, corrections."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from whycam.config.base import MAKES_MAPS, MAX_SEED, OVERWRITE, Engine, ModelOptions, Options


class ReportOptions(ModelOptions):
    """What `whycam report` puts on its page."""

    limit: int = Field(
        400, ge=1, description="Photos on the page at the most: mistakes, then a sample; the figures count all photos."
    )
    audit: Path | None = Field(None, description="An audit.json of this model [RUN/audit.json; else an audit is made].")
    no_audit: bool = Field(False, description="Make no audit where there is none.")
    evaluation: Path | None = Field(None, description="What `whycam evaluate` made of this model [RUN/evaluation].")
    live: bool = Field(
        False, description="Put the network into the page, too: readers try photos of their own, without a connection."
    )
    runtime: Path | None = Field(
        None, description="For --live: onnxruntime-web, its .tgz or a folder [WHYCAM_ORT_WEB, else npm's registry]."
    )
    batch_size: int = Field(8, ge=1, description="Photos a forward pass.")
    seed: int = Field(0, ge=0, le=MAX_SEED, description="The sample of --limit follows from it.")
    engine: Engine = MAKES_MAPS
    overwrite: bool = OVERWRITE


class ServeOptions(ModelOptions):
    """Where `whycam serve` listens, and what a request may be."""

    host: str = Field("127.0.0.1", description="Address to listen at; another than this machine's opens it to others.")
    port: int = Field(8000, ge=0, le=65535, description="Port; 0 takes a free one.")
    max_upload_mb: int = Field(32, ge=1, le=4096, description="Size of one upload at the most.")
    max_pixels: int = Field(50_000_000, ge=1, description="Pixels of one photo at the most.")
    max_files: int = Field(32, ge=1, le=1000, description="Photos in one request at the most.")
    rate: int = Field(600, ge=0, description="Requests a minute that one client may make; 0: any number.")
    photos: Path | None = Field(None, description="Photos that a run was trained on, for Mend [where they were then].")
    api: Literal["app", "kserve"] = Field("app", description="kserve: KServe's protocols, V1 and V2, beside the app.")
    model_name: str | None = Field(None, description="The model's name in KServe's protocols [its short name].")
    metrics: bool = Field(False, description="Tell Prometheus at /metrics; with --api kserve it is always told.")
    drain_s: int | None = Field(None, ge=0, le=3600, description="Seconds it goes on at SIGTERM [kserve: 5; else 0].")
    grace_s: int = Field(5, ge=1, le=3600, description="Seconds that requests under way then have to finish.")


class ExportOptions(ModelOptions):
    """What `whycam export` writes."""

    format: Literal["onnx", "openvino", "torchscript", "safetensors", "web"] = Field(
        "onnx",
        description="onnx and torchscript: a file. openvino, safetensors (weights, for timm too), web (a page that "
        "runs it in the browser): a folder.",
    )
    runtime: Path | None = Field(
        None,
        description="For --format web: onnxruntime-web, its .tgz or a folder [WHYCAM_ORT_WEB, else npm's registry].",
    )
    uint8_input: bool = Field(False, description="Take pixels of 0 to 255 and normalise them inside the graph.")
    topk: int | None = Field(None, ge=1, description="Give the maps of so many best classes alone [all].")
    dynamic_size: bool = Field(False, description="Take any height and width.")
    int8: bool = Field(False, description="Quantise; kept only if maps correlate over 0.98 and under 1 % change class.")
    calibrate: Path | None = Field(None, description="Photos for --int8: half give its ranges, half measure it.")
    overwrite: bool = OVERWRITE


class EditsOptions(Options):
    """How `whycam edits` hands on what people said."""

    format: Literal["csv", "label-studio", "fiftyone"] = Field(
        "csv", description="csv: a table. label-studio, fiftyone: what these tools import; see docs/mend.md."
    )
    overwrite: bool = OVERWRITE


class CardOptions(Options):
    """What `whycam card` says of a run, and where else it writes."""

    evidence: Path | None = Field(
        None,
        description="Write each number with the file and key that it is from, too: FILE.json; FILE.html is a page "
        "beside FILE.json.",
    )
    name: str | None = Field(None, min_length=1, description="The model's name [the run folder's].")
    purpose: str | None = Field(None, description="What the model is for, and what not, in your words.")
    license: str | None = Field(None, description="The model's licence, as Hugging Face names it: apache-2.0.")
    audit: Path | None = Field(None, description="An audit.json of this model [RUN/audit.json].")
    evaluation: Path | None = Field(None, description="What `whycam evaluate` made of this model [RUN/evaluation].")
    overwrite: bool = OVERWRITE
