from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import gmail_sdk
import pytest

from sidecar.config.settings import FileMode
from sidecar.ports import Publication

if TYPE_CHECKING:
    from tests.outputs.conftest import Place

Make = Callable[..., Publication]

# Where tests run in parallel their worker has a thread; the children only touch files and exit.
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")

READERS = 4


def _read_for_ever(path: str, reads: int, expected: Callable[[int], int]) -> str:
    """Read the file again and again as an application does; return what was wrong first, or nothing."""
    checked: dict[bytes, int] = {}
    for count in range(reads):
        try:
            descriptor = os.open(path, os.O_RDONLY)
        except FileNotFoundError:
            return f"missing at read {count}"
        content = os.read(descriptor, 65536)
        os.close(descriptor)
        if not content:
            return f"empty at read {count}"
        if content in checked:
            continue
        try:
            found = json.loads(content)
            generation = int(found["access_token"].split("-")[2])
        except (ValueError, KeyError, IndexError):
            return f"torn at read {count}"
        if len(found["access_token"]) != expected(generation):
            return f"mixed at read {count}"
        if len(checked) > 64:
            checked.clear()
        checked[content] = generation
    return ""


def _race(place: Place, make: Make, reads: int) -> int:
    """Let readers loose on a writer that goes as fast as it can; return how often it wrote."""
    output = place.open()
    place.publish(output, make(1))
    children = []
    for _ in range(READERS):
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(read)
            wrong = _read_for_ever(
                str(place.file), reads // READERS, lambda generation: len(make(generation).access.value)
            )
            os.write(write, wrong.encode() or b"right")
            os._exit(0)
        os.close(write)
        children.append((child, read))
    generation = 1
    running = {child for child, _ in children}
    while running:
        for _ in range(50):
            generation += 1
            place.publish(output, make(generation))
        running -= {child for child in running if os.waitpid(child, os.WNOHANG)[0]}
    said = []
    for _, read in children:
        said.append(os.read(read, 200).decode())
        os.close(read)
    assert said == ["right"] * READERS
    return generation


def test_200_000_reads_under_a_racing_writer(place: Place, make: Make) -> None:
    """Four processes read while the file is replaced as fast as it goes: none torn, empty or missing."""
    assert _race(place, make, 200_000) > 1000


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_10_million_reads_under_a_racing_writer(place: Place, make: Make) -> None:
    """The same for as long as it takes to be believed."""
    writes = _race(place, make, 10_000_000)
    sys.stderr.write(f"10,000,000 reads, {writes} writes: none torn, empty or missing\n")


def _constructs(place: Place, calls: list[str]) -> gmail_sdk.GmailClient:
    """Do what the application does, with the SDK's own refresh and write noted."""

    def note(name: str) -> Callable[..., None]:
        def called(*_: object, **__: object) -> None:
            calls.append(name)
            raise AssertionError(name)

        return called

    for name in ("refresh_access_token", "_save_token", "_load_credentials"):
        setattr(gmail_sdk.GmailClient, name, staticmethod(note(name)))
    return gmail_sdk.GmailClient(account="westsidebasketball", secrets_dir=str(place.folder))


@pytest.mark.parametrize("life", [3600.0, 301.0, None])
def test_the_gmail_sdk_reads_our_file_as_another_user(place: Place, make: Make, life: float | None) -> None:
    """As uid 65534, on a directory it can't write, it gets the token and never refreshes (scenario S1)."""
    now = time.time()
    output = place.open(
        file=place.folder / "gmail-westsidebasketball.json", format="gmail-sdk", mode=FileMode(0o644)
    )
    made = make(1, issued_at=now, expires_at=None if life is None else now + life)
    place.publish(output, made)
    before = place.leftovers()
    child = os.fork()
    if child == 0:
        if os.geteuid() == 0:
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
        calls: list[str] = []
        client = _constructs(place, calls)
        may_write = os.getuid() == 65534 and os.access(place.folder, os.W_OK)
        os._exit(0 if client.access_token == made.access.value and not calls and not may_write else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert place.leftovers() == before
    assert place.read_back(output).lineage == "a" * 32


def test_what_the_gmail_sdk_writes_in_place_is_read_as_foreign(place: Place, make: Make) -> None:
    """Its own refresh, truncating in place with mode 0600, gives an adoptable pair."""
    path = place.folder / "gmail-a.json"
    output = place.open(file=path, format="gmail-sdk", include_refresh_token=True, adopt=True)
    now = time.time()
    place.publish(output, make(1, issued_at=now - 3600, expires_at=now))
    ours = json.loads(path.read_bytes())
    ours |= {"access_token": "sim-at-fedcba9876543210", "expires_at": now + 3599}
    gmail_sdk.GmailClient._save_token("a", str(place.folder), ours)
    foreign = place.read_back(output).foreign
    assert foreign is not None
    assert foreign.access.value == "sim-at-fedcba9876543210"
    assert foreign.access.expires_at == now + 3599
    assert foreign.refresh is not None
    assert foreign.refresh.value == "sim-rt-0123456789abcdef"
