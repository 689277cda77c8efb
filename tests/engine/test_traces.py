"""The trace of a turn: its shape, its times, and what it says where something went wrong."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from itertools import pairwise

import anyio
import pytest
from msgspec.structs import replace
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode
from structlog.testing import capture_logs

from sidecar.events import TurnEnded
from sidecar.observers.spans import Spans
from sidecar.stopwatch import Stopwatch
from sidecar.testing import faults
from tests.engine.conftest import EPOCH, Daemon, House
from tests.engine.test_courier import Bell, Cabinet

INSTANCE = "9f8e7d6c5b4a49c8b7a6f5e4d3c2b1a0"
REFRESH = ["load", "decide", "lease", "arm", "call", "escrow", "commit", "publish"]
"""What a refresh consists of, in this order."""


class Trace:
    """One root and what hangs below it, in the order in which it began."""

    def __init__(self, root: ReadableSpan, steps: list[ReadableSpan]) -> None:
        self.root, self.steps = root, sorted(steps, key=lambda step: step.start_time or 0)

    def __getitem__(self, name: str) -> ReadableSpan:
        [found] = [step for step in self.steps if step.name == name]
        return found

    @property
    def names(self) -> list[str]:
        return [step.name for step in self.steps]

    def told(self, name: str, of: str = "") -> object:
        """Give an attribute of ours of the root, or of a step."""
        return ((self[of] if of else self.root).attributes or {}).get(f"token_sidecar.{name}")


@pytest.fixture(autouse=True)
def _loggers() -> Iterator[None]:
    """Give the SDK its loggers back."""
    logger = logging.getLogger("opentelemetry")
    before = logger.handlers, logger.propagate
    yield
    logger.handlers, logger.propagate = before


def traces_of(daemon: Daemon) -> list[Trace]:
    """Make traces of all that a daemon told."""
    exporter = InMemorySpanExporter()
    spans = Spans(INSTANCE, "1.2.3", exporter)
    for event in daemon.events:
        spans.notice(event)
    finished: Sequence[ReadableSpan] = ()
    spans.close()
    finished = exporter.get_finished_spans()
    roots = [span for span in finished if span.parent is None]
    assert all(
        span.parent is None or span.parent.span_id in {root.context.span_id for root in roots}
        for span in finished
    )
    return [
        Trace(
            root,
            [span for span in finished if span.parent and span.context.trace_id == root.context.trace_id],
        )
        for root in roots
    ]


async def test_a_refresh_is_a_trace_of_its_steps(house: House) -> None:
    """Its steps are its children, one after the other and within it, at the times of our clock."""
    daemon = house.daemon(seed=house.provider.new_grant())
    house.provider.add_fault(faults.latency(before=2))
    await daemon.run(60)
    [trace] = traces_of(daemon)
    record = await house.store.record()
    assert record.access is not None
    assert record.refresh is not None

    assert trace.names == REFRESH
    assert (trace.root.name, trace.root.status.status_code) == ("renew", StatusCode.UNSET)
    assert int(EPOCH * 1e9) <= (trace.root.start_time or 0) <= int((EPOCH + 1) * 1e9)
    for one, other in pairwise(trace.steps):
        assert (one.end_time or 0) <= (other.start_time or 0)
    assert (trace.steps[-1].end_time or 0) <= (trace.root.end_time or 0) + 1000
    call = trace["call"]
    assert call.kind is SpanKind.CLIENT
    assert 2e9 <= (call.end_time or 0) - (call.start_time or 0) < 3e9
    assert {name: (call.attributes or {})[name] for name in ("server.address", "server.port")} == {
        "server.address": "provider.example",
        "server.port": 443,
    }
    assert (call.attributes or {})["http.response.status_code"] == 200
    assert dict(trace.root.attributes or {}) == {
        "token_sidecar.token": "gmail",
        "token_sidecar.provider": "sim",
        "token_sidecar.outcome": "success",
        "token_sidecar.grant_state": "ok",
        "token_sidecar.lineage": record.lineage,
        "token_sidecar.generation": 1,
        "token_sidecar.fingerprint": record.access.fingerprint,
        "token_sidecar.refresh_fingerprint": record.refresh.fingerprint,
    }
    assert trace.told("outcome", "lease") == "taken"
    assert trace.told("store", "commit") == house.store.kind
    assert (trace.told("output", "publish"), trace.told("outcome", "publish")) == (daemon.shelf.id, "written")
    resource = trace.root.resource.attributes
    assert (resource["service.name"], resource["service.version"]) == ("token-sidecar", "1.2.3")
    assert resource["service.instance.id"] == INSTANCE


async def test_looks_that_find_nothing_make_no_trace(house: House) -> None:
    """Twenty turns of nothing cost nothing; the refreshes between them have one each."""
    daemon = house.daemon(seed=house.provider.new_grant())
    await daemon.run(3600)
    assert [trace.told("generation") for trace in traces_of(daemon)] == [
        number + 1 for number in range(len(daemon.grant.calls))
    ]


async def test_a_refused_call_is_an_error_of_its_class(house: House) -> None:
    """Call and turn have the error's class and reason; nothing was published."""
    house.provider.add_fault(faults.status(503))
    daemon = house.daemon(seed=house.provider.new_grant())
    await daemon.run(0.5)
    trace = traces_of(daemon)[0]
    assert trace.names == [name for name in REFRESH if name != "publish"]
    assert trace.told("outcome") == "transient"
    for span in (trace.root, trace["call"]):
        assert span.status.status_code is StatusCode.ERROR
        assert "503" in (span.status.description or "")
        assert (span.attributes or {})["error.type"] == "transient"
    assert (trace["call"].attributes or {})["http.response.status_code"] == 503
    assert trace["commit"].status.status_code is StatusCode.UNSET


