"""`login` and `revoke` as processes: a scripted browser, pipes, and a pseudo-terminal."""

from __future__ import annotations

import json
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

import anyio
import httpx2
import pytest

from sidecar.cli import main
from sidecar.testing import Consent
from sidecar.tokens import Record, fingerprint
from tests import forks
from tests.cli.conftest import Place
from tests.cli.test_offline import on_a_terminal


@pytest.fixture
def place(place: Place) -> Place:
    """A provider that knows where consents are asked for, and what is to be asked for."""
    url = place.simulator.url
    place.token["provider"] |= {
        "authorization_url": f"{url}/authorize",
        "revocation_url": f"{url}/revoke",
        "device_authorization_url": f"{url}/device",
    }
    place.token["scopes"] = ["mail.read", "mail.send"]
    place.write()
    return place


class Waiting:
    """A `login` that waits for a consent."""

    def __init__(self, place: Place, *arguments: str, **environment: str) -> None:
        pipe = subprocess.PIPE
        self._place = place
        self.process = forks.Popen(
            ["sidecar", "login", "gmail", *arguments],
            text=True,
            env=place.environment | {"DISPLAY": "", "WAYLAND_DISPLAY": "", "BROWSER": ""} | environment,
            stdin=pipe,
            stdout=pipe,
            stderr=pipe,
        )
        assert self.process.stderr is not None
        self.told = ""
        for line in self.process.stderr:
            self.told += line
            if line.strip().startswith("http"):
                break
        else:
            raise AssertionError(f"no URL was printed:\n{self.told}")
        self.url = self.told.splitlines()[-1].strip()

    def consent(self) -> str:
        """Do as the user does on the provider's page; return the address that the browser is sent to."""
        return httpx2.get(self.url).headers["location"]

    def browse(self) -> httpx2.Response:
        """Do all that the user's browser does; return the page that it ends on."""
        with httpx2.Client(follow_redirects=True, timeout=20) as browser:
            return browser.get(self.url)

    def ended(self, stdin: str = "") -> tuple[int, str, str]:
        """Wait for its end: exit code, standard output, standard error."""
        out, err = self.process.communicate(stdin, timeout=40)
        return self.process.returncode, out, self.told + err

    def close(self) -> None:
        """End it, should it still wait."""
        self.process.kill()
        self.process.communicate()


Start = Callable[..., Waiting]
Say = Callable[..., tuple[int, str, str]]


