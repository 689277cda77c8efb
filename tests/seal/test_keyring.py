"""Sealing with keys from files: what opens, what doesn't, and what is said of it."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from joserfc import jwe
from joserfc.jwk import OctKey

from sidecar.errors import ConfigError, SealError
from sidecar.seal import Clear, open_sealer
from sidecar.seal.keyring import Key, Keyring, parse
from sidecar.seal.layout import key_of

SECRET = b"sim-rt-0123456789abcdef0123456789"
PURPOSE = "record ns/gmail"


def key_file(directory: Path, name: str = "key", content: bytes | None = None) -> Path:
    """Write a key file; by default with a new random key."""
    path = directory / name
    path.write_bytes(base64.b64encode(os.urandom(32)) + b"\n" if content is None else content)
    return path


@pytest.fixture(scope="module")
def ring(tmp_path_factory: pytest.TempPathFactory) -> Keyring:
    """A keyring with one key."""
    return Keyring([key_file(tmp_path_factory.mktemp("ring"))])


def sealed(ring: Keyring, clear: bytes = SECRET, purpose: str = PURPOSE) -> bytes:
    """Seal with the first key."""
    data, key_id = ring.seal(clear, purpose, ring.first)
    assert key_id == key_of(data) == ring.first
    return data


@given(clear=st.binary(max_size=300), purpose=st.text(max_size=40))
def test_what_was_sealed_opens(ring: Keyring, clear: bytes, purpose: str) -> None:
    """Any bytes come back, for any purpose, and the text between holds no line break."""
    data = sealed(ring, clear, purpose)
    assert ring.open(data, purpose) == (clear, ring.first)
    assert data.isascii()
    assert data.decode().isprintable()


@given(position=st.integers(0, 10_000), flip=st.integers(1, 255))
def test_no_changed_byte_goes_unnoticed(ring: Keyring, position: int, flip: int) -> None:
    """Whichever byte is changed, and however: it is refused, or is no sealed text any more, and never opens."""
    data = bytearray(sealed(ring))
    data[position % len(data)] ^= flip
    try:
        opened, key_id = ring.open(bytes(data), PURPOSE)
    except SealError:
        return
    assert (opened, key_id) == (bytes(data), "")


@pytest.mark.parametrize("cut", [1, 5, 22, 100])
def test_what_is_cut_off_is_refused(ring: Keyring, cut: int) -> None:
    """A text that lost its end doesn't open."""
    with pytest.raises(SealError, match="damaged"):
        ring.open(sealed(ring)[:-cut] + b"." * sealed(ring)[-cut:].count(b"."), PURPOSE)


@given(purpose=st.text(max_size=40).filter(lambda text: text != PURPOSE))
def test_nothing_opens_for_another_purpose(ring: Keyring, purpose: str) -> None:
    """A blob that was copied from another row is refused, although its key is there."""
    with pytest.raises(SealError, match="another purpose"):
        ring.open(sealed(ring), purpose)


def test_the_purpose_is_authenticated(ring: Keyring) -> None:
    """Rewriting the header, so that it names the place that the blob was copied to, doesn't help either."""
    header, rest = sealed(ring).split(b".", 1)
    fields = json.loads(base64.urlsafe_b64decode(header + b"=="))
    fields["for"] = "record ns/other"
    forged = base64.urlsafe_b64encode(json.dumps(fields, separators=(",", ":")).encode()).rstrip(b"=")
    with pytest.raises(SealError, match="tampered"):
        ring.open(forged + b"." + rest, "record ns/other")


def test_no_two_sealings_are_alike(ring: Keyring) -> None:
    """Every write has a data key and a nonce of its own, so that equal records can't be seen to be equal."""
    first, second = sealed(ring).split(b"."), sealed(ring).split(b".")
    assert first[0] == second[0]
    assert all(one != other for one, other in zip(first[1:], second[1:], strict=True))


def test_others_can_open_it(tmp_path: Path) -> None:
    """With the key, any implementation of JWE opens it (here: joserfc)."""
    ring = Keyring([key_file(tmp_path)])
    key = OctKey.import_key(base64.b64decode((tmp_path / "key").read_bytes()))
    lenient = jwe.JWERegistry(algorithms=["A256KW", "A256GCM"], strict_check_header=False)
    found = jwe.decrypt_compact(sealed(ring), key, registry=lenient)
    assert found.plaintext == SECRET
    assert found.headers() == {
        "alg": "A256KW",
        "enc": "A256GCM",
        "kid": ring.first,
        "for": PURPOSE,
        "v": 1,
    }


def test_the_first_key_seals_and_every_key_opens(tmp_path: Path) -> None:
    """Old keys stay of use after a new one was put before them."""
    old, new = key_file(tmp_path, "old"), key_file(tmp_path, "new")
    data = sealed(Keyring([old]))
    both = Keyring([new, old])
    assert both.first == Keyring([new]).first
    assert both.open(data, PURPOSE) == (SECRET, Keyring([old]).first)
    assert both.seal(SECRET, PURPOSE, Keyring([old]).first)[1] == Keyring([old]).first


