from __future__ import annotations

import json
import sys
from collections.abc import Callable
from datetime import timedelta

import jsonschema
import pytest

from sidecar import cli
from tests import pki
from tests.cli.conftest import Place


def test_a_valid_configuration_shows_its_timing(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    """What `check` prints of a token says when it is refreshed."""
    assert cli.main(["check", "-c", str(place.config)]) == 0
    told = capsys.readouterr().out
    assert told.startswith(f"{place.config} is valid: 1 token\n")
    assert "it is refreshed after 42m to 45m; readers find at least 10m left" in told


def test_everything_wrong_is_told_in_one_run(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    """A broken seed, a wrong credentials.json, a wrong format and an unknown key come out together."""
    place.token["seed"] = str(place.private("seed.json", '{"refresh_token": "sim-rt-0123456789abcdef"'))
    place.token["outputs"][0] |= {"format": "json", "fields": {"acess_token": "t"}}
    place.token["refresh_att"] = 0.5
    other = place.private("credentials.json", '{"installed": {}}')
    place.document["tokens"]["other"] = {"provider": "google", "client": {"file": str(other)}}
    place.write()

    assert cli.main(["check", "-c", str(place.config)]) == 2
    told = capsys.readouterr().err
    for expected in ("refresh_att", "not valid JSON", "has neither", "did you mean `access_token`"):
        assert sum(expected in line for line in told.splitlines()) == 1, told
    assert all(line.removeprefix("warning: ").startswith(f"{place.config}:") for line in told.splitlines())
    assert "sim-rt-" not in told


def test_a_store_url_that_would_not_be_heeded(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    """A parameter that the store does not know is an error, and the password beside it is not shown."""
    place.document |= {
        "store": "postgresql://me:sim-cs-0123456789abcdef@db/t?gssencmode=x",
        "namespace": "app",
    }
    place.write()

    assert cli.main(["check", "-c", str(place.config)]) == 2
    told = capsys.readouterr().err
    assert "store: not a usable postgresql:// URL: gssencmode is not known here" in told
    assert "sim-cs-" not in told


def test_a_seed_without_a_refresh_token(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    """A seed file that holds something else is told from a good one before the daemon starts."""
    place.token["seed"] = str(place.private("seed.json", '{"access_token": "sim-at-0123456789abcdef"}'))
    place.write()

    assert cli.main(["check", "-c", str(place.config)]) == 2
    [line, *warnings] = capsys.readouterr().err.splitlines()
    assert all(warning.startswith("warning: ") for warning in warnings)
    assert "tokens.gmail.seed" in line
    assert "no refresh token in it" in line


def test_one_refresh_token_in_two_seeds(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    """Two seed files with the same refresh token are two tokens on one grant."""
    place.token["seed"] = str(place.private("one.json", '{"refresh_token": "sim-rt-0123456789abcdef"}'))
    place.document["tokens"]["other"] = {
        **place.token,
        "seed": str(place.private("two", "sim-rt-0123456789abcdef")),
        "outputs": [{"file": str(place.output.with_name("other.json"))}],
    }
    place.write()

    assert cli.main(["check", "-c", str(place.config)]) == 2
    assert "that the seed of `gmail` holds" in capsys.readouterr().err


def test_no_disk_reads_no_other_file(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    """With --no-disk a configuration is judged where its files aren't."""
    place.token["client"]["secret_file"] = "/nowhere/secret"
    place.write()

    assert cli.main(["check", "-c", str(place.config), "--no-disk"]) == 0
    assert cli.main(["check", "-c", str(place.config)]) == 2
    capsys.readouterr()


def test_json_for_machines(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    """The same comes as one JSON document, whether or not it is valid."""
    assert cli.main(["check", "-c", str(place.config), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["ok"], found["problems"]) == (True, [])
    assert found["tokens"]["gmail"]["timing"]["refresh_after"] == [2520.0, 2700.0]

    place.document["tokenz"] = {}
    place.write()
    assert cli.main(["check", "-c", str(place.config), "--json"]) == 2
    found = json.loads(capsys.readouterr().out)
    assert (found["ok"], len(found["problems"])) == (False, 1)


def test_the_schema_fits_the_configuration(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    """--schema prints a JSON Schema that the configuration fulfils."""
    assert cli.main(["check", "--schema"]) == 0
    jsonschema.validate(place.document, json.loads(capsys.readouterr().out))


def test_timing_that_cannot_hold_is_a_warning(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    """What a lease holder's death would break is told beforehand."""
    place.token.update(min_validity="29m", lease="5m")
    place.write()

    assert cli.main(["check", "-c", str(place.config)]) == 0
    assert "readers may see less than min_validity if a lease holder dies" in capsys.readouterr().out


@pytest.mark.parametrize(("interval", "warned"), [("10m", True), ("30m", False)])
def test_more_versions_than_a_secret_has_are_a_warning(
    place: Place, capsys: pytest.CaptureFixture[str], interval: str, *, warned: bool
) -> None:
    """AWS removes no version of a secret that is younger than a day, and has about a hundred."""
    place.document |= {"namespace": "mail", "store": "aws-secretsmanager://gmail"}
    place.token.update(refresh_at=0.1, min_interval=interval)
    place.write()
    assert cli.main(["check", "-c", str(place.config)]) == 0
    assert ("144 refreshes a day, each a version of a secret in AWS" in capsys.readouterr().out) == warned


def _certificate(place: Place, **times: timedelta) -> dict[str, str]:
    """Write a certificate and its key; return how a client names them."""
    pair = pki.Authority().issue("app", **times)
    return {
        "certificate_file": str(place.private("tls.crt", pair.certificate.decode())),
        "private_key_file": str(place.private("tls.key", pair.key.decode())),
        "auth_method": "private_key_jwt",
    }


def _key(place: Place, content: bytes, **client: str) -> dict[str, str]:
    """Write a key to sign with; return how a client names it."""
    path = place.private("key.pem", content.decode())
    return {"private_key_file": str(path), "auth_method": "private_key_jwt", **client}


@pytest.mark.parametrize(
    ("client", "told"),
    [
        (lambda place: _certificate(place, ends=-pki.DAY / 2), "tls.crt: expired on "),
        (lambda place: _certificate(place, begins=pki.DAY / 2), "tls.crt: counts only from "),
        (
            lambda place: {**_certificate(place), **_key(place, pki.pem(pki.ec_key()))},
            "tls.crt: is not the certificate of the private key that is given; write both anew",
        ),
        (
            lambda place: _key(place, pki.pem(pki.ec_key(), passphrase=b"sim-cs-0123456789abcdef")),
            "key.pem: holds an encrypted private key, and nobody is there to type the passphrase; decrypt it",
        ),
        (lambda place: _key(place, b"sim-cs-0123456789abcdef"), "key.pem: holds no private key in PEM"),
        (
            lambda place: _key(place, pki.pem(pki.ec_key()), signing_algorithm="RS256"),
            "signing_algorithm: holds a key on secp256r1, which can't sign RS256; correct `signing_algorithm`",
        ),
    ],
    ids=["expired", "not yet", "another's", "encrypted", "no key", "wrong kind"],
)
def test_a_client_that_could_not_prove_itself(
    place: Place,
    capsys: pytest.CaptureFixture[str],
    client: Callable[[Place], dict[str, str]],
    told: str,
) -> None:
    """One line says which file it is, what is wrong with it and what to do, before any token is at stake."""
    place.token["client"] = {"id": "app", **client(place)}
    place.write()

    assert cli.main(["check", "-c", str(place.config)]) == 2
    output = capsys.readouterr().err
    [line] = [line for line in output.splitlines() if not line.startswith("warning: ")]
    assert "tokens.gmail.client: client." in line
    assert told in line
    assert "sim-cs-" not in output


def test_what_needs_a_library_that_is_missing_says_which(
    place: Place, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`check` finds out before the daemon does, and names the extra at each place that needs it."""
    monkeypatch.delitem(sys.modules, "sidecar.clients.kubernetes", raising=False)
    monkeypatch.setitem(sys.modules, "lightkube", None)
    secret = {"kubernetes_secret": {"name": "n", "key": "k"}}
    place.token["outputs"].append(secret)
    place.token["seed"] = {"kubernetes_secret": {"name": "n", "key": "seed"}}
    place.token["after_refresh"] = [{"rollout_restart": {"deployment": "d"}}]
    place.write()

    assert cli.main(["check", "-c", str(place.config)]) == 2
    told = capsys.readouterr().err
    for label in (
        "outputs[1].kubernetes_secret",
        "seed.kubernetes_secret",
        "after_refresh[0].rollout_restart",
    ):
        assert f"{label}: Kubernetes is spoken by the extra `kubernetes`: pip install" in told


def test_what_makes_traces_is_named_where_it_is_missing(
    place: Place, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`check` names the extra, and is content with it."""
    place.document["tracing"] = {"enabled": True}
    place.write()
    assert cli.main(["check", "-c", str(place.config)]) == 0
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    assert cli.main(["check", "-c", str(place.config)]) == 2
    assert "tracing.enabled: traces are made by the extra `otel`: pip install" in capsys.readouterr().err


def sql_place(place: Place, **keys: object) -> None:
    """Publish to a table, and seed from one."""
    cell = {"table": "t", "where": {"k": "v"}, "column": "c", **keys}
    place.token["outputs"].append({"sql": cell})
    place.token["seed"] = {"sql": {**cell, "column": "seed"}}
    place.write()


def test_what_speaks_to_databases_is_named_where_it_is_missing(
    place: Place, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`check` names the extra at each place that needs it."""
    monkeypatch.delitem(sys.modules, "sidecar.clients.postgres", raising=False)
    monkeypatch.delattr("sidecar.clients.postgres", raising=False)
    monkeypatch.setitem(sys.modules, "asyncpg", None)
    sql_place(place, url="postgresql:///app")

    assert cli.main(["check", "-c", str(place.config)]) == 2
    told = capsys.readouterr().err
    for label in ("outputs[1].sql", "seed.sql"):
        assert f"{label}: PostgreSQL is spoken by the extra `postgres`: pip install" in told


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("postgresql+psycopg://db/app", "not a usable postgresql:// URL: it begins with postgresql://"),
        ("sqlite:///app.db", "not a usable postgresql:// URL: it begins with postgresql://"),
        ("postgresql://db/app?sslmod=require", "sslmod is not known here"),
        ("", "is empty; write the database's URL into it"),
        (None, "does not exist; create it, or correct the path"),
    ],
)
def test_a_databases_url_is_judged_wherever_it_is(
    place: Place, capsys: pytest.CaptureFixture[str], url: str | None, words: str
) -> None:
    """One in a file is read, unless files are not to be looked at."""
    file = place.private("database", url) if url is not None else place.config.with_name("nowhere")
    sql_place(place, url_file=str(file))
    assert cli.main(["check", "-c", str(place.config)]) == 2
    told = capsys.readouterr().err
    assert told.count(words) == 2
    assert cli.main(["check", "-c", str(place.config), "--no-disk"]) == 0
    capsys.readouterr()
    if url:
        for cell in (place.token["outputs"][1]["sql"], place.token["seed"]["sql"]):
            del cell["url_file"]
            cell["url"] = url
        place.write()
        assert cli.main(["check", "-c", str(place.config), "--no-disk"]) == 2
        assert capsys.readouterr().err.count(words) == 2
