"""Deliveries, health, stats, metrics, and the description of the API."""

from __future__ import annotations

from functools import partial
from importlib import resources

from quart import Blueprint, Response, abort
from quart_schema import document_response, hide, security_scheme, tag

from teckochecker.app import App
from teckochecker.domain import SANDBOXED, DeliveryState, Kind, Status
from teckochecker.errors import DeliveryNotFound
from teckochecker.lanes import Lane
from teckochecker.pulse import health, percentiles
from teckochecker.store import Totals
from teckochecker.web import schemas, wire

STATIC_TYPES = {"html": "text/html", "js": "text/javascript", "css": "text/css"}


def system(app: App) -> Blueprint:
    routes = tag(["System"])(Blueprint("system", __name__))  # type: ignore[type-var]  # quart-schema takes blueprints too

    @routes.get("/api/health")
    @security_scheme([])
    @document_response(schemas.HealthDocument)
    @document_response(schemas.HealthDocument, 503)
    async def health_() -> Response:
        """How the daemon is; open to everybody, and 503 when nothing gets done."""
        found = health(app.pulse, app.now(), containers=app.sandbox.containers)
        return wire.encode(found.document, 503 if found.word == "failing" else 200)

    @routes.get("/api/stats")
    @document_response(schemas.StatsDocument)
    async def stats() -> Response:
        """Counts of jobs, checks and triggers, and how late checks begin."""
        totals = await app.lanes.run(Lane.READ, partial(app.store.agenda.totals, app.now()))
        return wire.encode(_stats(app, totals))

    @routes.get("/metrics")
    @hide
    async def metrics() -> Response:
        """Prometheus metrics."""
        totals = await app.lanes.run(Lane.READ, partial(app.store.agenda.totals, app.now()))
        _set_gauges(app, totals)
        return Response(
            app.metrics.exposition(), content_type="text/plain; version=0.0.4; charset=utf-8"
        )

    @routes.post("/api/deliveries/<delivery>/redeliver")
    @document_response(schemas.DeliveryDocument)
    async def redeliver(delivery: str) -> Response:
        """Send an outcome again, now, under the same event id."""
        wanted = wire.wanted(delivery)
        if not isinstance(wanted, int):
            raise DeliveryNotFound(f"Delivery {delivery[:100]!r} doesn't exist: ids are numbers.")
        write = partial(app.store.deliveries.redeliver, wanted, app.now())
        view = await app.lanes.run(Lane.STORE, write)
        app.wake.poke()
        return wire.encode(wire.delivery_document(view))

    @routes.get("/docs")
    @hide
    async def docs() -> Response:
        """The API's description for people."""
        return _static("docs.html")

    @routes.get("/static/<name>")
    @hide
    async def static(name: str) -> Response:
        return _static(name)

    return routes


def _stats(app: App, totals: Totals) -> dict[str, object]:
    by_status = {
        status.value: sum(counts.get(status, 0) for counts in totals.jobs.values())
        for status in Status
    }
    return {
        "active_jobs": by_status["active"],
        "jobs_processed": by_status["completed"] + by_status["failed"],
        "jobs": {"all": by_status, **{str(kind): dict(of) for kind, of in totals.jobs.items()}},
        "checks_last_day": totals.checks,
        "triggers_last_day": totals.triggers,
        "deliveries": totals.deliveries,
        "lag_seconds": percentiles(tuple(app.pulse.lags_s)),
        "database_bytes": totals.size_bytes,
        "token_last_used_at": totals.token_last_used_at,
    }


def _set_gauges(app: App, totals: Totals) -> None:
    metrics, pulse = app.metrics, app.pulse
    metrics.oldest_due.set(pulse.oldest_due_s(app.now()))
    metrics.in_flight.set(pulse.checks_in_flight)
    metrics.containers.set(app.sandbox.containers)
    metrics.script_storage.set(pulse.script_bytes)
    for kind in app.sources:
        running = len(pulse.scripts if kind == SANDBOXED else pulse.jobs)
        metrics.waiting.labels(kind).set(max(0, totals.due.get(kind, 0) - running))
    for state in DeliveryState:
        metrics.deliveries.labels(state.value).set(totals.deliveries.get(state, 0))
    for kind, counts in totals.jobs.items():
        for status in Status:
            metrics.jobs.labels(kind.value, status.value).set(counts.get(status, 0))
    custom = totals.jobs[Kind.CUSTOM_CHECK]
    for status in Status:
        metrics.custom_jobs.labels(status.value).set(custom.get(status, 0))
    metrics.custom_active.set(custom.get(Status.ACTIVE, 0))


def _static(name: str) -> Response:
    files = {file.name: file for file in (resources.files("teckochecker.web") / "static").iterdir()}
    kind = STATIC_TYPES.get(name.rpartition(".")[2])
    if kind is None or name not in files:
        abort(404)
    return Response(files[name].read_bytes(), content_type=f"{kind}; charset=utf-8")
