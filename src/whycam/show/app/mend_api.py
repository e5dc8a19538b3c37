"""The calls of the page Mend: what to look at, what people say, versions; only journal and versions are written."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Depends, HTTPException, Path, Query, Request
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field

from whycam.show.app.answers import ErrorAnswer
from whycam.show.app.mend_answers import (
    Acknowledged,
    EditsRequest,
    MendAnswer,
    MendState,
    PhotoView,
    RetrainRequest,
    VersionsAnswer,
)
from whycam.show.app.mend_photos import PhotoReader
from whycam.show.app.mending import BusyError, Mending

T = TypeVar("T")
FAULTS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorAnswer, "description": words}
    for status, words in {
        400: "The body is no JSON.",
        403: "A foreign host or page.",
        404: "The run has no such photo.",
        409: "A training is under way.",
        413: "The body is too large.",
        422: "The run can't be corrected, or a word is not what was expected.",
        429: "Too many requests.",
        503: "The server stops.",
    }.items()
}

mend_api = APIRouter(prefix="/api/mend", responses=FAULTS)


def get_mending(request: Request) -> Mending:
    """The app's run."""
    mending: Mending = request.app.state.mending
    return mending


def get_reader(request: Request) -> PhotoReader:
    """What reads the run's photos."""
    reader: PhotoReader = request.app.state.photo_reader
    return reader


MendingHere = Annotated[Mending, Depends(get_mending)]
ReaderHere = Annotated[PhotoReader, Depends(get_reader)]
Content = Annotated[str, Path(pattern="^[0-9a-f]{32}$", description="A photo's content hash.")]
Number = Annotated[str, Path(pattern="^[0-9]{3,9}$", description="Of a version; 000 is the first training.")]


class PhotoQuestion(BaseModel):
    """How a photo is shown."""

    model_config = ConfigDict(extra="forbid")

    version: str = Field(pattern="^[0-9]{3,9}$", description="Whose maps; 000 is the first training.")
    before: str = Field("", pattern="^([0-9]{3,9})?$", description="The maps of this version are taken off.")
    photo_px: int = Field(1280, ge=64, le=2048, description="Longer side of the photo in the answer.")


@mend_api.get("/state")
async def state(mending: MendingHere) -> MendState:
    """Whether the run can be corrected, whether anything has changed, and how far a training is."""
    return await mending.ask(mending.tell_state)


@mend_api.get("")
async def work_list(mending: MendingHere) -> MendAnswer:
    """What to look at, the most costly first, and what was said so far."""
    return await mending.ask(mending.tell_list)


@mend_api.post("/edits")
async def edits(mending: MendingHere, said: EditsRequest) -> Acknowledged:
    """Adds edits to the run's journal: they are on the disk once this answers. An id that is sent again counts once."""
    return Acknowledged(revision=await mending.ask(lambda: mending.say(said.edits)))


@mend_api.get("/photos/{content}")
async def photo(
    mending: MendingHere, reader: ReaderHere, content: Content, asked: Annotated[PhotoQuestion, Query()]
) -> PhotoView:
    """A photo with the exact maps of one version, or with the exact change of them from an earlier one."""
    return await mending.ask(lambda: reader.read(mending.open(), content, **asked.model_dump()))


@mend_api.get("/photos/{content}/thumb", response_class=Response, responses={200: {"content": {"image/jpeg": {}}}})
async def thumb(mending: MendingHere, reader: ReaderHere, content: Content) -> Response:
    """The photo, small, as JPEG."""

    def make() -> bytes | None:
        path = mending.open().find_photo(content)
        return None if path is None else reader.make_thumb(path)

    data = await mending.ask(make)
    if data is None:
        raise HTTPException(404, f"The run has no photo of the content {content}; expected one of its photos.")
    # A photo of that content is never another one.
    return Response(data, media_type="image/jpeg", headers={"Cache-Control": "private, max-age=86400, immutable"})


@mend_api.post("/retrain", status_code=202)
async def retrain(mending: MendingHere, asked: RetrainRequest) -> MendState:
    """Starts a training by all edits so far; the version that is kept stays. `/state` tells how far it is."""
    await _try(mending, lambda: mending.start(has_audit=asked.audit, allow_empty=asked.allow_empty))
    return await mending.ask(mending.tell_state)


@mend_api.post("/cancel")
async def cancel(mending: MendingHere) -> MendState:
    """Calls the training off; nothing of it is left. Where none is under way, nothing happens."""
    mending.call_off()
    return await mending.ask(mending.tell_state)


@mend_api.get("/versions")
async def versions(mending: MendingHere) -> VersionsAnswer:
    """All versions, each beside the one that was kept when it was made."""
    return VersionsAnswer(versions=await mending.ask(mending.list_versions))


@mend_api.post("/versions/{number}/keep")
async def keep(mending: MendingHere, number: Number) -> VersionsAnswer:
    """The version stands for the run from now on; 000 goes back to the first training."""
    await _try(mending, lambda: mending.keep(number))
    return VersionsAnswer(versions=await mending.ask(mending.list_versions))


@mend_api.post("/versions/{number}/throw-away")
async def throw_away(mending: MendingHere, number: Number) -> VersionsAnswer:
    """Removes a version that does not stand for the run."""
    await _try(mending, lambda: mending.throw_away(number))
    return VersionsAnswer(versions=await mending.ask(mending.list_versions))


async def _try(mending: Mending, work: Callable[[], T]) -> T:
    try:
        return await mending.ask(work)
    except BusyError as error:
        raise HTTPException(409, str(error)) from None
