from __future__ import annotations

import json
from pathlib import Path

import pytest

from sidecar import cli, config, providers

GOOGLE = {
    "installed": {
        "client_id": "1.apps.example",
        "client_secret": "sim-cs-0123456789abcdef",
        "token_uri": "https://oauth2.googleapis.com/token",
    }
}


@pytest.fixture
def credentials(tmp_path: Path) -> Path:
    """Make a client's credentials.json, as Google offers it."""
    path = tmp_path / "credentials.json"
    path.write_text(json.dumps(GOOGLE), encoding="utf-8")
    return path


def test_credentials_become_a_valid_configuration(
    credentials: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A credentials.json becomes a configuration that names it and copies no secret."""
    output = tmp_path / "tokens.yaml"

    assert cli.main(["init", str(credentials), "-o", str(output), "--name", "gmail"]) == 0
    assert cli.main(["check", "-c", str(output), "--no-disk"]) == 0
    settings = config.load(output, disk=False).settings
    assert settings.provider_names == {"gmail": "google"}
    assert settings.tokens["gmail"].client.file == credentials
    assert "sim-cs-" not in output.read_text(encoding="utf-8")
    assert "token-sidecar seed gmail" in capsys.readouterr().out


@pytest.mark.parametrize("profile", providers.names())
def test_every_profile_becomes_a_valid_configuration(
    profile: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each built-in profile gives a configuration that `check` accepts, with comments."""
    output = tmp_path / "tokens.yaml"

    assert cli.main(["init", profile, "-o", str(output)]) == 0
    assert cli.main(["check", "-c", str(output), "--no-disk"]) == 0, capsys.readouterr().err
    assert output.read_text(encoding="utf-8").count("# ") > 8


def test_the_scopes_of_a_consent_are_a_line_away(credentials: Path, tmp_path: Path) -> None:
    """Google refuses a consent without scopes, so that the configuration shows where they go."""
    output = tmp_path / "tokens.yaml"
    assert cli.main(["init", str(credentials), "-o", str(output), "--name", "gmail"]) == 0
    output.write_text(output.read_text(encoding="utf-8").replace("# scopes:", "scopes:"), encoding="utf-8")

    [scope] = config.load(output, disk=False).settings.tokens["gmail"].scopes
    assert scope.endswith("gmail.send")


def test_the_configuration_runs_as_the_next_steps_say(
    credentials: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """After the printed mkdir, the whole check passes too."""
    output = tmp_path / "tokens.yaml"
    assert cli.main(["init", str(credentials), "-o", str(output)]) == 0
    (tmp_path / "tokens").mkdir()

    assert cli.main(["check", "-c", str(output)]) == 0, capsys.readouterr().err


def test_another_providers_file_names_its_endpoint(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file of the same layout from elsewhere gets an inline profile with its endpoint."""
    path = tmp_path / "client.json"
    elsewhere = {"web": GOOGLE["installed"] | {"token_uri": "https://sso.example/token"}}
    path.write_text(json.dumps(elsewhere), encoding="utf-8")

    assert cli.main(["init", str(path), "-o", "-"]) == 0
    assert 'provider: {token_url: "https://sso.example/token"}' in capsys.readouterr().out


def test_a_file_that_names_where_humans_consent_is_ready_for_login(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its `auth_uri` becomes the authorization endpoint, and the scopes have their line."""
    path = tmp_path / "client.json"
    elsewhere = {"token_uri": "https://sso.example/token", "auth_uri": "https://sso.example/authorize"}
    path.write_text(json.dumps({"web": GOOGLE["installed"] | elsewhere}), encoding="utf-8")

    assert cli.main(["init", str(path), "-o", "-"]) == 0
    written = capsys.readouterr().out
    assert 'authorization_url: "https://sso.example/authorize"}' in written
    assert "# scopes:" in written


def test_the_next_steps_name_the_file_once(
    credentials: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """After the printed export, every command finds the file, and so does each remedy that is printed later."""
    output = tmp_path / "my tokens.yaml"

    assert cli.main(["init", str(credentials), "-o", str(output)]) == 0

    told = capsys.readouterr().out
    assert f"export TOKEN_SIDECAR_CONFIG='{output}'" in told
    assert "token-sidecar check\n" in told
    assert "name in it the `scopes`" in told


def test_a_missing_directory_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A file that can't be written for want of its directory says how to make it."""
    assert cli.main(["init", "google", "-o", str(tmp_path / "etc" / "c.yaml")]) == 2
    assert f"make it: mkdir -p {tmp_path / 'etc'}" in capsys.readouterr().err


def test_nothing_is_overwritten(
    credentials: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file that is there stays, unless --force is given."""
    output = tmp_path / "tokens.yaml"
    output.write_text("mine\n", encoding="utf-8")

    assert cli.main(["init", str(credentials), "-o", str(output)]) == 2
    assert output.read_text(encoding="utf-8") == "mine\n"
    assert "--force" in capsys.readouterr().err
    assert cli.main(["init", str(credentials), "-o", str(output), "--force"]) == 0
    assert cli.main(["check", "-c", str(output), "--no-disk"]) == 0


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["gogle"], "did you mean google?"),
        (["missing/credentials.json"], "there is no such file"),
        (["google", "--name", "a b"], "is no name for a token"),
    ],
)
def test_wrong_sources_are_told(
    arguments: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A source that can't be used is one line with the way out."""
    assert cli.main(["init", *arguments, "-o", "-"]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert expected in line


def test_a_wrong_file_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A file that is no client's credentials is refused without quoting it."""
    path = tmp_path / "credentials.json"
    path.write_text('{"type": "service_account", "private_key": "sim-cs-0123456789abcdef"}', encoding="utf-8")

    assert cli.main(["init", str(path), "-o", "-"]) == 2
    told = capsys.readouterr().err
    assert "service account" in told
    assert "sim-cs-" not in told
