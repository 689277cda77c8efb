from __future__ import annotations

import base64
import json
import os
import time
from pathlib import Path
from urllib.parse import unquote_plus

import pytest

from sidecar.clients.http import ClientCertificate, Sealed
from sidecar.clock import SystemClock
from sidecar.config.settings import Client
from sidecar.errors import ConfigError
from sidecar.grants.client import ClientIdentity, Credentials
from sidecar.profile import AuthMethod, GrantType, Profile
from tests import pki

SECRET = "sim-cs-0123456789abcdef"
URL = "https://idp.example/token"
OTHER = "sim-cs-fedcba9876543210"
GOOGLE = {
    "client_id": "app.example",
    "client_secret": SECRET,
    "token_uri": "https://oauth2.googleapis.com/token",
}


def identity(profile: Profile | None = None, **settings: object) -> ClientIdentity:
    """Make a client from settings."""
    return ClientIdentity(Client(**settings), profile or Profile(), SystemClock())  # type: ignore[arg-type]


def problem(**settings: object) -> str:
    """Return the message about settings that can't be used, which must hold no secret."""
    with pytest.raises(ConfigError) as caught:
        identity(None, **settings).credentials()
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None or isinstance(caught.value.__context__, OSError)
    text = str(caught.value)
    assert SECRET not in text
    return text


@pytest.mark.parametrize("kind", ["installed", "web"])
def test_googles_credentials_are_read_as_they_are(tmp_path: Path, kind: str) -> None:
    """Both kinds of download name id and secret in the same way."""
    file = tmp_path / "credentials.json"
    file.write_text(json.dumps({kind: GOOGLE}))
    assert identity(file=file).credentials() == Credentials("app.example", SECRET, AuthMethod.POST)


def test_id_and_secret_come_from_files_without_their_newlines(tmp_path: Path) -> None:
    """Editors and `echo` end files with a newline, and Windows begins them with a mark."""
    (tmp_path / "id").write_text("\ufeffapp\n")
    (tmp_path / "secret").write_text(f"{SECRET}\r\n")
    client = identity(id_file=tmp_path / "id", secret_file=tmp_path / "secret")
    assert client.credentials() == Credentials("app", SECRET, AuthMethod.POST)
    assert client.files == (tmp_path / "id", tmp_path / "secret")


def test_a_secret_of_ones_own_comes_before_the_one_in_the_download(tmp_path: Path) -> None:
    """A secret that was rotated need not be edited into Google's file."""
    (tmp_path / "credentials.json").write_text(json.dumps({"web": GOOGLE}))
    (tmp_path / "secret").write_text(OTHER)
    client = identity(file=tmp_path / "credentials.json", secret_file=tmp_path / "secret")
    assert client.credentials().secret == OTHER


def test_a_file_is_read_again_when_it_changes(tmp_path: Path) -> None:
    """A rotated secret counts from the next call on, and changes the fingerprint."""
    file = tmp_path / "secret"
    file.write_text(SECRET)
    client = identity(id="app", secret_file=file)
    before = client.credentials()
    replacement = tmp_path / "new"
    replacement.write_text(OTHER)
    replacement.replace(file)
    after = client.credentials()
    assert (before.secret, after.secret) == (SECRET, OTHER)
    assert before.fingerprint != after.fingerprint


def test_an_unchanged_file_is_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Looking at a file's attributes is enough."""
    file = tmp_path / "secret"
    file.write_text(SECRET)
    client = identity(id="app", secret_file=file)
    client.credentials()
    monkeypatch.setattr(Path, "open", None)
    assert client.credentials().secret == SECRET


