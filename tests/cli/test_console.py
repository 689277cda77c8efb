"""`console` as a process, and what it says where it can't run."""

from __future__ import annotations

import html
import http.client
import json
import re
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from urllib.parse import urlencode, urlsplit

import pytest

from sidecar.cli import console as module
from sidecar.cli import main
from sidecar.testing import faults
from tests.cli.conftest import Place

PATIENCE = 30.0


@pytest.fixture
def place(place: Place) -> Place:
    """A provider that knows where consents are asked for, and a console on any port."""
    url = place.simulator.url
    place.token["provider"] |= {"authorization_url": f"{url}/authorize"}
    place.document["console"] = {"port": 0}
    place.document["audit"] = {"file": str(place.root / "audit.jsonl")}
    place.write()
    return place


class Running:
    """A console in a process of its own, and a browser that has one cookie."""

    def __init__(self, place: Place, *arguments: str, **environment: str) -> None:
        self.place = place
        self.process = subprocess.Popen(
            [sys.executable, "-m", "sidecar", "console", *arguments],
            text=True,
            env=place.environment | {"DISPLAY": "", "WAYLAND_DISPLAY": "", "BROWSER": ""} | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert self.process.stderr is not None
        self.told = ""
        for line in self.process.stderr:
            self.told += line
            if "/sign-in?key=" in line:
                break
        self.link = self.told.split()[-1]
        self.cookie = ""

    def ask(self, path: str, form: dict[str, str] | None = None) -> tuple[int, str]:
        """Load a page, or send a form."""
        parts = urlsplit(self.link)
        headers = {"Cookie": self.cookie} if self.cookie else {}
        if form is not None:
            headers |= {
                "Content-Type": "application/x-www-form-urlencoded",
                "Origin": f"{parts.scheme}://{parts.netloc}",
            }
        body = urlencode(form) if form is not None else None
        with closing(http.client.HTTPConnection(parts.netloc, timeout=PATIENCE)) as connection:
            connection.request("POST" if form is not None else "GET", path, body, headers)
            answer = connection.getresponse()
            self.cookie = (answer.getheader("Set-Cookie") or self.cookie).partition(";")[0]
            return answer.status, answer.read().decode()

    def open(self, link: str) -> bool:
        """Open a link; tells whether it let in."""
        self.cookie = ""
        parts = urlsplit(link)
        return self.ask(f"{parts.path}?{parts.query}")[0] == 303 and bool(self.cookie)

    def stop(self) -> int:
        """End it; returns its exit code."""
        self.process.send_signal(signal.SIGTERM)
        rest = self.process.communicate(timeout=PATIENCE)
        self.told += "".join(rest)
        return self.process.returncode


@pytest.fixture
def running(place: Place) -> Iterator[Running]:
    """Start one."""
    console = Running(place)
    yield console
    console.process.kill()
    console.process.communicate()


def test_its_links_let_in_and_it_ends_when_told(running: Running) -> None:
    """The link that it prints, and another one on demand, each let in once; SIGTERM ends it and leaves nothing."""
    key = running.place.root / "state" / "console.json"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    another = running.place.run("console", "--link")

    assert another.returncode == 0, another.stderr
    links = (running.link, running.link, another.stdout.strip())
    assert [running.open(link) for link in links] == [True, False, True]
    assert "gmail" in running.ask("/")[1]
    assert running.stop() == 0
    assert not key.exists()
    assert running.told.count("sign-in?key=") == 1


def test_a_consent_that_is_on_its_way_is_stored_before_it_ends(running: Running) -> None:
    """Who ends the console loses no consent: what was given at the provider reaches the store first."""
    running.open(running.link)
    csrf = re.search('name="csrf" value="([^"]+)"', running.ask("/")[1])
    assert csrf is not None
    _, led = running.ask("/consent", {"csrf": html.unescape(csrf[1]), "token": "gmail"})
    leads = re.search(r'content="0; ?url=([^"]+)"', led)
    assert leads is not None
    running.place.provider.reconfigure(redirect_uris=("http://127.0.0.1/callback/tokens/gmail",))
    running.place.provider.add_fault(faults.latency(after=1.5))
    parts = urlsplit(html.unescape(leads[1]))
    with closing(http.client.HTTPConnection(parts.netloc, timeout=PATIENCE)) as provider:
        provider.request("GET", f"{parts.path}?{parts.query}")
        back = urlsplit(provider.getresponse().getheader("Location") or "")

    assert running.ask(f"{back.path}?{back.query}")[0] == 303
    assert running.stop() == 0

    audit = [json.loads(line) for line in (running.place.root / "audit.jsonl").read_text().splitlines()]
    deeds = [(line["what"], line["outcome"]) for line in audit]
    assert deeds == [("sign-in", "done"), ("consent", "begun"), ("consent", "done")]
    # Each deed once, and as the person's, whoever it was done through.
    assert len({line["who"] for line in audit}) == 1
    assert not audit[0]["who"].startswith("uid")
    exported = running.place.run("status", "--json")
    assert json.loads(exported.stdout)["tokens"]["gmail"]["grant_state"] == "ok"


def test_a_browser_is_started_without_the_key(place: Place) -> None:
    """What a browser is started with, which every user of the machine sees, is a private file and no link."""
    seen, copy = place.root / "seen", place.root / "copy.html"
    script = place.private("browser", f'#!/bin/sh\ncp "${{1#file://}}" {copy}\necho "$1" > {seen}\n')
    script.chmod(0o700)
    console = Running(place, BROWSER=f"{script} %s")
    try:
        end = time.monotonic() + PATIENCE
        while not (seen.exists() and seen.read_text()) and time.monotonic() < end:
            time.sleep(0.05)
        link = re.search(r'href="([^"]+)"', copy.read_text())
        assert seen.read_text().strip() == (place.root / "state" / "console.html").as_uri()
        assert link is not None
        assert console.open(html.unescape(link[1]))
    finally:
        console.stop()
    assert not (place.root / "state" / "console.html").exists()


def test_there_is_no_link_without_a_console(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    """`--link` says that none runs, and how to start one."""
    assert main(["console", "--link", "-c", str(place.config)]) == 2
    assert "no console runs on this state_dir; start one: token-sidecar console" in capsys.readouterr().err


def test_a_missing_extra_is_named(
    place: Place, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Who didn't install the extra is told what is missing, and the command that installs it."""
    monkeypatch.setattr(module, "find_spec", lambda name: None if name == "itsdangerous" else name)
    assert main(["console", "-c", str(place.config)]) == 2
    told = capsys.readouterr().err
    assert "the console needs itsdangerous; install the extra: pip install 'token-sidecar[console]'" in told


def test_a_store_in_memory_is_refused(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    """A console can't look into the daemon's memory, and says so."""
    place.document["store"] = "memory:"
    del place.document["console"]
    place.write()
    assert main(["console", "-c", str(place.config)]) == 2
    assert "the store is in the daemon's memory" in capsys.readouterr().err


@pytest.mark.parametrize("content", ["", "short"])
def test_a_weak_secret_is_refused(place: Place, content: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A secret file that anybody could guess is no secret."""
    place.document["console"] = {
        "port": 0,
        "url": "https://tokens.example.com",
        "proxy": {"addresses": ["127.0.0.1"]},
        "operators": {"users": ["*"]},
        "secret_file": str(place.private("console-secret", content)),
    }
    place.write()
    assert main(["console", "-c", str(place.config)]) == 2
    assert "write 32 random ones at least into it" in capsys.readouterr().err


def test_no_door_is_left_in_a_directory_of_somebody_else(tmp_path: Path, place: Place) -> None:
    """A `state_dir` that another user owns is refused before a key is written into it."""
    import os

    theirs = tmp_path / "theirs"
    theirs.mkdir()
    os.chown(theirs, 65534, 65534)
    place.document["state_dir"] = str(theirs)
    place.write()
    assert main(["console", "--no-browser", "-c", str(place.config)]) == 1
    assert not [path for path in theirs.iterdir() if "console" in path.name]


def test_the_daemon_names_the_page(place: Place) -> None:
    """With `console.url` a daemon that waits for a consent says where it is given, and so does the status."""
    place.document["console"] = {"url": "http://127.0.0.1:9641"}
    place.write()
    page = "http://127.0.0.1:9641/tokens/gmail"

    once = place.run("run", "--once", "--wait", "20s")
    status = json.loads(place.run("status", "--json").stdout)
    token = place.run("token", "gmail")

    assert once.returncode == 3
    assert f"consent: {page} or token-sidecar login gmail" in once.stderr
    assert page in status["tokens"]["gmail"]["remedy"]
    assert page in token.stderr
