"""A crash-proof place for one answer: torn anywhere, it tells an earlier stage or nothing, and never a wrong one."""

from __future__ import annotations

import os
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from sidecar.errors import EscrowError
from sidecar.escrow import ROOM_FOR_ANSWER, Escrow, Stage
from sidecar.ports import Answer
from sidecar.rotation import intended
from sidecar.tokens import Attempt, Record, RefreshToken
from tests.engine.conftest import KEY, House

SECRET = "sim-rt-0123456789abcdef"
BASE = intended(Record("lineage", refresh=RefreshToken(SECRET, 1.0), client_id="c"), "one", 2.0)
ANSWER = Answer(200, {"date": "now"}, b'{"access_token": "sim-at-0123456789abcdef"}', 3.0, 4.0)


def attempt() -> Attempt:
    """The attempt of the base record."""
    assert BASE.attempt is not None
    return BASE.attempt


@pytest.fixture
def escrow(tmp_path: Path) -> Escrow:
    """An escrow that is ready."""
    made = Escrow(tmp_path / "escrow")
    made.prepare()
    return made


def written(escrow: Escrow, stage: Stage) -> Path:
    """Bring one entry to a stage and return its file."""
    slip = escrow.arm(KEY, BASE, attempt())
    if stage is not Stage.ARMED:
        slip.sent()
    if stage is Stage.ANSWERED:
        slip.answered(ANSWER)
    (path,) = escrow._directory.iterdir()
    return path


@pytest.mark.parametrize("stage", list(Stage))
def test_an_entry_tells_how_far_it_came(escrow: Escrow, stage: Stage) -> None:
    """The stage, whose it is, what was sent, and the answer where there is one."""
    written(escrow, stage)
    (entry,) = escrow.entries()
    assert (entry.stage, entry.key, entry.base, entry.attempt) == (stage, KEY, BASE, attempt())
    assert entry.answer == (ANSWER if stage is Stage.ANSWERED else None)
    assert escrow.may_have_sent(attempt().id) == (stage is not Stage.ARMED)
    entry.slip.release()
    assert escrow.entries() == []
    assert not escrow.may_have_sent(attempt().id)


def interesting(data: bytes) -> Iterator[int]:
    """Every offset of header and answer, and a few in the empty room behind them."""
    used = len(data.rstrip(b"\0"))
    yield from range(used + 2)
    yield from range(used + 2, len(data), 10_000)


@pytest.mark.parametrize("stage", list(Stage))
def test_a_file_cut_anywhere_is_no_later_stage(escrow: Escrow, stage: Stage) -> None:
    """Shortened at every byte: the same stage in whole, or unreadable; kept unless nothing was ever sent."""
    path = written(escrow, stage)
    data = path.read_bytes()
    for length in interesting(data):
        path.write_bytes(data[:length])
        judge(escrow, path, stage, data[:1] if length else b"")


@pytest.mark.parametrize("stage", list(Stage))
@pytest.mark.parametrize("rubbish", [b"\0", b"\xff", b"\n", b'"'])
def test_a_garbled_byte_is_never_believed_too_much(escrow: Escrow, stage: Stage, rubbish: bytes) -> None:
    """One wrong byte anywhere behind the first may hide an entry, but starts no daemon with an exception."""
    path = written(escrow, stage)
    data = path.read_bytes()
    for offset in range(1, len(data.rstrip(b"\0"))):
        path.write_bytes(data[:offset] + rubbish + data[offset + 1 :])
        judge(escrow, path, stage, data[:1])


def judge(escrow: Escrow, path: Path, stage: Stage, first: bytes) -> None:
    """Hold what is read to the rule; `first`: the file's first byte."""
    entries = escrow.entries()
    assert [entry.stage for entry in entries] in ([], [stage])
    if entries and stage is Stage.ANSWERED:
        assert entries[0].answer is not None
    unreadable = escrow.locked()
    assert bool(entries) + bool(unreadable) <= 1
    assert path.exists() == bool(entries or unreadable)
    if first in (b"S", b"R"):
        assert path.exists(), "it may hold an answer"


def test_an_answer_that_was_half_written_counts_as_sent(escrow: Escrow) -> None:
    """The stage byte comes last, so a process killed at writing leaves doubt and no half answer."""
    path = written(escrow, Stage.ANSWERED)
    data = path.read_bytes()
    end = data.index(b"\n") + 1
    for length in range(end, len(data.rstrip(b"\0"))):
        path.write_bytes(b"S" + data[1:length])
        (entry,) = escrow.entries()
        assert (entry.stage, entry.answer) == (Stage.SENT, None)


def test_a_file_that_was_only_allocated_was_never_sent(escrow: Escrow) -> None:
    """Killed between taking room and writing the header: nothing left, so nothing stays."""
    path = escrow._directory / "x.escrow"
    for data in (b"", b"\0" * 1000):
        path.write_bytes(data)
        assert escrow.entries() == []
        assert not path.exists()


