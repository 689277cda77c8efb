"""However long a daemon refreshes, it holds no more than after its first minute, and no token is forgotten."""

from __future__ import annotations

import json
import os
import signal
import statistics
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple
from urllib.parse import parse_qs

import anyio
import msgspec
import pytest

from bench.daemon import MIB, Sample
from bench.fill import fresh
from sidecar.clock import SystemClock
from sidecar.stores import open_store
from sidecar.tokens import SPENT_LENGTH
from tests.e2e.conftest import EAGER, Daemon

TOKENS = 50
"""Each is refreshed every second, which is as often as any token ever is."""
REST = 5
"""Seconds for which the provider asks to be left alone."""


class Endpoint:
    """A token endpoint that rotates, and notes how often and how soon each token comes again."""

    def __init__(self) -> None:
        self.refreshes: Counter[int] = Counter()
        self.pauses: list[float] = []
        """Seconds between an answer and the next request for the same token."""
        self.reused = 0
        self.resting = False
        """Whether it asks to be left alone for a few seconds, so that nothing is under way."""
        self.asked_at = 0.0
        self._newest: dict[int, str] = {}
        self._answered: dict[int, float] = {}

        class Handler(BaseHTTPRequestHandler):
            def do_POST(handler) -> None:  # noqa: N805 - `self` is the endpoint; the library's own name
                form = parse_qs(handler.rfile.read(int(handler.headers["Content-Length"])).decode())
                self.asked_at = time.monotonic()
                body = b"{}" if self.resting else json.dumps(self.answer(form["refresh_token"][0])).encode()
                handler.send_response(429 if self.resting else 200)
                handler.send_header("Retry-After", str(REST))
                handler.send_header("Content-Type", "application/json")
                handler.send_header("Content-Length", str(len(body)))
                handler.end_headers()
                handler.wfile.write(body)

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def answer(self, refresh: str) -> dict[str, Any]:
        """Give the next pair; the first number in a refresh token says whose it is."""
        number = int(refresh.split("-")[2])
        self.reused += self._newest.get(number, refresh) != refresh
        if number in self._answered:
            self.pauses.append(time.monotonic() - self._answered[number])
        self.refreshes[number] += 1
        self._answered[number] = time.monotonic()
        self._newest[number] = f"sim-rt-{number:08d}-{self.refreshes[number]:016d}"
        return {
            "access_token": f"sim-at-{number:08d}-{self.refreshes[number]:016d}".ljust(220, "x"),
            "refresh_token": self._newest[number],
            "expires_in": 3600,
            "token_type": "Bearer",
        }

    def fewest(self) -> int:
        """Count the refreshes of the token that had fewest."""
        return min(self.refreshes[number] for number in range(TOKENS))


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    """Serve one in a thread."""
    made = Endpoint()
    threading.Thread(target=made.server.serve_forever, daemon=True).start()
    yield made
    made.server.shutdown()
    made.server.server_close()


@pytest.fixture
def busy(daemon: Daemon, endpoint: Endpoint, request: pytest.FixtureRequest) -> Daemon:
    """Start a daemon that refreshes fifty times a second; its records are as full as records ever are."""
    # A fork's memory grows with each page that it no longer shares.
    daemon.from_nothing = request.node.get_closest_marker("soak") is not None
    secret = daemon.folder / "secret"
    secret.write_text("sim-cs-0123456789abcdef", encoding="ascii")
    secret.chmod(0o600)
    daemon.config["log"]["level"] = "warning"
    daemon.config["tokens"] = {
        f"token-{number}": {
            "provider": {"token_url": f"{endpoint.url}/token", "rotation": "always"},
            "client": {"id": "bench", "secret_file": str(secret)},
            "outputs": [{"file": str(daemon.out / f"{number}.json")}],
            **EAGER,
        }
        for number in range(TOKENS)
    }

    async def fill() -> None:
        spent = tuple(f"{number:012x}" for number in range(SPENT_LENGTH))
        async with open_store(daemon.config["store"], SystemClock()) as store:
            for number in range(TOKENS):
                record = msgspec.structs.replace(fresh(number, endpoint.url), replaced=spent)
                await store.write(f"default/token-{number}", record, expected=None)

    anyio.run(fill)
    return daemon.launch("weigh", str(daemon.folder / "held.json"))


