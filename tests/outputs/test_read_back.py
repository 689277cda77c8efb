from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from sidecar import files
from sidecar.formats import NAMES
from sidecar.ports import Holding, Publication
from sidecar.tokens import ExpirySource, fingerprint

if TYPE_CHECKING:
    from tests.outputs.conftest import Place

Make = Callable[..., Publication]


@pytest.mark.parametrize("name", NAMES)
def test_what_we_published_is_judged_in_every_format(place: Place, make: Make, name: str) -> None:
    """Token, lineage and expiry are known, also where the format carries none, and after a restart."""
    place.publish(place.open(format=name), make())
    assert place.read_back(place.open(format=name)) == Holding(
        fingerprint=fingerprint(make().access.value),
        lineage="a" * 32,
        expires_at=make().access.expires_at,
        mark=make().mark,
    )


@pytest.mark.parametrize("name", NAMES)
def test_never_and_unknown_are_told_apart(place: Place, make: Make, name: str) -> None:
    """A token that never expires says so; one whose end is assumed has no expiry and doesn't claim never."""
    output = place.open(format=name)
    place.publish(output, make(1, expires_at=None, expiry_source=ExpirySource.NEVER))
    never = place.read_back(output)
    assert (never.expires_at, never.never_expires, never.problem) == (None, True, None)
    place.publish(output, make(2, expiry_source=ExpirySource.ASSUMED))
    unknown = place.read_back(output)
    assert (unknown.expires_at, unknown.never_expires, unknown.problem) == (None, False, None)
    assert unknown.lineage == "a" * 32


