"""One key of a Secret, over a fake API server, and over a real one where its programs are."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sidecar.clients.kubernetes import Kubernetes
from sidecar.config.settings import OutputTarget, SecretKey
from sidecar.errors import OutputError
from sidecar.outputs.kubernetes_secret import SecretOutput
from sidecar.outputs.sight import REMEMBERED_FOR
from sidecar.ports import Publication
from sidecar.tokens import fingerprint
from tests.kube.cluster import Account, Cluster, Rule
from tests.kube.fake import Fake, Fault
from tests.outputs.conftest import HandClock

NAME = "gmail-oauth-token"
KEY = "gmail-westsidebasketball.json"
OTHERS = {"other.json": b"{}", "binary": b"\x00\xff"}

Make = Callable[..., Publication]


class Site:
    """A Secret with keys of others, and whoever publishes to it with the rights to do so."""

    def __init__(self, cluster: Cluster, namespace: str, folder: Path, api: Kubernetes) -> None:
        self.cluster = cluster
        self.api = api
        self.namespace = namespace
        self.folder = folder
        self.clock = HandClock()
        self.account: Account = cluster.account(namespace, rules=[Rule("secrets", ["get", "patch"], [NAME])])

    def open(self, *, state: str = "state", key: str = KEY, **options: Any) -> SecretOutput:
        """Open the output as a daemon does; `state` names its `state_dir`."""
        place = SecretKey(namespace=self.namespace, name=NAME, key=key)
        values: dict[str, Any] = {"kubernetes_secret": place, "format": "gmail-sdk"}
        target = OutputTarget(**(values | options))
        return SecretOutput(target, place, self.api, state_dir=self.folder / state, clock=self.clock)

    def data(self) -> dict[str, bytes]:
        """Return what the Secret holds."""
        return self.cluster.secret_data(self.namespace, NAME)

    def published(self, key: str = KEY) -> str:
        """Return the access token under a key."""
        return str(json.loads(self.data()[key])["access_token"])

    @property
    def version(self) -> str:
        """Return the Secret's resource version: another after every write."""
        found = self.cluster.secret(self.namespace, NAME)
        assert found is not None
        return str(found["metadata"]["resourceVersion"])


@pytest.fixture
async def site(
    cluster: Cluster, namespace: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Site]:
    """Make a Secret that holds other people's keys, and be the account that may write it."""
    site = Site(cluster, namespace, tmp_path, Kubernetes())
    cluster.make_secret(namespace, NAME, OTHERS, labels={"team": "basketball"})
    monkeypatch.setenv("KUBECONFIG", str(site.account.kubeconfig(tmp_path / "account")))
    async with site.api:
        yield site


@pytest.fixture
def fake(cluster: Cluster) -> Iterator[Fake]:
    """Only where the API server is the fake one, which can misbehave."""
    if not isinstance(cluster, Fake):
        pytest.skip("a real one can't be made to misbehave")
    yield cluster
    cluster.faults.clear()


async def test_only_its_own_key_changes(site: Site, make: Make) -> None:
    """Other keys, labels and the type stay as they are; what is right already is not written again."""
    before = site.cluster.secret(site.namespace, NAME)
    output = site.open()

    assert await output.publish(make())
    assert site.published() == make().access.value
    assert {key: value for key, value in site.data().items() if key != KEY} == OTHERS
    after = site.cluster.secret(site.namespace, NAME)
    assert before is not None
    assert after is not None
    assert (after["type"], after["metadata"]["labels"]) == (before["type"], before["metadata"]["labels"])

    version = site.version
    assert not await output.publish(make())
    assert site.version == version


async def test_it_tells_what_readers_have_without_asking(site: Site, make: Make) -> None:
    """A probe comes every few seconds, and must not hang on an API server: what was seen last is told."""
    output = site.open()
    assert (await output.read_back()).problem == "has not been looked at yet"

    await output.publish(make())
    with site.cluster.down():
        holding = await output.read_back()

    assert holding.fingerprint == fingerprint(make().access.value)
    assert holding.expires_at == make().access.expires_at
    assert holding.lineage == make().lineage
    assert holding.problem is None
    assert holding.mark == make().mark


