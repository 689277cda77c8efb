from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, cast

import pytest

from sidecar import files
from sidecar.clients.shared import SharedClients
from sidecar.clock import SystemClock
from sidecar.config.settings import SeedSource
from sidecar.errors import SeedError
from sidecar.ports import Seed, Seeding
from sidecar.seeds import open_seed, parse
from sidecar.tokens import fingerprint

REFRESH = "sim-rt-0123456789abcdef"

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may become somebody else")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Name the seed file."""
    return tmp_path / "seed.token"


def seed_at(path: Path, **options: Any) -> Seed:
    """Open a seed as it is configured."""
    return open_seed(SeedSource(file=path, **options), clock=SystemClock(), clients=SharedClients())


def read(seed: Seed) -> Seeding | None:
    """Read a seed without an event loop: reading a file must not wait for anything."""
    coroutine = seed.read()
    try:
        coroutine.send(None)
    except StopIteration as done:
        return cast("Seeding | None", done.value)
    raise AssertionError("it waited")


def found(seed: Seed) -> Seeding:
    """Read a seed that is there."""
    seeding = read(seed)
    assert seeding is not None
    return seeding


@pytest.mark.parametrize("content", [None, b"", b"\n", b" \r\n\t"])
def test_a_missing_or_empty_seed_is_none(path: Path, content: bytes | None) -> None:
    """A Secret that is filled later is no error."""
    if content is not None:
        path.write_bytes(content)
    assert read(seed_at(path)) is None


def test_a_missing_directory_is_none(path: Path) -> None:
    """A volume that is mounted later is no error either."""
    assert read(seed_at(path.parent / "nowhere" / "seed")) is None


def test_the_gmail_sdks_file_is_a_seed(path: Path) -> None:
    """S1's migration: the current Secret, with an access token that may still be of use."""
    path.write_text(
        json.dumps(
            {
                "access_token": "sim-at-0123456789abcdef",
                "expires_in": 3599,
                "refresh_token": REFRESH,
                "scope": "a b",
                "token_type": "Bearer",
                "refresh_token_expires_in": 604799,
                "expires_at": 1_700_003_599.0,
            }
        ),
        encoding="utf-8",
    )
    seed = seed_at(path)
    assert seed.id == f"file:{path}"
    seeding = found(seed)
    assert seeding.fingerprint == fingerprint(REFRESH)
    assert (seeding.refresh.issued_at, seeding.refresh.expires_at) == (1_700_000_000, 1_700_604_799)
    assert seeding.access is not None
    assert (seeding.access.issued_at, seeding.access.expires_at) == (1_700_000_000, 1_700_003_599)
    assert (seeding.access.ttl, seeding.access.scope) == (3599, "a b")


def test_the_files_age_stands_in_for_the_tokens(path: Path) -> None:
    """A bare token was issued when the file was written, for all we know; no deadline follows."""
    path.write_text(REFRESH + "\n", encoding="ascii")
    os.utime(path, (5, 1_700_000_000))
    seeding = found(seed_at(path))
    assert (seeding.refresh.value, seeding.refresh.issued_at) == (REFRESH, 1_700_000_000)
    assert (seeding.refresh.expires_at, seeding.access) == (None, None)


def test_an_access_token_of_unknown_age_is_not_used(path: Path) -> None:
    """`expires_in` in a mounted Secret counts from nobody knows when: the mount's time is no anchor."""
    path.write_text(
        json.dumps({"access_token": "sim-at-0123456789abcdef", "expires_in": 3599, "refresh_token": REFRESH}),
        encoding="utf-8",
    )
    assert (found(seed_at(path))).access is None


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b'{"refresh_token": "sim-rt-0123', "not valid JSON"),
        (b"{}", "no refresh token in it"),
        (b'{"refresh_token": ""}', "no refresh token in it"),
        (b'{"refresh_token": null}', "no refresh token in it"),
        (b'{"access_token": "sim-at-0123456789abcdef"}', "no refresh token in it"),
        (b"\x00\x01\x02\xff", "neither a JSON object nor a single line"),
        (b"x" * (files.LIMIT + 1), "is larger than 1 MiB; name a regular file"),
    ],
    ids=["torn", "nothing", "empty", "null", "access token only", "binary", "huge"],
)
def test_what_is_no_seed(path: Path, content: bytes, why: str) -> None:
    """The error names place, reason and what a seed looks like, and quotes nothing; each time anew."""
    path.write_bytes(content)
    seed = seed_at(path)
    for _ in range(2):
        with pytest.raises(SeedError, match=why) as refused:
            read(seed)
        assert str(path) in str(refused.value)
        assert "sim-" not in str(refused.value)
        assert ";" in str(refused.value)


