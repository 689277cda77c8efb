"""Keys from the operator's side: made, configured, changed, taken away."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Place


def new_key(place: Place, name: str) -> tuple[Path, str]:
    """Make a key with the command; return its file and its id."""
    path = place.root / name
    return path, place.ok("store", "keygen", str(path)).split()[-1]


def use(place: Place, *keys: Path, url: str | None = None) -> None:
    """Configure keys, and another store."""
    store: dict[str, Any] = {"url": url or f"sqlite://{place.root}/tokens.db"}
    place.document["store"] = {**store, "encryption_keys": [str(key) for key in keys]}
    place.write()


def sealed_with(place: Place) -> list[str | None]:
    """List the keys that the records are sealed with."""
    return [row["sealed_with"] for row in json.loads(place.ok("store", "list", "--json"))]


def test_keygen_makes_a_private_file(place: Place) -> None:
    """The file is for its owner alone, the key is not printed, and no file is ever replaced."""
    path, key_id = new_key(place, "store.key")
    assert path.stat().st_mode & 0o777 == 0o600
    assert len(key_id) == 12
    content = path.read_text()
    again = place.run("store", "keygen", str(path))
    assert again.returncode == 2
    assert "exists already" in again.stderr
    assert path.read_text() == content


def test_keys_are_changed_step_by_step(seeded: Place) -> None:
    """From clear to one key, to the next, and back: each step only at `store rekey`, and the grant lives on."""
    old, old_id = new_key(seeded, "old.key")
    new, new_id = new_key(seeded, "new.key")
    use(seeded, old)
    assert "generation 1" in seeded.ok("refresh", "gmail")
    assert sealed_with(seeded) == [None]
    assert seeded.ok("store", "rekey") == "1 changed, 0 had it already, 0 could not be changed\n"
    assert sealed_with(seeded) == [old_id]
    assert b"sim-" not in (seeded.root / "tokens.db").read_bytes()
    use(seeded, new, old)
    assert "generation 2" in seeded.ok("refresh", "gmail")
    assert sealed_with(seeded) == [old_id]
    assert seeded.ok("store", "rekey").startswith("1 changed, ")
    assert seeded.ok("store", "rekey") == "0 changed, 1 had it already, 0 could not be changed\n"
    use(seeded, new)
    assert "generation 3" in seeded.ok("refresh", "gmail")
    assert sealed_with(seeded) == [new_id]
    assert seeded.ok("store", "rekey", "--clear").startswith("1 changed, ")
    use(seeded)
    assert "generation 4" in seeded.ok("refresh", "gmail")


def test_a_lost_key_is_named_by_every_command(seeded: Place) -> None:
    """The message has the id, the file that was looked at and the way out; the record survives it."""
    old, old_id = new_key(seeded, "old.key")
    new, _ = new_key(seeded, "new.key")
    use(seeded, old)
    seeded.ok("store", "rekey")
    for keys in ((new,), ()):
        use(seeded, *keys)
        for command in (["refresh", "gmail"], ["export", "gmail"], ["token", "gmail"]):
            done = seeded.run(*command)
            assert done.returncode in (1, 4), done.stderr
            assert old_id in done.stderr
            assert "encryption_keys" in done.stderr
        seeded.run("seed", "gmail", stdin=seeded.provider.new_grant())
    use(seeded, new)
    assert str(new) in seeded.run("export", "gmail").stderr
    done = seeded.run("store", "rekey")
    assert done.returncode == 4
    assert "1 could not be changed" in done.stdout
    use(seeded, new, old)
    assert "generation 1" in seeded.ok("refresh", "gmail")


def test_rekey_wants_keys(seeded: Place) -> None:
    """Without keys there is nothing to seal with."""
    done = seeded.run("store", "rekey")
    assert (done.returncode, "store.encryption_keys" in done.stderr) == (2, True)


@pytest.mark.parametrize("there", [True, False], ids=["out of a sealed store", "into a sealed store"])
def test_a_grant_moves_between_stores(seeded: Place, *, there: bool) -> None:
    """`export` from one store and `seed` into the other: sealed or not, the grant goes along."""
    key, _ = new_key(seeded, "store.key")
    if there:
        use(seeded, key)
        seeded.ok("store", "rekey")
    seeded.ok("refresh", "gmail")
    exported = seeded.ok("export", "gmail")
    use(seeded, *([] if there else [key]), url=f"sqlite://{seeded.root}/other.db")
    seeded.ok("seed", "gmail", "--file", "-", stdin=exported)
    assert bool(sealed_with(seeded)[0]) != there
    assert "generation 1" in seeded.ok("refresh", "gmail")
    assert (b"sim-" in (seeded.root / "other.db").read_bytes()) == there


@pytest.mark.parametrize("content", ["", "correct horse battery staple", "c2hvcnQ="])
def test_check_judges_keys(place: Place, content: str) -> None:
    """What holds no key is an error of the configuration, with its place and the remedy."""
    path = place.private("bad.key", content)
    use(place, path)
    for command in ("check", "run"):
        done = place.run(command)
        assert done.returncode == 2
        assert "store.encryption_keys[0]" in done.stderr
        assert "keygen" in done.stderr
        assert content.strip("=") not in done.stderr or not content
    use(place, place.root / "missing.key")
    assert "does not exist" in place.run("check").stderr


def test_check_warns_of_a_key_that_others_can_read(place: Place) -> None:
    """A key file is held to what a client's secret is held to."""
    path, _ = new_key(place, "store.key")
    path.chmod(0o644)
    use(place, path)
    assert f"chmod 600 {path}" in place.ok("check")


