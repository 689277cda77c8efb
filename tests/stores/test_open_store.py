"""From a URL to a store."""

# ruff: noqa: ASYNC240 - nobody waits for these tests

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from sidecar.errors import ConfigError
from sidecar.stores import ADAPTERS, EXAMPLES, open_store
from sidecar.stores.memory import MemoryStore
from sidecar.stores.sqlite import SqliteStore

if TYPE_CHECKING:
    from tests.stores.conftest import ManualClock


@pytest.mark.parametrize("url", ["memory:", "memory://", "MEMORY:"])
def test_memory(clock: ManualClock, url: str) -> None:
    """`memory:` gives each caller a store of its own."""
    assert isinstance(open_store(url, clock), MemoryStore)


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("sqlite:///var/lib/t.db", "/var/lib/t.db"),
        ("sqlite:////var/lib/t.db", "/var/lib/t.db"),
        ("sqlite:/var/lib/t.db", "/var/lib/t.db"),
        ("SQLite:///t.db", "/t.db"),
        ("sqlite:///with space/100%3F?#.db", "/with space/100%3F?#.db"),
        ("sqlite:///ключ/t.db", "/ключ/t.db"),
    ],
)
def test_sqlite(clock: ManualClock, url: str, path: str) -> None:
    """A sqlite URL is an absolute path, taken as it is written."""
    store = open_store(url, clock)
    assert isinstance(store, SqliteStore)
    assert store.path == Path(path)


async def test_odd_characters_reach_the_file_system(clock: ManualClock, tmp_path: Path) -> None:
    """What SQLite's own URIs give a meaning to is part of the file's name like any other character."""
    async with open_store(f"sqlite://{tmp_path}/100%3F?mode=memory# ä.db", clock):
        assert [path.name for path in tmp_path.iterdir()] == ["100%3F?mode=memory# ä.db"]


@pytest.mark.parametrize(
    "url",
    [
        "sqlite:",
        "sqlite://",
        "sqlite:///",
        "sqlite:tokens.db",
        "sqlite://tokens.db",
        "sqlite://host/t.db",
        "sqlite:///t\0.db",
        "memory:name",
    ],
)
def test_a_url_that_the_adapter_refuses(clock: ManualClock, url: str) -> None:
    """A URL that could be meant otherwise is refused with the form that is right."""
    with pytest.raises(ConfigError, match=r"^store: .*(sqlite:///|memory:)"):
        open_store(url, clock)


@pytest.mark.parametrize("url", ["sqlit:///t.db", "postgrsql://u:sim-cs-0123456789abcdef@h/d", "redis:"])
def test_an_unknown_kind_lists_the_known_ones(clock: ManualClock, url: str) -> None:
    """The message repeats the scheme, shows how each available kind is written, and hides the rest."""
    with pytest.raises(ConfigError) as caught:
        open_store(url, clock)
    message = str(caught.value)
    assert repr(url.partition(":")[0]) in message
    assert "sim-cs-" not in message
    for name in ADAPTERS:
        assert f"{name} ({EXAMPLES[name]})" in message


@pytest.mark.parametrize(
    "url", ["", "/var/lib/tokens.db", "sim-cs-0123456789abcdef", "sim-cs-0123456789_abcdef:x"]
)
def test_what_is_not_a_url_is_not_repeated(clock: ManualClock, url: str) -> None:
    """A password that was put in the wrong place does not end up in the message."""
    with pytest.raises(ConfigError, match="does not begin with a kind of store; available") as caught:
        open_store(url, clock)
    assert "sim-cs-" not in str(caught.value)


def test_only_the_named_adapter_is_imported() -> None:
    """Whoever keeps records in memory pays for no other store."""
    code = (
        "import sys; from sidecar.clock import SystemClock; from sidecar.stores import open_store;"
        "open_store('memory:', SystemClock()); print('sidecar.stores.sqlite' in sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == "False\n"


@pytest.mark.parametrize(
    ("library", "url", "extra"),
    [
        ("asyncpg", "postgresql://me@db/t", "postgres"),
        ("lightkube", "kubernetes://ns/state", "kubernetes"),
    ],
)
def test_a_missing_extra_is_named(library: str, url: str, extra: str) -> None:
    """Without the client library the message says what to install, and no other store minds."""
    code = (
        f"import sys; sys.modules['{library}'] = None; from sidecar.clock import SystemClock; "
        "from sidecar.stores import open_store; open_store('memory:', SystemClock()); "
        f"open_store('{url}', SystemClock())"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert f"pip install 'token-sidecar[{extra}]'" in result.stderr.splitlines()[-1]


def test_every_adapter_has_an_example() -> None:
    """The list of what is available shows how each is written."""
    assert set(ADAPTERS) == set(EXAMPLES)
