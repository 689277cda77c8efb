"""Escrow under keys: what a predecessor sealed, with its key and without."""

from __future__ import annotations

import base64
import os
from pathlib import Path

import msgspec
import pytest

from sidecar.escrow import ROOM_FOR_ANSWER, Escrow, Stage
from sidecar.ports import Answer, Sealer
from sidecar.seal import CLEAR, open_sealer
from sidecar.tokens import Attempt, GrantState, Record, RefreshToken
from tests.engine.conftest import House

KEY = "ns/gmail"
BASE = Record(lineage="l", refresh=RefreshToken("sim-rt-0123456789abcdef0123456789", 1.8e9))
ATTEMPT = Attempt(id="attempt", instance="one", fingerprint="f", started_at=1.8e9)
ANSWER = Answer(200, {}, b'{"access_token":"sim-at-0123456789abcdef01"}', 1.8e9, 1.8e9)


@pytest.fixture
def sealer(tmp_path: Path) -> Sealer:
    """A keyring with one key."""
    return new_sealer(tmp_path / "key")


def new_sealer(path: Path) -> Sealer:
    """Make a key and its keyring."""
    path.write_bytes(base64.b64encode(os.urandom(32)))
    return open_sealer([path])


def escrow_of(directory: Path, sealer: Sealer) -> Escrow:
    """Open an escrow."""
    escrow = Escrow(directory / "escrow", sealer)
    escrow.prepare()
    return escrow


def file_of(directory: Path) -> Path:
    """Find the one entry."""
    [path] = (directory / "escrow").iterdir()
    return path


@pytest.mark.parametrize("stage", Stage)
async def test_an_entry_is_sealed_and_opens(tmp_path: Path, sealer: Sealer, stage: Stage) -> None:
    """Header and answer are unreadable in the file, come back in whole, and the stage is there to be seen."""
    slip = escrow_of(tmp_path, sealer).arm(KEY, BASE, ATTEMPT)
    if stage is not Stage.ARMED:
        slip.sent()
    if stage is Stage.ANSWERED:
        slip.answered(ANSWER)
    [entry] = escrow_of(tmp_path, sealer).entries()
    answer = ANSWER if stage is Stage.ANSWERED else None
    assert (entry.stage, entry.key, entry.base, entry.answer) == (stage, KEY, BASE, answer)
    data = file_of(tmp_path).read_bytes()
    assert b"sim-" not in data
    assert base64.b64encode(ANSWER.body)[:20] not in data
    assert data[:1] == stage.encode()
    entry.slip.release()
    assert escrow_of(tmp_path, sealer).entries() == []


@pytest.mark.parametrize("sealed", [True, False])
async def test_the_largest_answer_fits_the_room(tmp_path: Path, sealer: Sealer, *, sealed: bool) -> None:
    """Room is taken for what sealing adds: catching an answer never makes the file larger."""
    slip = escrow_of(tmp_path, sealer if sealed else CLEAR).arm(KEY, BASE, ATTEMPT)
    before = file_of(tmp_path).stat().st_size
    largest = msgspec.structs.replace(ANSWER, body=b"")
    body = (ROOM_FOR_ANSWER - len(msgspec.json.encode(largest))) // 4 * 3
    slip.answered(msgspec.structs.replace(ANSWER, body=b"x" * body))
    assert file_of(tmp_path).stat().st_size == before


async def test_a_predecessor_in_clear_is_recovered(tmp_path: Path, sealer: Sealer) -> None:
    """Keys may be configured while an entry in clear waits; the rest of it is sealed."""
    slip = escrow_of(tmp_path, CLEAR).arm(KEY, BASE, ATTEMPT)
    slip.sent()
    slip.answered(ANSWER)
    [entry] = escrow_of(tmp_path, sealer).entries()
    assert entry.answer == ANSWER


@pytest.mark.parametrize("position", [0, 1, 5, 40, 200, 400])
async def test_a_damaged_entry_is_never_removed(tmp_path: Path, sealer: Sealer, position: int) -> None:
    """Whatever was changed in it: it is no entry, it is told, and the file stays."""
    slip = escrow_of(tmp_path, sealer).arm(KEY, BASE, ATTEMPT)
    slip.sent()
    slip.answered(ANSWER)
    path = file_of(tmp_path)
    data = bytearray(path.read_bytes())
    data[position] ^= 0x80
    path.write_bytes(data)
    again = escrow_of(tmp_path, sealer)
    assert again.entries() == []
    [problem] = again.locked()
    assert str(path) in problem
    assert "left untouched" in problem
    assert again.may_have_sent(ATTEMPT.id)
    assert path.read_bytes() == data


@pytest.mark.parametrize("keyless", [True, False])
async def test_an_entry_without_its_key_stays(tmp_path: Path, sealer: Sealer, *, keyless: bool) -> None:
    """The wanted key is named; with it back, everything is."""
    escrow_of(tmp_path, sealer).arm(KEY, BASE, ATTEMPT).sent()
    other = escrow_of(tmp_path, CLEAR if keyless else new_sealer(tmp_path / "other"))
    assert other.entries() == []
    [problem] = other.locked()
    assert sealer.first in problem
    assert len(escrow_of(tmp_path, sealer).entries()) == 1


async def test_a_successor_with_the_key_commits_the_pair(house: House, sealer: Sealer) -> None:
    """Killed between answer and commit: the successor opens the entry, and nothing is sent again."""
    daemon = house.daemon(seed=house.provider.new_grant(), instance="one", sealer=sealer)
    await daemon.run(60)
    house.store.kill_at = lambda record: record.generation == 2
    daemon.scheduler.wake("gmail")
    await daemon.die()
    successor = house.daemon(instance="one", sealer=sealer)
    await successor.run(10)
    assert successor.state() is GrantState.OK
    assert successor.view.generation == 2
    assert successor.grant.calls == []
    assert successor.escrow.entries() == []


async def test_a_successor_without_the_key_is_in_doubt(house: House, sealer: Sealer, tmp_path: Path) -> None:
    """It sends nothing, waits as after any lost answer, keeps the file; with the key back the pair is taken."""
    daemon = house.daemon(seed=house.provider.new_grant(), instance="one", sealer=sealer)
    await daemon.run(60)
    house.store.kill_at = lambda record: record.generation == 2
    daemon.scheduler.wake("gmail")
    await daemon.die()
    stranger = house.daemon(instance="one", sealer=new_sealer(tmp_path / "other"))
    await stranger.run(600)
    assert stranger.state() is GrantState.IN_DOUBT
    assert stranger.grant.calls == []
    assert len(stranger.escrow.locked()) == 1
    successor = house.daemon(instance="one", sealer=sealer)
    await successor.run(10)
    assert successor.state() is GrantState.OK
    assert successor.view.generation == 2
    assert house.provider.replayed() == []


async def test_what_was_never_sent_is_no_doubt_even_without_the_key(
    house: House, sealer: Sealer, tmp_path: Path
) -> None:
    """The stage is readable without a key: an armed entry that can't be opened holds nothing up."""
    daemon = house.daemon(seed=house.provider.new_grant(), instance="one", sealer=sealer)
    daemon.grant.kill_before_send = True
    await daemon.die()
    stranger = house.daemon(instance="one", sealer=new_sealer(tmp_path / "other"))
    await stranger.run(10)
    assert stranger.state() is GrantState.OK
    assert len(stranger.escrow.locked()) == 1
