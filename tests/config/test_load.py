from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from sidecar.config import DEFAULT_PATH, default_path, load
from sidecar.config.resolve import default_state_dir
from sidecar.config.settings import Client, Duration, StoreSettings
from sidecar.errors import ConfigError
from sidecar.profile import AuthMethod, GrantType, Rotation

if TYPE_CHECKING:
    from tests.config.conftest import Place

TWO = """\
tokens:
  a: {provider: google, client: {file: c.json}, outputs: [{file: out/a}]}
  b: {provider: google, client: {file: c.json}, outputs: [{file: out/b}]}
"""


def test_a_short_configuration_is_enough(place: Place) -> None:
    """Five lines under `tokens`; everything else has a default."""
    loaded = place.load(
        "tokens: {gmail: {provider: google, client: {file: c.json}, outputs: [{file: t.json}]}}"
    )
    settings = loaded.settings
    assert loaded.warnings == ()
    assert settings.path == place.file
    assert (settings.namespace, settings.server.host, settings.server.port) == ("default", "127.0.0.1", 9640)
    assert settings.tokens["gmail"].outputs[0].file == place.directory / "t.json"
    assert settings.provider_names == {"gmail": "google"}
    assert settings.state_dir == place.directory / "state"
    assert settings.store.url == f"sqlite://{place.directory}/state/store.db"


def test_later_checks_can_speak_of_a_place(place: Place) -> None:
    """What is found out after loading is said in the same way, with its line."""
    loaded = place.load(TWO)
    said = loaded.context.line(("tokens", "b", "client", "file"), "is no JSON")
    assert said == f"{place.file}:3:40: tokens.b.client.file: is no JSON"


def test_a_valid_file_needs_no_jsonschema(place: Place) -> None:
    """The library that explains mistakes is big, so a daemon without mistakes does without it."""
    place.load(TWO)
    code = "import sys, sidecar.config as c, pathlib; c.load(pathlib.Path(sys.argv[1]), disk=False); "
    code += "print('jsonschema' in sys.modules)"
    found = subprocess.run(
        [sys.executable, "-c", code, place.file], check=True, capture_output=True, text=True
    )
    assert found.stdout == "False\n"


def test_everything_wrong_is_reported_in_one_run(place: Place) -> None:
    """Syntax, shape, contradictions and the machine are all looked at, whatever is wrong before."""
    place.write("s1", "{}", 0o644)
    place.write("c.json", "{}")
    (place.directory / "closed").mkdir()
    text = """\
        namspace: x
        server: {port: many}
        tokens:
          a:
            provider: google
            provider: google
            client: {file: c.json}
            seed: s1
            outputs:
              - {file: out/a, mode: 640}
              - {file: out/a}
              - {file: no/a}
              - {file: "${UNSET}"}
          b:
            provider: gogle
            client: {file: c.json, id: 12}
            seed: s1
            lease: soon
            outputs: [{file: out/a}]
        """
    assert [line.partition(";")[0] for line in place.problems(text, disk=True)] == [
        "config.yaml:1:1: namspace: unknown key",
        "config.yaml:2:16: server.port: is text where a whole number is needed",
        "config.yaml:6:5: tokens.a.provider: is there twice, in line 5 and in line 6",
        "config.yaml:10:29: tokens.a.outputs[0].mode: is the number 640",
        "config.yaml:11:16: tokens.a.outputs[1].file: out/a is also tokens.a.outputs[0]",
        "config.yaml:12:16: tokens.a.outputs[2].file: the directory no does not exist",
        "config.yaml:13:16: tokens.a.outputs[3].file: the variable UNSET is not set",
        "config.yaml:15:15: tokens.b.provider: there is no provider profile of this name",
        "config.yaml:16:32: tokens.b.client.id: is the number 12 where text is needed",
        "config.yaml:17:11: tokens.b.seed: is the seed of `a` too",
        'config.yaml:18:12: tokens.b.lease: is "soon", which is no duration up to a hundred years',
        "config.yaml:19:22: tokens.b.outputs[0].file: out/a is also tokens.a.outputs[0]",
    ]


def test_a_strange_file_name_stays_on_its_line(place: Place) -> None:
    """What can't be printed in a name is shown by its code: whoever reads line by line is not misled."""
    text = """\
        store: {url_file: "a\\r\\nb"}
        tokens: {a: {provider: google}}
        """

    [problem] = [line for line in place.problems(text, disk=True) if "url_file" in line]

    assert problem.startswith("config.yaml:1:19: store.url_file: a\\r\\nb can't be read")


def test_a_missing_file_names_the_way_out(tmp_path: Path) -> None:
    """There is one line, with the commands that help."""
    with pytest.raises(ConfigError) as caught:
        load(tmp_path / "c.yaml")
    assert caught.value.problems == [
        (
            f"{tmp_path}/c.yaml: there is no such file; write one with `token-sidecar init`, or name yours "
            "with --config or $TOKEN_SIDECAR_CONFIG"
        )
    ]
    assert caught.value.exit_code == 2


def test_a_file_that_init_wrote_here_is_pointed_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who forgot to name the file that lies in this directory is told its name."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "token-sidecar.yaml").touch()

    with pytest.raises(ConfigError, match=r"token-sidecar\.yaml is in this directory; name it with --config"):
        load(tmp_path / "c.yaml")


def test_a_directory_is_no_configuration(tmp_path: Path) -> None:
    """What can't be read as a file says why."""
    with pytest.raises(ConfigError, match=r"can't be read: Is a directory"):
        load(tmp_path)


def test_the_file_is_named_by_the_environment(place: Place) -> None:
    """Without an argument it is $TOKEN_SIDECAR_CONFIG, else the one under /etc."""
    place.load(TWO)
    env = place.env | {"TOKEN_SIDECAR_CONFIG": str(place.file)}
    assert load(env=env, disk=False).settings.path == place.file
    assert default_path({}) == DEFAULT_PATH