async def test_what_was_seen_long_ago_is_said_to_be(site: Site, make: Make) -> None:
    """Nobody takes for knowledge what is a memory."""
    output = site.open()
    await output.publish(make())
    site.clock.now += REMEMBERED_FOR + 1

    holding = await output.read_back()

    assert holding.problem == "was last seen at 2023-11-14T22:13:20Z; what it holds now is not known"
    assert holding.fingerprint == fingerprint(make().access.value)


async def test_whatever_somebody_else_puts_there_is_seen_and_repaired(site: Site, make: Make) -> None:
    """A token of somebody else, rubbish and a deleted key are each told as what they are, and replaced."""
    output = site.open()
    await output.publish(make())
    token = {"access_token": "sim-at-somebody-elses-token", "expires_at": 1_700_001_000.0}
    for content, problem in (
        (json.dumps(token).encode(), None),
        (b"rubbish", "is not in the format"),
        (b"", "is empty"),
        (None, f"is missing: the Secret has no key {KEY}"),
    ):
        value = None if content is None else base64.b64encode(content).decode()
        site.cluster.patch("secrets", site.namespace, NAME, {"data": {KEY: value}})
        await output.look()
        holding = await output.read_back()
        assert (holding.problem or "").startswith(problem or "")
        assert holding.fingerprint == (None if problem else fingerprint(token["access_token"]))  # type: ignore[arg-type]
        assert await output.publish(make())
        assert site.published() == make().access.value


async def test_a_daemon_that_lags_behind_does_not_put_the_old_token_back(site: Site, make: Make) -> None:
    """Replicas publish to the same key: who has not heard of a refresh yet leaves alone what came of it."""
    fast, slow = site.open(state="fast"), site.open(state="slow")
    await slow.publish(make(1))
    await fast.publish(make(2))

    assert not await slow.publish(make(1))

    assert site.published() == make(2).access.value
    holding = await slow.read_back()
    assert holding.fingerprint == fingerprint(make(2).access.value)
    assert holding.mark == make(1).mark, "what another daemon published is no memory of this one"