def test_a_key_that_is_gone_is_replaced_by_the_first(tmp_path: Path) -> None:
    """What was read with a key that was taken away meanwhile is sealed with the first one."""
    ring = Keyring([key_file(tmp_path)])
    assert ring.seal(SECRET, PURPOSE, "0123456789ab")[1] == ring.first


def test_a_missing_key_is_named(tmp_path: Path) -> None:
    """The message has the id that is wanted, the files with the ids that they hold, and the way out."""
    other, mine = Keyring([key_file(tmp_path, "other")]), Keyring([key_file(tmp_path, "mine")])
    with pytest.raises(SealError) as caught:
        mine.open(sealed(other), PURPOSE)
    for part in (other.first, mine.first, str(tmp_path / "mine"), PURPOSE, "store.encryption_keys"):
        assert part in str(caught.value)


def test_without_keys_what_is_sealed_stays_closed(ring: Keyring) -> None:
    """Those who have no keys are told which one is wanted, and where to name it."""
    with pytest.raises(SealError, match=f"{ring.first}.*no keys are configured.*store.encryption_keys"):
        Clear().open(sealed(ring), PURPOSE)
    assert Clear().open(b"{}", PURPOSE) == (b"{}", "")


def test_what_is_in_clear_is_told_once(tmp_path: Path) -> None:
    """What isn't sealed yet opens, and its owner hears of it once."""
    ring, told = Keyring([key_file(tmp_path)]), list[str]()
    ring.tell = told.append
    for _ in range(3):
        assert ring.open(b'{"a":1}', PURPOSE) == (b'{"a":1}', "")
    assert len(told) == 1
    assert "store rekey" in told[0]


RAW = bytes(range(100, 132))


@pytest.mark.parametrize(
    "content",
    [
        RAW,
        base64.b64encode(RAW),
        base64.urlsafe_b64encode(RAW).rstrip(b"="),
        RAW.hex().encode() + b"\r\n",
        RAW.hex().upper().encode(),
        b"# made in May\n\n  " + base64.b64encode(RAW) + b"  \n",
    ],
)
def test_a_key_may_be_written_in_many_ways(content: bytes) -> None:
    """Raw, base64, base64url or hex; with or without comments and line ends."""
    assert parse(content, Path("key")) == (Key(RAW),)


def test_a_file_may_hold_several_keys() -> None:
    """One a line, the first one first, so that keys can be changed without a restart."""
    assert parse(RAW.hex().encode() + b"\n" + RAW[::-1].hex().encode(), Path("key")) == (
        Key(RAW),
        Key(RAW[::-1]),
    )


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"# nothing\n",
        b"sim-cs-0123456789abcdef",
        b"sim-cs-0123456789abcdef012345678",
        base64.b64encode(b"sim-cs-0123456789abcdef012345678"),
        RAW[:16].hex().encode(),
        RAW.hex().encode()[:-1],
        base64.b64encode(RAW[:31]),
        base64.b64encode(RAW + b"x"),
        RAW + b"\n",
        b"\0" * 32,
        b"ab" * 32,
    ],
)
def test_what_is_no_key_is_refused(content: bytes) -> None:
    """Too short, too long, a password, a pattern, or nothing at all: file and remedy are named, and no content."""
    with pytest.raises(ConfigError, match=r"/etc/key .*keygen") as caught:
        parse(content, Path("/etc/key"))
    assert "sim-cs" not in str(caught.value)


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    """A missing file and a directory are errors at the start."""
    for path in (tmp_path / "missing", tmp_path):
        with pytest.raises(ConfigError, match=str(path)):
            open_sealer([path])


def test_keys_are_read_again_when_they_change(tmp_path: Path) -> None:
    """A key that is put before the old one seals from then on, with no restart."""
    path = key_file(tmp_path)
    ring = Keyring([path])
    old = ring.first
    data = sealed(ring)
    path.write_bytes(RAW.hex().encode() + b"\n" + path.read_bytes())
    assert ring.first == Key(RAW).id
    assert ring.open(data, PURPOSE) == (SECRET, old)


@pytest.mark.parametrize("content", [None, b"", b"half a ke"])
def test_a_file_that_breaks_keeps_its_keys(tmp_path: Path, content: bytes | None) -> None:
    """A volume that is away for a moment must not take the keys along; whoever watches hears of it once."""
    path = key_file(tmp_path)
    ring, told = Keyring([path]), list[str]()
    ring.tell = told.append
    data, good = sealed(ring), path.read_bytes()
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)
    for _ in range(3):
        assert ring.open(data, PURPOSE)[0] == SECRET
    assert len(told) == 1
    assert str(path) in told[0]
    path.write_bytes(good)
    assert ring.open(data, PURPOSE)[0] == SECRET


def test_no_key_is_shown(ring: Keyring) -> None:
    """Neither a keyring nor a key nor the error of a wrong one shows more than ids."""
    shown = repr(ring) + repr(Key(RAW)) + repr(ring._files)
    assert repr(RAW)[2:-1] not in shown
    assert shown.count(ring.first) >= 1


def test_the_library_is_loaded_only_for_keys() -> None:
    """Who configures no keys doesn't pay for cryptography."""
    code = (
        "import sys; from sidecar.seal import open_sealer; import sidecar.app; open_sealer([]);"
        "print('cryptography' in sys.modules)"
    )
    assert subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout == ("False\n")
