"""`status --history`: what happened last night, asked of the daemon or of the store."""

from __future__ import annotations

import json
import re
from pathlib import Path

import click
import pytest
import yaml
from msgspec.structs import replace

from sidecar.cli.status import _show_history
from sidecar.config.settings import Settings, StoreSettings
from sidecar.server.client import ControlClient
from sidecar.server.status import history_of
from sidecar.testing import faults
from sidecar.tokens import OutcomeClass, Record, Turn
from tests.cli.conftest import Place
from tests.cli.test_sets import HOSTILE, many

__all__ = ["many"]

STORE = StoreSettings()
NAME = "[0-9a-f]{12}"
AT = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\dZ"


def test_the_history_is_the_same_with_a_daemon_and_without(running: Place) -> None:
    """Seed, refreshes, refusals and the death are told as sentences; who asks without a daemon is told that."""
    # The daemon notices by itself, or is asked.
    running.provider.kill()
    running.run("refresh", "gmail")
    told = running.ok("status", "--history", "gmail")
    document = json.loads(running.ok("status", "--history", "--json"))
    title, *lines = told.splitlines()

    assert title == "gmail:"
    assert re.fullmatch(rf"  {AT}  seed: from command; refresh token {NAME}; by {NAME}", lines[0])
    assert re.fullmatch(
        rf"  {AT}  refreshed to generation 1 in [\d.e-]+ s; access token {NAME}; refresh token {NAME}; by {NAME}",
        lines[1],
    )
    assert re.fullmatch(rf"  {AT}  refresh failed \(dead\).*: .*invalid_grant.*; by {NAME}", lines[2])
    assert (document["source"], [*document["history"]]) == ("daemon", ["gmail"])
    assert [turn["what"] for turn in document["history"]["gmail"]] == ["seed", "refresh", "refresh"]
    assert all(turn["since"] == turn["at"] <= document["now"] for turn in document["history"]["gmail"])
    status = json.loads(running.run("status", "--json").stdout)
    assert {status["instance"][:12]} == {turn["instance"] for turn in document["history"]["gmail"][1:]}


def test_without_a_daemon_the_store_is_asked(seeded: Place) -> None:
    """A token whose daemon is gone has a history all the same."""
    seeded.provider.add_fault(faults.status(503))
    assert seeded.run("refresh", "gmail").returncode == 4
    done = seeded.run("status", "--history")
    seed, failed = done.stdout.splitlines()[1:]

    assert "no daemon answers; this is what the store says" in done.stderr
    assert "seed: from command" in seed
    assert re.search(r"refresh failed \(transient\) in \S+ s: .*503", failed)


def test_failures_that_are_alike_are_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """A night of retries is a line with their number and its first moment; refreshes that went well have one each."""
    busy = Turn(
        1_800_000_000.0, OutcomeClass.TRANSIENT, "HTTP 503, again in 3 s", 1, 0.25, times=2, since=1.8e9 - 60
    )
    again = replace(
        busy, at=1_800_003_600.0, reason="HTTP 503, again in 30 s", duration=5, times=1, since=None
    )
    fine = Turn(1_800_003_700.0, OutcomeClass.SUCCESS, "", 2, 0.25)
    record = Record("l", history=(busy, again, fine, replace(fine, generation=3)))
    monkeypatch.setattr(ControlClient, "history", lambda *_: {"gmail": history_of(record)})
    told: list[str] = []
    monkeypatch.setattr(click, "echo", told.append)

    _show_history(
        Settings(path=Path(), tokens={}, profiles={}, provider_names={}, state_dir=Path(), store=STORE),
        "",
        as_json=False,
    )

    assert told == [
        "gmail:",
        (
            "  2027-01-15 09:00:00Z  refresh failed (transient) in 5 s, 3 times since 2027-01-15 07:59:00Z: "
            "HTTP 503, again in 30 s"
        ),
        "  2027-01-15 09:01:40Z  refreshed to generation 2 in 0.25 s",
        "  2027-01-15 09:01:40Z  refreshed to generation 3 in 0.25 s",
    ]


def test_accounts_of_sets_have_histories(many: Place) -> None:
    """Each account is asked for by name, and those that are told of one by one are told of without a name."""
    for name in (HOSTILE, "gmail/zoe", "gmail/bob"):
        many.ok("seed", name, "--file", str(many.new_seed()))
    assert many.ok("status", "--history", "gmail/zoe").startswith("gmail/zoe:\n")
    assert many.ok("status", "--history", "gmail/nobody") == "gmail/nobody: nothing has happened yet\n"
    assert len(json.loads(many.ok("status", "--history", "--json"))["history"]) == 2
    many.token["for_each"]["every"] = "1h"
    many.write()
    with many.daemon(wait_for="live"):
        elsewhere = many.root / "elsewhere.yaml"
        document = {**many.document, "state_dir": str(many.root / "elsewhere")}
        elsewhere.write_text(yaml.safe_dump(document), encoding="utf-8")
        many.ok("seed", "gmail/late", "--file", str(many.new_seed()), "-c", str(elsewhere))
        assert "seed: from command" in many.ok("status", "--history", "gmail/late"), (
            "the daemon asks the store"
        )
        for name in (HOSTILE, "gmail/zoe", "gmail/bob"):
            assert f"{name}:\n" in many.ok("status", "--history", name)