def test_a_reload_can_tell_which_tokens_changed(place: Place) -> None:
    """Tokens compare by value."""
    old = place.load(TWO).settings
    new = place.load(TWO.replace("out/b", "out/c")).settings
    assert old.tokens["a"] == new.tokens["a"]
    assert old.tokens["b"] != new.tokens["b"]
    assert old.profiles == new.profiles
    assert place.load(TWO).settings == old


def test_relative_paths_start_at_the_file_and_a_tilde_at_home(place: Place) -> None:
    """What a path means doesn't depend on the working directory."""
    text = "tokens: {a: {provider: google, client: {file: ../c.json}, seed: ~/s, outputs: [{file: /x/../t}]}}"
    token = place.load(text, HOME="/home/me").settings.tokens["a"]
    assert token.client.file == place.directory.parent / "c.json"
    assert token.seed is not None
    assert token.seed.file == Path("/home/me/s")
    assert token.outputs[0].file == Path("/t")


def test_defaults_count_where_a_token_has_no_key_of_its_own(place: Place) -> None:
    """A token's own key replaces the default whole."""
    text = """\
        defaults: {provider: google, client: {id: x, secret_file: y}, seed: s, lease: 9s}
        tokens: {a: , b: {client: {file: c.json}, lease: 8s, seed: {file: t, format: raw}}}
        """
    tokens = place.load(text).settings.tokens
    assert tokens["a"].client.id == "x"
    assert tokens["b"].client == Client(file=place.directory / "c.json")
    assert [token.lease for token in tokens.values()] == [Duration(9), Duration(8)]
    assert [token.seed and token.seed.file and token.seed.file.name for token in tokens.values()] == [
        "s",
        "t",
    ]


def test_profiles_are_resolved(place: Place) -> None:
    """Own profiles, changes to built-in ones and what a token says itself end up in its profile."""
    text = """\
        providers:
          corp: {token_url: "https://corp/t", default_ttl: 10m}
          google: {min_interval: 5s, errors: [{outcome: misconfigured, code: x}]}
          mail: {extends: google, token_url: "https://mail/t"}
        defaults: {client: {id: x, auth_method: none}}
        tokens:
          a: {provider: corp}
          b: {provider: google}
          c: {provider: mail}
          d:
            provider: {token_url: "https://d/t"}
            client: {id: x, secret_file: y}
            grant: client_credentials
        """
    settings = place.load(text).settings
    a, b, c, d = settings.profiles.values()
    assert (a.token_url, a.default_ttl, a.rotation) == ("https://corp/t", 600, Rotation.UNKNOWN)
    assert (b.min_interval, b.rotation, b.errors[0].code, len(b.errors)) == (5, Rotation.NEVER, "x", 6)
    assert (c.token_url, c.rotation, c.min_interval) == ("https://mail/t", Rotation.NEVER, None)
    assert (c.auth_method, d.auth_method) == (AuthMethod.NONE, AuthMethod.POST)
    assert (d.grant, d.may_rotate) == (GrantType.CLIENT_CREDENTIALS, False)
    assert settings.provider_names == {"a": "corp", "b": "google", "c": "mail", "d": "inline"}


@pytest.mark.parametrize(
    ("written", "url", "path"),
    [
        ("memory:", "memory:", None),
        ("memory://", "memory:", None),
        ("sqlite:///var/x/../s.db", "sqlite:///var/s.db", Path("/var/s.db")),
        ("sqlite:/var/s.db", "sqlite:///var/s.db", Path("/var/s.db")),
        ("sqlite:~/s.db", "sqlite:///home/me/s.db", Path("/home/me/s.db")),
    ],
)
def test_stores_have_one_spelling(place: Place, written: str, url: str, path: Path | None) -> None:
    """However a store is written, its URL says it in one way."""
    store = place.load(f"store: '{written}'\n{TWO}", HOME="/home/me").settings.store
    assert (store.url, store.sqlite_path) == (url, path)
    assert place.load(f"store: {{url: '{written}'}}\n{TWO}", HOME="/home/me").settings.store == store


def test_the_store_is_in_the_state_directory_of_systemd(place: Place) -> None:
    """What systemd keeps for a service is used without being named."""
    settings = place.load(TWO, STATE_DIRECTORY="/var/lib/token-sidecar:/var/lib/other").settings
    assert settings.store.sqlite_path == Path("/var/lib/token-sidecar/store.db")


def test_the_state_directory_is_the_first_that_is_possible(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The runtime directory of systemd, of the system, of the user, and at last a temporary one."""
    env = {"RUNTIME_DIRECTORY": "/run/a:/run/b", "XDG_RUNTIME_DIR": "/run/user/1"}
    assert default_state_dir(env) == Path("/run/a")
    del env["RUNTIME_DIRECTORY"]
    monkeypatch.setattr("os.access", lambda *_: True)
    assert default_state_dir(env) == Path("/run/token-sidecar")
    monkeypatch.setattr("os.access", lambda *_: False)
    assert default_state_dir(env) == Path("/run/user/1/token-sidecar")
    assert default_state_dir({}).parent == Path(tempfile.gettempdir())


def test_secrets_are_masked_where_settings_are_shown(place: Place) -> None:
    """A traceback or a failed assertion that shows the settings shows no secret."""
    secret = "sim-cs-0123456789abcdefgh"
    text = f"tokens: {{a: {{provider: google, client: {{id: x, secret: {secret}}}}}}}"
    assert secret not in repr(place.load(text).settings)
    assert secret not in repr(Client(secret=secret))
    assert secret not in repr(StoreSettings(url=f"x://{secret}"))
