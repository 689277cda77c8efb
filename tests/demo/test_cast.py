"""Who plays the provider."""

from __future__ import annotations

from pathlib import Path

import pytest

from sidecar import config, providers
from sidecar.cli.demo.cast import cast
from sidecar.cli.demo.directory import Directory
from sidecar.errors import UsageError
from sidecar.profile import GrantType, Rotation

REFRESHED = [
    name
    for name in providers.names()
    if providers.load(name).grant is GrantType.REFRESH_TOKEN and not providers.load(name).zero_means_never
]


@pytest.mark.parametrize("name", REFRESHED)
def test_every_provider_with_refresh_tokens_can_be_played(name: str, tmp_path: Path) -> None:
    """The configuration that is written holds the profile, with the simulator's address and the demo's lifetime."""
    with Directory(tmp_path / "demo") as directory:
        played = cast(name, 240)
        path = directory.write_config("http://127.0.0.1:1/token", played.settings)
        profile = config.load(path, disk=False).settings.profiles["gmail"]

    known = providers.load(name)
    assert (profile.default_ttl, profile.token_url) == (240, "http://127.0.0.1:1/token")
    assert (profile.rotation, profile.grace, profile.errors) == (known.rotation, known.grace, known.errors)
    assert played.reuses == (known.rotation in {Rotation.NEVER, Rotation.SOMETIMES})


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("xeroo", r"did you mean xero\?"),
        ("google-service-account", "has no refresh tokens"),
        ("mailchimp", "never expire"),
        ("zoho", "--ttl 4m"),
    ],
)
def test_what_can_t_be_shown_is_refused(name: str, reason: str) -> None:
    """A provider of which there is nothing to see is refused with the reason."""
    with pytest.raises(UsageError, match=reason):
        cast(name, 15)
