"""Real daemons, killed at every step of a refresh; see docs/reference/crash-matrix.md, which is written from it."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from tests.e2e import child, matrix
from tests.e2e.conftest import EAGER, PROJECT, wait_until
from tests.e2e.kubernetes import Secrets
from tests.e2e.matrix import CELLS, CHOSEN, OUTCOMES, Cell, Column, Facts, claim, outcome_of, read, render

if TYPE_CHECKING:
    from pathlib import Path

    from sidecar.testing import Provider, TokenUses
    from sidecar.tokens import Record
    from tests.e2e.conftest import Daemon, MakeDaemon, MakeSimulator, Remains
    from tests.kube.fake import Fake
    from tests.postgres import Server

PAGE = PROJECT / "docs" / "reference" / "crash-matrix.md"
WRITE = bool(os.environ.get("TOKEN_SIDECAR_WRITE_MATRIX"))
AT_A_TIME = 16
"""Cells. Most of their time is spent waiting, but their starts must not starve the tests beside them."""

LEASE, REQUEST_TIMEOUT = 2.0, 0.5
HOLD = 6.0
"""In place of `schedule.IN_DOUBT_HOLD`, the six minutes for which a stranger's lost attempt is watched."""
SLACK = 0.1
"""Seconds by which a daemon's judgement of the time and the provider's may differ on one machine."""
LONG = 90.0

StoreOf = Callable[[Cell], str | None]


def test_the_points_are_those_that_the_page_describes() -> None:
    """Every point at which a daemon can be killed has its row, in the order of the way."""
    assert tuple(matrix.POINTS) == child.POINTS


@pytest.fixture
def store_of(
    server: Server, database: str, fake_cluster: Fake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> StoreOf:
    """Give a cell's store: Postgres is one for all, each has its own Secret; None: the daemon's own."""
    secrets = Secrets(fake_cluster, tmp_path, *(f"{number}-gmail" for number in range(len(CELLS))))
    monkeypatch.setenv("KUBECONFIG", secrets.environment["KUBECONFIG"])
    urls = {"Postgres": server.url(database), "Kubernetes": secrets.url}

    def of(cell: Cell) -> str | None:
        own = f"-{CELLS.index(cell)}" if cell.store == "Kubernetes" else ""
        return f"{urls[cell.store]}{own}" if cell.store in urls else None

    return of


def test_the_page_is_written_from_code() -> None:
    """What the page says beside the results, and how it says them, is as it would be written now."""
    claimed = PAGE.read_text(encoding="utf-8")
    assert render(read(claimed)) == claimed, "write it anew: make crash-matrix"


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "cells",
    [
        pytest.param(CELLS if WRITE else CHOSEN, id="chosen"),
        pytest.param(CELLS, id="all", marks=pytest.mark.soak),
    ],
)
def test_the_matrix_is_what_its_page_claims(
    cells: list[Cell], make_daemon: MakeDaemon, make_simulator: MakeSimulator, store_of: StoreOf
) -> None:
    """Whatever the point, store, restart and provider: a killed daemon's grant comes out as the page says."""

    def run(cell: Cell) -> Facts:
        return measured(cell, make_daemon, make_simulator, store_of(cell))

    # Those that wait longest begin first.
    order = cells[::-1]
    with ThreadPoolExecutor(AT_A_TIME) as threads:
        results = dict(zip(order, threads.map(run, order), strict=True))

    assert {cell: facts for cell, facts in results.items() if outcome_of(facts) not in OUTCOMES} == {}
    found = {cell: claim(cell, results[cell]) for cell in cells}
    if WRITE:
        PAGE.write_text(render(found), encoding="utf-8")
    claimed = read(PAGE.read_text(encoding="utf-8"))
    others = {cell: (it, claimed[cell]) for cell, it in found.items() if not claimed[cell].fits(it)}
    assert others == {}, "if this is how it should be, write it down: make crash-matrix"


