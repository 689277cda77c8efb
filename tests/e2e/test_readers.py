"""What applications find in the files of a running daemon, through the libraries that they read them with."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import google.oauth2.credentials
import pytest

from sidecar.testing import fingerprint

if TYPE_CHECKING:
    from sidecar.testing import Simulator
    from tests.e2e.conftest import Daemon, MakeDaemon, MakeSimulator

FORMATS: dict[str, dict[str, Any]] = {
    "raw": {"format": "raw"},
    "header": {"format": "header"},
    "json": {"format": "json"},
    "named": {
        "format": "json",
        "fields": {"access_token": "bearer", "expires_at": {"name": "until", "type": "iso8601"}},
    },
    "gmail-sdk": {"format": "gmail-sdk"},
    "google-authorized-user": {"format": "google-authorized-user"},
}

READER = """
import json, os, sys
readers = {
    "raw": lambda text: text,
    "header": lambda text: text.removeprefix("Authorization: Bearer "),
    "json": lambda text: json.loads(text)["access_token"],
    "named": lambda text: json.loads(text)["bearer"],
    "gmail-sdk": lambda text: json.loads(text)["access_token"],
    "google-authorized-user": lambda text: json.loads(text)["token"],
}
folder, length, seen, reads = sys.argv[1], int(sys.argv[2]), {name: set() for name in readers}, 0
os.set_blocking(0, False)
print("ready", flush=True)
while True:
    for name, token in readers.items():
        with open(os.path.join(folder, name)) as file:
            text = file.read()
        found = token(text)
        if len(found) != length or not found.startswith("sim-at-"):
            sys.exit(f"{name} is not whole: {len(text)} characters")
        seen[name].add(found)
        reads += 1
    try:
        if os.read(0, 1) == b"":
            break
    except BlockingIOError:
        pass
print(json.dumps({"reads": reads, "seen": {name: len(found) for name, found in seen.items()}}))
"""
"""Opens and reads every output again and again until standard input ends; fails on the first that isn't whole."""


def with_all_formats(daemon: Daemon, simulator: Simulator, **settings: Any) -> Daemon:
    """Configure a token that is published in every format, in files of these names."""
    daemon.add(
        simulator,
        outputs=[{"file": str(daemon.out / name), **output} for name, output in FORMATS.items()],
        **settings,
    )
    return daemon


def tokens_in(folder: Path) -> dict[str, str]:
    """Return the access token that each format gives."""
    text = {name: (folder / name).read_text(encoding="utf-8") for name in FORMATS}
    return {
        "raw": text["raw"],
        "header": text["header"].removeprefix("Authorization: Bearer "),
        "json": json.loads(text["json"])["access_token"],
        "named": json.loads(text["named"])["bearer"],
        "gmail-sdk": json.loads(text["gmail-sdk"])["access_token"],
        "google-authorized-user": json.loads(text["google-authorized-user"])["token"],
    }


@pytest.fixture(scope="module")
def provider(make_simulator: MakeSimulator) -> Simulator:
    """Give a provider whose tokens live an hour."""
    return make_simulator()


@pytest.fixture(scope="module")
def publishing(make_daemon: MakeDaemon, provider: Simulator) -> Iterator[Daemon]:
    """Give a daemon that publishes one token in every format."""
    daemon = with_all_formats(make_daemon(), provider, scopes=["gmail.send"]).start()
    yield daemon
    assert daemon.stop() == 0


def test_google_auth_finds_the_published_token_valid(publishing: Daemon, provider: Simulator) -> None:
    """`from_authorized_user_file` takes the file as it is; the token is valid and alive."""
    path = publishing.out / "google-authorized-user"
    read = google.oauth2.credentials.Credentials.from_authorized_user_file(str(path))  # type: ignore[no-untyped-call]
    assert read.valid
    assert not read.expired
    assert provider.provider.is_live(read.token)
    assert (read.refresh_token, read.client_id, read.client_secret) == ("", "sim-client", "")
    assert read.scopes == ["gmail.send"]


def test_all_formats_hold_the_same_token(publishing: Daemon, provider: Simulator) -> None:
    """One token in six layouts, before and after a refresh; no file has the refresh token or the secret."""
    before = tokens_in(publishing.out)
    assert len(set(before.values())) == 1

    publishing.control.refresh("gmail")

    publishing.wait_until(
        lambda: set(tokens_in(publishing.out).values()).isdisjoint(before.values()), "all are replaced"
    )
    (token,) = set(tokens_in(publishing.out).values())
    assert publishing.status()["fingerprint"] == fingerprint(token)
    assert provider.provider.is_live(token)
    written = b"".join(path.read_bytes() for path in publishing.out.iterdir())
    assert b"sim-rt-" not in written
    assert b"sim-cs-" not in written
    assert {path.name for path in publishing.out.iterdir()} == FORMATS.keys()


def test_readers_find_whole_files_while_tokens_are_replaced(publishing: Daemon, provider: Simulator) -> None:
    """Three processes read six files without a pause, during sixty refreshes: none torn, empty or missing."""
    length = len(tokens_in(publishing.out)["raw"])
    began = len(provider.provider.report().requests)
    command = [sys.executable, "-c", READER, str(publishing.out), str(length)]
    readers = [
        subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for _ in range(3)
    ]
    for reader in readers:
        assert reader.stdout is not None
        assert reader.stdout.readline() == "ready\n"

    for _ in range(60):
        publishing.control.refresh("gmail")

    with ThreadPoolExecutor(len(readers)) as threads:
        said = list(threads.map(lambda reader: reader.communicate(timeout=30), readers))
    assert [reader.returncode for reader in readers] == [0] * len(readers), said
    for told, _ in said:
        counts = json.loads(told)
        assert counts["reads"] > 1000
        assert min(counts["seen"].values()) > 10
    assert len(provider.provider.report().requests) == began + 60
    assert provider.provider.reused() == []