class Held(NamedTuple):
    """What a daemon held, at the least, in a few looks."""

    objects: int
    blocks: int
    tasks: int
    threads: int
    descriptors: int
    private: int
    """Bytes."""


def weighed(daemon: Daemon) -> Held:
    """Look at the daemon once."""
    place = daemon.folder / "held.json"
    place.unlink(missing_ok=True)
    daemon.signal(signal.SIGUSR1)
    daemon.wait_until(place.exists, "it has told what it holds")
    told, seen = json.loads(place.read_text(encoding="utf-8")), Sample.of(daemon.pid)
    return Held(
        told["objects"], told["blocks"], told["tasks"], len(seen.switches), seen.descriptors, seen.private
    )


def at_rest(daemon: Daemon, endpoint: Endpoint, looks: int = 5) -> Held:
    """Look at it a few times while the provider wants no requests, and take the least of each."""
    endpoint.resting = True
    daemon.wait_until(lambda: time.monotonic() - endpoint.asked_at > 1, "nothing is asked", patience=60)
    seen = [weighed(daemon) for _ in range(looks)]
    endpoint.resting = False
    return Held(*(min(values) for values in zip(*seen, strict=True)))


class Third(NamedTuple):
    """What was seen in a third of the time."""

    held: Held
    """At its end."""
    fewest: int
    most: int
    """Refreshes of a token."""
    pause: float
    longest: float
    """Seconds for which a token was left alone: the median, and the most."""


def lived(daemon: Daemon, endpoint: Endpoint, seconds: float) -> Third:
    """Let it work for so long, and then rest."""
    before = endpoint.refreshes.copy()
    endpoint.pauses.clear()
    end = time.monotonic() + seconds
    daemon.wait_until(lambda: time.monotonic() > end, "the time is over", patience=seconds + 60)
    counts = [endpoint.refreshes[number] - before[number] for number in range(TOKENS)]
    pauses = endpoint.pauses.copy()
    return Third(at_rest(daemon, endpoint), min(counts), max(counts), statistics.median(pauses), max(pauses))


def test_a_refresh_leaves_nothing_behind(busy: Daemon, endpoint: Endpoint) -> None:
    """Hundreds of refreshes leave no two objects each, task, thread or descriptor behind; every token had its own."""
    busy.wait_until(lambda: endpoint.fewest() >= 2, "all are under way", patience=60)
    before, done = at_rest(busy, endpoint), endpoint.refreshes.total()

    busy.wait_until(lambda: endpoint.fewest() >= 8, "all come again and again", patience=90)

    after, more = at_rest(busy, endpoint), endpoint.refreshes.total() - done
    # Records differ a little: by where they are in a turn, and by what their turns were told.
    assert after.objects - before.objects < 2 * more, (before, after)
    assert after.blocks - before.blocks < 5 * more, (before, after)
    assert after.tasks <= before.tasks + 2
    assert after.threads <= before.threads + 2
    assert after.descriptors <= before.descriptors + 4
    assert endpoint.reused == 0
    assert busy.answers("/livez")


@pytest.mark.soak
@pytest.mark.timeout(0)
def test_hours_leave_nothing_behind(
    busy: Daemon, endpoint: Endpoint, record_property: Callable[[str, object], None]
) -> None:
    """However long: memory, descriptors, threads and tasks of its last third are those of its second.

    No token comes less often than others, and none later at the end than at the beginning.
    """
    minutes = float(os.environ.get("TOKEN_SIDECAR_SOAK_MINUTES", "1"))
    thirds = [lived(busy, endpoint, 20 * minutes) for _ in range(3)]
    record_property("figures", "\n".join(map(str, thirds)))
    _, before, after = thirds

    assert after.held.private - before.held.private < MIB, thirds
    assert after.held.objects - before.held.objects < 1000, thirds
    assert after.held.tasks <= before.held.tasks + 2
    assert after.held.threads <= before.held.threads + 2
    assert after.held.descriptors <= before.held.descriptors + 4
    assert after.fewest > 0.9 * after.most, thirds
    assert after.longest < 30, thirds
    assert after.pause < 1.2 * before.pause + 0.1, thirds
    assert endpoint.reused == 0
    assert busy.answers("/livez")
