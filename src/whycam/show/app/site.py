"""The app of one model: its page, the JSON API and the API's own description, all from this machine."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from fastapi import APIRouter, FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, Response
from fastapi.templating import Jinja2Templates
from starlette.exceptions import HTTPException as StarletteHTTPException

from whycam import __version__
from whycam.config import ServeOptions
from whycam.data.samples import write_samples
from whycam.errors import UserError, tell_wrong_value
from whycam.show.app.api import BadFilesError, api
from whycam.show.app.draining import Drain
from whycam.show.app.guard import MB, Guard, is_loopback, make_policy
from whycam.show.app.mend_api import mend_api
from whycam.show.app.mend_photos import PhotoReader
from whycam.show.app.mending import Mending
from whycam.show.app.metrics import Measure, Metrics, metrics_page
from whycam.show.app.refusals import make_refusal
from whycam.show.app.served import CurrentModel, ServedModel

_SHOW = Path(__file__).parents[1]
_STATIC = (
    "viewer.js",
    "viewer.css",
    "pictures.js",
    "app.js",
    "app_server.js",
    "app.css",
    "mend.js",
    "mend_actions.js",
    "mend_ask.js",
    "mend_choose.js",
    "mend_draw.js",
    "mend_versions.js",
    "mend.css",
)
_SAMPLES = ("cat.png", "espresso.png", "rocket.jpg", "motorcycle.png")

# Modules that pages of one file share under these names: see `whycam.show.page`.
_IMPORT_MAP = '{"imports":{"whycam/viewer":"/static/viewer.js","whycam/pictures":"/static/pictures.js"}}'

pages = APIRouter(include_in_schema=False)
templates = Jinja2Templates(_SHOW / "templates")


def make_app(served: ServedModel | CurrentModel, options: ServeOptions, drain: Drain | None = None) -> FastAPI:
    """The app; the first model behind it is closed by who opened it, one that took its place at the app's end.

    Args:
        served: answers.
        options: limits, and what there is beside the app.
        drain: once it has begun, the app says that it is not ready.
    """
    current = served if isinstance(served, CurrentModel) else CurrentModel(served)

    @asynccontextmanager
    async def live(app: FastAPI) -> AsyncIterator[None]:
        with tempfile.TemporaryDirectory() as folder:
            app.state.samples = Path(folder)
            write_samples(app.state.samples)
            try:
                yield
            finally:
                app.state.mending.close()
                current.close()

    app = FastAPI(
        title="WhyCAM",
        version=__version__,
        description="Class activation maps of photos, by one model.",
        lifespan=live,
        docs_url=None,
        redoc_url=None,
    )
    app.state.current, app.state.options = current, options
    app.state.mending = Mending(Path(current.served.classifier.card.name), options.photos, current.exchange)
    app.state.photo_reader = PhotoReader(options.max_pixels)
    app.state.drain = drain or Drain()
    app.include_router(api)
    app.include_router(mend_api)
    app.include_router(pages)
    if options.api == "kserve":
        from whycam.show.app.kserve import protocols  # noqa: PLC0415 - its models take time to build

        app.include_router(protocols)
    app.add_middleware(
        Guard, max_bytes=options.max_upload_mb * MB, rate=options.rate, is_local=is_loopback(options.host)
    )
    if options.metrics or options.api == "kserve":
        app.state.metrics = Metrics(current)
        app.include_router(metrics_page)
        app.add_middleware(Measure, metrics=app.state.metrics)
    _handle_errors(app)
    return app


def _handle_errors(app: FastAPI) -> None:
    @app.exception_handler(StarletteHTTPException)
    async def tell_status(request: Request, error: StarletteHTTPException) -> JSONResponse:
        return make_refusal(request.url.path, error.status_code, str(error.detail), headers=error.headers)

    @app.exception_handler(UserError)
    async def tell_user(request: Request, error: UserError) -> JSONResponse:
        return make_refusal(request.url.path, 422, str(error))

    @app.exception_handler(BadFilesError)
    async def tell_files(request: Request, error: BadFilesError) -> JSONResponse:
        return make_refusal(request.url.path, 422, str(error), error.files)

    @app.exception_handler(RequestValidationError)
    async def tell_fields(request: Request, error: RequestValidationError) -> JSONResponse:
        found = "; ".join(
            f"{'.'.join(map(str, e['loc'][1:])) or 'the body'}: {tell_wrong_value(e)}" for e in error.errors()
        )
        reason = f"The form is not what was expected ({found}). /docs has each call's fields."
        return make_refusal(request.url.path, 422, reason)

    @app.exception_handler(Exception)
    async def tell_fault(request: Request, _: Exception) -> JSONResponse:
        reason = "A fault of the program; the server's log has it. Please report it."
        return make_refusal(request.url.path, 500, reason)


@pages.get("/")
async def index(request: Request) -> Response:
    """The app's page."""
    names = [name.rpartition(".")[0] for name in _SAMPLES]
    card = request.app.state.current.served.classifier.card
    words = {
        "model": card.name,
        "short_name": Path(card.name).name,
        "is_multi_label": card.is_multi_label,
        "samples": dict(zip(names, _SAMPLES, strict=True)),
    }
    return templates.TemplateResponse(request, "app.html", words)


@pages.get("/mend")
async def mend(request: Request) -> Response:
    """The page where a run is corrected."""
    name = request.app.state.current.served.classifier.card.name
    words = {"model": name, "short_name": Path(name).name, "import_map": _IMPORT_MAP}
    answer = templates.TemplateResponse(request, "mend.html", words)
    answer.headers["Content-Security-Policy"] = make_policy(_IMPORT_MAP)
    return answer


@pages.get("/docs")
async def docs(request: Request) -> Response:
    """The API in words, made of its own description."""
    words = {"api": request.app.openapi(), "base": str(request.base_url).rstrip("/")}
    return templates.TemplateResponse(request, "api.html", words)


@pages.get("/static/{name}")
async def static(name: str) -> FileResponse:
    """One of the page's own files."""
    return _send(_SHOW / "static", name, _STATIC)


@pages.get("/samples/{name}")
async def sample(request: Request, name: str) -> FileResponse:
    """One of the installed photos."""
    return _send(request.app.state.samples, name, _SAMPLES)


def _send(folder: Path, name: str, names: tuple[str, ...]) -> FileResponse:
    if name not in names:
        raise HTTPException(404, f"No file {name!r}; expected one of {', '.join(names)}.")
    return FileResponse(folder / name)
