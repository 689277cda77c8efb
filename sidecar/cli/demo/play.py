"""The demo's course: start, live, end, judge. One loop on the main thread; whoever waits has a thread of its own."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from sidecar import schedule
from sidecar.cli.demo import provider
from sidecar.cli.demo.directory import GRANTS, TOKENS
from sidecar.cli.demo.processes import Child
from sidecar.cli.demo.reader import Reader, Repeating
from sidecar.cli.demo.screen import BAD, GOOD, PLAIN, STARTING, Event, Introduction, OutputRow, Row, Scene
from sidecar.cli.demo.verdict import Facts, Verdict, judge
from sidecar.cli.demo.watch import Watch, standing
from sidecar.errors import SidecarError
from sidecar.schedule import Policy
from sidecar.server.client import ControlClient
from sidecar.server.wire import SOCKET_FILE

if TYPE_CHECKING:
    from sidecar.cli.demo.cast import Cast
    from sidecar.cli.demo.directory import Directory
    from sidecar.cli.demo.screen import Screen

TICK = 0.1
DAEMON_PAUSE = 1.0
PROVIDER_PAUSE = 3.0
"""Seconds before what somebody ended is started again."""
JOIN = 2.5
SETTLE = 5.0
"""Seconds in which a token may be refused while its successor is on its way, where a refresh ends the one before."""

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
SAME_PRESS = 0.5
"""Seconds in which a second signal is no second wish: a terminal and `make` may both tell us."""


class Play:
    """One run of the demo."""

    def __init__(self, place: Directory, cast: Cast, screen: Screen) -> None:
        """`cast`: who plays the provider."""
        self._place = place
        self._cast = cast
        self._screen = screen
        self._timing = schedule.timing(Policy(), cast.profile, cast.ttl)
        self._began = time.time()
        self._asked_to_end: list[float] = []
        self._simulator = Child("sidecar.testing", place.path, "provider", pause=PROVIDER_PAUSE)
        self._daemon = Child("sidecar", place.path, "daemon", pause=DAEMON_PAUSE)
        self._threads: list[Repeating[Any]] = []

    def run(self, length: float | None) -> Verdict:
        """Run for `length` seconds, or until a signal asks for the end."""
        with self._listening():
            try:
                url = self._start()
                watch = self._watch(url)
                self._live(watch, url, length)
                code = self._stop(watch, url)
            finally:
                for thread in self._threads:
                    thread.stop()
                for child in (self._daemon, self._simulator):
                    child.end(hurried=lambda: True)
            verdict = judge(self._facts(watch, code))
            self._screen.conclude(verdict, time.time() - self._began)
            return verdict

    @contextmanager
    def _listening(self) -> Iterator[None]:
        """Note signals: the loop looks for them, and nothing is torn apart in the middle."""

        def note(_signum: int, _frame: object) -> None:
            self._asked_to_end.append(time.monotonic())

        before = {signum: signal.signal(signum, note) for signum in SIGNALS}
        try:
            yield
        finally:
            for signum, handler in before.items():
                signal.signal(signum, handler)

    def _is_hurried(self) -> bool:
        """Tell whether somebody asked again, and means now."""
        asked = self._asked_to_end
        return bool(asked) and asked[-1] > asked[0] + SAME_PRESS

    # Start

    def _start(self) -> str:
        """Start provider and daemon and say what this is; returns the provider's URL."""
        place = self._place
        arguments = [*self._cast.arguments, "--scope=mail.read", f"--state={place / 'provider.json'}"]
        files = [f"--seed-file={place / 'seed.json'}", f"--client-file={place / 'credentials.json'}"]
        ready = json.loads(self._simulator.start([*arguments, *files], listen=True))
        url: str = ready["url"]
        # A restarted one comes back at the same address, and leaves the files as they are by now.
        self._simulator.arguments = [*arguments, f"--port={url.rpartition(':')[2]}"]
        config = place.write_config(ready["token_url"], self._cast.settings)
        self._daemon.start(["run", "--config", str(config)])
        self._screen.introduce(self._introduction(url))
        return url

    def _introduction(self, url: str) -> Introduction:
        place = self._place
        ttl = self._cast.ttl
        text = (
            f"A simulated OAuth2 provider gives out access tokens that live for {ttl:g} s. The daemon, the very\n"
            f"one that you would deploy, replaces each before it ends: whoever reads the files in\n"
            f"{place.shown('tokens')} always finds at least {self._timing.min_validity:.3g} s left.\n"
            f"Its configuration: {place.shown('config.yaml')}; its log: {place.shown('daemon.log')}"
        )
        if self._cast.name:
            text += f"\nThe provider behaves as {self._cast.profile.title} does, as far as that is known."
        if place.is_state_elsewhere:
            text += f"\nIts state_dir is {place.state_dir}: in here its socket's path would be too long."
        # curl takes a proxy from the environment for loopback too.
        curl = "curl --noproxy '*' -s" if os.environ.get("http_proxy") else "curl -s"
        fault = shlex.quote(json.dumps({"status": 500, "processed": False, "times": None}))
        seed = place.shown("seed.json")
        hints = (
            ("what the application reads", f"cat {place.shown('tokens/gmail.json')}"),
            ("ask the daemon", f"{_program()} status --config {place.shown('config.yaml')}"),
            (
                "kill the daemon, and see it resume",
                f"kill -9 $(cat {place.shown('daemon.pid')})",
            ),
            ("take the provider away for three seconds", f"kill -9 $(cat {place.shown('provider.pid')})"),
            (
                "break it: whether a request was processed is not known then, and a refresh token may be spent",
                f"{curl} -X POST {url}/_sim/faults -d {fault}",
            ),
            ("mend it, sooner or later than the tokens end", f"{curl} -X DELETE {url}/_sim/faults"),
            (
                "end the grant, as a user does who withdraws the consent",
                f"{curl} -X POST {url}/_sim/kill -d '{{}}'",
            ),
            (
                "consent again: a new refresh token as the seed",
                f"{curl} -X POST {url}/_sim/grants -d '{{}}' > {seed}",
            ),
        )
        return Introduction(text, hints)

    def _watch(self, url: str) -> Watch:
        control = ControlClient(self._place.state_dir / SOCKET_FILE, timeout=2.0)

        def ask_daemon() -> dict[str, Any] | None:
            try:
                return control.status()
            except SidecarError:
                return None  # it isn't there, or not yet; the process table says which

        reader = Reader(
            {file: self._place / file for files in TOKENS.values() for file in files},
            min_validity=self._timing.min_validity,
            provider=url,
            settle=SETTLE if self._cast.profile.kills_old_access_token else 0.0,
        )
        asked_daemon = Repeating(ask_daemon, pause=0.2)
        asked_provider = Repeating(lambda: provider.report(url), pause=1.0, share=0.1)
        self._threads = [*reader.threads, asked_daemon, asked_provider]
        for thread in self._threads:
            thread.start()
        return Watch(
            daemon=self._daemon,
            simulator=self._simulator,
            asked_daemon=asked_daemon,
            asked_provider=asked_provider,
            findings=reader.findings,
            min_validity=self._timing.min_validity,
            tell=self._tell,
        )

    def _tell(self, text: str, mood: str) -> None:
        self._screen.tell(Event(time.time() - self._began, text, mood))

    # Live

    def _live(self, watch: Watch, url: str, length: float | None) -> None:
        while not self._asked_to_end:
            now = time.time()
            if length is not None and now - self._began >= length:
                return
            watch.look(now)
            if self._daemon.falls and not watch.status:
                raise SidecarError(
                    f"the daemon {self._daemon.falls[-1].how} at its start:\n{self._daemon.tail()}"
                )
            for thread in self._threads:
                if thread.failure is not None:
                    raise thread.failure
            self._screen.show(self._scene(watch, url, now))
            time.sleep(TICK)

    def _scene(self, watch: Watch, url: str, now: float) -> Scene:
        tokens = watch.status.get("tokens", {})
        rows = tuple(self._row(name, tokens.get(name, {}), watch, now) for name in TOKENS)
        findings = watch.findings
        kinds = [(kind, findings.count(kind)) for kind in ("torn", "empty", "missing")]
        lowest = "" if findings.lowest is None else f"; lowest validity {findings.lowest:.1f} s"
        again = sum(token["uses"] > 1 for token in watch.report.get("tokens", ()))
        armed = watch.report.get("faults_armed", 0)
        return Scene(
            elapsed=now - self._began,
            ttl=self._cast.ttl,
            rows=rows,
            footer=(
                ("daemon", *_alive(self._daemon)),
                (
                    "provider",
                    f"{url}, {sum(watch.issued.values())} access tokens given out, "
                    + (f"{again} refresh tokens used twice" if again else "no refresh token used twice")
                    + ("; broken by a fault" if armed else ""),
                    BAD if again or armed else PLAIN,
                ),
                (
                    "reader",
                    f"{findings.reads:,} reads: {', '.join(f'{count} {kind}' for kind, count in kinds)}{lowest}",
                    BAD if any(count for _, count in kinds) else PLAIN,
                ),
            ),
        )

    def _row(self, name: str, token: dict[str, Any], watch: Watch, now: float) -> Row:
        state = standing(token) if token else STARTING
        seen = [watch.findings.seen.get(file) for file in TOKENS[name]]
        left = [file.expires_at - now for file in seen if file is not None and file.expires_at is not None]
        outputs = []
        for file, found in zip(TOKENS[name], seen, strict=True):
            if found is None:
                outputs.append(OutputRow(file, "not there yet", PLAIN))
            elif found.problem:
                outputs.append(OutputRow(file, found.problem, BAD))
            elif watch.findings.refused.get(file) == found.token:
                outputs.append(OutputRow(file, "refused", BAD))
            elif found.expires_at is not None and found.expires_at <= now:
                outputs.append(OutputRow(file, "expired", BAD))
            else:
                outputs.append(OutputRow(file, "ok", GOOD))
        return Row(
            token=name,
            grant=GRANTS[name],
            state="" if state == "ok" else state + _again(token, now),
            left=min(left, default=None),
            scarce=self._timing.min_validity,
            generation=token.get("generation", 0),
            refreshed=now - token["last_success"] if token.get("last_success") else None,
            outputs=tuple(outputs),
        )

    # End

    def _stop(self, watch: Watch, url: str) -> int | None:
        """End everything in order and return the daemon's exit code."""
        for thread in self._threads:
            thread.stop()
        for thread in self._threads:
            thread.join(JOIN)
        watch.look(time.time())
        code = self._daemon.end(hurried=self._is_hurried)
        # Once more: the daemon may have caught an answer while it was stopping.
        watch.report = provider.report(url) or watch.report
        self._simulator.end(hurried=self._is_hurried)
        return code

    def _facts(self, watch: Watch, exit_code: int | None) -> Facts:
        return Facts(
            seconds=time.time() - self._began,
            interrupted=bool(self._asked_to_end),
            findings=watch.findings,
            troubles=watch.troubles,
            min_validity=self._timing.min_validity,
            lease=self._timing.lease,
            issued=watch.issued,
            report=watch.report,
            status=watch.status,
            tampered=watch.tampered,
            daemon_falls=self._daemon.falls,
            provider_falls=self._simulator.falls,
            exit_code=exit_code,
            now=time.time(),
            reuses=self._cast.reuses,
        )


def _again(token: dict[str, Any], now: float) -> str:
    wait = (token.get("next_wake") or now) - now
    return f", again in {wait:.0f} s" if wait > 0 and token["grant_state"] != "dead" else ""


def _alive(daemon: Child) -> tuple[str, str]:
    if daemon.pid is None:
        return f"{daemon.falls[-1].how}; coming back", BAD
    if daemon.is_stopped():
        return f"pid {daemon.pid}, frozen", BAD
    return f"pid {daemon.pid}; restarts: {len(daemon.falls)}", PLAIN


def _program() -> str:
    """Return how a shell in this directory starts token-sidecar."""
    if shutil.which("token-sidecar"):
        return "token-sidecar"
    if os.path.basename(sys.argv[0]) == "token-sidecar":  # noqa: PTH119 - argv[0] isn't always a path
        return shlex.quote(sys.argv[0])
    return f"{shlex.quote(sys.executable)} -m sidecar"
