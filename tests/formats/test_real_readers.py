from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import google.auth
import google.oauth2.credentials
import pytest

from sidecar import formats
from sidecar.config.settings import OutputTarget
from sidecar.ports import Publication
from sidecar.tokens import ExpirySource

Make = Callable[..., Publication]


@pytest.mark.parametrize(
    ("life", "source"),
    [(3600, ExpirySource.ANSWER), (None, ExpirySource.NEVER), (1, ExpirySource.ASSUMED)],
)
def test_google_auth_finds_our_file_valid(
    life: float | None, source: ExpirySource, tmp_path: Path, publication: Make
) -> None:
    """A fresh token is valid, and so is one whose end nobody knows or that has none."""
    path = tmp_path / "token.json"
    made = publication(expires_at=None if life is None else time.time() + life, source=source)
    output = formats.for_target(OutputTarget(file=path, format="google-authorized-user"))
    path.write_bytes(output.encode(made, include_refresh_token=False))
    read = google.oauth2.credentials.Credentials.from_authorized_user_file(str(path))  # type: ignore[no-untyped-call]
    assert read.valid
    assert (read.token, read.scopes) == ("sim-at-0123456789abcdef", ["gmail.send", "gmail.readonly"])


def test_google_auth_finds_an_expired_token_invalid(tmp_path: Path, publication: Make) -> None:
    """The expiry that we write is the one that it judges by."""
    path = tmp_path / "token.json"
    output = formats.for_target(OutputTarget(file=path, format="google-authorized-user"))
    path.write_bytes(output.encode(publication(expires_at=time.time() - 5), include_refresh_token=False))
    read = google.oauth2.credentials.Credentials.from_authorized_user_file(str(path))  # type: ignore[no-untyped-call]
    assert not read.valid


def test_what_google_auth_writes_is_read_back(tmp_path: Path, publication: Make) -> None:
    """Its own to_json, as an application stores it in place, gives the same token again."""
    output = formats.for_target(OutputTarget(file=tmp_path, format="google-authorized-user"))
    ours = json.loads(output.encode(publication(), include_refresh_token=True))
    read = google.oauth2.credentials.Credentials.from_authorized_user_info(ours)  # type: ignore[no-untyped-call]
    found = output.decode(read.to_json().encode())
    assert (found.access_token, found.refresh_token) == ("sim-at-0123456789abcdef", "sim-rt-0123456789abcdef")
    assert (found.expires_at, found.scope) == (1_700_003_600, "gmail.send gmail.readonly")


def test_our_file_serves_as_application_default_credentials(
    tmp_path: Path, publication: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """GOOGLE_APPLICATION_CREDENTIALS may name the file."""
    path = tmp_path / "token.json"
    output = formats.for_target(OutputTarget(file=path, format="google-authorized-user"))
    path.write_bytes(output.encode(publication(expires_at=time.time() + 3600), include_refresh_token=False))
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(path))
    monkeypatch.setenv("GOOGLE_CLOUD_PROJECT", "project")
    credentials, _ = google.auth.default()
    assert credentials.token == "sim-at-0123456789abcdef"
    assert credentials.valid