def test_a_daemon_seals_all_that_it_keeps(place: Place) -> None:
    """Records that it makes are sealed, and no file but the output and the seed holds a token in clear."""
    key, key_id = new_key(place, "store.key")
    use(place, key)
    place.token["seed"] = str(place.new_seed())
    place.write()
    with place.daemon():
        assert sealed_with(place) == [key_id]
        place.ok("refresh", "gmail")
    kept = [path for path in place.root.rglob("*") if path.is_file()]
    holders = {path.name for path in kept if b"sim-" in path.read_bytes()} - {"config.yaml"}
    assert holders == {"gmail.json", "seed.json", "client-secret"}


def test_a_daemon_tells_of_records_in_clear(seeded: Place) -> None:
    """Keys that are configured and not used yet are told of, with the command that uses them."""
    key, key_id = new_key(seeded, "store.key")
    use(seeded, key)
    with seeded.daemon():
        assert seeded.ok("store", "rekey").startswith("1 changed")
        seeded.ok("refresh", "gmail")
        assert sealed_with(seeded) == [key_id]
    log = (seeded.root / "log").read_text()
    assert len([line for line in log.splitlines() if "store rekey" in line]) == 1


def test_records_in_clear_may_be_refused(seeded: Place) -> None:
    """With `require_encryption` nothing in clear is used; `store rekey` seals it, and nothing puts it back in clear."""
    key, key_id = new_key(seeded, "store.key")
    use(seeded, key)
    seeded.document["store"]["require_encryption"] = True
    seeded.write()
    done = seeded.run("refresh", "gmail")
    assert done.returncode != 0
    assert "default/gmail is kept in clear, which store.require_encryption refuses" in done.stderr
    assert sealed_with(seeded) == [None]
    assert seeded.ok("store", "rekey").startswith("1 changed, ")
    assert "generation 1" in seeded.ok("refresh", "gmail")
    assert sealed_with(seeded) == [key_id]
    assert "take store.require_encryption away" in seeded.run("store", "rekey", "--clear").stderr
    del seeded.document["store"]["encryption_keys"]
    seeded.write()
    assert "store.require_encryption" in seeded.run("check").stderr
