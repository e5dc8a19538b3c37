"""The JSON API. Add a call as one function here; the page /docs lists it by itself."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator, Callable
from dataclasses import asdict, replace
from typing import Annotated, Any, TypeVar

import numpy as np
from fastapi import APIRouter, Depends, Form, HTTPException, Request, UploadFile
from fastapi.responses import Response

from whycam import __version__
from whycam.config import ServeOptions
from whycam.errors import UserError
from whycam.explainer.reading import Reading
from whycam.explainer.targets import resolve_target
from whycam.maps import render
from whycam.maps.boxes import BOX_THRESHOLD
from whycam.show.app.answers import (
    BadFile,
    BoxAnswer,
    Boxes,
    ClassBoxes,
    ClassScore,
    Entry,
    ErrorAnswer,
    Health,
    LimitsAnswer,
    MethodAnswer,
    ModelAnswer,
    Reason,
    Result,
    Results,
)
from whycam.show.app.guard import MB
from whycam.show.app.served import CurrentModel, Question, ServedModel
from whycam.show.app.uploads import Upload, decode_upload, read_upload_size
from whycam.show.entries import encode_colormaps, make_entry

T = TypeVar("T")
_QUALITY = 92
FAULTS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorAnswer, "description": words}
    for status, words in {
        400: "The body is not a form.",
        403: "A foreign host or page.",
        413: "The upload is too large.",
        422: "A file, a class or a method is not what was expected.",
        429: "Too many requests.",
        503: "The server stops.",
    }.items()
}

api = APIRouter(prefix="/api")


class BadFilesError(Exception):
    """Not one of a request's files could be explained."""

    def __init__(self, files: list[BadFile]) -> None:
        super().__init__(files[0].reason)
        self.files = files


async def get_served(request: Request) -> AsyncIterator[ServedModel]:
    """The app's model, which stays open until the request is answered."""
    current: CurrentModel = request.app.state.current
    with current.use() as served:
        yield served


def get_options(request: Request) -> ServeOptions:
    """The app's options."""
    options: ServeOptions = request.app.state.options
    return options


def check_count(count: int, what: str, options: ServeOptions) -> None:
    """Lets no request have more photos than the options say.

    Raises:
        HTTPException: 413, it has.
    """
    if count > options.max_files:
        raise HTTPException(
            413,
            f"The request has {count} {what}; expected {options.max_files} at the most. Send them in several requests, "
            "or start the server with a larger --max-files.",
        )


def read_question(
    served: Annotated[ServedModel, Depends(get_served)],
    target: Annotated[
        str, Form(max_length=200, description="predicted, top:N, all, a class name, class:NAME, index:N")
    ] = ("predicted"),
    versus: Annotated[str, Form(max_length=200, description="a second class: why this one and not that one")] = "",
    method: Annotated[str, Form(max_length=50, description="one of the model's methods; else its first")] = "",
) -> Question:
    """The form's question, checked."""
    return served.check(Question(target, versus, method))


ModelHere = Annotated[ServedModel, Depends(get_served)]
OptionsHere = Annotated[ServeOptions, Depends(get_options)]
QuestionHere = Annotated[Question, Depends(read_question)]


@api.get("/health")
async def health(served: ModelHere) -> Health:
    """That the server lives, and which model it serves."""
    return Health(status="ok", model=served.classifier.card.name, version=__version__)


@api.get("/model")
async def model(served: ModelHere, options: OptionsHere) -> ModelAnswer:
    """Classes, map methods, how exact the maps are, colours and limits."""
    classifier, about = served.classifier, served.classifier.card.origin
    return ModelAnswer(
        name=served.classifier.card.name,
        class_names=list(served.classifier.card.class_names),
        is_multi_label=classifier.card.is_multi_label,
        thresholds=[float(np.float32(value)) for value in classifier.card.thresholds] or None,
        bias=classifier.bias,
        identity_error=about.get("identity_error"),
        methods=[MethodAnswer(name=m.name, differs=m.differs, cost=m.cost, paper=m.paper) for m in served.methods],
        engine=classifier.describe_read().get("engine", "torch")
        if served.exact or classifier.is_torch_free
        else "torch",
        record={**about, "preprocess": served.classifier.card.preprocess.model_dump()},
        colormaps=encode_colormaps(),
        defaults={"colormap": render.COLORMAP_POSITIVE, "opacity": render.ALPHA},
        limits=LimitsAnswer(
            upload_bytes=options.max_upload_mb * MB,
            pixels=options.max_pixels,
            files=options.max_files,
            rate=options.rate,
        ),
    )


@api.post("/explain", responses=FAULTS)
async def explain(
    served: ModelHere,
    options: OptionsHere,
    question: QuestionHere,
    files: list[UploadFile],
    photo_px: Annotated[int, Form(ge=0, le=2048, description="longer side of the photo in the answer; 0: none")] = 0,
) -> Results:
    """Explains photos: prediction, scores, maps and boxes of each; a file that can't be read has its reason instead."""
    check_count(len(files), "files", options)

    async def explain_file(key: str, file: UploadFile) -> Result:
        try:
            upload = await _take(served, options, file, photo_px=photo_px)
            return await served.read(
                upload, question, lambda reading: _make_result(reading, upload, question, key), with_best=True
            )
        except UserError as error:
            return Result(file=file.filename or "", error=Reason(reason=str(error)))

    results = await asyncio.gather(*(explain_file(str(i), file) for i, file in enumerate(files)))
    bad = [BadFile(file=r.file, reason=r.error.reason) for r in results if r.error]
    if len(bad) == len(results):
        raise BadFilesError(bad)
    return Results(results=results)


