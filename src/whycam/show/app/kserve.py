"""KServe's protocols over HTTP: V1, for predictor and explainer, and V2, the Open Inference Protocol.

One pass of the model answers scores and maps. Errors are `{"error": "..."}`, as both protocols have them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Depends, HTTPException, Request
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel

from whycam import __version__
from whycam.cam.about import CAM, CONTRAST
from whycam.config import ServeOptions
from whycam.errors import UserError, make_unknown_name
from whycam.explainer.reading import Reading
from whycam.explainer.targets import find_class
from whycam.show.app.api import (
    ModelHere,
    OptionsHere,
    check_count,
    describe_class,
    get_options,
    get_served,
    list_boxes,
)
from whycam.show.app.draining import Drain
from whycam.show.app.kserve_answers import (
    INPUTS,
    MAP_OUTPUTS,
    OUTPUTS,
    SCORE_OUTPUTS,
    ClassMap,
    ExplainAnswer,
    Explanation,
    InferRequest,
    ModelAbout,
    ModelNames,
    ModelReady,
    Parameters,
    PredictAnswer,
    Prediction,
    PredictRequest,
    ServerAbout,
    ServerLive,
    ServerReady,
    TensorAbout,
)
from whycam.show.app.kserve_body import LENGTH_HEADER, pack_answer, read_json, read_request
from whycam.show.app.kserve_photos import decode_photo, read_instances, read_tensor
from whycam.show.app.served import Question, ServedModel
from whycam.show.app.uploads import Upload

# Not in the app's own description: the protocols are described where they come from.
protocols = APIRouter(include_in_schema=False)


def find_name(served: ServedModel, options: ServeOptions) -> str:
    """The model's name in the protocols."""
    return options.model_name or Path(served.classifier.card.name).name


def check_name(
    name: str,
    served: Annotated[ServedModel, Depends(get_served)],
    options: Annotated[ServeOptions, Depends(get_options)],
) -> str:
    """The name in a request's path, if it is the model's.

    Raises:
        HTTPException: 404, it is another one.
    """
    own = find_name(served, options)
    if name != own:
        raise HTTPException(
            404,
            f"There is no model {name!r}; expected {own!r}, the one that is served. Ask for it by this name, or start "
            "the server with another --model-name.",
        )
    return name


def get_drain(request: Request) -> Drain:
    """Whether the server stops."""
    drain: Drain = request.app.state.drain
    return drain


NameHere = Annotated[str, Depends(check_name)]
DrainHere = Annotated[Drain, Depends(get_drain)]


# ---- V1


@protocols.get("/v1/models")
async def list_models(served: ModelHere, options: OptionsHere) -> ModelNames:
    """The one model's name."""
    return ModelNames(models=[find_name(served, options)])


@protocols.get("/v1/models/{name}")
async def tell_v1_model(name: NameHere, drain: DrainHere) -> Response:
    """Whether requests for the model should come."""
    return _tell_ready(ModelReady(name=name, ready=not drain.has_begun))


@protocols.post("/v1/models/{name}:predict")
async def predict(request: Request, name: NameHere, served: ModelHere, options: OptionsHere) -> Response:
    """The scores of photos."""
    _, photos = await _take_instances(request, served, options)
    readings = await asyncio.gather(*map(served.score, photos))
    return await _send(served, lambda: PredictAnswer(predictions=[_describe_scores(one) for one in readings]))


@protocols.post("/v1/models/{name}:explain")
async def explain(request: Request, name: NameHere, served: ModelHere, options: OptionsHere) -> Response:
    """The scores of photos, and the maps of the classes that are asked for."""
    asked, photos = await _take_instances(request, served, options)
    question = _ask(served, asked.parameters, "predicted")
    readings = await asyncio.gather(*(served.read(photo, question, lambda reading: reading) for photo in photos))
    bias = served.classifier.bias

    def describe() -> ExplainAnswer:
        explanations = [
            Explanation(
                method=one.record["method"],
                targets=_describe_maps(one, _find_biases(one, question, bias)),
                notes=list(one.notes),
            )
            for one in readings
        ]
        return ExplainAnswer(predictions=[_describe_scores(one) for one in readings], explanations=explanations)

    return await _send(served, describe)


