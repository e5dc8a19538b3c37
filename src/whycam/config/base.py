"""What all options share, and what is said of a model beside its name."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from whycam.config.wrong import name_option
from whycam.errors import UserError

# Maps of more at 7x7 cells would take over 20 MB a photo; a million names is a mistake in a file, not a classifier.
MAX_CLASSES = 100_000
# What PyTorch takes.
MAX_SEED = 2**63 - 1
Device = Literal["auto", "cpu", "cuda", "mps"]
Engine = Literal["auto", "onnx", "torch"]
MAKES_MAPS: Any = Field(
    "auto", description="onnx: exact maps by the exported graph, several times faster. auto: that too, without a GPU."
)
OVERWRITE: Any = Field(False, description="Replace what WhyCAM made of that name, and nothing else.")


class Options(BaseModel):
    """What all option models share: unknown names are refused, values are checked, nothing changes after."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, validate_default=True, protected_namespaces=(), allow_inf_nan=False
    )


class ModelOptions(Options):
    """What is said of a model beside its name."""

    weights: Path | None = Field(
        None, description="Weights (.safetensors, .pth), for a timm or torchvision name or for your own code."
    )
    classes: Path | None = Field(None, description="The names of the model's outputs, a name a line [its own].")
    preprocess: str | None = Field(
        None,
        description="How photos are prepared: imagenet, half, unit, bytes, caffe or FILE.json [the model's own].",
    )
    image_size: int | None = Field(
        None, ge=16, le=4096, description="Side of the network's input in pixels, where it takes any [its own]."
    )
    device: Device = Field("auto", description="auto takes a GPU where there is one.")

    def describe_model(self) -> dict[str, Any]:
        """The words of `whycam.intake.door.open_classifier`."""
        return {name: getattr(self, name) for name in ModelOptions.model_fields}


class ClusterOptions(Options):
    """Whose cores answer: this machine's, or a Ray cluster's."""

    on: Literal["here", "ray"] = Field("here", description="ray: by the machines of a Ray cluster; docs/scale.md.")
    address: str | None = Field(
        None, description="The cluster's HOST:PORT, or ray://HOST:PORT [RAY_ADDRESS, else one that is started here]."
    )
    workers: str | None = Field(
        None,
        description="Copies of the model on the cluster, MIN:MAX [1 to what it has room for].",
    )
    gpus_per_worker: float = Field(0, ge=0, description="GPUs of each copy; 0.5: two copies share one.")

    @field_validator("workers")
    @classmethod
    def _check_workers(cls, workers: str | None) -> str | None:
        if workers is not None and not re.fullmatch(r"[1-9]\d*(:[1-9]\d*)?", workers):
            raise ValueError("expected a number of copies, such as 2, or MIN:MAX, such as 1:4")
        return workers

    def check_used(self) -> None:
        """Lets no word on a cluster be passed over.

        Raises:
            UserError: there is one, and the work is done here.
        """
        unused = [name for name in ("address", "workers", "gpus_per_worker") if getattr(self, name)]
        if unused and self.on == "here":
            words = ", ".join(map(name_option, unused))
            raise UserError(f"{words} is about a cluster, and the work is done here. Add --on ray, or leave it out.")
