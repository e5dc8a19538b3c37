"""How a refusal is told: as the JSON API does, or on the paths of KServe's protocols as those say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from starlette.responses import JSONResponse

from whycam.show.app.answers import BadFile, ErrorAnswer, Fault


def make_refusal(
    path: str, status: int, reason: str, files: Sequence[BadFile] = (), headers: Mapping[str, str] | None = None
) -> JSONResponse:
    """The answer to a request for that path; `files` have reasons of their own in the JSON API alone."""
    if is_protocol(path):
        return JSONResponse({"error": reason}, status, headers=headers)
    answer = ErrorAnswer(error=Fault(reason=reason, files=list(files)))
    return JSONResponse(answer.model_dump(), status, headers=headers)


def is_protocol(path: str) -> bool:
    """Whether KServe's protocols have that path."""
    return path == "/v2" or path.startswith(("/v1/", "/v2/"))