async def _take_instances(
    request: Request, served: ServedModel, options: ServeOptions
) -> tuple[PredictRequest, list[Upload]]:
    body = await request.body()
    asked = await served.decode(lambda: read_json(body, PredictRequest))
    _check_count(len(asked.instances), options)
    sources = await served.decode(lambda: read_instances(asked.instances))
    return asked, await _decode(sources, served, options)


def _describe_scores(reading: Reading) -> Prediction:
    return Prediction(
        index=reading.predicted,
        name=reading.name(reading.predicted),
        logits=reading.logits.tolist(),
        probabilities=reading.probabilities.tolist(),
    )


def _describe_maps(reading: Reading, biases: Sequence[float] | None) -> list[ClassMap]:
    return [
        ClassMap(
            **describe_class(reading, index),
            bias=None if biases is None else biases[t],
            map=reading.maps[t].tolist(),
            boxes=list_boxes(reading, t),
        )
        for t, index in enumerate(reading.targets.tolist())
    ]


# ---- V2


@protocols.get("/v2")
async def tell_server() -> ServerAbout:
    """What answers."""
    return ServerAbout(name="whycam", version=__version__, extensions=["binary_tensor_data"])


@protocols.get("/v2/health/live")
async def tell_live() -> ServerLive:
    """That the server lives, also while it stops."""
    return ServerLive(live=True)


@protocols.get("/v2/health/ready")
async def tell_ready(drain: DrainHere) -> Response:
    """Whether requests should come."""
    return _tell_ready(ServerReady(ready=not drain.has_begun))


@protocols.get("/v2/models/{name}/ready")
async def tell_v2_model(name: NameHere, drain: DrainHere) -> Response:
    """Whether requests for the model should come."""
    return _tell_ready(ModelReady(name=name, ready=not drain.has_begun))


@protocols.get("/v2/models/{name}")
async def tell_model(name: NameHere, served: ModelHere) -> ModelAbout:
    """The tensors of the model, its classes, and the bias that mean(map) lacks to the logit."""
    card, count = served.classifier.card, len(served.classifier.card.class_names)
    shapes = {"maps": [-1, -1, -1, -1], "targets": [-1, -1], "biases": [-1, -1]}
    names = [output for output in OUTPUTS if output != "biases" or served.exact is not None]
    return ModelAbout(
        name=name,
        platform="whycam",
        inputs=[TensorAbout(name=key, datatype=kind, shape=shape) for key, (kind, shape) in INPUTS.items()],
        outputs=[TensorAbout(name=key, datatype=OUTPUTS[key], shape=shapes.get(key, [-1, count])) for key in names],
        parameters={
            "class_names": list(card.class_names),
            "methods": [method.name for method in served.methods],
            "bias": served.classifier.bias,
        },
    )


