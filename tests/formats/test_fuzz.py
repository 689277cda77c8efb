"""Whatever is done to a file, a reader says what is in it or why it can't; it never takes half of it for the whole."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sidecar import formats
from sidecar.config.settings import OutputTarget
from sidecar.errors import FormatError
from sidecar.formats import Contents
from sidecar.ports import Publication
from sidecar.tokens import AccessToken, RefreshToken

ACCESS, REFRESH = "sim-at-0123456789abcdef", "sim-rt-0123456789abcdef"
PUBLICATION = Publication(
    token="t",
    access=AccessToken(ACCESS, 1.7e9, 1.7e9 + 3600, 3600.0, scope="a b"),
    refresh=RefreshToken(REFRESH, 1.7e9, 1.8e9),
    lineage="0" * 32,
    generation=1,
)
OPTIONS: dict[str, dict[str, Any]] = {
    "raw": {},
    "header": {},
    "json": {"include_refresh_token": True},
    "gmail-sdk": {"include_refresh_token": True},
    "google-authorized-user": {"include_refresh_token": True},
    "dotenv": {"include_refresh_token": True},
    "netrc": {"machine": "api.example"},
}


def layout(name: str) -> formats.Format:
    """Return a format as an output is configured with it."""
    return formats.for_target(OutputTarget(file=Path("/t"), format=name, **OPTIONS[name]))  # type: ignore[arg-type]


WHOLE = {
    name: layout(name).encode(PUBLICATION, include_refresh_token="include_refresh_token" in options)
    for name, options in OPTIONS.items()
}
SEEDS = {
    **{name: WHOLE[name] for name in ("json", "gmail-sdk", "google-authorized-user", "dotenv")},
    "raw": REFRESH.encode(),
}
ENDS_ITSELF = ("json", "gmail-sdk", "google-authorized-user")
"""Formats in which half a file can be told from a whole one."""


def readings(data: bytes) -> list[Contents]:
    """Read it as everything that reads."""
    found = []
    for name in OPTIONS:
        with suppress(FormatError):
            found.append(layout(name).decode(data))
    for seed in (None, *formats.SEED_NAMES):
        with suppress(FormatError):
            found.append(formats.seed_contents(data, seed))
    return found


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """Take a good file, and cut, repeat, overwrite or insert something, up to three times."""
    data = draw(st.sampled_from([*WHOLE.values(), *SEEDS.values()]))
    for _ in range(draw(st.integers(1, 3))):
        at, end = sorted(draw(st.tuples(st.integers(0, len(data)), st.integers(0, len(data)))))
        put = draw(
            st.binary(max_size=8)
            | st.sampled_from([b"\n", b"\0", b'"', b"{", b"=", b"'", b"\xff", b"\\u0000"])
        )
        data = draw(
            st.sampled_from([data[:at], data[at:], data[:at] + put + data[end:], data[:end] + data[at:]])
        )
    return data


@given(damaged() | st.binary(max_size=400) | st.text(max_size=400).map(str.encode))
@example(b"\xef\xbb\xbf")
@example(b"REFRESH_TOKEN=")
@example(b"REFRESH_TOKEN=\nREFRESH_TOKEN=")
@example(b'REFRESH_TOKEN="')
@example(b"machine")
def test_no_reader_crashes(data: bytes) -> None:
    """What is read can be used, and what can't is refused in words that quote nothing."""
    for found in readings(data):
        found.access(written_at=1.7e9, by_receiver=True)
        found.access(written_at=1.7e9, by_receiver=False)
        found.refresh(written_at=1.7e9)
        assert "sim-" not in repr(found)


@pytest.mark.parametrize("name", ENDS_ITSELF)
def test_half_a_file_is_no_file(name: str) -> None:
    """Cut anywhere, it is refused; only the white space at the end is not missed."""
    data = WHOLE[name].rstrip()
    for length in range(len(data)):
        with pytest.raises(FormatError):
            layout(name).decode(data[:length])
        with pytest.raises(FormatError):
            formats.seed_contents(data[:length])


@pytest.mark.parametrize("name", ENDS_ITSELF)
@given(junk=st.sampled_from(["}", "{}", "null", "x", "\0", '{"refresh_token": "sim-rt-other"}']))
def test_more_than_a_file_is_no_file(name: str, junk: str) -> None:
    """Two documents in one, as two writers in place leave them, are refused."""
    with pytest.raises(FormatError):
        formats.seed_contents(WHOLE[name] + junk.encode())


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1))
def test_a_json_seed_says_the_very_token(token: str) -> None:
    """Whatever characters it has, it comes out as it went in."""
    data = json.dumps({"refresh_token": token}).encode()
    assert formats.seed_contents(data).refresh_token == token


@given(st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1))
def test_a_seed_is_guessed_right_or_not_at_all(token: str) -> None:
    """A bare line is either the token, or refused: never a part of it, or something else."""
    with suppress(FormatError):
        found = formats.seed_contents(token.encode())
        assert found.refresh_token == token or formats.recognise(token.encode()) == "dotenv"
        assert found.access_token is None