async def test_a_call_that_reached_nobody_has_no_status(house: House) -> None:
    """Nothing was sent, so there is nothing for escrow either."""
    daemon = house.daemon(seed=house.provider.new_grant())
    daemon.grant.unreachable = 1
    await daemon.run(30)
    trace = traces_of(daemon)[0]
    assert trace.names == ["load", "decide", "lease", "arm", "call", "commit"]
    assert "http.response.status_code" not in (trace["call"].attributes or {})
    assert trace["call"].status.description == "connection refused"


async def test_a_store_that_gives_no_lease_is_an_error_of_the_turn(house: House) -> None:
    """The turn ends at the lease, and says what the store said."""
    daemon = house.daemon(seed=house.provider.new_grant())
    await daemon.run(10)
    daemon.events.clear()
    house.store.fail_writes = 1
    daemon.renewer.refuse((await house.store.record()).access.fingerprint)  # type: ignore[union-attr]
    daemon.scheduler.wake("gmail")
    await daemon.run(1)
    trace = traces_of(daemon)[0]
    assert trace.names == ["load", "decide", "lease"]
    assert (trace.root.attributes or {})["error.type"] == "StoreError"
    assert trace.root.status.description == "the write failed"


async def test_a_race_that_was_lost_is_no_error(house: House) -> None:
    """Two daemons want the same lease: for the slower one it is elsewhere, and that is all."""
    token = house.provider.new_grant()
    daemons = [house.daemon(seed=token) for _ in range(2)]
    await daemons[0].run(0.2)
    record = await house.store.record()
    assert record.access is not None
    await daemons[1].run(0.2)
    daemons[1].events.clear()
    write = house.store.write

    async def overtaken(*arguments: object, **named: object) -> str:
        house.store.write = write  # type: ignore[method-assign]
        await house.store.edit(record)
        return await write(*arguments, **named)  # type: ignore[arg-type]

    house.store.write = overtaken  # type: ignore[method-assign]
    daemons[1].renewer.refuse(record.access.fingerprint)
    daemons[1].scheduler.wake("gmail")
    await daemons[1].run(0.2)
    trace = traces_of(daemons[1])[0]
    assert trace.names[-1] == "lease"
    assert trace.told("outcome", "lease") == "elsewhere"
    assert trace.root.status.status_code is StatusCode.UNSET