@protocols.post("/v2/models/{name}/infer")
async def infer(request: Request, name: NameHere, served: ModelHere, options: OptionsHere) -> Response:
    """The tensors that are asked for: logits, probabilities, maps, their targets, biases."""
    body, length = await request.body(), request.headers.get(LENGTH_HEADER)
    asked, parts = await served.decode(lambda: read_request(body, length))
    wanted = [output.name for output in asked.outputs] or list(SCORE_OUTPUTS)
    for one in wanted:
        if one not in OUTPUTS:
            raise make_unknown_name("output", one, OUTPUTS)
    if len(asked.inputs) != 1:
        raise UserError(
            f"The request has {len(asked.inputs)} inputs; expected one: photos (BYTES) or pixels (UINT8). Send photos "
            "as the elements of one tensor."
        )
    tensor = asked.inputs[0]
    # By the shape, before anything is made of it: each photo is one of its first dimension, or an element.
    _check_count(int(np.prod(tensor.shape, dtype=object)) if tensor.datatype == "BYTES" else tensor.shape[0], options)
    question = _ask(served, _merge(asked), "all") if set(wanted) & set(MAP_OUTPUTS) else None
    _check_biases(served, question, wanted)
    sources = await served.decode(lambda: read_tensor(tensor, parts[0]))
    photos = await _decode(sources, served, options)
    readings = await asyncio.gather(
        *(served.read(p, question, lambda reading: reading) if question else served.score(p) for p in photos)
    )
    as_bytes = asked.parameters.binary_data_output
    said = {one.name: one.parameters.binary_data for one in asked.outputs}
    binary = [key for key in wanted if (as_bytes if said.get(key) is None else said[key])]
    bias = served.classifier.bias

    def pack() -> Response:
        columns = [_list_outputs(one, question, bias) for one in readings]
        tensors = {key: np.stack([np.asarray(outputs[key]) for outputs in columns]) for key in wanted}
        content, headers = pack_answer(name, asked.id, tensors, binary)
        return Response(content, headers=headers)

    return await served.decode(pack)


def _list_outputs(reading: Reading, question: Question | None, bias: Sequence[float] | None) -> dict[str, Any]:
    return {
        "logits": reading.logits,
        "probabilities": reading.probabilities,
        "maps": reading.maps,
        "targets": reading.targets,
        "biases": _find_biases(reading, question, bias),
    }


def _merge(asked: InferRequest) -> Parameters:
    """The question: what an output of maps says goes before what the request says."""
    given = asked.parameters.model_dump(exclude_unset=True)
    for output in asked.outputs:
        if output.name in MAP_OUTPUTS:
            given |= output.parameters.model_dump(exclude_unset=True)
    return Parameters.model_validate(given)


def _check_biases(served: ServedModel, question: Question | None, wanted: Sequence[str]) -> None:
    if "biases" in wanted and question is not None and question.method not in {CAM.name, CONTRAST.name}:
        card = served.classifier.card
        raise UserError(
            f"The output 'biases' belongs to exact maps, and those of {card.name!r} are by {question.method}; expected "
            "logits, probabilities, maps or targets. Leave biases out."
        )


# ---- Both


def _tell_ready(answer: ModelReady | ServerReady) -> JSONResponse:
    return JSONResponse(answer.model_dump(), 200 if answer.ready else 503)


def _ask(served: ServedModel, parameters: Parameters, target: str) -> Question:
    return served.check(Question(parameters.target or target, parameters.versus, parameters.method))


def _check_count(count: int, options: ServeOptions) -> None:
    check_count(count, "photos", options)
    if not count:
        raise UserError("The request has no photos; expected one or more. Send at least one.")


async def _decode(
    sources: Sequence[tuple[str, bytes | np.ndarray]], served: ServedModel, options: ServeOptions
) -> list[Upload]:
    preprocess, most = served.classifier.card.preprocess, options.max_pixels

    async def decode(name: str, source: bytes | np.ndarray) -> Upload:
        return await served.decode(lambda: decode_photo(name, source, preprocess, max_pixels=most))

    return list(await asyncio.gather(*(decode(name, source) for name, source in sources)))


async def _send(served: ServedModel, make: Callable[[], BaseModel]) -> Response:
    """The JSON is made in a thread: of many maps it takes long."""
    content = await served.decode(lambda: make().model_dump_json())
    return Response(content, media_type="application/json")


def _find_biases(reading: Reading, question: Question | None, bias: Sequence[float] | None) -> list[float] | None:
    """(T,) numbers that mean(map) lacks to the logit, or to the difference of two; None where maps are not exact."""
    if question is None or bias is None or question.method not in {CAM.name, CONTRAST.name}:
        return None
    against = bias[find_class(question.versus, reading.class_names)] if question.versus else 0
    # The map of a single logit below 0 is of its other side.
    sign = -1 if len(bias) == 1 and not question.versus and reading.logits[0] < 0 else 1
    return [sign * (bias[index] - against) for index in reading.targets.tolist()]
