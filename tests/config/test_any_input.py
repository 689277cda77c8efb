from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sidecar.config import load
from sidecar.errors import ConfigError

KEYS = [
    "namespace",
    "store",
    "url",
    "url_file",
    "server",
    "host",
    "port",
    "providers",
    "extends",
    "token_url",
    "errors",
    "outcome",
    "defaults",
    "tokens",
    "gmail",
    "provider",
    "client",
    "file",
    "id",
    "secret",
    "seed",
    "format",
    "outputs",
    "mode",
    "owner",
    "fields",
    "name",
    "scopes",
    "lease",
    "refresh_at",
    "required",
    "max_workers",
]
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.dates(),
    st.text(max_size=20),
    st.sampled_from(
        ["google", "raw", "0640", "10m", "${A}", "${B", "memory:", "sqlite:x", "https://x/t", "~/x", "\u2028"]
    ),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.one_of(st.sampled_from(KEYS), st.text(max_size=5)), inner, max_size=5),
    ),
    max_leaves=20,
)
TOKENS = st.fixed_dictionaries(
    {"provider": st.one_of(st.just("google"), VALUES)},
    optional=dict.fromkeys(
        ("client", "seed", "outputs", "scopes", "lease", "required", "min_validity"), VALUES
    ),
)
FILES = st.fixed_dictionaries(
    {"tokens": st.dictionaries(st.sampled_from(["a", "b"]), TOKENS, max_size=2)},
    optional=dict.fromkeys(
        ("store", "server", "providers", "defaults", "state_dir", "control", "zzz"), VALUES
    ),
)

SECRET = "sim-cs-0123456789abcdefgh"
SECRETS = st.recursive(
    st.just(SECRET),
    lambda inner: st.one_of(
        st.lists(inner, max_size=2), st.dictionaries(st.sampled_from([*KEYS, SECRET]), inner, max_size=5)
    ),
)
FILES_OF_SECRETS = st.fixed_dictionaries(
    {
        "tokens": st.fixed_dictionaries({"a": st.dictionaries(st.sampled_from([*KEYS, SECRET]), SECRETS)}),
        "providers": st.fixed_dictionaries({"p": SECRETS}),
    },
    optional=dict.fromkeys(("store", "server", "defaults", "state_dir", "control", SECRET), SECRETS),
)


@pytest.fixture(scope="module")
def file() -> Iterator[Path]:
    """Share one file: hypothesis runs a test many times within one fixture."""
    with tempfile.TemporaryDirectory(prefix="sidecar-config-") as directory:
        yield Path(directory) / "config.yaml"


def everything_said(file: Path, env: dict[str, str]) -> list[str]:
    """Load the file; return its warnings, or else its problems."""
    try:
        return list(load(file, env=env, disk=True).warnings)
    except ConfigError as fault:
        return fault.problems or [""]


def must_be_understood(file: Path, data: bytes) -> None:
    """Load bytes: they are a configuration, or each reason why not is one line that begins with the file."""
    file.write_bytes(data)
    for line in everything_said(file, {"A": "x"}):
        assert line.startswith(f"{file}:")
        assert len(line.splitlines()) == 1


relaxed = settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    deadline=None,
    max_examples=200,
)


@relaxed
@given(data=st.binary(max_size=200))
def test_any_bytes(file: Path, data: bytes) -> None:
    """No bytes make the loader fail in any other way than by saying what is wrong."""
    must_be_understood(file, data)


@relaxed
@given(text=st.text(alphabet=st.sampled_from("ab:-[]{}&*!|>'\"%@`#,?\n\t $<=~0"), max_size=60))
def test_any_text_that_looks_like_yaml(file: Path, text: str) -> None:
    """Nor does any text made of what YAML finds special."""
    must_be_understood(file, text.encode())


@relaxed
@given(value=FILES_OF_SECRETS)
def test_a_secret_in_any_place(file: Path, value: Any) -> None:
    """A secret in the place of any value or unknown key is in no message, even if it is taken for a path."""
    file.write_text(yaml.safe_dump(value))
    for line in everything_said(file, {}):
        assert SECRET not in line


@relaxed
@given(value=VALUES)
def test_any_yaml(file: Path, value: Any) -> None:
    """Nor does any valid YAML."""
    must_be_understood(file, yaml.safe_dump(value, allow_unicode=True).encode())


@relaxed
@given(value=FILES)
def test_any_yaml_that_looks_like_a_configuration(file: Path, value: Any) -> None:
    """Nor does a configuration with anything in the place of its values."""
    must_be_understood(file, yaml.safe_dump(value).encode())
