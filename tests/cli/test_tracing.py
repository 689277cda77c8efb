"""Traces of a real daemon, as a collector gets them, and what a collector that fails costs: nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from sidecar.testing import faults
from tests.cli.conftest import Place
from tests.cli.test_sets import until

PROMPT = 8.0
"""Seconds within which a daemon has ended, on a busy machine; the SDK alone would take up to half a minute."""
STEPS = ["load", "decide", "lease", "arm", "call", "escrow", "commit", "publish"]


class Collector:
    """A receiver of OTLP over HTTP on loopback."""

    def __init__(self, status: int | None) -> None:
        """`status`: how it answers; None: never."""
        self.status = status
        self.requests: list[tuple[str, dict[str, str], bytes]] = []
        self.released = threading.Event()
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                collector.requests.append((self.path, dict(self.headers), body))
                if collector.status is None:
                    collector.released.wait(60)
                    return
                self.send_response(collector.status)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                """Say nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    @contextmanager
    def serve(self) -> Iterator[Collector]:
        """Serve until the block ends."""
        thread = threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self.released.set()
            self.server.shutdown()
            self.server.server_close()
            thread.join()

    def spans(self) -> list[tuple[dict[str, str], Span]]:
        """Decode all that came: the resource's attributes with each span."""
        found = []
        for _, _, body in [*self.requests]:
            for of in ExportTraceServiceRequest.FromString(body).resource_spans:
                resource = {one.key: one.value.string_value for one in of.resource.attributes}
                found += [(resource, span) for scope in of.scope_spans for span in scope.spans]
        return found

    def roots(self, outcome: str) -> list[Span]:
        """Find the traces of turns whose call had this outcome."""
        return [
            span
            for _, span in self.spans()
            if told(span).get("token_sidecar.outcome") == outcome and not span.parent_span_id
        ]


def told(span: Span) -> dict[str, Any]:
    """Give a span's attributes."""
    return {one.key: getattr(one.value, str(one.value.WhichOneof("value"))) for one in span.attributes}


@pytest.fixture
def traced(seeded: Place, monkeypatch: pytest.MonkeyPatch) -> Place:
    """Have traces made, and sent every tenth of a second."""
    seeded.document["tracing"] = {"enabled": True}
    seeded.write()
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "100")
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=trial")
    return seeded


def test_a_collector_gets_the_trace_of_each_refresh(traced: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """What arrives has the promised shape, an error where one was, names, and no secret."""
    with Collector(200).serve() as collector:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
        with traced.daemon():
            until(lambda: collector.roots("success"))
            traced.provider.add_fault(faults.status(503))
            assert traced.run("refresh", "gmail").returncode == 4
            until(lambda: collector.roots("transient"))
        spans = collector.spans()

    [refresh, *_], [failure, *_] = collector.roots("success"), collector.roots("transient")
    steps = [span for _, span in spans if span.parent_span_id == refresh.span_id]
    steps.sort(key=lambda span: span.start_time_unix_nano)
    assert [span.name for span in steps] == STEPS
    assert {span.trace_id for span in steps} == {refresh.trace_id}
    for one, other in pairwise(steps):
        assert refresh.start_time_unix_nano <= one.start_time_unix_nano <= one.end_time_unix_nano
        assert one.end_time_unix_nano <= other.start_time_unix_nano + 1
    assert abs(refresh.start_time_unix_nano / 1e9 - time.time()) < 60
    assert told(refresh)["token_sidecar.token"] == "gmail"
    assert told(refresh)["token_sidecar.generation"] == 1
    [call] = [span for _, span in spans if span.parent_span_id == failure.span_id and span.name == "call"]
    for span in (failure, call):
        assert (span.status.code, told(span)["error.type"]) == (Status.STATUS_CODE_ERROR, "transient")
    assert told(call)["http.response.status_code"] == 503
    assert told(call)["server.address"] == "127.0.0.1"
    resource = spans[0][0]
    assert resource["service.name"] == "token-sidecar"
    assert resource["deployment.environment.name"] == "trial"
    assert resource["service.version"]
    assert resource["service.instance.id"]

    received = b"".join(body + json.dumps(headers).encode() for _, headers, body in collector.requests)
    assert b"sim-" not in received.replace(b"sim-client", b"")
    assert {path for path, _, _ in collector.requests} == {"/v1/traces"}


@pytest.mark.parametrize("status", [500, None, 0], ids=["refuses", "hangs", "is away"])
def test_a_collector_in_trouble_costs_traces_and_nothing_else(
    status: int | None, traced: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Refreshes go on, the end is prompt, and the log has at most one line about it."""
    with Collector(status).serve() as collector:
        monkeypatch.setenv(
            "OTEL_EXPORTER_OTLP_ENDPOINT", collector.url if status != 0 else "http://127.0.0.1:9"
        )
        with traced.daemon() as process:
            for generation in range(2, 5):
                assert f"generation {generation}" in traced.ok("refresh", "gmail")
            if status != 0:
                until(lambda: collector.requests)
            began = time.monotonic()
            process.terminate()
            assert process.wait(30) == 0
            assert time.monotonic() - began < PROMPT
    log = (traced.root / "log").read_text(encoding="utf-8")
    said = [line for line in log.splitlines() if "traces can't be delivered" in line]
    assert len(said) <= 1
    assert "opentelemetry" not in log
    assert "Traceback" not in log
    if status is not None:
        assert said


def once(place: Place, before: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    """Run `run --once` in a process from nothing, and print which modules it has at its end."""
    code = f"""import sys; {before}
from sidecar import cli
code = cli.main(["run", "--once"])
print(*[name for name in sys.modules if name.startswith(("opentelemetry", "requests", "google.protobuf"))])
sys.exit(code)
"""
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **place.environment, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_nothing_is_imported_unless_traces_are_made(seeded: Place) -> None:
    """A daemon that makes none has none of the libraries in memory."""
    done = once(seeded)
    assert (done.returncode, done.stdout) == (0, "\n"), done.stderr


def test_traces_are_sent_by_a_single_run_too(traced: Place) -> None:
    """What is left when the process ends is sent before that."""
    with Collector(200).serve() as collector:
        done = once(
            traced,
            OTEL_EXPORTER_OTLP_ENDPOINT=collector.url,
            OTEL_BSP_SCHEDULE_DELAY="60000",
            OTEL_SERVICE_NAME="own",
        )
    assert done.returncode == 0, done.stderr
    assert "opentelemetry.sdk" in done.stdout
    assert len(collector.roots("success")) == 1
    assert {resource["service.name"] for resource, _ in collector.spans()} == {"own"}


def test_the_missing_library_is_named_with_its_extra(traced: Place) -> None:
    """A usage error says what to install, before anything is refreshed."""
    before = traced.calls()
    done = once(traced, "sys.modules['opentelemetry'] = None;")
    assert done.returncode == 2
    assert "pip install 'token-sidecar[otel]'" in done.stderr
    assert traced.calls() == before


def test_a_variable_that_cannot_be_used_is_named(traced: Place) -> None:
    """The SDK's own words come with the place to look at."""
    done = once(traced, OTEL_BSP_MAX_EXPORT_BATCH_SIZE="0")
    assert done.returncode == 2
    assert "tracing: a variable OTEL_" in done.stderr
