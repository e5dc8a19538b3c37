"""What a model folder's config.json says beside timm's own fields: written, and read with every fault told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError, model_validator

from whycam.config import MAX_CLASSES, Head
from whycam.data.preprocess import Preprocess
from whycam.errors import UserError, tell_wrong_value
from whycam.model.backbone import resolve_architecture

FORMAT: Literal[1] = 1


class _TimmFields(BaseModel):
    """What `config.json` says to timm, as far as it is read here."""

    architecture: str = Field(min_length=1, max_length=100)


class FolderConfig(BaseModel):
    """What `config.json` says beside timm's own fields: all that the model needs to be used elsewhere."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal[1]
    head: Head
    class_names: list[str] = Field(min_length=1, max_length=MAX_CLASSES)
    map_stride: int = Field(ge=1, le=64)
    preprocess: Preprocess
    source: str
    identity_error: FiniteFloat
    sha256: str
    versions: dict[str, str]
    # Of classes that go together: from which probability on each is given.
    thresholds: list[Annotated[float, Field(gt=0, lt=1)]] | None = None

    @model_validator(mode="after")
    def _check_thresholds(self) -> Self:
        if self.thresholds is not None and len(self.thresholds) != len(self.class_names):
            raise ValueError(f"{len(self.thresholds)} thresholds for {len(self.class_names)} classes")
        return self


def read_hash(folder: Path) -> str:
    """The SHA-256 of a model folder's weights, as its config.json says it; it tells one model from another.

    Raises:
        UserError: no config.json, or none that this version reads.
    """
    return read_folder_config(folder)[0].sha256


def read_folder_config(folder: Path) -> tuple[FolderConfig, str]:
    """What config.json says, and the timm name of the network.

    Raises:
        UserError: no config.json, or none that this version reads.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise UserError(
            f"Found no 'config.json' in '{folder.absolute()}'; "
            "expected a model folder (config.json + model.safetensors). Check the path."
        )
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
        config = FolderConfig.model_validate(content["whycam"])
        for name in Preprocess.model_fields.keys() - {"channels"}:
            # No default may stand in for what the weights were trained with; there were no other channels once.
            content["whycam"]["preprocess"][name]
        return config, resolve_architecture(_TimmFields.model_validate(content).architecture)
    except (UserError, OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(
            f"'{path.absolute()}' is not a model description that this version reads ({_tell_fault(error)}); "
            f"expected format {FORMAT}. Copy the model folder again, or train again."
        ) from None


def _tell_fault(error: Exception) -> str:
    """The first thing wrong with a config.json, in a line."""
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return f"{'.'.join(map(str, first['loc'])) or 'whycam'}: {tell_wrong_value(first)}"
    return f"{error} is missing" if isinstance(error, KeyError) else str(error).splitlines()[0]
