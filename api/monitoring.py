"""The API's own figures, for Prometheus."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Histogram, Metric
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from symadj.service import usage
from symadj.service.settings import Settings
from symadj.service.store import Database, jobs, metrics, plans

__all__ = ["RequestMetrics", "make_registry"]

# Rows are counted again after so many seconds: a count reads the whole index.
COUNT_SECONDS = 60.0
# As nginx counts requests whose client left before the answer.
CLIENT_LEFT = 499
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class _JobsByState(Collector):
    def __init__(self, database: Database) -> None:
        self._database = database

    def collect(self) -> Iterable[Metric]:
        """Count the jobs when Prometheus asks."""
        gauge = GaugeMetricFamily("symadj_jobs", "Jobs by state.", labels=["state"])
        with self._database.read_session() as session:
            for state, count in jobs.count_by_state(session).items():
                gauge.add_metric([state.value], count)
        yield gauge

    def describe(self) -> Iterable[Metric]:
        """Name the metric without asking the store, which may not be there yet."""
        return [GaugeMetricFamily("symadj_jobs", "Jobs by state.", labels=["state"])]


class _ActiveJobs(Collector):
    """Of the jobs that hold a part of the cluster, by their ids: few at a time, and gone from here when they end."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def collect(self) -> Iterable[Metric]:
        """Read how far they are when Prometheus asks."""
        step, newest, lost, host, device, planned, error = gauges = self.describe()
        with self._database.read_session() as session:
            active = jobs.active(session)
            ids = [job.id for job in active]
            series = metrics.series_of(session, ids)
            plan_of = {row.job_id: row for row in plans.of_jobs(session, ids)}
            for job in active:
                step.add_metric([job.id], max((item.last_step for item in series[job.id]), default=0))
                lost.add_metric([job.id], job.attempts_lost)
                for item in series[job.id]:
                    newest.add_metric([job.id, item.name], item.last_value)
                for gauge, peak in ((host, job.host_peak_bytes), (device, job.device_peak_bytes)):
                    if peak is not None:
                        gauge.add_metric([job.id], peak)
                if job.id in plan_of:
                    found = plans.compared(plan_of[job.id], job, series[job.id])
                    for gauge, value in ((planned, found.planned_bytes), (error, found.error)):
                        if value is not None:
                            gauge.add_metric([job.id], value)
        return gauges

    def describe(self) -> list[GaugeMetricFamily]:
        """Name the metrics without asking the store, which may not be there yet."""
        return [
            GaugeMetricFamily("symadj_job_step", "Optimiser steps of an active job so far.", labels=["job_id"]),
            GaugeMetricFamily(
                "symadj_job_metric", "Newest value of a metric of an active job.", labels=["job_id", "metric"]
            ),
            GaugeMetricFamily("symadj_job_attempts_lost", "Attempts that an active job has lost.", labels=["job_id"]),
            GaugeMetricFamily(
                "symadj_job_host_peak_bytes", "Highest host peak of any rank of an active job.", labels=["job_id"]
            ),
            GaugeMetricFamily(
                "symadj_job_device_peak_bytes", "Highest device peak of any rank of an active job.", labels=["job_id"]
            ),
            GaugeMetricFamily(
                "symadj_job_planned_bytes", "Peak of a worker of an active job, by its plan.", labels=["job_id"]
            ),
            GaugeMetricFamily(
                "symadj_job_plan_error_ratio", "Planned / measured peak of an active job - 1.", labels=["job_id"]
            ),
        ]


class _Store(Collector):
    def __init__(self, database: Database) -> None:
        self._database = database
        self._counted: tuple[float, dict[str, int], int] | None = None

    def collect(self) -> Iterable[Metric]:
        """Count rows and bytes when Prometheus asks, but not again and again."""
        counted = self._counted
        if counted is None or time.monotonic() - counted[0] > COUNT_SECONDS:
            with self._database.read_session() as session:
                rows, taken = usage.rows_by_table(session), usage.store_bytes(session, self._database)
            counted = self._counted = (time.monotonic(), rows, taken)
        rows_gauge, bytes_gauge = self.describe()
        for table, count in counted[1].items():
            rows_gauge.add_metric([table], count)
        bytes_gauge.add_metric([], counted[2])
        return [rows_gauge, bytes_gauge]

    def describe(self) -> list[GaugeMetricFamily]:
        """Name the metrics without asking the store, which may not be there yet."""
        return [
            GaugeMetricFamily("symadj_store_rows", "Rows of the store by table.", labels=["table"]),
            GaugeMetricFamily("symadj_store_bytes", "Bytes of the store.", labels=[]),
        ]


class _Disks(Collector):
    """The disks of the folders on this machine; the same figures several times where one disk has several of them."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def collect(self) -> Iterable[Metric]:
        """Ask the disks when Prometheus asks."""
        size, free = gauges = self.describe()
        for folder, place in usage.folders(self._settings).items():
            bytes_, free_bytes = usage.disk_of(place)
            size.add_metric([folder], bytes_)
            free.add_metric([folder], free_bytes)
        return gauges

    def describe(self) -> list[GaugeMetricFamily]:
        """Name the metrics."""
        of = "of the disk that has the data, the store's file, the jobs' files, or the spools."
        return [
            GaugeMetricFamily("symadj_disk_bytes", f"Bytes {of}", labels=["folder"]),
            GaugeMetricFamily("symadj_disk_free_bytes", f"Free bytes {of}", labels=["folder"]),
        ]


def make_registry(database: Database, settings: Settings) -> CollectorRegistry:
    """Return a registry with the figures that come from the store and from this machine's disks."""
    registry = CollectorRegistry()
    registry.register(_JobsByState(database))
    registry.register(_ActiveJobs(database))
    registry.register(_Store(database))
    registry.register(_Disks(settings))
    return registry


class RequestMetrics:
    """ASGI middleware: counts requests and takes their time, by route.

    prometheus-fastapi-instrumentator does the same under other names and labels; to keep ours, which dashboards know,
    it would take functions as long as this class.
    """

    def __init__(self, app: ASGIApp, registry: CollectorRegistry) -> None:
        self._app = app
        labels = ["method", "route"]
        self._requests = Counter("symadj_http_requests", "Requests answered.", [*labels, "status"], registry=registry)
        self._seconds = Histogram("symadj_http_request_seconds", "Time to answer.", labels, registry=registry)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        status = 500

        async def watch(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, watch)
        except asyncio.CancelledError:
            status = CLIENT_LEFT
            raise
        finally:
            # What matches nothing shares one label: strangers must not be able to grow the registry.
            route = getattr(scope.get("route"), "path", "none")
            method = scope["method"] if scope["method"] in METHODS else "other"
            self._requests.labels(method, route, str(status)).inc()
            self._seconds.labels(method, route).observe(time.perf_counter() - started)
