"""A real Prometheus for tests, on loopback: skipped where it isn't installed, unless in CI.

It scrapes and judges each second, and keeps what it finds in a folder that is gone with it. What
`for:` and ranges of minutes make of a history is for `tests/promtool.py`, whose time is virtual.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import pytest

PROMETHEUS = shutil.which("prometheus")
PATIENCE = 40.0
"""Seconds to wait for what must become true, on a machine that does other things too."""

Labels = dict[str, str]


@dataclass(frozen=True)
class Target:
    """Something to scrape: `/metrics` at an address, `HOST:PORT`."""

    address: str
    job: str = "token-sidecar"
    labels: Labels = field(default_factory=dict)
    """Labels that each of its series gets, such as the `namespace` and `pod` of Kubernetes' discovery."""


@dataclass(frozen=True)
class Sample:
    """One series' value at one moment."""

    labels: Labels
    value: float


class Refused(Exception):
    """Prometheus can't evaluate the query."""


class Prometheus:
    """A server that runs; every method asks its HTTP API."""

    def __init__(self, url: str, folder: Path, process: subprocess.Popen[bytes], scraped: int) -> None:
        """`scraped` is how many targets it has."""
        self.url = url
        self._folder = folder
        self._process = process
        self._scraped = scraped
        self._client = httpx2.Client(base_url=url, timeout=20, trust_env=False)

    @property
    def log(self) -> str:
        """What it wrote so far."""
        return (self._folder / "log").read_text(encoding="utf-8", errors="replace")

    def api(self, path: str, **parameters: Any) -> Any:
        """Ask `/api/v1/PATH`; return the answer's `data`. Raises Refused with what Prometheus has against it."""
        answer = self._client.get(f"/api/v1/{path}", params=parameters)
        found = answer.json()
        if found["status"] != "success":
            raise Refused(f"{path} {parameters}: {found['error']}")
        return found["data"]

    def instant(self, expression: str, at: float | None = None) -> list[Sample]:
        """Evaluate an expression at one moment, now by default; a scalar is one sample without labels."""
        data = self.api("query", query=expression, **({} if at is None else {"time": at}))
        if data["resultType"] in {"scalar", "string"}:
            return [Sample({}, float(data["result"][1]))]
        return [Sample(one["metric"], float(one["value"][1])) for one in data["result"]]

    def value(self, expression: str) -> float:
        """Evaluate an expression that is one number now; NaN if there is no series."""
        found = self.instant(expression)
        assert len(found) <= 1, found
        return found[0].value if found else math.nan

    def range(
        self, expression: str, *, seconds: float = 60.0, step: float = 1.0
    ) -> list[tuple[Labels, list[tuple[float, float]]]]:
        """Evaluate an expression for each `step` of the last `seconds`; return each series' moments and values."""
        now = time.time()
        data = self.api("query_range", query=expression, start=now - seconds, end=now, step=step)
        return [
            (one["metric"], [(moment, float(value)) for moment, value in one["values"]])
            for one in data["result"]
        ]

    def alerts(self, state: str = "firing") -> list[Labels]:
        """Return the labels of the alerts in a state: firing or pending."""
        return [one["labels"] for one in self.api("alerts")["alerts"] if one["state"] == state]

    def targets(self) -> list[dict[str, Any]]:
        """Return its targets, as the API has them, with `labels`, `health` and `lastError`."""
        found: list[dict[str, Any]] = self.api("targets")["activeTargets"]
        return found

    def metadata(self) -> dict[str, dict[str, str]]:
        """Return type and help of each metric that its targets have, by the name that the page gives them."""
        return {name: kinds[0] for name, kinds in self.api("metadata").items()}

    def wait_until(self, happened: Callable[[], Any], *, patience: float = PATIENCE) -> Any:
        """Wait until a condition holds, and return what it gave; on the way out of patience, tell the log's end."""
        deadline = time.monotonic() + patience
        while not (found := happened()):
            assert self._process.poll() is None, f"prometheus ended:\n{self.log[-2000:]}"
            assert time.monotonic() < deadline, f"not in {patience} s; prometheus says:\n{self.log[-2000:]}"
            time.sleep(0.1)
        return found

    def wait_for(self, expression: str, *, patience: float = PATIENCE) -> list[Sample]:
        """Wait until an expression has a result."""
        found: list[Sample] = self.wait_until(lambda: self.instant(expression), patience=patience)
        return found

    def wait_for_scrapes(self, *, patience: float = PATIENCE) -> None:
        """Wait until every target gave its page once more: what is true now is then in the storage."""
        now = time.time()
        self.wait_until(
            lambda: len(self.instant(f"timestamp(up) > {now} and up == 1")) == self._scraped,
            patience=patience,
        )

    def _is_ready(self) -> bool:
        with contextlib.suppress(httpx2.TransportError):
            return self._client.get("/-/ready").is_success
        return False

    def _stop(self) -> None:
        self._client.close()
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


@contextmanager
def running(
    targets: Sequence[Target], *, rules: Iterable[Path] = (), interval: str = "1s"
) -> Iterator[Prometheus]:
    """Run one for the length of the block, ready to be asked.

    `rules` are files of alerts and recording rules. `interval`, in Prometheus' own words, is how often it scrapes and
    judges, and how long it waits for a page: shorter ones are missed on a busy machine, and a missed one ends series.
    """
    if PROMETHEUS is None and not os.environ.get("CI"):
        pytest.skip("prometheus is not installed (Debian: apt-get install prometheus)")
    assert PROMETHEUS is not None, "prometheus must be there in CI"
    with tempfile.TemporaryDirectory(prefix="prometheus-") as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        configuration = folder / "prometheus.yaml"  # JSON is YAML
        configuration.write_text(json.dumps(_configured(targets, rules, interval)), encoding="utf-8")
        prometheus = _started(PROMETHEUS, folder, configuration, len(targets))
        stack.callback(prometheus._stop)
        prometheus.wait_until(prometheus._is_ready)
        yield prometheus


def _configured(targets: Iterable[Target], rules: Iterable[Path], interval: str) -> dict[str, Any]:
    jobs: dict[str, list[Target]] = {}
    for target in targets:
        jobs.setdefault(target.job, []).append(target)
    return {
        "global": {"scrape_interval": interval, "scrape_timeout": interval, "evaluation_interval": interval},
        "rule_files": [str(path.resolve()) for path in rules],
        "scrape_configs": [
            {
                "job_name": job,
                "static_configs": [{"targets": [one.address], "labels": one.labels} for one in members],
            }
            for job, members in jobs.items()
        ],
    }


def _started(program: str, folder: Path, configuration: Path, scraped: int) -> Prometheus:
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [
                program,
                f"--config.file={configuration}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address={address}",
            ],
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    return Prometheus(f"http://{address}", folder, process, scraped)
