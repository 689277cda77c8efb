from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import httpx2
import pytest

from tests.prometheus import server

PAGE = b"""\
# HELP lamps_lit How many lamps are lit.
# TYPE lamps_lit gauge
lamps_lit{floor="1"} 3
lamps_lit{floor="2"} NaN
"""
RULES = """\
groups:
  - name: lamps
    rules:
      - alert: Light
        expr: lamps_lit > 2
"""


@contextmanager
def page() -> Iterator[str]:
    """Serve the page on loopback, and tell the address."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/plain; version=0.0.4")
            self.end_headers()
            self.wfile.write(PAGE)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as served:
        thread = Thread(target=served.serve_forever)
        thread.start()
        try:
            yield f"127.0.0.1:{served.server_port}"
        finally:
            served.shutdown()
            thread.join()


def test_the_harness_scrapes_and_judges(tmp_path: Path) -> None:
    """It answers queries over what a page said, fires an alert, refuses nonsense, and is gone at the end."""
    rules = tmp_path / "rules.yaml"
    rules.write_text(RULES, encoding="utf-8")

    with page() as address:
        target = server.Target(address, job="house", labels={"pod": "cellar"})
        with server.running([target], rules=[rules]) as prometheus:
            prometheus.wait_for_scrapes()

            by_floor = {sample.labels["floor"]: sample for sample in prometheus.instant("lamps_lit")}
            assert by_floor["1"].labels == {
                "__name__": "lamps_lit", "floor": "1", "instance": address, "job": "house", "pod": "cellar"
            }  # fmt: skip
            assert by_floor["1"].value == 3.0
            assert math.isnan(by_floor["2"].value)
            assert prometheus.value("sum(lamps_lit < 9)") == 3.0
            assert math.isnan(prometheus.value("candles_lit"))
            assert prometheus.instant("time()")[0].labels == {}
            [(labels, values)] = prometheus.range('lamps_lit{floor="1"}', seconds=5)
            assert labels["floor"] == "1"
            assert {value for _, value in values} == {3.0}
            [alert] = prometheus.wait_until(prometheus.alerts)
            assert (alert["alertname"], alert["floor"]) == ("Light", "1")
            assert prometheus.alerts("pending") == []
            assert [one["health"] for one in prometheus.targets()] == ["up"]
            assert prometheus.metadata()["lamps_lit"]["type"] == "gauge"
            with pytest.raises(server.Refused, match="parse error"):
                prometheus.instant("lamps_lit{")
            url = prometheus.url

    with pytest.raises(httpx2.ConnectError):
        httpx2.get(url, trust_env=False)
