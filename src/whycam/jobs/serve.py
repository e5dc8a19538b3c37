"""`whycam serve`: one model as a local web app, until it is told to stop."""

from __future__ import annotations

import re
import signal
import socket
from collections.abc import Callable
from functools import partial
from types import FrameType

import uvicorn
from fastapi import FastAPI

from whycam.config import ServeOptions
from whycam.errors import UserError
from whycam.intake.door import open_classifier
from whycam.model.classifier import MANY
from whycam.show.app.allocator import keep_memory_small
from whycam.show.app.draining import Drain
from whycam.show.app.served import CurrentModel, ServedModel
from whycam.show.app.site import make_app


def serve(model_name: str, options: ServeOptions, tell: Callable[[str], None]) -> None:
    """Serves until SIGINT or SIGTERM; requests under way are finished first.

    Args:
        model_name: see `whycam.load`.
        options: where, and the limits.
        tell: is given a line with the address, as soon as it answers.

    Raises:
        UserError: an unknown model, one that no method explains, a name that no address can hold, or an address that
            can't be listened at.
    """
    _check_name(options.model_name)
    # Before there are threads: each keeps the arena that it was given.
    keep_memory_small()
    with listen(options.host, options.port) as door:
        # Before the model, which takes seconds: a port in use is told at once.
        reopen = partial(open_classifier, model_name, **options.describe_model(), photos=MANY)
        with ServedModel(reopen()) as served:
            drain = Drain(find_drain_s(options))
            app = make_app(CurrentModel(served, reopen), options, drain)
            server = _Server(configure(app, options.grace_s), drain)
            # uvicorn stops at these signals and then raises them again: to stop is what was asked for, and no fault.
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, lambda *_: None)
            door.listen()
            tell(f"WhyCAM shows {model_name} at {describe_address(door)} - Ctrl+C stops it")
            server.run(sockets=[door])


def find_drain_s(options: ServeOptions) -> int:
    """`--drain-s`, or what fits who asks: a cluster hears of the end a moment later, a person has asked for it."""
    if options.drain_s is not None:
        return options.drain_s
    return 5 if options.api == "kserve" else 0


def _check_name(name: str | None) -> None:
    if name is not None and not re.fullmatch(r"[\w.-]{1,100}", name):
        raise UserError(
            f"--model-name is {name!r}; expected 1 to 100 letters, digits, '_', '-' or '.', as it is a part of "
            "addresses. Give a plain name."
        )


class _Server(uvicorn.Server):
    """Goes on for a while at SIGTERM, as those who send requests hear of it later; a second one ends that."""

    def __init__(self, config: uvicorn.Config, drain: Drain) -> None:
        super().__init__(config)
        self._drain = drain

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """See uvicorn; who types Ctrl+C does not want to wait."""
        goes_on = self._drain.begin()
        if sig != signal.SIGTERM or not goes_on:
            super().handle_exit(sig, frame)

    async def on_tick(self, counter: int) -> bool:
        """See uvicorn: whether to stop, asked ten times a second."""
        return await super().on_tick(counter) or self._drain.is_over


def configure(app: FastAPI, grace_s: int = 5) -> uvicorn.Config:
    """How the app is run: quietly, and without trust in what clients say of themselves."""
    return uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        server_header=False,
        # A header must not choose whose rate a request counts to.
        proxy_headers=False,
        ws="none",
        timeout_graceful_shutdown=grace_s,
    )


def listen(host: str, port: int) -> socket.socket:
    """A socket bound to the address.

    Raises:
        UserError: the port is in use, or the address is not this machine's.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        door = socket.socket(family, kind, protocol)
        door.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        door.bind(address)
    except OSError as error:
        raise UserError(
            f"Can't listen at {host}, port {port}: {error.strerror}; expected a free port at an address of this "
            "machine. Give another --port (0 takes a free one), or another --host."
        ) from None
    return door


def describe_address(door: socket.socket) -> str:
    """The address to open in a browser."""
    host, port = door.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"