async def test_a_commit_that_fails_is_an_error_after_a_call_that_was_none(house: House) -> None:
    """The provider was well and the store was not: the trace shows both."""
    daemon = house.daemon(seed=house.provider.new_grant())
    await daemon.run(10)
    daemon.events.clear()
    write = house.store.write

    async def leased_only(*arguments: object, lease: float = 0.0, **named: object) -> str:
        house.store.fail_writes = int(not lease)
        return await write(*arguments, lease=lease, **named)  # type: ignore[arg-type]

    house.store.write = leased_only  # type: ignore[method-assign]
    daemon.renewer.refuse((await house.store.record()).access.fingerprint)  # type: ignore[union-attr]
    daemon.scheduler.wake("gmail")
    await daemon.run(0.05)
    trace = traces_of(daemon)[0]
    assert trace["call"].status.status_code is StatusCode.UNSET
    assert trace["commit"].status.status_code is StatusCode.ERROR
    assert (trace.told("outcome"), trace.root.status.status_code) == ("success", StatusCode.ERROR)


async def test_what_is_far_away_has_a_trace_of_its_own_that_is_linked(house: House) -> None:
    """A delivery takes as long as it takes; it names the turn that handed it over, which did not wait for it."""
    daemon = house.daemon(seed=house.provider.new_grant())
    cabinets = [Cabinet(house.clock, f"secret:ns/name/{number}") for number in range(2)]
    cabinets[1].silent = True
    bell = Bell(house.clock)
    daemon.renewer.courier.furnish(cabinets, (bell,))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(daemon.run, 60)
        await anyio.sleep(4)
        cabinets[1].silent = False
    traces = traces_of(daemon)
    [renewed] = [trace for trace in traces if trace.root.name == "renew"]
    delivered = [trace for trace in traces if trace.root.name == "deliver"]

    assert renewed.names == REFRESH
    for trace in delivered:
        [link] = trace.root.links
        assert (link.context.trace_id, link.context.span_id) == (
            renewed.root.context.trace_id,
            renewed.root.context.span_id,
        )
    published = [step for trace in delivered for step in trace.steps if step.name == "publish"]
    assert {(step.attributes or {})["token_sidecar.output"] for step in published} == {
        one.id for one in cabinets
    }
    hooks = [step for trace in delivered for step in trace.steps if step.name == "hook"]
    assert [(step.attributes or {})["token_sidecar.hook"] for step in hooks] == ["bell"]


async def test_sampling_by_trace_takes_its_share(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a fleet's traces a quarter can be kept: the ids of turns are random in all their bits."""
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "parentbased_traceidratio")
    monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", "0.25")
    daemon = house.daemon(seed=house.provider.new_grant())
    await daemon.run(10)
    [turn, *_] = daemon.of(TurnEnded)
    daemon.events[:] = [replace(turn, course=Stopwatch(house.clock).course()) for _ in range(400)]
    assert 40 < len(traces_of(daemon)) < 160


def test_trouble_with_the_collector_is_said_once() -> None:
    """One line in ten minutes, whatever the SDK has to say, without what is in a query."""
    spans = Spans(INSTANCE, "1.2.3", InMemorySpanExporter())
    with capture_logs() as said:
        for number in range(100):
            logging.getLogger("opentelemetry.sdk").warning(
                "HTTPConnectionPool(host='c'): url: /v1?key=sim-cs-0123456789abcdef (%s)\nTraceback", number
            )
        logging.getLogger("opentelemetry.sdk").debug("nothing")
    spans.close()
    [line] = said
    assert line["event"].startswith("traces can't be delivered")
    assert line["reason"].endswith("url: /v1?… (0)")
