"""Traces: one for each turn that did something, made of what the turn's own event says of its steps.

Nothing is instrumented, and no context travels: a request to a provider says nothing of who traces it. The SDK's own
thread sends what it is given in batches; a collector that is away costs traces, and nobody waits for it.
"""

from __future__ import annotations

import logging
import os
import re
import threading
import time
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import structlog
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.environment_variables import OTEL_SERVICE_NAME
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.id_generator import IdGenerator, RandomIdGenerator
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TraceFlags

from sidecar.errors import ConfigError
from sidecar.events import Course, Delivered, Event, Step, TurnEnded

if TYPE_CHECKING:
    from collections.abc import Mapping

    from opentelemetry.context import Context
    from opentelemetry.sdk.trace.export import SpanExporter
    from opentelemetry.util.types import AttributeValue

NAME = "token-sidecar"
CLOSING = 1.0
"""Seconds for which the end of the process waits for the last traces to be sent."""
REPEAT_AFTER = 600.0
"""Seconds after which it is said again that traces are lost."""
LONGEST = 300
"""Characters of what the SDK says of its trouble."""
IDLE = {"load", "decide"}
"""Steps of a turn that finds nothing to do."""
SUBJECTS = {"publish": "output", "hook": "hook", "call": "provider", "decide": "reason"}
"""Step → what its subject is; of the others it is a store."""


class Spans:
    """Turns the courses of turns into spans, and hands them to the SDK."""

    def __init__(self, instance: str, version: str, exporter: SpanExporter | None = None) -> None:
        """Begin the SDK's thread. `exporter`: OTLP over HTTP by default. Raises `ConfigError`."""
        _quieten()
        self._ids = _Ids()
        own = {"service.name": NAME, "service.version": version, "service.instance.id": instance}
        try:
            self._provider = TracerProvider(
                resource=_resource(own), id_generator=self._ids, shutdown_on_exit=False
            )
            self._provider.add_span_processor(BatchSpanProcessor(exporter or OTLPSpanExporter()))
        except ValueError as error:
            raise ConfigError(
                f"tracing: a variable OTEL_… of the environment can't be used: {error}"
            ) from None
        self._tracer = self._provider.get_tracer(NAME, version)

    def notice(self, event: Event) -> None:
        """Make the trace of a turn that did something."""
        match event:
            case TurnEnded(course=Course() as course) if event.noteworthy or _is_busy(course):
                view = event.view
                told: dict[str, AttributeValue] = {
                    "token": view.token,
                    "provider": view.provider,
                    "grant_state": view.grant_state.value,
                    "lineage": view.lineage,
                    "generation": view.generation,
                    "fingerprint": view.fingerprint,
                    "refresh_fingerprint": view.refresh_fingerprint,
                }
                self._trace("renew", course, told)
            case Delivered(course=Course() as course) if event.noteworthy or _is_busy(course):
                self._trace("deliver", course, {"token": event.token}, event.follows)
            case _:
                return

    def close(self) -> None:
        """Send what is left, for no longer than `CLOSING`; a thread that hangs ends with the process."""
        closing = threading.Thread(target=self._provider.shutdown, name="spans", daemon=True)
        closing.start()
        closing.join(CLOSING)

    def _trace(self, name: str, course: Course, told: dict[str, AttributeValue], follows: str = "") -> None:
        self._ids.trace = course.id
        began = _nanoseconds(course.began)
        called = {step.outcome for step in course.steps if step.name == "call"}
        root = self._tracer.start_span(
            name,
            attributes=_attributes({**told, "outcome": "".join(called)}),
            links=[Link(_context(follows))] if follows else None,
            start_time=began,
        )
        if root.is_recording():
            inside = trace.set_span_in_context(root)
            for step in course.steps:
                self._step(step, began, inside)
            for wrong in [step for step in course.steps if step.error][-1:]:
                _fail(root, wrong)
        root.end(began + _nanoseconds(course.seconds))

    def _step(self, step: Step, began: int, inside: Context) -> None:
        attributes = _attributes({SUBJECTS.get(step.name, "store"): step.subject, "outcome": step.outcome})
        if step.address:
            place = urlsplit(step.address)
            attributes["server.address"] = place.hostname or ""
            attributes["server.port"] = place.port or {"http": 80}.get(place.scheme, 443)
        if step.status is not None:
            attributes["http.response.status_code"] = step.status
        span = self._tracer.start_span(
            step.name,
            inside,
            kind=SpanKind.CLIENT if step.name == "call" else SpanKind.INTERNAL,
            attributes=attributes,
            start_time=began + _nanoseconds(step.at),
        )
        if step.error:
            _fail(span, step)
        span.end(began + _nanoseconds(step.at + step.seconds))


class _Ids(IdGenerator):
    """A turn's own id names its trace and begins the name of its first span, so that others can link to it."""

    def __init__(self) -> None:
        self.trace = ""
        self._random = RandomIdGenerator()
        self._first = 0

    def generate_trace_id(self) -> int:
        context = _context(self.trace)
        self._first = context.span_id
        return context.trace_id

    def generate_span_id(self) -> int:
        first, self._first = self._first, 0
        return first or self._random.generate_span_id()


def _context(turn: str) -> SpanContext:
    """Name the first span of a turn's trace."""
    flags = TraceFlags(TraceFlags.SAMPLED)
    return SpanContext(int(turn, 16), int(turn[:16], 16), is_remote=False, trace_flags=flags)


def _is_busy(course: Course) -> bool:
    return any(step.name not in IDLE for step in course.steps)


def _resource(own: Mapping[str, str]) -> Resource:
    """Describe the process; what the environment says goes before what we say of ourselves."""
    told = {*OTELResourceDetector().detect().attributes}
    if os.environ.get(OTEL_SERVICE_NAME):
        told.add("service.name")
    return Resource.create({name: value for name, value in own.items() if name not in told})


def _attributes(told: Mapping[str, AttributeValue]) -> dict[str, AttributeValue]:
    return {f"token_sidecar.{name}": value for name, value in told.items() if value != ""}


def _fail(span: trace.Span, step: Step) -> None:
    span.set_attribute("error.type", step.error)
    span.set_status(Status(StatusCode.ERROR, step.problem))


def _nanoseconds(seconds: float) -> int:
    return int(seconds * 1e9)


def _quieten() -> None:
    """Hear of the SDK's trouble once in a while: it tells of each batch, and the same goes for all of them."""
    logger = logging.getLogger("opentelemetry")
    logger.propagate = False
    logger.handlers = [_Seldom()]


class _Seldom(logging.Handler):
    """Says the first of what comes, from whichever thread, and is silent for a while."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._quiet_until = float("-inf")
        self._log = structlog.get_logger("sidecar.spans")

    def emit(self, record: logging.LogRecord) -> None:
        now = time.monotonic()
        if now < self._quiet_until:
            return
        self._quiet_until = now + REPEAT_AFTER
        # Whoever has to prove themselves to a collector may do it in the query of its URL.
        reason = re.sub(r"\?\S*", "?…", record.getMessage().partition("\n")[0])[:LONGEST]
        self._log.warning(
            "traces can't be delivered, and are dropped for as long as that lasts; nothing else waits for them. It is "
            "said again in ten minutes at the earliest",
            reason=reason,
        )