@pytest.fixture
def say(place: Place, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Say:
    """Run commands that store nothing in this process: exit code, standard output, standard error."""
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TOKEN_SIDECAR_CONFIG", str(place.config))

    def say(*arguments: str) -> tuple[int, str, str]:
        code = main(arguments)
        return (code, *capsys.readouterr())

    return say


@pytest.fixture
def start(place: Place) -> Iterator[Start]:
    """Start logins."""
    started: list[Waiting] = []

    def start(*arguments: str, **environment: str) -> Waiting:
        started.append(Waiting(place, *arguments, **environment))
        return started[-1]

    yield start
    for login in started:
        login.close()


def stored(place: Place) -> Record:
    """Read the record."""
    from sidecar.clock import SystemClock
    from sidecar.stores import open_store

    async def load() -> Record:
        async with open_store(place.document["store"], SystemClock(), create=False) as store:
            held = await store.load("default/gmail")
            assert held is not None
            return held.record

    return anyio.run(load)


def revoked(place: Place) -> list[str]:
    """Name the refresh tokens of grants that were ended."""
    return [family.id for family in place.provider.report().families if family.killed == "revoked"]


def test_a_browser_brings_a_grant(place: Place, start: Start) -> None:
    """From nothing to a token in one command: the page says so once the store has it, and nothing leaks."""
    login = start()
    page = login.browse()
    code, out, err = login.ended()

    assert (code, out) == (0, "gmail starts anew from this consent as soon as the daemon runs\n")
    assert (page.status_code, page.url.query, "It worked" in page.text) == (200, b"", True)
    record = stored(place)
    assert record.access is not None
    assert record.access.scopes == ("mail.read", "mail.send")
    assert place.provider.is_live(record.access.value)
    assert (record.client_id, record.endpoint) == ("sim-client", place.simulator.url)
    assert "sim-" not in (out + err + page.text).replace("sim-client", "")
    assert place.ok("token", "gmail").strip() == record.access.value


def test_a_dead_grant_lives_again_in_the_running_daemon(seeded: Place, start: Start) -> None:
    """Without a restart, within seconds; the old grant is revoked only when that was asked for."""
    seeded.token["on_dead"] = "report"
    seeded.write()
    with seeded.daemon():
        seeded.provider.kill()
        assert seeded.run("refresh", "gmail").returncode == 3
        assert "token-sidecar login gmail" in seeded.run("status").stdout
        began = time.monotonic()
        login = start("--json")
        login.browse()
        code, out, _ = login.ended()
        assert (code, json.loads(out)["aside"]) == (0, False)
        assert seeded.run("healthcheck", "ready", "--wait", "20s").returncode == 0
        assert time.monotonic() - began < 20
        published = json.loads(seeded.output.read_text(encoding="utf-8"))["access_token"]
        assert seeded.provider.is_live(published)
        assert revoked(seeded) == []

        again = start("--revoke-old")
        again.browse()
        code, _, err = again.ended()
        assert (code, "the old grant was revoked" in err) == (0, True)
        assert not seeded.provider.is_live(published)
        assert len(revoked(seeded)) == 1
        assert seeded.run("healthcheck", "ready", "--wait", "20s").returncode == 0


def test_a_store_that_is_away_costs_no_consent(place: Place, start: Start) -> None:
    """The browser waits for as long as the store does, and is told when it is done; the human is told meanwhile."""
    login = start()
    store = place.root / "tokens.db"
    store.write_text("in the way" * 1000, encoding="utf-8")
    with ThreadPoolExecutor() as threads:
        page = threads.submit(login.browse)
        assert login.process.stderr is not None
        told = next(line for line in login.process.stderr if "held on to" in line)
        assert str(store) in told
        assert not page.done()
        store.unlink()
        assert "It worked" in page.result(20).text
    assert login.ended()[0] == 0
    assert stored(place).access is not None


def test_two_people_at_once(place: Place, start: Start) -> None:
    """Both consents are good, one is in force, and each is told which; the other is kept."""
    first, second = start(), start()
    for login in (first, second):
        assert login.browse().status_code == 200
    (one, told_one, _), (other, told_other, _) = first.ended(), second.ended()

    assert (one, other) == (0, 0)
    assert told_one.startswith("gmail starts anew")
    assert (
        "another consent while this one was under way: that one is in force, and this one is kept"
        in told_other
    )
    record = stored(place)
    assert record.refresh is not None
    known = [record.refresh.fingerprint, *(orphan.refresh.fingerprint for orphan in record.orphans)]
    assert len(known) == 2
    assert {
        name for family in place.provider.report().families for name in family.active_refresh_tokens
    } == set(known)


def test_an_answer_is_pasted(place: Place, start: Start) -> None:
    """Over SSH: what the browser was sent back to comes in by a pipe, as an address or as the code alone."""
    login = start("--no-browser")
    assert login.ended(login.consent())[0] == 0
    first = stored(place).lineage
    login = start("--no-browser")
    assert login.ended(dict(parse_qsl(urlsplit(login.consent()).query))["code"])[0] == 0
    assert stored(place).lineage != first


@pytest.mark.parametrize(
    ("changes", "code", "told"),
    [
        ({"state": "forged"}, 1, "its `state` is missing or wrong"),
        (
            {"code": "sim-rt-code-0123456789abcdef"},
            1,
            "the code was used, is too old, or was meant for another",
        ),
        ({"error": "access_denied", "code": None}, 3, "the consent was refused: access_denied"),
    ],
)
def test_a_wrong_answer_changes_nothing(
    changes: dict[str, str | None], code: int, told: str, place: Place, start: Start
) -> None:
    """One line says what is wrong, and the store is as it was."""
    login = start("--no-browser")
    right = login.consent()
    query = {**dict(parse_qsl(urlsplit(right).query)), **changes}
    pasted = urlencode({name: value for name, value in query.items() if value})
    ended, out, err = login.ended(f"http://127.0.0.1/?{pasted}")

    assert (ended, out) == (code, "")
    assert told in err.splitlines()[-1]
    assert "sim-rt-" not in err
    assert not (place.root / "tokens.db").exists()


def test_a_refusal_in_the_browser(place: Place, start: Start) -> None:
    """The page says so as text, and the exit code is that of what only a human can change."""
    login = start()
    place.provider.reconfigure(consent=Consent.REFUSED)
    page = login.browse()
    code, _, err = login.ended()
    assert (code, page.status_code) == (3, 400)
    assert "access_denied (the user said <no>)" in err
    assert "the user said &lt;no&gt;" in page.text


def test_a_forged_answer_ends_no_login(place: Place, start: Start) -> None:
    """Somebody else's redirect is turned away, and the human's own is still taken."""
    login = start()
    there = dict(parse_qsl(urlsplit(login.url).query))["redirect_uri"]
    assert httpx2.get(f"{there}?code=sim-rt-code-0123456789abcdef&state=x").status_code == 400
    assert login.browse().status_code == 200
    assert login.ended()[0] == 0
    assert stored(place).access is not None


def test_nobody_comes(say: Say) -> None:
    """The wait ends, says so, and can be begun again."""
    code, _, err = say("login", "gmail", "--timeout", "100ms")
    assert (code, "nobody consented within" in err) == (4, True)


def test_on_a_terminal_the_answer_is_not_shown(place: Place) -> None:
    """What is pasted into the prompt is not echoed; a wrong state is told."""
    code, shown = on_a_terminal(
        place,
        "login",
        "gmail",
        "--no-browser",
        answer="http://127.0.0.1/?code=sim-rt-code-0123456789abcdef&state=x\n",
    )
    assert (code, "its `state` is missing or wrong" in shown) == (1, True)
    assert "sim-rt-" not in shown
    assert "Address or code: " in shown


def test_a_device_fetches_a_grant(place: Place) -> None:
    """The human enters a code elsewhere, and it ends as every login does."""
    place.provider.reconfigure(device_interval=0.1)
    done = place.run("login", "gmail", "--device")
    assert done.returncode == 0, done.stderr
    assert re.search(
        r"Open https://provider.example/device on any device, and enter the code [0-9A-F]{8}", done.stderr
    )
    assert stored(place).access is not None


def test_a_dry_run_changes_nothing(place: Place, say: Say) -> None:
    """It shows what would be asked for, without what makes a request the only one; nobody is asked."""
    _, shown, _ = say("login", "gmail", "--dry-run", "--revoke-old")
    rows = dict(re.split(r" {2,}", line, maxsplit=1) for line in shown.splitlines())
    assert rows["scopes"] == "mail.read mail.send"
    assert dict(parse_qsl(urlsplit(rows["URL"]).query))["state"] == "..."
    assert rows["redirect"] == "http://127.0.0.1:PORT/"
    assert rows["result goes to"] == "record default/gmail in the sqlite store"
    assert rows["replaces"] == "nothing"
    place.ok("seed", "gmail", "--file", str(place.new_seed()))
    held = json.loads(place.seed.read_text(encoding="utf-8"))["refresh_token"]
    _, shown, _ = say("login", "gmail", "--dry-run", "--device", "--json")
    told = json.loads(shown)["replaces"]
    assert told == f"the grant with refresh token {fingerprint(held)} (in use), which is left alone"
    assert place.calls() == 0


def test_what_can_not_be_asked_for(place: Place, say: Say) -> None:
    """Exit code 2, with the way out, before any human is bothered."""
    for arguments, told in (
        (["gmial"], "has: gmail"),
        (["gmail", "--device", "--no-browser"], "--device needs no browser"),
        (["gmail", "--redirect-uri", "https://app.example/back"], "add --no-browser"),
    ):
        code, _, err = say("login", *arguments)
        assert (code, told in err) == (2, True), err
    del place.token["provider"]["authorization_url"]
    place.write()
    code, _, err = say("login", "gmail")
    assert (code, "name it as `authorization_url`" in err) == (2, True)
    place.token["client"]["redirect_uri"] = "http://app.example/#x"
    place.write()
    assert "client.redirect_uri: must hold no user name" in say("check")[2]


def test_fewer_scopes_than_asked_for(place: Place, start: Start) -> None:
    """Google lets users untick some: that is told at once, and stored all the same."""
    login = start()
    url = login.url.replace("mail.read+mail.send", "mail.read")
    with httpx2.Client(follow_redirects=True) as browser:
        assert browser.get(url).status_code == 200
    code, _, err = login.ended()
    assert (code, "warning: not granted, although asked for: mail.send" in err) == (0, True)


def test_a_browser_is_started_with_no_secret(place: Place, start: Start, tmp_path: Path) -> None:
    """What its command line shows is an address of ours, which leads on to the provider."""
    seen = tmp_path / "seen"
    browser = tmp_path / "browser"
    browser.write_text(f'#!/bin/sh\nprintf %s "$1" > {seen}.new && mv {seen}.new {seen}\n', encoding="utf-8")
    browser.chmod(0o755)
    login = start(BROWSER=f"{browser} %s")
    deadline = time.monotonic() + 20
    while not seen.exists():
        assert time.monotonic() < deadline, "no browser was started"
        time.sleep(0.01)
    address = seen.read_text(encoding="utf-8")
    assert dict(parse_qsl(urlsplit(login.url).query))["state"] not in address
    with httpx2.Client(follow_redirects=True) as following:
        assert following.get(address).status_code == 200
    assert login.ended()[0] == 0
    assert stored(place).access is not None


# revoke


def test_a_grant_is_revoked(seeded: Place) -> None:
    """At the provider and in the record; readers and other commands learn what that means."""
    seeded.ok("refresh", "gmail")
    done = seeded.run("revoke", "gmail")
    assert (done.returncode, "add --yes" in done.stderr, revoked(seeded)) == (2, True, [])

    told = seeded.ok("revoke", "gmail", "--yes")
    assert "readers keep the last access token, which ends in 9m" in told
    assert "token-sidecar login gmail" in told
    assert len(revoked(seeded)) == 1
    calls = seeded.calls()
    shown = seeded.run("status")
    assert (shown.returncode, "revoked by token-sidecar revoke" in shown.stdout) == (3, True)
    assert seeded.calls() == calls


def test_a_daemon_learns_of_the_revocation(running: Place) -> None:
    """It goes through the daemon that runs, which shows it at once."""
    reply = json.loads(running.ok("revoke", "gmail", "--yes", "--json"))
    assert reply["access_expires_at"] > time.time()
    assert "dead" in running.run("status", "gmail").stdout


def test_a_revocation_is_confirmed_on_a_terminal(seeded: Place) -> None:
    """A human is asked, and no is the default."""
    code, shown = on_a_terminal(seeded, "revoke", "gmail", answer="\n")
    assert (code, "for everybody who uses it" in shown, revoked(seeded)) == (1, True, [])
    code, _ = on_a_terminal(seeded, "revoke", "gmail", answer="y\n")
    assert (code, len(revoked(seeded))) == (0, 1)


def test_what_is_not_revoked_stays_alive(seeded: Place) -> None:
    """A provider that doesn't answer, or has no such endpoint: nothing is marked."""
    with_revocation: dict[str, Any] = seeded.token["provider"]
    with_revocation["revocation_url"] = "http://127.0.0.1:9/revoke"
    seeded.write()
    assert seeded.run("revoke", "gmail", "--yes").returncode == 4
    del with_revocation["revocation_url"]
    seeded.write()
    done = seeded.run("revoke", "gmail", "--yes")
    assert (done.returncode, "name it as `revocation_url`" in done.stderr) == (2, True)
    assert not stored(seeded).is_dead()
    assert "generation 1" in seeded.ok("refresh", "gmail")