def test_what_is_no_file(path: Path) -> None:
    """A directory, a FIFO and a circle of links are told apart, and none of them blocks."""
    path.mkdir()
    with pytest.raises(SeedError, match="is a directory; name a regular file"):
        read(seed_at(path))
    path.rmdir()
    os.mkfifo(path)
    with pytest.raises(SeedError, match="is not a regular file; name a regular file"):
        read(seed_at(path))
    with pytest.raises(SeedError, match="a part of the path is not a directory; correct the path"):
        read(seed_at(path / "below"))
    path.unlink()
    path.symlink_to(path)
    with pytest.raises(SeedError, match="lead in a circle; correct them"):
        read(seed_at(path))


@as_root
def test_a_seed_that_may_not_be_read(path: Path) -> None:
    """The message says who the daemon is and how to let it read."""
    path.write_text(REFRESH, encoding="ascii")
    path.chmod(0o600)
    path.parent.chmod(0o755)
    seed = seed_at(path)
    os.seteuid(65534)
    try:
        with pytest.raises(SeedError, match=r"uid 65534, gid 0\) may not read it; give it read permission"):
            read(seed)
    finally:
        os.seteuid(0)
    assert (found(seed)).refresh.value == REFRESH


def test_a_secrets_links_are_followed_and_their_swap_is_seen(path: Path) -> None:
    """Kubernetes swaps `..data` to a new directory; the seed behind it is the new one at once."""
    for number in (1, 2):
        (path.parent / f"..{number}").mkdir()
        (path.parent / f"..{number}" / "seed.token").write_text(f"sim-rt-{number:016d}", encoding="ascii")
    (path.parent / "..data").symlink_to("..1")
    path.symlink_to("..data/seed.token")
    seed = seed_at(path)
    assert (found(seed)).refresh.value == f"sim-rt-{1:016d}"
    (path.parent / "..new").symlink_to("..2")
    (path.parent / "..new").rename(path.parent / "..data")
    assert (found(seed)).refresh.value == f"sim-rt-{2:016d}"


def test_a_seed_that_has_not_changed_is_not_read_again(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Looking again costs one stat, for good seeds and for bad ones, and a change is seen."""
    monkeypatch.setattr(files, "SETTLE_NS", -1)
    path.write_text(REFRESH, encoding="ascii")
    good = seed_at(path)
    first = read(good)
    bad = seed_at(path, format="json")
    with pytest.raises(SeedError, match="not valid JSON"):
        read(bad)

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("opened again")

    with monkeypatch.context() as patched:
        patched.setattr("sidecar.seeds.file.read_small", refuse)
        assert read(good) is first
        with pytest.raises(SeedError, match="not valid JSON"):
            read(bad)
    path.write_text("sim-rt-fedcba9876543210-new", encoding="ascii")
    assert (found(good)).refresh.value == "sim-rt-fedcba9876543210-new"
    path.unlink()
    assert read(good) is None


def test_a_seed_just_written_is_read_again(path: Path) -> None:
    """Two writes within the file system's granularity may leave the same times."""
    path.write_text("sim-rt-0000000000000001", encoding="ascii")
    seed = seed_at(path)
    before = path.stat()
    read(seed)
    path.write_text("sim-rt-0000000000000002", encoding="ascii")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (found(seed)).refresh.value == "sim-rt-0000000000000002"


def test_a_seed_from_somewhere_else() -> None:
    """`token-sidecar seed` reads standard input: the same parser, with its own name in the message."""
    seeding = parse(REFRESH.encode(), where="standard input", written_at=1e9)
    assert (seeding.refresh.value, seeding.refresh.issued_at) == (REFRESH, 1e9)
    with pytest.raises(SeedError, match=r"^standard input: "):
        parse(b"", where="standard input", written_at=1e9)


def test_a_volume_that_fails(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Any other trouble is told with the system's own words."""
    path.write_text(REFRESH, encoding="ascii")

    def fail(*_: object, **__: object) -> int:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "open", fail)
    with pytest.raises(SeedError, match=r"it cannot be read \(Input/output error\); check the path"):
        read(seed_at(path))


@pytest.mark.parametrize("content", ["hello", "this is no JSON", '"sim-rt-0123456789abcdef0123"'])
async def test_a_file_that_calls_itself_json_is_no_bare_token(tmp_path: Path, content: str) -> None:
    """Any single word could be a refresh token, and would be sent as one."""
    path = tmp_path / "seed.json"
    path.write_text(content)
    with pytest.raises(SeedError, match=r"no JSON object although its name ends in \.json"):
        await seed_at(path).read()


async def test_a_bare_token_may_be_declared_whatever_its_file_is_called(tmp_path: Path) -> None:
    """`format: raw` is the way out of the rule above."""
    path = tmp_path / "seed.json"
    path.write_text("sim-rt-0123456789abcdef0123")
    seeding = await seed_at(path, format="raw").read()
    assert seeding is not None
    assert seeding.refresh.value == "sim-rt-0123456789abcdef0123"