def test_a_file_that_becomes_broken_is_told(tmp_path: Path) -> None:
    """The old secret is not used on, since nobody could tell which one is in force."""
    file = tmp_path / "secret"
    file.write_text(SECRET)
    client = identity(id="app", secret_file=file)
    client.credentials()
    file.write_text("")
    with pytest.raises(ConfigError, match="is empty"):
        client.credentials()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is empty; download"),
        (b"{", "is not JSON"),
        (b"[" * 60_000, "is not JSON"),
        (b"[]", "is not a JSON object"),
        (b"{}", "has neither `installed` nor `web`"),
        (b'{"type": "authorized_user"}', "holds a user's refresh token, and belongs under `seed`"),
        (b'{"installed": {}}', "has neither"),
        (b'{"installed": {"client_secret": "sim-cs-0123456789abcdef"}}', "has no client_id"),
        (b'{"installed": {"client_id": 7}}', "client_id that is not a non-empty string"),
        (b'{"web": {"client_id": "a", "client_secret": ["sim-cs-0123456789abcdef"]}}', "has a client_secret"),
        (
            b'{"type": "service_account", "private_key": "sim-cs-0123456789abcdef"}',
            "the key of a service account",
        ),
        (b"\xff\xfe\x00sim-cs-0123456789abcdef", "is not UTF-8"),
        (b" " * 70_000, "is larger than 64 KiB"),
    ],
    ids=range(13),
)
def test_a_download_that_is_none_is_explained(tmp_path: Path, content: bytes, reason: str) -> None:
    """Key, file, reason, remedy, and nothing of the content."""
    file = tmp_path / "credentials.json"
    file.write_bytes(content)
    assert f"client.file {file}: " in problem(file=file)
    assert reason in problem(file=file)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "is empty; write the client's secret into it"),
        (" \n", "is empty"),
        (f"{SECRET}\nmore\n", "more than one line"),
        (f"{SECRET}\0", "not text"),
    ],
)
def test_a_secret_file_that_holds_no_secret_is_explained(tmp_path: Path, content: str, reason: str) -> None:
    """An empty secret never turns a confidential client into a public one."""
    file = tmp_path / "secret"
    file.write_text(content)
    assert reason in problem(id="app", secret_file=file)


def test_a_missing_file_is_explained(tmp_path: Path) -> None:
    """The path is in the message, and what to do."""
    path = tmp_path / "secret"
    text = problem(id="app", secret_file=path)
    assert text == f"client.secret_file {path}: no such file or directory; create it or correct the path"


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_file_that_we_may_not_read_is_explained(tmp_path: Path) -> None:
    """Permissions are named as the reason."""
    path = tmp_path / "secret"
    path.touch(mode=0)
    assert "permission denied" in problem(id="app", secret_file=path)


def test_a_missing_id_is_explained() -> None:
    """There is no client without one."""
    assert "id is missing" in problem(secret=SECRET)


@pytest.mark.parametrize(
    "settings",
    [
        {"id": "app", "id_file": Path("/id")},
        {"id": "app", "file": Path("/credentials.json")},
        {"id": "app", "secret": SECRET, "secret_file": Path("/secret")},
    ],
    ids=["id twice", "id and file", "secret twice"],
)
def test_two_places_for_one_thing_are_refused(settings: dict[str, object]) -> None:
    """Nobody could tell which one counts."""
    assert "keep one" in problem(**settings)


@pytest.mark.parametrize(
    ("asked", "default", "secret", "method"),
    [
        (None, AuthMethod.POST, SECRET, AuthMethod.POST),
        (None, AuthMethod.BASIC, SECRET, AuthMethod.BASIC),
        (None, AuthMethod.POST, None, AuthMethod.NONE),
        (AuthMethod.BASIC, AuthMethod.POST, SECRET, AuthMethod.BASIC),
        (AuthMethod.NONE, AuthMethod.POST, SECRET, AuthMethod.NONE),
    ],
    ids=range(5),
)
def test_the_method_is_the_settings_then_the_profiles(
    asked: AuthMethod | None, default: AuthMethod, secret: str | None, method: AuthMethod
) -> None:
    """And none for a public client, which has no secret."""
    client = identity(Profile(auth_method=default), id="app", secret=secret, auth_method=asked)
    assert client.credentials().method is method


def test_a_method_that_needs_a_secret_has_one() -> None:
    """What was asked for by name is never silently dropped."""
    assert "needs a secret" in problem(id="app", auth_method=AuthMethod.BASIC)


def test_client_credentials_need_a_secret() -> None:
    """RFC 6749 §4.4: confidential clients only."""
    client = identity(Profile(grant=GrantType.CLIENT_CREDENTIALS), id="app")
    with pytest.raises(ConfigError, match="needs a secret"):
        client.credentials()


def test_basic_form_encodes_both_parts() -> None:
    """RFC 6749 §2.3.1: colons, spaces and umlauts survive, and nothing of it is in the form."""
    client_id, secret = "a:b c", "sim-cs-0123456789+/%ü&="
    form, headers = Credentials(client_id, secret, AuthMethod.BASIC).authenticate(Sealed(a="b"), URL, 0.0)
    pair = base64.b64decode(headers["Authorization"].removeprefix("Basic ")).decode()
    assert pair == "a%3Ab+c:sim-cs-0123456789%2B%2F%25%C3%BC%26%3D"
    assert [unquote_plus(part) for part in pair.split(":")] == [client_id, secret]
    assert dict(form) == {"a": "b"}


@pytest.mark.parametrize(
    ("method", "added"),
    [
        (AuthMethod.POST, {"client_id": "app", "client_secret": SECRET}),
        (AuthMethod.NONE, {"client_id": "app"}),
    ],
)
def test_the_other_methods_are_in_the_form(method: AuthMethod, added: dict[str, str]) -> None:
    """And send no header."""
    form, headers = Credentials("app", SECRET, method).authenticate(Sealed(a="b"), URL, 0.0)
    assert (dict(form), dict(headers)) == ({"a": "b", **added}, {})


