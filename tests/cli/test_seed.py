"""`seed` from a Secret, and out of the store of another configuration."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
import yaml

from sidecar import cli
from tests.kube.cluster import Account, Rule

if TYPE_CHECKING:
    from pathlib import Path

    from tests.aws.moto import Moto
    from tests.cli.conftest import Place
    from tests.kube.fake import Fake

SECRET, KEY = "gmail-oauth", "token.json"


@pytest.fixture
def account(place: Place, fake_cluster: Fake, monkeypatch: pytest.MonkeyPatch) -> Account:
    """Let this user read one Secret, which isn't there yet."""
    namespace = fake_cluster.namespace()
    made = fake_cluster.account(namespace, rules=[Rule("secrets", ["get"], names=[SECRET])])
    fake_cluster.faults.clear()
    monkeypatch.setenv("KUBECONFIG", str(made.kubeconfig(place.root / "kube")))
    return made


@pytest.fixture
def old(place: Place) -> Path:
    """Leave a store with a grant in it behind: the place's configuration moves on to another one."""
    place.ok("seed", "gmail", "--file", str(place.new_seed()))
    place.ok("refresh", "gmail")
    path = place.root / "old.yaml"
    path.write_text(yaml.safe_dump(place.document), encoding="utf-8")
    place.document |= {"store": f"sqlite://{place.root}/new.db", "state_dir": str(place.root / "new-state")}
    place.write()
    return path


def test_from_a_secret(place: Place, account: Account, fake_cluster: Fake) -> None:
    """A key of a Secret is a seed; what is missing there is told with the command that makes it."""
    where = f"{account.namespace}/{SECRET}/{KEY}"
    missing = place.run("seed", "gmail", "--from-kubernetes", where)
    assert (missing.returncode, "create secret generic gmail-oauth" in missing.stderr) == (2, True)
    grant = json.dumps({"refresh_token": place.provider.new_grant()}).encode()
    fake_cluster.make_secret(account.namespace, SECRET, {KEY: grant, "other": b""})
    empty = place.run("seed", "gmail", "--from-kubernetes", f"{account.namespace}/{SECRET}/other")
    assert (empty.returncode, "is empty" in empty.stderr) == (2, True)
    assert "starts anew" in place.ok("seed", "gmail", "--from-kubernetes", where)
    assert "generation 1" in place.ok("refresh", "gmail")


@pytest.mark.parametrize("where", ["gmail", "a/b/c/d", "UPPER/gmail/key", "mail/gmail/../key"])
def test_what_names_no_key_of_a_secret(where: str, place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    """A place that can't be one is a matter of usage, and nobody is asked."""
    assert cli.main(["seed", "gmail", "--from-kubernetes", where, "--config", str(place.config)]) == 2
    assert "[NAMESPACE/]NAME/KEY" in capsys.readouterr().err


def test_one_source_at_a_time(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    """Two sources are a contradiction."""
    two = ["--file", "-", "--from-kubernetes", "gmail/key"]
    assert cli.main(["seed", "gmail", *two, "--config", str(place.config)]) == 2
    assert "name one source" in capsys.readouterr().err


def test_out_of_another_store(place: Place, old: Path) -> None:
    """A grant moves with its access token, so that no call is needed; its copy is warned of."""
    calls = place.calls()
    done = place.run("seed", "gmail", "--from-config", str(old))
    assert (done.returncode, "must not be used again" in done.stderr) == (0, True)
    with place.daemon(wait_for="ready"):
        assert place.calls() == calls
    assert "generation 1" in place.ok("refresh", "gmail")


def test_a_grant_that_is_in_use_stays(place: Place, old: Path) -> None:
    """What a running daemon uses, what is dead and what isn't there can't be moved; each is said."""
    new, place.config = place.config, old
    with place.daemon():
        refused = place.run("seed", "gmail", "--config", str(new), "--from-config", str(old))
        assert (refused.returncode, "stop it first" in refused.stderr) == (2, True)
    place.provider.kill()
    assert place.run("refresh", "gmail").returncode == 3
    place.config = new
    dead = place.run("seed", "gmail", "--from-config", str(old))
    assert (dead.returncode, "is dead" in dead.stderr) == (3, True)
    nothing = place.run("seed", "gmail", "--from-config", str(new))
    assert (nothing.returncode, "holds no refresh token" in nothing.stderr) == (3, True)
    assert json.loads(place.ok("store", "list", "--json")) == []


def test_from_a_secret_of_aws(place: Place, aws: Moto, capsys: pytest.CaptureFixture[str]) -> None:
    """A secret of AWS is a seed as well, and names the client; a name that can't be one is a matter of usage."""
    name = f"{aws.prefix()}/gmail"
    aws.put(f"{name}-client", "sim-client")
    del place.token["client"]["id"]
    place.token["client"]["id_aws_secret"] = f"{name}-client"
    place.write()
    missing = place.run("seed", "gmail", "--from-aws", name)
    assert (missing.returncode, "there is none; create it" in missing.stderr) == (2, True)
    aws.put(name, {"refresh_token": place.provider.new_grant()})
    assert "starts anew" in place.ok("seed", "gmail", "--from-aws", name)
    assert cli.main(["seed", "gmail", "--from-aws", "a b", "--config", str(place.config)]) == 2
    assert "is no name of a secret" in capsys.readouterr().err
