"""Commands on the accounts of a set: by name, as on any token, with a daemon and without."""

from __future__ import annotations

import json
import time
from collections.abc import Callable

import pytest

from tests.cli.conftest import Place

HOSTILE = "gmail/../$(touch x)"


def until(met: Callable[[], object]) -> None:
    """Wait for what a daemon does by itself."""
    deadline = time.monotonic() + 20
    while not met():
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.fixture
def many(place: Place) -> Place:
    """Make the place's token a set, of which two accounts have a place of their own."""
    place.token["for_each"] = {"max_series": 2, "every": "1s"}
    place.token["outputs"] = [{"file": str(place.output.parent / "{account}.json"), "format": "gmail-sdk"}]
    place.write()
    return place


def files(place: Place) -> list[str]:
    """Name the files of tokens."""
    return sorted(path.name for path in place.output.parent.iterdir())


def test_accounts_are_looked_after_by_name_while_a_daemon_runs(many: Place) -> None:
    """Seeding makes an account, and every other command knows it by `SET/ACCOUNT`, whatever it is called."""
    with many.daemon(wait_for="live"):
        for name in ("gmail/alice@example.com", HOSTILE, "gmail/zoe"):
            assert many.ok("seed", name, "--file", str(many.new_seed())).startswith(f"{name} starts anew")
        until(lambda: len(files(many)) == 3)
        assert files(many) == ["%2E.%2F%24%28touch%20x%29.json", "alice@example.com.json", "zoe.json"]
        held = json.loads((many.output.parent / "alice@example.com.json").read_text(encoding="utf-8"))
        assert many.ok("token", "gmail/alice@example.com").strip() == held["access_token"]
        assert "was refreshed to generation 2" in many.ok("refresh", HOSTILE)
        assert json.loads(many.ok("export", HOSTILE))["access_token"]

        shown = json.loads(many.ok("status", "--json"))
        assert len(shown["tokens"]) == 2
        assert shown["sets"]["gmail"]["members"] == 3
        assert shown["sets"]["gmail"]["others"]["grant_state"] == {"ok": 1}
        assert "gmail/*" in many.ok("status")
        for name in (HOSTILE, "gmail/zoe", "gmail/alice@example.com"):
            assert [*json.loads(many.ok("status", name, "--json"))["tokens"]] == [name]
        nobody = many.run("token", "gmail/nobody")
        assert nobody.returncode == 2
        assert "the set gmail has no such account now; consent: token-sidecar login" in nobody.stderr
        assert many.run("seed", "gmail/*", "--file", str(many.new_seed())).returncode == 2
        assert "no token is called 'gmail'" in many.run("token", "gmail").stderr


def test_accounts_are_looked_after_while_no_daemon_runs(many: Place) -> None:
    """The store is worked on with the daemon's own engine, one account at a time."""
    assert "starts anew" in many.ok("seed", HOSTILE, "--file", str(many.new_seed()))
    assert "generation 1" in many.ok("refresh", HOSTILE)
    assert files(many) == ["%2E.%2F%24%28touch%20x%29.json"]
    assert many.provider.is_live(many.ok("token", HOSTILE).strip())
    for number in range(3):
        many.ok("seed", f"gmail/{number}", "--file", str(many.new_seed()))
    shown = json.loads(many.ok("status", "--json"))
    assert [*shown["tokens"]] == [HOSTILE, "gmail/0"]
    assert (shown["sets"]["gmail"]["members"], shown["sets"]["gmail"]["problem"]) == (
        4,
        "2 more accounts are in the store",
    )
    keys = [row["key"] for row in json.loads(many.ok("store", "list", "--json")) if row["configured"]]
    assert keys == ["default/gmail/" + name for name in ("../$(touch x)", "0", "1", "2")]


def test_a_remedy_can_be_pasted_whatever_an_account_is_called(many: Place) -> None:
    """The command that a dead grant's remedy names is quoted for a shell."""
    many.ok("seed", HOSTILE, "--file", str(many.new_seed()))
    many.provider.kill()
    done = many.run("refresh", HOSTILE)
    assert done.returncode == 3
    assert "token-sidecar login 'gmail/../$(touch x)'" in done.stderr


def test_a_single_run_serves_every_account(many: Place) -> None:
    """`run --once` ends when each account has had its turn, as a cron job wants it."""
    for number in range(4):
        many.ok("seed", f"gmail/{number}", "--file", str(many.new_seed()))
    many.ok("run", "--once")
    assert files(many) == [f"{number}.json" for number in range(4)]


def test_check_says_who_the_accounts_are(many: Place) -> None:
    """A set is one line: whose tokens it is for, and when they are refreshed."""
    assert "gmail: one for each account, by the records default/gmail/… in the store; inline, " in many.ok(
        "check"
    )
    assert json.loads(many.ok("check", "--json"))["tokens"]["gmail"]["for_each"] == "records default/gmail/…"
