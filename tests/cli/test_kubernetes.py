"""Commands on records in Secrets, by somebody who may get and patch these and list none."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests.cli.conftest import Place
from tests.kube.cluster import Account, Rule

if TYPE_CHECKING:
    from tests.kube.fake import Fake

NAME = "state-gmail"


@pytest.fixture
def account(place: Place, fake_cluster: Fake, monkeypatch: pytest.MonkeyPatch) -> Account:
    """Keep the place's record in a Secret, which this account may use."""
    namespace = fake_cluster.namespace()
    made = fake_cluster.account(namespace, rules=[Rule("secrets", ["get", "patch"], names=[NAME])])
    fake_cluster.faults.clear()
    fake_cluster.requests.clear()
    fake_cluster.make_secret(namespace, NAME)
    monkeypatch.setenv("KUBECONFIG", str(made.kubeconfig(place.root / "kube")))
    place.document |= {"store": f"kubernetes://{namespace}/state", "namespace": "app"}
    place.write()
    return made


def test_commands_do_without_the_right_to_list(place: Place, account: Account, fake_cluster: Fake) -> None:
    """A grant is seeded, used and sealed; what can't be listed is looked up by the configured names, and said so."""
    done = place.run("store", "migrate")
    assert done.stdout == "the kubernetes store is up to date and holds 0 records\n"
    assert "may not list it; add this rule" in done.stderr
    assert "only the configured tokens' records are looked at" in done.stderr
    place.ok("seed", "gmail", "--file", str(place.new_seed()))
    assert "generation 1" in place.ok("refresh", "gmail")
    [row] = json.loads(place.ok("store", "list", "--json"))
    assert (row["key"], row["state"], row["configured"]) == ("app/gmail", "ok", True)
    key = place.root / "store.key"
    place.ok("store", "keygen", str(key))
    place.document["store"] = {"url": place.document["store"], "encryption_keys": [str(key)]}
    place.write()
    assert b"sim-" in fake_cluster.secret_data(account.namespace, NAME)["record"]
    assert place.ok("store", "rekey") == "1 changed, 0 had it already, 0 could not be changed\n"
    assert b"sim-" not in fake_cluster.secret_data(account.namespace, NAME)["record"]


def test_a_daemon_keeps_its_record_in_a_secret(place: Place, account: Account, fake_cluster: Fake) -> None:
    """From the seed to the output with nothing but its Role, also when its own token was replaced and has ended."""
    place.ok("seed", "gmail", "--file", str(place.new_seed()))
    with place.daemon(wait_for="ready"):
        first = place.output.read_bytes()
        fake_cluster.revoke_tokens(account.namespace, account.name, account.token)
        account.renew()
        assert "generation 2" in place.ok("refresh", "gmail")
        assert place.output.read_bytes() != first
    codes = [one.status for one in fake_cluster.requests]
    assert sorted(set(codes)) == [200, 401]
    assert codes.count(401) == 1