async def test_two_that_publish_at_once_leave_the_later_token(
    site: Site, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between look and write another was faster: the API says so, and it is looked at again."""
    fast, slow = site.open(state="fast"), site.open(state="slow")
    change = site.api.change_secret

    async def overtaken(*arguments: Any, **options: Any) -> Any:
        monkeypatch.setattr(site.api, "change_secret", change)
        await fast.publish(make(3))
        return await change(*arguments, **options)

    await fast.publish(make(1))
    monkeypatch.setattr(site.api, "change_secret", overtaken)

    assert not await slow.publish(make(2))

    assert site.published() == make(3).access.value


async def test_what_somebody_writes_meanwhile_survives(
    site: Site, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between look and write another key was changed: it stays changed, and ours is written all the same."""
    output, change = site.open(), site.api.change_secret

    async def overtaken(*arguments: Any, **options: Any) -> Any:
        monkeypatch.setattr(site.api, "change_secret", change)
        site.cluster.patch("secrets", site.namespace, NAME, {"data": {"other.json": "W10="}})
        return await change(*arguments, **options)

    monkeypatch.setattr(site.api, "change_secret", overtaken)

    assert await output.publish(make())

    assert site.published() == make().access.value
    assert site.data()["other.json"] == b"[]"


async def test_a_format_without_expiry_is_known_by_every_daemon(site: Site, make: Make) -> None:
    """The annotation tells those that have not published it when it ends."""
    await site.open(state="one", format="raw").publish(make())
    other = site.open(state="other", format="raw")
    await other.look()

    assert (await other.read_back()).expires_at == make().access.expires_at


async def test_a_missing_secret_is_an_error_with_the_command_that_makes_it(site: Site, make: Make) -> None:
    """Its Role names Secrets, and a right to create can't; so an operator has to."""
    site.cluster.delete("secrets", site.namespace, NAME)
    output = site.open()

    with pytest.raises(OutputError, match=f"kubectl -n {site.namespace} create secret generic {NAME}"):
        await output.publish(make())
    assert (await output.read_back()).problem == "does not exist"

    site.cluster.make_secret(site.namespace, NAME)
    assert await output.publish(make())


async def test_a_lacking_right_prints_the_rule(site: Site, make: Make) -> None:
    """What is to be added to which Role is there to be copied."""
    site.cluster.allow(site.account, [Rule("secrets", ["get"], [NAME])])

    with pytest.raises(OutputError) as caught:
        await site.open().publish(make())

    assert f'{{apiGroups: [""], resources: [secrets], resourceNames: [{NAME}], verbs: [get, patch]}}' in str(
        caught.value
    )


@pytest.mark.parametrize(
    ("metadata", "owner"),
    [
        (
            {
                "ownerReferences": [
                    {
                        "apiVersion": "external-secrets.io/v1",
                        "kind": "ExternalSecret",
                        "name": "gmail",
                        "uid": "11111111-1111-1111-1111-111111111111",
                    }
                ]
            },
            r"the External Secrets Operator \(ExternalSecret gmail\)",
        ),
        ({"annotations": {"sealedsecrets.bitnami.com/managed": "true"}}, "the Sealed Secrets controller"),
    ],
)
async def test_a_secret_that_a_tool_writes_is_refused(
    site: Site, make: Make, metadata: dict[str, Any], owner: str
) -> None:
    """It would be overwritten in turn, and readers would find either."""
    site.cluster.patch("secrets", site.namespace, NAME, {"metadata": metadata})

    with pytest.raises(OutputError, match=rf"is written by {owner}.*, which would undo it; "):
        await site.open().publish(make())
    assert site.data() == OTHERS


async def test_a_tool_that_keeps_other_keys_is_no_reason_to_refuse(site: Site, make: Make) -> None:
    """Argo CD keeps what is in its manifest, and our key is not in it; one that is, is refused."""
    manifest = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": NAME, "namespace": site.namespace},
        "data": {"theirs": "e30="},
    }
    site.cluster.apply(manifest, manager="argocd-controller")

    assert await site.open().publish(make())
    with pytest.raises(OutputError, match=r"is written by Argo CD .*take `data` and `stringData` out"):
        await site.open(key="theirs").publish(make())


async def test_a_token_too_large_for_the_rest_of_the_secret_is_not_sent(site: Site, make: Make) -> None:
    """The API takes a mebibyte; what is there already counts."""
    site.cluster.patch(
        "secrets", site.namespace, NAME, {"data": {"big": base64.b64encode(b"x" * (2**20 - 50)).decode()}}
    )
    version = site.version

    with pytest.raises(OutputError, match="would hold more than 1048576 bytes"):
        await site.open().publish(make())
    assert site.version == version


async def test_an_outage_is_an_error_and_passes(site: Site, make: Make) -> None:
    """The reason is told, what is known stays known, and the next attempt succeeds."""
    output = site.open()
    await output.publish(make(1))
    with site.cluster.down():
        with pytest.raises(OutputError, match="the API server"):
            await output.publish(make(2))
        assert (await output.read_back()).fingerprint == fingerprint(make(1).access.value)

    assert await output.publish(make(2))


async def test_a_write_whose_answer_is_lost_is_recognised(fake: Fake, site: Site, make: Make) -> None:
    """It may have happened: the next turn finds it right, and writes nothing."""
    output = site.open()
    fake.faults.append(Fault(verb="patch", close="after"))
    with pytest.raises(OutputError):
        await output.publish(make())
    version = site.version

    assert not await output.publish(make())
    assert site.version == version
    assert (await output.read_back()).fingerprint == fingerprint(make().access.value)
