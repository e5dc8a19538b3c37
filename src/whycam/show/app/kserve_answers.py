"""What KServe's protocols ask and answer, as models: V1, and V2, the Open Inference Protocol.

Names are those of the protocols. What a request says beyond them is let be, as the protocols ask of a server.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AliasChoices, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from whycam.show.app.answers import BoxAnswer

# Outputs of V2: the tensor's type, and its shape, where -1 is known only with the photo.
SCORE_OUTPUTS = ("logits", "probabilities")
MAP_OUTPUTS = ("maps", "targets", "biases")
OUTPUTS: dict[str, str] = {
    "logits": "FP32",
    "probabilities": "FP32",
    "maps": "FP32",
    "targets": "INT64",
    "biases": "FP32",
}
INPUTS: dict[str, tuple[str, list[int]]] = {"photos": ("BYTES", [-1]), "pixels": ("UINT8", [-1, -1, -1, 3])}


class _Protocol(BaseModel):
    model_config = ConfigDict(protected_namespaces=(), populate_by_name=True, frozen=True)


class _Asked(_Protocol):
    @model_validator(mode="before")
    @classmethod
    def _leave_out(cls, said: Any) -> Any:
        """Some clients send null for what they do not say."""
        return {key: value for key, value in said.items() if value is not None} if isinstance(said, dict) else said


def _name_index(target: object) -> object:
    is_index = isinstance(target, int) and not isinstance(target, bool)
    return f"index:{target}" if is_index else target


class Parameters(_Asked):
    """The question, where it is not the usual one."""

    target: Annotated[str, BeforeValidator(_name_index)] = Field(
        "", max_length=200, description="predicted, top:N, all, a class name, an index; V1: predicted, V2: all."
    )
    versus: str = Field("", max_length=200, description="A second class: why this one and not that one.")
    method: str = Field("", max_length=50, description="One of the model's methods; else its first.")


# ---- V1


class PredictRequest(_Asked):
    """Photos of V1."""

    instances: list[Any] = Field(
        min_length=1,
        validation_alias=AliasChoices("instances", "inputs"),
        description='{"b64": ...} or {"image": {"b64": ...}}, a photo\'s file in base64; or pixels, lists (H, W, 3).',
    )
    parameters: Parameters = Parameters()


class Prediction(_Protocol):
    """The scores of one photo."""

    index: int
    name: str
    logits: list[float] = Field(description="One for each class.")
    probabilities: list[float]


class ClassMap(_Protocol):
    """The evidence for one class in one photo."""

    index: int
    name: str
    logit: float
    probability: float
    bias: float | None = Field(
        description="Of exact maps mean(map) + bias = logit (with versus: the difference of both logits; of a single "
        "logit below 0, whose map is of its other side: -logit). null: the map is not exact."
    )
    map: list[list[float]] = Field(description="Rows; a cell that is no number is null.")
    boxes: list[BoxAnswer]


class Explanation(_Protocol):
    """The maps of one photo."""

    method: str
    targets: list[ClassMap]
    notes: list[str] = Field(description="Why a map is blank, flat or not finite.")


class PredictAnswer(_Protocol):
    """One prediction for each instance."""

    predictions: list[Prediction]


class ExplainAnswer(PredictAnswer):
    """One explanation for each instance, of the same pass of the model as its prediction."""

    explanations: list[Explanation]


class ModelNames(_Protocol):
    """The one model."""

    models: list[str]


class ModelReady(_Protocol):
    """Whether requests for the model should come."""

    name: str
    ready: bool


# ---- V2


class ServerAbout(_Protocol):
    """What answers."""

    name: str
    version: str
    extensions: list[str]


class ServerLive(_Protocol):
    """That the server lives."""

    live: bool


class ServerReady(_Protocol):
    """Whether requests should come."""

    ready: bool


class TensorAbout(_Protocol):
    """A tensor; -1 is any size."""

    name: str
    datatype: str
    shape: list[int]


class ModelAbout(_Protocol):
    """A request gives one of the inputs and names the outputs that it wants."""

    name: str
    platform: str
    inputs: list[TensorAbout]
    outputs: list[TensorAbout]
    parameters: dict[str, Any]


class BinaryParameters(_Asked):
    """How many bytes after the JSON are the tensor's."""

    binary_data_size: int | None = Field(None, ge=0)


class InferInput(_Asked):
    """Photos of V2."""

    name: str
    datatype: str = Field(description="BYTES: photo files, in JSON in base64. UINT8: pixels (N, H, W, 3).")
    shape: list[Annotated[int, Field(ge=0)]] = Field(min_length=1, max_length=8)
    parameters: BinaryParameters = BinaryParameters()
    data: list[Any] = Field([], description="Flat or nested.")


class OutputParameters(Parameters):
    """The question of an output."""

    binary_data: bool | None = None


class InferOutput(_Asked):
    """A tensor that is wanted."""

    name: str
    parameters: OutputParameters = OutputParameters()


class InferParameters(Parameters):
    """The question, and whether tensors are answered as bytes."""

    binary_data_output: bool = False


class InferRequest(_Asked):
    """A request of V2."""

    id: str | None = Field(None, max_length=1000)
    parameters: InferParameters = InferParameters()
    inputs: list[InferInput]
    outputs: list[InferOutput] = Field([], description="Without any: logits and probabilities.")


class TensorAnswer(_Protocol):
    """A tensor in row-major order; one that is sent as bytes says how many in place of its data."""

    name: str
    datatype: str
    shape: list[int]
    parameters: dict[str, int] | None = None
    data: list[float] | list[int] | None = None


class InferAnswer(_Protocol):
    """An answer of V2."""

    model_name: str
    id: str | None = None
    outputs: list[TensorAnswer]