@pytest.mark.parametrize("name", ["json", "gmail-sdk", "google-authorized-user"])
@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (None, "does not exist"),
        (b"", "is empty"),
        ("half", "is not in the format"),
        (b"\x00\xff rubbish", "is not in the format"),
        (b"{}", "holds no access token"),
        (b"x" * (files.LIMIT + 1), "is larger than 1 MiB"),
    ],
    ids=["deleted", "truncated", "torn", "rubbish", "no token", "huge"],
)
def test_damage_is_told_and_repaired(
    place: Place, make: Make, name: str, damage: bytes | str | None, why: str
) -> None:
    """Whatever was done to the file is said in words, and the next publication makes it right."""
    output = place.open(format=name)
    place.publish(output, make())
    right = place.file.read_bytes()
    if damage is None:
        place.file.unlink()
    else:
        place.file.write_bytes(right[: len(right) // 2] if isinstance(damage, str) else damage)
    holding = place.read_back(output)
    assert holding == Holding(problem=holding.problem, mark=make().mark)
    assert why in (holding.problem or "")
    assert place.publish(output, make())
    assert place.file.read_bytes() == right
    assert place.read_back(output).lineage == "a" * 32


def test_a_directory_or_fifo_in_the_way_is_told(place: Place, make: Make) -> None:
    """Neither blocks the daemon nor breaks it."""
    output = place.open()
    place.file.mkdir()
    assert place.read_back(output).problem == "is a directory"
    place.file.rmdir()
    os.mkfifo(place.file)
    assert place.read_back(output).problem == "is not a regular file"
    assert place.publish(output, make())
    assert place.read_back(output).problem is None


def test_an_applications_own_refresh_is_foreign(place: Place, make: Make) -> None:
    """A readable token that we didn't publish is shown with both tokens, its expiry and how long it rests."""
    output = place.open(format="gmail-sdk", include_refresh_token=True, adopt=True)
    place.publish(output, make())
    written = json.loads(place.file.read_bytes())
    written |= {"access_token": "sim-at-fedcba9876543210", "expires_at": 1_700_009_999.5}
    place.file.write_text(json.dumps(written, indent=2), encoding="ascii")
    place.file.chmod(0o600)
    os.utime(place.file, (1_700_000_100, 1_700_000_100))
    place.clock.now = 1_700_000_100.75
    holding = place.read_back(output)
    assert (holding.fingerprint, holding.lineage) == (fingerprint("sim-at-fedcba9876543210"), None)
    assert (holding.expires_at, holding.problem) == (1_700_009_999.5, None)
    assert holding.foreign is not None
    assert holding.foreign.access.value == "sim-at-fedcba9876543210"
    assert holding.foreign.access.expires_at == 1_700_009_999.5
    assert holding.foreign.refresh is not None
    assert holding.foreign.refresh.value == "sim-rt-0123456789abcdef"
    assert holding.foreign.stable_for == 0.75
    place.clock.now = 1_700_000_101.5
    again = place.read_back(output)
    assert again.foreign is not None
    assert again.foreign.stable_for == 1.5
    assert place.publish(output, make())
    assert place.read_back(output).foreign is None


def test_a_foreign_token_of_unknown_end(place: Place) -> None:
    """Where neither format nor content tells, the expiry is marked as assumed and not passed on as known."""
    place.file.write_text("sim-at-fedcba9876543210", encoding="ascii")
    os.utime(place.file, (1_700_000_000, 1_700_000_000))
    holding = place.read_back(place.open(format="raw"))
    assert holding.expires_at is None
    assert holding.foreign is not None
    assert holding.foreign.access.expiry_source is ExpirySource.ASSUMED
    assert holding.foreign.access.expires_at == 1_700_001_800


def test_our_own_open_end_is_not_taken_for_a_later_expiry(place: Place, make: Make) -> None:
    """With the index lost, the year 9999 in a file counts as unknown, or it would beat every real expiry."""
    place.publish(place.open(format="gmail-sdk"), make(expires_at=None, expiry_source=ExpirySource.NEVER))
    for index in (place.state_dir / "outputs").iterdir():
        index.unlink()
    foreign = place.read_back(place.open(format="gmail-sdk")).foreign
    assert foreign is not None
    assert foreign.access.expiry_source is ExpirySource.ASSUMED


@pytest.mark.parametrize("damage", [None, b"", b"rubbish", b"{}", b'{"path": "/else", "entries": []}'])
def test_a_lost_index_is_rebuilt(place: Place, make: Make, damage: bytes | None) -> None:
    """Without it our token looks foreign, until the same token is published again."""
    place.publish(place.open(), make())
    (index,) = (place.state_dir / "outputs").iterdir()
    if damage is None:
        index.unlink()
    else:
        index.write_bytes(damage)
    output = place.open()
    assert place.read_back(output).foreign is not None
    before = place.file.stat()
    assert not place.publish(output, make())
    assert place.file.stat().st_ino == before.st_ino
    assert place.read_back(output).lineage == "a" * 32
    assert place.read_back(place.open()).lineage == "a" * 32


def test_an_index_that_cannot_be_written_stops_no_token(place: Place, make: Make) -> None:
    """The readers come first: the token is published, judged from memory, and the trouble is told."""
    place.state_dir.write_text("a file in the way", encoding="ascii")
    output = place.open()
    assert place.publish(output, make())
    assert place.read_back(output).lineage == "a" * 32
    assert "output index" in (output.index_problem or "")
    place.state_dir.unlink()
    assert not place.publish(output, make())
    assert output.index_problem is None
    assert place.read_back(place.open()).lineage == "a" * 32


def test_a_probe_costs_one_stat(place: Place, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once the file has settled, looking again doesn't open it, and a change is still seen."""
    output = place.open()
    place.publish(output, make(1))
    monkeypatch.setattr(files, "SETTLE_NS", -1)
    first = place.read_back(output)

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("opened again")

    with monkeypatch.context() as patched:
        patched.setattr("sidecar.outputs.file.read_small", refuse)
        assert place.read_back(output) == first
    place.file.write_bytes(b"{}")
    assert place.read_back(output).problem == "holds no access token"


def test_a_file_just_written_is_read_again(place: Place, make: Make) -> None:
    """A second write within the file system's granularity may leave the same times: those aren't trusted."""
    output = place.open(format="raw")
    place.publish(output, make(1))
    place.read_back(output)
    changed = bytearray(place.file.read_bytes())
    changed[-1] ^= 1
    before = place.file.stat()
    place.file.write_bytes(changed)
    os.utime(place.file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert time.time_ns() - before.st_ctime_ns < files.SETTLE_NS
    assert place.read_back(output).foreign is not None


def test_reading_back_leaves_no_trace(place: Place, make: Make) -> None:
    """The access time stays what the application's own reads made it."""
    output = place.open()
    place.publish(output, make())
    os.utime(place.file, (5, 5))
    place.read_back(output)
    assert place.file.stat().st_atime == 5


def test_reading_back_what_is_another_users(
    place: Place, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the owner may leave the access time alone; everybody else reads all the same."""
    output = place.open()
    place.publish(output, make())
    real = os.open

    def as_another(path: Any, flags: int, *arguments: Any, **named: Any) -> int:
        if flags & os.O_NOATIME:
            raise PermissionError
        return real(path, flags, *arguments, **named)

    monkeypatch.setattr(os, "open", as_another)
    assert place.read_back(output).lineage == "a" * 32


def test_reading_back_what_may_not_be_read(place: Place, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """That is told in words as well."""
    output = place.open()
    place.publish(output, make())

    def refuse(*_: object, **__: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    assert place.read_back(output).problem == "cannot be read: Permission denied"


def test_an_owner_that_does_not_exist_is_told_when_reading_back(place: Place, make: Make) -> None:
    """Reading back raises nothing, whatever the configuration says."""
    place.publish(place.open(), make())
    holding = place.read_back(place.open(group="no-such-group-here"))
    assert "there is no group `no-such-group-here`" in (holding.problem or "")
    assert holding.lineage == "a" * 32
