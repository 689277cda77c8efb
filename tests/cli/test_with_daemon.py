"""Commands while a daemon runs: they ask it."""

from __future__ import annotations

import json
import os
import subprocess
import time

import pytest

from sidecar.errors import ConfigError
from sidecar.server.client import ControlClient
from sidecar.tokens import fingerprint
from tests.cli.conftest import Place


def test_status_comes_from_the_daemon(running: Place) -> None:
    """`status` is well, and says so with its exit code."""
    document = json.loads(running.ok("status", "--json"))

    assert document["source"] == "daemon"
    assert document["tokens"]["gmail"]["grant_state"] == "ok"
    assert running.ok("status", "gmail").splitlines()[1].endswith("ok     -        1 of 1 current")
    assert running.run("status", "other").returncode == 2


def test_health_is_asked_where_the_daemon_listens(running: Place) -> None:
    """Each probe is found through state_dir, or by its URL."""
    url = json.loads((running.root / "state" / "http.json").read_text(encoding="utf-8"))["url"]

    assert [running.run("healthcheck", *more).returncode for more in (["live"], ["ready"], ["startup"])] == [
        0
    ] * 3
    assert running.ok("healthcheck", "--url", url, "--config", "/nowhere.yaml") == "ok\n"


def test_health_starts_fast(running: Place) -> None:
    """A health check takes a fraction of a second, most of it the interpreter's."""

    def seconds() -> float:
        began = time.perf_counter()
        running.ok("healthcheck", "live")
        return time.perf_counter() - began

    assert min(seconds() for _ in range(5)) < 0.5


def test_health_when_nobody_is_there(place: Place) -> None:
    """A daemon that doesn't run is not well, with or without waiting."""
    for more in ([], ["--wait", "200ms"], ["--url", "http://127.0.0.1:9"]):
        done = place.run("healthcheck", "live", *more)
        assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (1, "", 1)


def test_the_token_is_the_published_one(running: Place) -> None:
    """`token` prints what the application reads."""
    published = json.loads(running.output.read_text(encoding="utf-8"))

    assert running.ok("token", "gmail") == published["access_token"] + "\n"
    assert json.loads(running.ok("token", "gmail", "--json"))["expires_at"] == pytest.approx(
        published["expires_at"]
    )


@pytest.mark.parametrize("layout", ["file", "raw", "header", "json"])
def test_a_refused_token_is_named_in_any_format(layout: str, running: Place) -> None:
    """The token that was refused is understood as the application read it, and replaced once."""
    token = running.ok("token", "gmail").strip()
    rejected = {
        "file": running.output.read_text(encoding="utf-8"),
        "raw": token + "\n",
        "header": f"Authorization: Bearer {token}",
        "json": json.dumps({"access_token": token}),
    }[layout]
    before = running.calls()

    first = json.loads(running.ok("refresh", "gmail", "--rejected-file", "-", "--json", stdin=rejected))
    again = json.loads(running.ok("refresh", "gmail", "--rejected-file", "-", "--json", stdin=rejected))
    assert (first["refreshed"], again["refreshed"]) == (True, False)
    assert running.calls() == before + 1
    assert running.ok("token", "gmail").strip() != token


def test_a_refused_token_in_a_layout_of_its_own(seeded: Place) -> None:
    """Members that `fields` renamed are found in the file that was refused."""
    seeded.token["outputs"][0] |= {"format": "json", "fields": {"access_token": "tok", "expires_at": "until"}}
    seeded.write()
    with seeded.daemon():
        reply = seeded.ok("refresh", "gmail", "--rejected-file", str(seeded.output), "--json")
    assert json.loads(reply)["refreshed"] is True


def test_what_holds_no_token_is_refused(running: Place) -> None:
    """A file without an access token is told, and causes no call."""
    before = running.calls()
    done = running.run("refresh", "gmail", "--rejected-file", "-", stdin='{"expires_in": 5}')

    assert (done.returncode, running.calls()) == (2, before)


def test_many_callers_cause_one_call(running: Place) -> None:
    """Any number of scripts that were refused the same token cause one request."""
    rejected = running.root / "rejected"
    rejected.write_bytes(running.output.read_bytes())
    before = running.calls()

    callers = [
        running.begin("refresh", "gmail", "--rejected-file", str(rejected), stdout=subprocess.DEVNULL)
        for _ in range(8)
    ]
    assert [caller.wait(40) for caller in callers] == [0] * 8
    assert running.calls() == before + 1


def test_from_dead_to_fresh(running: Place) -> None:
    """A new seed revives a dead grant in the running daemon."""
    running.provider.kill()
    assert running.run("refresh", "gmail").returncode == 3
    assert running.run("status").returncode == 3

    running.ok("seed", "gmail", "--file", str(running.new_seed()))
    assert running.run("healthcheck", "startup", "--wait", "20s").returncode == 0
    document = json.loads(running.ok("status", "--json"))
    assert document["tokens"]["gmail"]["grant_state"] == "ok"


def test_a_spent_seed_is_refused(running: Place) -> None:
    """The daemon refuses a refresh token that was used before."""
    done = running.run("seed", "gmail", "--file", str(running.seed))

    assert (done.returncode, "already used" in done.stderr) == (1, True)


def test_export_reads_beside_the_daemon(running: Place) -> None:
    """`export` needs no daemon and disturbs none, and warns of using both."""
    done = running.run("export", "gmail", "--format", "raw")

    assert done.returncode == 0
    assert done.stdout.startswith("sim-rt-")
    assert "may kill the grant" in done.stderr
    said = [json.loads(line) for line in (running.root / "log").read_text(encoding="utf-8").splitlines()]
    [deed] = [line for line in said if line.get("what") == "export"]
    assert (deed["who"], deed["outcome"], deed["token"]) == (f"uid {os.getuid()}", "done", "gmail")
    assert deed["fingerprint"] == fingerprint(done.stdout.strip())


def test_records_are_left_alone_while_a_daemon_has_them(running: Place) -> None:
    """`store rename` refuses while a daemon runs: it would write the record again."""
    done = running.run("store", "rename", "gmail", "other")

    assert done.returncode == 1
    assert "another token-sidecar is running" in done.stderr
    assert len(json.loads(running.ok("store", "list", "--json"))) == 1


def test_a_refused_configuration_is_told(running: Place) -> None:
    """`status` shows why a changed configuration is not in force, and fails."""
    good = running.root / "good.yaml"
    good.write_bytes(running.config.read_bytes())
    running.document["tokenz"] = {}
    running.write()
    with pytest.raises(ConfigError):
        ControlClient(running.root / "state" / "control.sock").reload()

    done = running.run("status", "--config", str(good))
    assert done.returncode == 1
    assert "refused; the old one is in force" in done.stdout
    assert "tokenz" in done.stdout