def test_credentials_hide_their_secret() -> None:
    """In `repr`, and so in tracebacks."""
    credentials = Credentials("app", SECRET, AuthMethod.POST)
    assert SECRET not in repr(credentials)
    assert SECRET not in repr(credentials.authenticate(Sealed(), URL, 0.0))
    assert SECRET not in str(credentials.authenticate(Sealed(), URL, 0.0)[0])


# Several secrets


def secrets(folder: Path, *values: str | None) -> tuple[Path, ...]:
    """Write secrets into files of their own; None leaves one out."""
    paths = tuple(folder / f"secret-{number}" for number in range(len(values)))
    for path, value in zip(paths, values, strict=True):
        if value is None:
            path.unlink(missing_ok=True)
        else:
            path.write_text(value)
    return paths


THREE = ("sim-cs-000000000000000a", "sim-cs-000000000000000b", "sim-cs-000000000000000c")


def test_the_next_secret_is_shown_when_one_is_refused(tmp_path: Path) -> None:
    """In order of preference, under another fingerprint; a human is told which one, by place and path."""
    paths = secrets(tmp_path, *THREE)
    client = identity(id="app", secret_files=paths)
    first = client.credentials()
    told = client.refused()
    second = client.credentials()
    assert (first.secret, second.secret) == THREE[:2]
    assert first.fingerprint != second.fingerprint
    assert told == (
        f"client.secret_files[0] ({paths[0]}) was refused; trying client.secret_files[1] ({paths[1]})"
    )
    assert client.files == paths


def test_the_secret_that_works_is_kept(tmp_path: Path) -> None:
    """Until it is refused itself: then the search begins with the first, which may count by now."""
    client = identity(id="app", secret_files=secrets(tmp_path, *THREE))
    assert client.credentials().secret == THREE[0]
    client.refused()
    client.accepted()
    assert client.credentials().secret == THREE[1]
    client.refused()
    assert client.credentials().secret == THREE[0]
    client.refused()
    assert client.credentials().secret == THREE[2]


def test_each_secret_is_tried_once_before_the_back_off(tmp_path: Path) -> None:
    """After the last one the fingerprint stays, so that nothing is tried again at once; then a new round begins."""
    client = identity(id="app", secret_files=secrets(tmp_path, *THREE))
    shown: list[str | None] = []
    for _ in range(2):
        told = ""
        for _ in range(3):
            shown.append(client.credentials().secret)
            told = client.refused()
        assert "and so were all others; put the secret there that the provider knows" in told
        assert client.credentials().secret == shown[-1]
    assert sorted(map(str, shown[:3])) == sorted(map(str, shown[3:])) == sorted(THREE)


def test_the_first_secret_is_tried_again_when_a_file_changes(tmp_path: Path) -> None:
    """It is the preferred one, and somebody may have put it right."""
    client = identity(id="app", secret_files=secrets(tmp_path, *THREE))
    client.credentials()
    client.refused()
    client.accepted()
    assert client.credentials().secret == THREE[1]
    secrets(tmp_path, OTHER, *THREE[1:])
    assert client.credentials().secret == OTHER


def test_a_secret_that_is_gone_is_passed_over(tmp_path: Path) -> None:
    """The old file may be removed once the new secret works, and the new one may be late."""
    paths = secrets(tmp_path, *THREE)
    client = identity(id="app", secret_files=paths)
    secrets(tmp_path, None, "", THREE[2])
    assert client.credentials().secret == THREE[2]
    assert client.refused() == ""
    secrets(tmp_path, None, None, None)
    with pytest.raises(ConfigError, match=rf"client\.secret_files\[0\] {paths[0]}: no such file"):
        client.credentials()


def test_one_secret_alone_is_never_changed(tmp_path: Path) -> None:
    """There is nothing to go on to, and nothing to tell that the answer doesn't."""
    client = identity(id="app", secret_files=secrets(tmp_path, SECRET))
    before = client.credentials().fingerprint
    assert (client.refused(), client.credentials().fingerprint) == ("", before)


# Certificates and keys


class Later:
    """A clock that is ahead of ours."""

    def __init__(self, days: float) -> None:
        self._days = days

    def wall(self) -> float:
        return time.time() + 86400 * self._days

    boot = monotonic = wall