def measured(cell: Cell, make_daemon: MakeDaemon, make_simulator: MakeSimulator, url: str | None) -> Facts:
    """Kill a daemon at a point of its second refresh, start the next one, and watch until all is settled."""
    simulator, first = make_simulator(**behaviour(cell)), make_daemon()
    provider = simulator.provider
    first.config["namespace"] = first.folder.name
    first.config["store"] = url or first.config["store"]
    first.add(
        simulator,
        **EAGER,
        lease=f"{LEASE}s",
        request_timeout=f"{REQUEST_TIMEOUT}s",
        profile={"in_doubt": "replay_window", "grace": f"{provider.config.grace}s"}
        if provider.config.grace
        else {},
    )
    left = die(first, cell.point)
    at_stake = at_stake_in(left.records["gmail"], cell.point)
    wait_until(lambda: has_seen(provider, cell.point, at_stake), what="the provider is done", patience=LONG)
    sent, used = len(provider.report().requests), uses_of(at_stake, provider).replaced
    then = first if cell.column.restart == "in place" else moved(first, make_daemon())
    earliest = earliest_guess(cell, left.records["gmail"])

    then.launch(*(() if then is first else ("hold", str(HOLD))))
    then.wait_until(
        lambda: provider.wait_until(partial(is_settled, provider, at_stake), 0.5),
        "it is settled",
        patience=LONG,
    )
    assert then.stop() == 0
    lived = judged_alive(then, provider)
    simulator.stop()

    report = provider.report()
    again = [request.at for request in report.requests[sent:] if request.fingerprint == at_stake]
    entry = left.entries.get("gmail")
    return Facts(
        store=held(left.records["gmail"], at_stake),
        escrow=entry.stage.name.lower() if entry else "none",
        used=used,
        doubted=any(line.get("grant") == "in_doubt" for line in then.lines(token="gmail"))
        or is_resent_unseen(cell, left.records["gmail"]),
        resent="never" if not again else "late" if again[0] >= earliest else "at once",
        calls=uses_of(at_stake, provider).presented,
        replays=sum(token.replays for token in report.tokens),
        lived=lived,
    )


def is_resent_unseen(cell: Cell, record: Record) -> bool:
    """Tell whether doubt begins, with the end of a stranger's lease, in the turn that sends again and ends it."""
    return cell.column == Column("elsewhere", "grace") and record.attempt is not None


def behaviour(cell: Cell) -> dict[str, Any]:
    """Choose the provider's times: where somebody waits for the end of a life, it is short."""
    if cell.column.provider == "grace":
        return {"grace": 120.0}
    # In place so long that a back-off alone doesn't look like the wait for the expiry.
    return {"access_ttl": HOLD if cell.column.restart == "elsewhere" else 12.0}


def die(daemon: Daemon, point: str) -> Remains:
    """Run until it has killed itself."""
    daemon.launch(point, "kill")
    assert daemon.wait(patience=LONG) == -signal.SIGKILL, daemon.text()
    return daemon.remains()


def at_stake_in(record: Record, point: str) -> str:
    """Name the refresh token that was about to be used, or was used last."""
    if record.attempt is not None:
        return record.attempt.fingerprint
    assert record.refresh is not None
    return record.replaced[-1] if point in child.OUT else record.refresh.fingerprint


def uses_of(fingerprint: str, provider: Provider) -> TokenUses:
    """Return what the provider knows of one refresh token."""
    return next(token for token in provider.report().tokens if token.fingerprint == fingerprint)


def has_seen(provider: Provider, point: str, at_stake: str) -> bool:
    """Tell whether the provider is through with whatever the dead daemon had sent."""
    out = point in child.OUT
    return provider.report().in_flight == 0 and uses_of(at_stake, provider).presented == int(out)


def moved(dead: Daemon, daemon: Daemon) -> Daemon:
    """Configure what runs in another pod: all the same, but for the directories."""
    daemon.store = dead.store
    daemon.config = json.loads(json.dumps(dead.config)) | {"state_dir": str(daemon.state_dir)}
    daemon.change(outputs=[{"file": str(daemon.output()), "format": "gmail-sdk"}])
    return daemon


def earliest_guess(cell: Cell, record: Record) -> float:
    """Tell until when one that is in doubt and starts now has to wait."""
    assert record.access is not None
    assert record.access.expires_at is not None
    if cell.column.restart == "in place":
        return record.access.expires_at - REQUEST_TIMEOUT - SLACK
    return max(record.access.expires_at, time.time() + HOLD) - SLACK


def is_settled(provider: Provider, at_stake: str) -> bool:
    """Tell whether the refresh token that came next was used in turn, or the provider has ended it all."""
    report = provider.report()
    later = [token.fingerprint for token in report.tokens].index(at_stake) + 1
    return report.families[0].killed is not None or any(token.replaced for token in report.tokens[later:])


def judged_alive(daemon: Daemon, provider: Provider) -> bool:
    """Tell what became of the grant; its daemon, which has ended, must have known and told it."""
    left = daemon.remains()
    record = left.records["gmail"]
    assert left.entries == {}
    if provider.report().families[0].killed is not None:
        assert record.is_dead()
        return False
    assert record.access is not None
    assert daemon.published() == record.access.value
    return True


def held(record: Record, at_stake: str) -> str:
    """Say what the dead daemon's store had of the refresh."""
    assert record.refresh is not None
    if record.refresh.fingerprint != at_stake:
        return "new"
    return "old" if record.attempt is None else "intent"
