"""What stands before the app: whose requests, how many, how large; and headers that keep its pages to themselves."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import ipaddress
import time
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from urllib.parse import urlsplit

from fastapi import HTTPException
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from whycam.show.app.refusals import make_refusal

MB = 1024 * 1024
# What is read of a refused body, and thrown away, so that its sender gets to see the answer.
_DRAIN_BYTES, _DRAIN_S = 512 * MB, 20
_MAX_CLIENTS = 4096


def make_policy(script: str = "") -> str:
    """What a page may load: its own server's files, and one script that stands in it."""
    own = f" 'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'" if script else ""
    return (
        f"default-src 'none'; script-src 'self'{own}; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


_HEADERS = {
    "Content-Security-Policy": make_policy(),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-cache",
}


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches that address."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class TokenBuckets:
    """So many requests a minute for each client, who may spend a minute's at once."""

    def __init__(self, rate: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.rate, self.clock = rate, clock
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, client: str) -> float:
        """Takes one; seconds until there is one, where there is none, else 0."""
        now = self.clock()
        left, then = self._left.pop(client, (float(self.rate), now))
        left = min(self.rate, left + (now - then) * self.rate / 60)
        self._left[client] = (left - 1 if left >= 1 else left, now)
        if len(self._left) > _MAX_CLIENTS:
            self._left.popitem(last=False)
        return 0 if left >= 1 else (1 - left) * 60 / self.rate


@dataclass(frozen=True)
class Refusal:
    """An answer that the app itself need not give."""

    status: int
    reason: str
    retry_s: float = 0


_STOPPING = Refusal(503, "The server stops, and this request was not done in time. Ask again once it is back.")


class Guard:
    """ASGI middleware; see the file's first line.

    Attributes:
        max_bytes: of a request's body.
        rate: requests to the API a minute and client; 0: any number.
        is_local: only names of this machine are answered to, so that no foreign name can be bent to it.
    """

    def __init__(self, app: ASGIApp, *, max_bytes: int, rate: int, is_local: bool) -> None:
        self.app, self.max_bytes, self.is_local = app, max_bytes, is_local
        self.buckets = TokenBuckets(rate) if rate else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        has_begun = False

        async def send_with_headers(message: Message) -> None:
            nonlocal has_begun
            if message["type"] == "http.response.start":
                has_begun = True
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        refusal = self._refuse(scope)
        if refusal is None:
            try:
                await self.app(scope, self._limit(receive), send_with_headers)
            except asyncio.CancelledError:
                # A server that stops cancels what takes too long; its client is told, and not the log.
                refusal = _STOPPING
        elif "expect" not in Headers(scope=scope):
            await _drain(receive)
        if refusal is not None and not has_begun:
            answer = make_refusal(scope["path"], refusal.status, refusal.reason)
            if refusal.retry_s:
                answer.headers["Retry-After"] = str(int(refusal.retry_s) + 1)
            await answer(scope, receive, send_with_headers)

    def _refuse(self, scope: Scope) -> Refusal | None:
        headers = Headers(scope=scope)
        host, origin = headers.get("host", ""), headers.get("origin")
        if self.is_local and not _names_this_machine(host):
            return Refusal(403, f"The request is for {host!r}; expected this machine's own name, such as localhost.")
        if scope["method"] == "POST" and origin is not None and origin.partition("://")[2] != host:
            return Refusal(403, f"The request comes from a page of {origin!r}; expected this app's own page, or none.")
        size = headers.get("content-length", "")
        if size.isdecimal() and int(size) > self.max_bytes:
            return Refusal(413, self._tell_size(int(size)))
        if self.buckets is not None and scope["method"] == "POST":
            wait_s = self.buckets.take((scope.get("client") or ("",))[0])
            if wait_s:
                reason = f"More than {self.buckets.rate} requests in a minute; wait {wait_s:.1f} s, then go on."
                return Refusal(429, reason, wait_s)
        return None

    def _limit(self, receive: Receive) -> Receive:
        """The body's chunks; a body that says no size, or a wrong one, is cut off where it grows too large."""
        total = 0

        async def receive_some() -> Message:
            nonlocal total
            message = await receive()
            total += len(message.get("body", b""))
            if total > self.max_bytes:
                if message.get("more_body"):
                    await _drain(receive)
                raise HTTPException(413, self._tell_size(total))
            return message

        return receive_some

    def _tell_size(self, found: int) -> str:
        return (
            f"The upload has {found / MB:.1f} MB or more; expected {self.max_bytes / MB:g} MB at the most. "
            "Send fewer or smaller photos, or start the server with a larger --max-upload-mb."
        )


def _names_this_machine(host: str) -> bool:
    try:
        return is_loopback(urlsplit(f"//{host}").hostname or "")
    except ValueError:
        return False


async def _drain(receive: Receive) -> None:
    """Reads what is left of a body, within bounds, and keeps nothing of it."""
    total, more = 0, True
    with suppress(TimeoutError):
        async with asyncio.timeout(_DRAIN_S):
            while more and total < _DRAIN_BYTES:
                message = await receive()
                total += len(message.get("body", b""))
                more = message["type"] == "http.request" and message.get("more_body", False)