def certified(
    folder: Path, *, key: bytes | None = None, days: float = 0.0, **settings: object
) -> ClientIdentity:
    """Make a client with a certificate that is good from yesterday to tomorrow, looked at after some days."""
    pair = pki.Authority().issue("app")
    (folder / "tls.crt").write_bytes(pair.certificate)
    (folder / "tls.key").write_bytes(pair.key if key is None else key)
    given = {"auth_method": AuthMethod.TLS, "private_key_file": folder / "tls.key", **settings}
    client = Client(id="app", certificate_file=folder / "tls.crt", **given)  # type: ignore[arg-type]
    return ClientIdentity(client, Profile(), Later(days))


def test_a_certificate_is_shown_with_its_key(tmp_path: Path) -> None:
    """Both files are watched; the form names the client alone (RFC 8705 §2)."""
    client = certified(tmp_path)
    credentials = client.credentials()
    assert credentials.certificate == ClientCertificate(tmp_path / "tls.crt", tmp_path / "tls.key")
    form, headers = credentials.authenticate(Sealed(a="b"), URL, 0.0)
    assert (dict(form), dict(headers)) == ({"a": "b", "client_id": "app"}, {})
    assert set(client.files) == {tmp_path / "tls.crt", tmp_path / "tls.key"}


def test_a_renewed_certificate_changes_the_fingerprint(tmp_path: Path) -> None:
    """So that one which was refused is tried again at once when it was replaced."""
    client = certified(tmp_path)
    before = client.credentials().fingerprint
    certified(tmp_path)
    assert client.credentials().fingerprint != before


@pytest.mark.parametrize(
    ("days", "reason"),
    [
        (1.5, r"expired on .* UTC; put a new one there"),
        (-1.5, r"counts only from .* UTC on; wait, or correct this machine's clock"),
    ],
)
@pytest.mark.parametrize("method", [AuthMethod.TLS, AuthMethod.PRIVATE_KEY_JWT])
def test_a_certificate_out_of_its_time_is_not_shown(
    tmp_path: Path, days: float, reason: str, method: AuthMethod
) -> None:
    """Nothing is sent with one that any provider would refuse."""
    client = certified(tmp_path, days=days, auth_method=method)
    with pytest.raises(ConfigError, match=rf"^client\.certificate_file .*tls\.crt: {reason}$"):
        client.credentials()


@pytest.mark.parametrize("method", [AuthMethod.TLS, AuthMethod.PRIVATE_KEY_JWT])
def test_a_certificate_of_another_key_is_explained(tmp_path: Path, method: AuthMethod) -> None:
    """As when only one of two files was replaced."""
    client = certified(tmp_path, key=pki.pem(pki.ec_key()), auth_method=method)
    with pytest.raises(ConfigError, match="is not the certificate of the private key that is given"):
        client.credentials()


def test_a_key_that_is_missing_beside_its_certificate_is_explained(tmp_path: Path) -> None:
    """The message names the file that should have held it."""
    client = certified(tmp_path, private_key_file=None)
    with pytest.raises(
        ConfigError, match=r"client\.certificate_file .*tls\.crt: holds no private key in PEM"
    ):
        client.credentials()


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"auth_method": AuthMethod.PRIVATE_KEY_JWT}, "needs a private key; give private_key_file"),
        ({"auth_method": AuthMethod.TLS}, "needs a certificate; give certificate_file"),
        ({"auth_method": AuthMethod.SECRET_JWT}, "needs a secret; give secret_file"),
        (
            {"auth_method": AuthMethod.SECRET_JWT, "secret": SECRET, "signing_algorithm": "RS256"},
            "signing_algorithm: can't sign RS256, which needs a private key",
        ),
        ({"secret": SECRET, "secret_files": (Path("/a"),)}, "secret and secret_files all name"),
    ],
)
def test_what_a_method_needs_is_asked_for(settings: dict[str, object], reason: str) -> None:
    """In one line, with the key to add."""
    assert reason in problem(id="app", **settings)


@pytest.mark.parametrize("grant", [GrantType.JWT_BEARER, GrantType.GITHUB_INSTALLATION])
def test_a_signed_grant_needs_something_to_sign_with(grant: GrantType) -> None:
    """Whatever the profile says of client authentication."""
    client = identity(Profile(grant=grant), id="app")
    with pytest.raises(ConfigError, match=f"the {grant} grant needs a private key"):
        client.credentials()


def test_a_key_that_is_encrypted_is_explained(tmp_path: Path) -> None:
    """With its file, and never by asking for the passphrase."""
    path = tmp_path / "key.pem"
    path.write_bytes(pki.pem(pki.ec_key(), passphrase=SECRET.encode()))
    text = problem(id="app", private_key_file=path, auth_method=AuthMethod.PRIVATE_KEY_JWT)
    assert text.startswith(f"client.private_key_file {path}: holds an encrypted private key")