def test_entries_come_in_their_order(escrow: Escrow) -> None:
    """A chain of rotations is taken over as it was made, though a clock was set back and the daemon restarted."""
    for number in range(4):
        if number == 2:
            escrow = Escrow(escrow._directory)
            escrow.prepare()
        one = intended(BASE, "one", -float(number))
        assert one.attempt is not None
        escrow.arm(KEY, one, one.attempt)
        os.utime(escrow._path(one.attempt.id), (1000 - number, 1000 - number))
    assert [entry.attempt.started_at for entry in escrow.entries()] == [0, -1, -2, -3]


def test_an_answer_larger_than_its_room_is_kept_all_the_same(escrow: Escrow) -> None:
    """The file grows where the volume allows."""
    slip = escrow.arm(KEY, BASE, attempt())
    slip.sent()
    large = Answer(200, {}, b"x" * (2 * ROOM_FOR_ANSWER), 1.0, 2.0)
    slip.answered(large)
    assert escrow.entries()[0].answer == large


def test_nobody_else_may_read_it(escrow: Escrow) -> None:
    """The directory is 0700 and each file 0600, whatever the umask says."""
    old = os.umask(0)
    try:
        again = Escrow(escrow._directory / "deeper")
        again.prepare()
        path = written(again, Stage.ARMED)
    finally:
        os.umask(old)
    assert stat.S_IMODE(again._directory.stat().st_mode) == 0o700
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_no_secret_shows(escrow: Escrow) -> None:
    """Neither an entry nor an answer tells its tokens to a traceback."""
    written(escrow, Stage.ANSWERED)
    assert "sim-rt-" not in repr(escrow.entries())
    assert "sim-at-" not in repr(escrow.entries())


def test_without_room_nothing_is_armed(tmp_path: Path) -> None:
    """A directory that can't be made or written is an error with a remedy, and leaves no file."""
    (tmp_path / "file").touch()
    with pytest.raises(EscrowError, match="no room to catch an answer"):
        Escrow(tmp_path / "file" / "escrow").arm(KEY, BASE, attempt())
    with pytest.raises(EscrowError, match="set state_dir"):
        Escrow(tmp_path / "file").prepare()


def test_a_directory_that_was_removed_is_made_again(tmp_path: Path) -> None:
    """Somebody emptied `state_dir` under the daemon: the grant must not die of it."""
    slip = Escrow(tmp_path / "removed").arm(KEY, BASE, attempt())
    assert slip.held
    assert (tmp_path / "removed").stat().st_mode & 0o777 == 0o700


@pytest.fixture
def small_volume(tmp_path: Path) -> Iterator[Path]:
    """A tmpfs with room for the names, and for no answer."""
    place = tmp_path / "small"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(place)]
    try:
        mounted = subprocess.run(command, check=False, capture_output=True).returncode == 0
    except OSError:
        mounted = False
    if not mounted:
        pytest.skip("mounting a tmpfs needs privileges")
    yield place
    subprocess.run([command[0].replace("mount", "umount"), str(place)], check=True)


def test_a_full_volume_is_noticed_before_anything_is_sent(small_volume: Path) -> None:
    """Room is taken first, so the error comes when there is still nothing to lose."""
    escrow = Escrow(small_volume / "escrow")
    escrow.prepare()
    with pytest.raises(EscrowError, match="free space"):
        escrow.arm(KEY, BASE, attempt())
    assert list((small_volume / "escrow").iterdir()) == []


async def test_without_room_no_call_is_made(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """The provider isn't asked, no doubt is left in the store, and the refresh follows once there is room."""

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    daemon = house.daemon(seed=house.provider.new_grant())
    await daemon.run(300)
    assert daemon.grant.calls == []
    assert (await house.store.record()).attempt is None
    assert "no room to catch an answer" in daemon.view.reason
    monkeypatch.undo()
    await daemon.run(200)
    assert len(daemon.grant.calls) == 1


async def test_an_unreadable_entry_leaves_its_token_in_doubt(house: House) -> None:
    """The daemon starts, sends nothing before the access token ends, and the file stays for a human."""
    daemon = house.daemon(seed=house.provider.new_grant(), instance="one")
    await daemon.run(60)
    house.store.kill_at = lambda record: record.generation == 2
    daemon.scheduler.wake("gmail")
    await daemon.die()
    (path,) = daemon.escrow._directory.iterdir()
    path.write_bytes(b"R" + b"\xff" * 100)
    successor = house.daemon(instance="one")
    await successor.run(120)
    assert successor.grant.calls == []
    assert path.exists()
    [problem] = successor.escrow.locked()
    assert str(path) in problem


async def test_another_tokens_entry_is_left_alone(house: House) -> None:
    """What belongs to a token that is not configured here stays where it is."""
    daemon = house.daemon(seed=house.provider.new_grant(), instance="one")
    daemon.escrow.arm("test/other", BASE, attempt()).sent()
    await daemon.run(6000)
    assert [entry.key for entry in daemon.escrow.entries()] == ["test/other"]
