"""What Prometheus asks of the server: how many requests, how long they took, how full the batches were.

Labels are routes, as `/v2/models/{name}/infer`, and statuses: no name and no path that a client has sent.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

from fastapi import APIRouter, Request
from fastapi.responses import Response
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.metrics_core import GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from whycam.show.app.served import CurrentModel

# Seconds: from a cached page to a method of many forward passes.
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_PHOTOS = (1, 2, 4, 8, 16, 32, 64)
_OTHER = "other"

metrics_page = APIRouter(include_in_schema=False)


class Metrics:
    """The numbers of one app.

    Attributes:
        registry: all of them; none are shared with another app of the process.
    """

    def __init__(self, current: CurrentModel) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "whycam_requests", "Requests that were answered.", ("path", "status"), registry=self.registry
        )
        self.seconds = Histogram(
            "whycam_request_seconds",
            "From a request's first byte to its answer's last.",
            ("path",),
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.under_way = Gauge(
            "whycam_requests_under_way", "Requests that have come and are not answered.", registry=self.registry
        )
        self.registry.register(_Batches(current))
        ProcessCollector(registry=self.registry)


class _Batches(Collector):
    """What the batches of the model of now tell, read when it is asked for; a model put in its place begins anew."""

    def __init__(self, current: CurrentModel) -> None:
        self._current = current

    def collect(self) -> Iterator[Metric]:
        """See prometheus-client."""
        batcher = self._current.served.exact
        sizes = batcher.count_sizes() if batcher else {}
        buckets = [(str(float(most)), float(sum(n for size, n in sizes.items() if size <= most))) for most in _PHOTOS]
        buckets.append(("+Inf", float(sum(sizes.values()))))
        photos = float(sum(size * n for size, n in sizes.items()))
        yield HistogramMetricFamily(
            "whycam_batch_photos", "Photos that were read together.", buckets=buckets, sum_value=photos
        )
        waiting = batcher.count_waiting() if batcher else 0
        yield GaugeMetricFamily("whycam_photos_waiting", "Photos that wait for the batch before them.", value=waiting)


class Measure:
    """ASGI middleware that counts every request, the refused ones too; it stands before all others."""

    def __init__(self, app: ASGIApp, *, metrics: Metrics) -> None:
        self.app, self.metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        # What a server that fails before its first byte is told to have answered.
        status, begin = 500, time.perf_counter()

        async def note_status(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        with self.metrics.under_way.track_inprogress():
            try:
                await self.app(scope, receive, note_status)
            finally:
                path = getattr(scope.get("route"), "path", _OTHER)
                self.metrics.requests.labels(path, str(status)).inc()
                self.metrics.seconds.labels(path).observe(time.perf_counter() - begin)


@metrics_page.get("/metrics")
async def tell_metrics(request: Request) -> Response:
    """All numbers, in Prometheus's text format."""
    metrics: Metrics = request.app.state.metrics
    return Response(generate_latest(metrics.registry), headers={"Content-Type": CONTENT_TYPE_LATEST})