@api.post("/overlay", responses=FAULTS | {200: {"content": {"image/jpeg": {}}}}, response_class=Response)
async def overlay(
    *,
    served: ModelHere,
    options: OptionsHere,
    question: QuestionHere,
    file: UploadFile,
    colormap: Annotated[str, Form(max_length=50, description="a colour map; else the one that fits")] = "",
    opacity: Annotated[float, Form(ge=0, le=1, description="where the heat is strongest")] = render.ALPHA,
    signed: Annotated[bool | None, Form(description="draw evidence against the class too")] = None,
) -> Response:
    """The photo at full size with the heat of one class on it, as JPEG."""
    render.check_colormap(colormap or None)

    def draw(reading: Reading) -> bytes:
        record = reading.record if signed is None else {**reading.record, "draws_both_signs": signed}
        picture = replace(reading, record=record).overlay(colormap=colormap or None, alpha=opacity)
        buffer = io.BytesIO()
        picture.save(buffer, "JPEG", quality=_QUALITY)
        return buffer.getvalue()

    width, height = await served.decode(
        lambda: read_upload_size(file.file, file.filename or "", max_pixels=options.max_pixels)
    )
    async with served.keep(width * height):
        reading = await _read_one(served, options, question, file, lambda reading: reading, keep_photo=True)
        data = await served.draw(lambda: draw(reading))
    return _make_download(data, "image/jpeg", "overlay.jpg")


@api.post("/map", responses=FAULTS | {200: {"content": {"application/x-npy": {}}}}, response_class=Response)
async def raw_map(served: ModelHere, options: OptionsHere, question: QuestionHere, file: UploadFile) -> Response:
    """The raw map of one class, float32 (h, w), as NumPy's .npy; of exact maps mean(map) + bias = logit."""

    def pack(reading: Reading) -> bytes:
        buffer = io.BytesIO()
        np.save(buffer, reading.maps[0].astype(np.float32))
        return buffer.getvalue()

    return _make_download(await _read_one(served, options, question, file, pack), "application/x-npy", "map.npy")


@api.post("/boxes", responses=FAULTS)
async def boxes(
    served: ModelHere,
    options: OptionsHere,
    question: QuestionHere,
    file: UploadFile,
    threshold: Annotated[float, Form(ge=0, lt=1, description="share of the map's maximum")] = BOX_THRESHOLD,
) -> Boxes:
    """Boxes around the evidence for one class, in photo pixels."""

    def find(reading: Reading) -> Boxes:
        width, height = reading.find_size()
        return Boxes(
            file=file.filename or "",
            width=width,
            height=height,
            target=_describe_target(reading, 0, threshold),
            threshold=threshold,
        )

    return await _read_one(served, options, question, file, find)


async def _take(
    served: ServedModel, options: ServeOptions, file: UploadFile, *, photo_px: int = 0, keep_photo: bool = False
) -> Upload:
    return await served.decode(
        lambda: decode_upload(
            file.file,
            file.filename or "",
            served.classifier.card.preprocess,
            max_pixels=options.max_pixels,
            photo_px=photo_px,
            keep_photo=keep_photo,
        )
    )


async def _read_one(
    served: ServedModel,
    options: ServeOptions,
    question: Question,
    file: UploadFile,
    use: Callable[[Reading], T],
    *,
    keep_photo: bool = False,
) -> T:
    """What `use` makes of one class's map of one photo."""
    return await served.read(await _take(served, options, file, keep_photo=keep_photo), question, use)


def _make_result(reading: Reading, upload: Upload, question: Question, key: str) -> Result:
    asked = resolve_target(question.target, reading.logits[None], reading.class_names).shape[1]
    entry = make_entry(reading, key, upload.name, image=upload.address)
    return Result(
        file=upload.name,
        prediction=ClassScore(**describe_class(reading, reading.predicted)),
        targets=[_describe_target(reading, t, BOX_THRESHOLD) for t in range(asked)],
        entry=Entry.model_validate(entry),
        record=dict(reading.record),
    )


def describe_class(reading: Reading, index: int) -> dict[str, Any]:
    """A class's place, name and scores."""
    return {
        "index": index,
        "name": reading.name(index),
        "logit": float(reading.logits[index]),
        "probability": float(reading.probabilities[index]),
    }


def list_boxes(reading: Reading, t: int, threshold: float = BOX_THRESHOLD) -> list[BoxAnswer]:
    """Boxes around the evidence in a reading's map t, in photo pixels."""
    return [BoxAnswer(**asdict(box)) for box in reading.boxes(t, threshold=threshold)]


def _describe_target(reading: Reading, t: int, threshold: float) -> ClassBoxes:
    scores = describe_class(reading, int(reading.targets[t]))
    return ClassBoxes(**scores, boxes=list_boxes(reading, t, threshold))


def _make_download(data: bytes, kind: str, name: str) -> Response:
    return Response(data, media_type=kind, headers={"Content-Disposition": f'attachment; filename="{name}"'})
