"""The Kubernetes store: what is only true of Secrets, and how every failure reads.

What all stores have in common is in test_conformance.py. A real API server is asked too where there is one.
"""

from __future__ import annotations

import base64
import json
import logging
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import msgspec
import pytest

from sidecar.clients import kubernetes as client
from sidecar.clock import SystemClock
from sidecar.config.kubernetes import SecretPlace
from sidecar.errors import ConfigError, Conflict, StoreError, Unlisted, Unwritten
from sidecar.events import StoreAsked, Warned
from sidecar.ledger import Ledger
from sidecar.ports import Held
from sidecar.stores import open_store
from sidecar.stores.kubernetes import KubernetesStore
from sidecar.tokens import Record, RefreshToken, encode_record
from tests.kube.cluster import Account, Cluster, Rule
from tests.kube.fake import Fake, Fault, Request
from tests.stores.conftest import ManualClock
from tests.stores.test_conformance import everything

if TYPE_CHECKING:
    from sidecar.events import Event
    from sidecar.ports import Store

KEY = "basketball-api/gmail"
NAME = "state-gmail"
SECRET = "sim-rt-0123456789abcdef0123456789"
RECORD = Record(lineage="first", generation=1, refresh=RefreshToken(SECRET, 1.8e9))
LATER = Record(
    lineage="first",
    generation=2,
    refresh=RefreshToken("sim-rt-abcdef0123456789abcdef0123", 1.9e9),
    replaced=(RefreshToken(SECRET, 1.8e9).fingerprint,),
)
PATIENCE = 30.0
CHART = {
    "annotations": {"helm.sh/resource-policy": "keep"},
    "labels": {"app.kubernetes.io/managed-by": "Helm"},
}


class State:
    """The Secret of one token, the account that may use it, and the admin who may do everything."""

    def __init__(self, cluster: Cluster, folder: Path) -> None:
        self.cluster = cluster
        self.namespace = cluster.namespace()
        self.rules = [Rule("secrets", ["get", "patch"], names=[NAME])]
        self.account: Account = cluster.account(self.namespace, rules=self.rules)
        self.kubeconfig = self.account.kubeconfig(folder / "kube")
        self.clock = ManualClock()

    @property
    def url(self) -> str:
        """Where the store is."""
        return f"kubernetes://{self.namespace}/state"

    def open(self, *, clock: ManualClock | None = None, patience: float = PATIENCE) -> KubernetesStore:
        """Make another daemon's store on it."""
        place = SecretPlace(self.namespace, "state")
        return KubernetesStore(place, clock or self.clock, patience=patience)

    def make(self, data: dict[str, bytes] | None = None, **rest: Any) -> None:
        """Make the Secret as the chart does."""
        self.cluster.make_secret(self.namespace, NAME, data, **{**CHART, **rest})

    def patch(self, change: dict[str, Any], *, manager: str = "kubectl-edit") -> None:
        """Change it by hand."""
        self.cluster.patch("secrets", self.namespace, NAME, change, manager=manager)

    @property
    def content(self) -> dict[str, Any]:
        """What it is like."""
        found = self.cluster.secret(self.namespace, NAME)
        assert found is not None
        return found


@pytest.fixture
def bare(cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[State]:
    """An account that may use a Secret which is not there yet."""
    made = State(cluster, tmp_path)
    monkeypatch.setenv("KUBECONFIG", str(made.kubeconfig))
    yield made
    # It serves other files' tests too.
    if isinstance(cluster, Fake):
        cluster.faults.clear()


@pytest.fixture
def state(bare: State) -> State:
    """The Secret as it is after `helm install`."""
    bare.make()
    return bare


@pytest.fixture
def faulty(fake_cluster: Fake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[State]:
    """The same at a server that can misbehave."""
    made = State(fake_cluster, tmp_path)
    made.make()
    monkeypatch.setenv("KUBECONFIG", str(made.kubeconfig))
    fake_cluster.requests.clear()
    yield made
    fake_cluster.faults.clear()


async def held(store: Store) -> Held:
    """Load the record, which must be there."""
    found = await store.load(KEY)
    assert found is not None
    return found


async def told(action: Any, kind: type[StoreError] = StoreError) -> str:
    """Return the words of a failure of exactly this kind, which no secret may be in."""
    with pytest.raises(kind) as caught:
        await action
    assert type(caught.value) is kind
    assert "sim-" not in everything(caught.value)
    return str(caught.value)


# What a record is in a Secret


async def test_a_record_lies_beside_what_others_keep(state: State) -> None:
    """Its own data key, its own annotations, a label: a write changes no more, and a deletion takes them away."""
    state.patch({"metadata": {"annotations": {"team": "pal"}, "labels": {"app": "basketball"}}})
    before = state.content["metadata"]
    async with state.open() as store:
        version = await store.write(KEY, RECORD, expected=None, lease=30)
        content = state.content
        assert set(content["data"]) == {"record"}
        new = set(content["metadata"]["annotations"]) - set(before["annotations"])
        assert new == {"token-sidecar/key", "token-sidecar/write", "token-sidecar/lease"}
        assert content["metadata"]["annotations"]["token-sidecar/key"] == KEY
        assert content["metadata"]["labels"] == {**before["labels"], "token-sidecar/holds": "record"}
        mine = {one["manager"]: one["fieldsV1"] for one in content["metadata"]["managedFields"]}[
            "token-sidecar"
        ]
        assert mine["f:data"].keys() - {"."} == {"f:record"}
        version = await store.write(KEY, RECORD, expected=version)
        assert "token-sidecar/lease" not in state.content["metadata"]["annotations"]
        await store.delete(KEY, expected=version)
    content = state.content
    assert not content.get("data")
    assert content["metadata"]["annotations"] == before["annotations"]
    assert content["metadata"]["labels"] == before["labels"]


async def test_a_right_to_get_and_patch_one_secret_is_enough(state: State) -> None:
    """Whatever a daemon does with a record, it asks for nothing but GET and PATCH of this Secret."""
    async with state.open() as store:
        version = await store.write(KEY, RECORD, expected=None, lease=30)
        version = await store.write(KEY, LATER, expected=version)
        assert (await held(store)).record == LATER
        await store.delete(KEY, expected=version)


async def test_a_write_after_a_read_is_one_request(faulty: State) -> None:
    """What was read names what is replaced: no write reads first, and none after one's own write."""
    async with faulty.open() as store:
        assert await store.load(KEY) is None
        version = await store.write(KEY, RECORD, expected=None)
        await store.write(KEY, LATER, expected=version)
    assert isinstance(faulty.cluster, Fake)
    assert [one.verb for one in faulty.cluster.requests] == ["get", "patch", "patch"]


async def test_what_others_change_beside_the_record_costs_no_conflict(state: State) -> None:
    """A label, or another key, that was set between read and write is kept, and the write goes through."""
    async with state.open() as store:
        version = await store.write(KEY, RECORD, expected=None)
        state.patch({"metadata": {"labels": {"backup": "weekly"}}, "data": {"note": "aGk="}})
        version = await store.write(KEY, LATER, expected=version)
        assert (await held(store)).version == version
    assert state.content["metadata"]["labels"]["backup"] == "weekly"
    assert set(state.content["data"]) == {"record", "note"}


async def test_a_record_that_is_edited_by_hand_is_another_version(state: State) -> None:
    """Whoever replaces the record and leaves our annotations as they are is not overwritten unread."""
    async with state.open() as store:
        version = await store.write(KEY, RECORD, expected=None)
        theirs = encode_record(Record(lineage="by hand"), KEY)
        state.cluster.patch("secrets", state.namespace, NAME, {"stringData": {"record": theirs.decode()}})
        with pytest.raises(Conflict):
            await store.write(KEY, LATER, expected=version)
        assert (await held(store)).record.lineage == "by hand"


# Leases


async def test_a_lease_counts_from_when_it_was_first_seen(state: State) -> None:
    """Each process judges by its own clock; a new one sees a whole lease, and the writer's began before it wrote."""
    near, far = ManualClock(), ManualClock()
    far.now += 5000
    async with state.open(clock=near) as one, state.open(clock=far) as two:
        await one.write(KEY, RECORD, expected=None, lease=30)
        near.now += 20
        assert (await held(one)).lease_left == pytest.approx(10)
        assert (await held(two)).lease_left == pytest.approx(30)
        far.now += 29
        assert (await held(two)).lease_left == pytest.approx(1)
        far.now += 1
        assert (await held(two)).lease_left == 0
        async with state.open(clock=far) as new:
            assert (await held(new)).lease_left == pytest.approx(30)


async def test_a_writers_lease_begins_before_it_is_sent(faulty: State) -> None:
    """However long the server takes, nobody else sees the lease end before the writer does."""
    clock = faulty.clock

    def takes_its_time(_request: Request) -> bool:
        clock.now += 5
        return False

    assert isinstance(faulty.cluster, Fake)
    async with faulty.open() as store, faulty.open() as other:
        faulty.cluster.faults.append(Fault(verb="patch", when=takes_its_time))
        await store.write(KEY, RECORD, expected=None, lease=30)
        assert (await held(store)).lease_left == pytest.approx(25)
        assert (await held(other)).lease_left == pytest.approx(30)


async def test_only_a_write_of_the_record_prolongs_a_lease(state: State) -> None:
    """A label that somebody sets does not make a dead holder's lease begin anew; the holder's renewal does."""
    clock = ManualClock()
    async with state.open() as holder, state.open(clock=clock) as other:
        version = await holder.write(KEY, RECORD, expected=None, lease=30)
        assert (await held(other)).lease_left == pytest.approx(30)
        clock.now += 20
        state.patch({"metadata": {"labels": {"backup": "weekly"}}})
        assert (await held(other)).lease_left == pytest.approx(10)
        await holder.write(KEY, RECORD, expected=version, lease=30)
        assert (await held(other)).lease_left == pytest.approx(30)


@pytest.mark.parametrize("written", ["soon", "-5", "nan", "inf", ""])
async def test_a_lease_that_makes_no_sense_is_none(state: State, written: str) -> None:
    """An annotation that was edited by hand neither breaks a load nor blocks a token for ever."""
    async with state.open() as store:
        await store.write(KEY, RECORD, expected=None, lease=30)
        state.patch({"metadata": {"annotations": {"token-sidecar/lease": written}}})
        assert (await held(store)).lease_left == 0


async def test_a_lease_by_hand_ends_all_the_same(state: State) -> None:
    """However many seconds somebody wrote there, an hour without a write is a holder's death."""
    async with state.open() as store:
        await store.write(KEY, RECORD, expected=None, lease=30)
        state.patch({"metadata": {"annotations": {"token-sidecar/lease": "1e9"}}})
        assert (await held(store)).lease_left == 3600


# What others do to it


def ledger_of(store: Store, events: list[Event], clock: ManualClock) -> Ledger:
    """Make the durable side of a token, which heals what falls back."""
    return Ledger("gmail", KEY, store, events.append, clock)


@pytest.mark.parametrize(
    "emptied",
    [
        {"data": None},
        {"data": {"record": None}},
        {"data": None, "metadata": {"annotations": None, "labels": None}},
    ],
    ids=["data dropped", "key dropped", "all dropped"],
)
async def test_what_a_tool_empties_is_written_again(state: State, emptied: dict[str, Any]) -> None:
    """A GitOps tool that drops the data makes nobody forget what is spent: the daemon that knows it writes it again."""
    events: list[Event] = []
    async with state.open() as store:
        ledger = ledger_of(store, events, state.clock)
        await ledger.sync()
        await ledger.write(LATER)
        state.patch(emptied, manager="argocd-controller")
        assert await store.load(KEY) is None
        await ledger.sync(hold=65)
        assert [type(one) for one in events if not isinstance(one, StoreAsked)] == [Warned]
        assert (await held(store)).record == LATER
        assert (await held(store)).lease_left == pytest.approx(65)


async def test_what_a_backup_brings_back_is_written_over(state: State) -> None:
    """A restored Secret holds a spent token: whoever knows a later one writes it again, and uses nothing older."""
    events: list[Event] = []
    async with state.open() as store:
        ledger = ledger_of(store, events, state.clock)
        await ledger.sync()
        await ledger.write(RECORD)
        backup = state.content
        await ledger.write(LATER)
        state.cluster.delete("secrets", state.namespace, NAME)
        assert "there is none; create it: kubectl" in await told(ledger.sync(), Unwritten)
        kept = {name: backup["metadata"][name] for name in ("name", "namespace", "annotations", "labels")}
        state.cluster.create({**backup, "metadata": kept}, manager="velero-server")
        await ledger.sync()
        assert ledger.record == LATER
        assert (await held(store)).record == LATER
    assert [type(one) for one in events if not isinstance(one, StoreAsked)] == [Warned]


async def test_an_owed_record_is_committed_once_the_secret_is_back(state: State) -> None:
    """A write that names the version of a Secret that was deleted since is a conflict, once an empty one is there."""
    async with state.open() as store:
        version = await store.write(KEY, RECORD, expected=None)
        state.cluster.delete("secrets", state.namespace, NAME)
        await told(store.write(KEY, LATER, expected=version), Unwritten)
        state.make()
        with pytest.raises(Conflict):
            await store.write(KEY, LATER, expected=version)
        await store.write(KEY, LATER, expected=None)
        assert (await held(store)).record == LATER


def deleting(state: State) -> None:
    """Have the Secret deleted, and held by somebody who wants to see it first."""
    state.make(finalizers=["example.com/wait"])
    if isinstance(state.cluster, Fake):  # which knows no finalizers
        content = state.content
        content["metadata"]["deletionTimestamp"] = "2026-11-21T01:02:03Z"
        state.cluster.faults.append(
            Fault(verb="get", status=200, body=json.dumps(content).encode(), times=None)
        )
    else:
        state.cluster.delete("secrets", state.namespace, NAME)


def applied(
    state: State, manager: str, data: dict[str, str] | None = None, text: dict[str, str] | None = None
) -> None:
    """Have a tool apply the Secret from its side of the server."""
    metadata = {"name": NAME, "namespace": state.namespace, **CHART}
    content: dict[str, Any] = {"apiVersion": "v1", "kind": "Secret", "type": "Opaque", "metadata": metadata}
    given = {"data": data, "stringData": text}
    state.cluster.apply(content | {name: part for name, part in given.items() if part}, manager=manager)


REFUSED: dict[str, tuple[Callable[[State], object], str]] = {
    "ESO by ownerReference": (
        lambda state: state.make(
            ownerReferences=[
                {
                    "apiVersion": "external-secrets.io/v1",
                    "kind": "ExternalSecret",
                    "name": "gmail",
                    "uid": "1-2-3",
                }
            ]
        ),
        "is written by the External Secrets Operator (ExternalSecret gmail), which would undo a rotation; name a",
    ),
    "ESO by label": (
        lambda state: state.make(labels={"reconcile.external-secrets.io/managed": "true"}),
        "is written by the External Secrets Operator (reconcile.external-secrets.io/managed)",
    ),
    "ESO merging": (
        lambda state: applied(state, "externalsecrets.external-secrets.io/gmail", {"client": "aGk="}),
        "is written by the External Secrets Operator (field manager externalsecrets.external-secrets.io/gmail, key",
    ),
    "SealedSecrets by ownerReference": (
        lambda state: state.make(
            ownerReferences=[
                {
                    "apiVersion": "bitnami.com/v1alpha1",
                    "kind": "SealedSecret",
                    "name": "gmail",
                    "uid": "1-2-3",
                }
            ]
        ),
        "is written by the Sealed Secrets controller (SealedSecret gmail)",
    ),
    "SealedSecrets by annotation": (
        lambda state: state.make(annotations={"sealedsecrets.bitnami.com/managed": "true"}),
        "is written by the Sealed Secrets controller (sealedsecrets.bitnami.com/managed)",
    ),
    "Argo CD": (
        lambda state: applied(state, "argocd-controller", {"seed.json": "e30="}),
        "is written by Argo CD (field manager argocd-controller, key seed.json), which would undo a rotation; take",
    ),
    "Argo CD, of stringData": (
        lambda state: applied(state, "argocd-controller", text={"seed.json": "{}"}),
        "is written by Argo CD (field manager argocd-controller, key seed.json)",
    ),
    "Flux": (
        lambda state: applied(state, "kustomize-controller", {"seed.json": "e30="}),
        "is written by Flux (field manager kustomize-controller, key seed.json)",
    ),
    "Flux's Helm": (
        lambda state: applied(state, "helm-controller", {"seed.json": "e30="}),
        "is written by Flux (field manager helm-controller, key seed.json)",
    ),
    "Helm": (
        lambda state: state.make({"seed.json": b"{}"}, manager="helm"),
        "is written by Helm (field manager helm, key seed.json)",
    ),
    "immutable": (
        lambda state: state.make(immutable=True),
        "is immutable; delete it and create it again without `immutable: true`",
    ),
    "being deleted": (
        deleting,
        "is being deleted, and finalizers hold it; see who waits for what in its `metadata.finalizers`",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
async def test_a_secret_that_is_not_ours_to_write_is_refused(bare: State, case: str) -> None:
    """Who writes the data of a Secret, or why it can't be written, is named with the way out; nothing is sent."""
    arrange, words = REFUSED[case]
    arrange(bare)
    before = bare.content["metadata"]["resourceVersion"]
    async with bare.open() as store:
        assert await store.load(KEY) is None
        message = await told(store.write(KEY, RECORD, expected=None), Unwritten)
    assert f"the store {bare.url}: the Secret {NAME} {words}" in message
    assert bare.content["metadata"]["resourceVersion"] == before


@pytest.mark.parametrize(("left", "manager"), [(2**19, "helm"), (0, "kubectl-edit")], ids=["kept", "filled"])
async def test_a_refusal_ends_with_its_reason(state: State, left: int, manager: str) -> None:
    """A commit isn't refused from memory: it holds the only copy of a pair, and must go through as soon as it may."""
    larger = msgspec.structs.replace(LATER, client_id="a" * 1000)
    async with state.open() as store:
        version = await store.write(KEY, RECORD, expected=None, lease=30)
        size = len(base64.b64decode(state.content["data"]["record"]))
        others = base64.b64encode(b"x" * (2**20 - size - left)).decode()
        state.patch({"data": {"others": others}}, manager=manager)
        for _ in range(2):
            await told(store.write(KEY, larger, expected=version), Unwritten)
        state.patch({"data": {"others": None}}, manager=manager)
        await store.write(KEY, larger, expected=version)
        assert (await held(store)).record == larger


@pytest.mark.parametrize("manager", ["argocd-controller", "kustomize-controller", "helm"])
async def test_a_tool_that_keeps_the_secret_without_its_data_is_welcome(bare: State, manager: str) -> None:
    """So the chart's own Secret is deployed, and it stays so however often that tool comes back."""
    applied(bare, manager)
    async with bare.open() as store:
        version = await store.write(KEY, RECORD, expected=None)
        applied(bare, manager)
        assert (await held(store)).version == version
        await store.write(KEY, LATER, expected=version)


async def test_a_restored_secret_is_written(bare: State) -> None:
    """A backup tool that wrote the data once is no owner."""
    bare.make({"record": encode_record(RECORD, KEY)}, manager="velero-server")
    async with bare.open() as store:
        await store.write(KEY, LATER, expected=(await held(store)).version)


async def test_another_records_secret_is_refused(state: State) -> None:
    """Two applications that lead to one Secret are told apart by what it says of itself, also while it is empty."""
    async with state.open() as store:
        await store.write(KEY, RECORD, expected=None)
        state.patch({"data": None})
        words = f"the Secret {NAME} holds the record {KEY}, not other/gmail; give each its own name prefix"
        assert words in await told(store.load("other/gmail"), Unwritten)
        assert words in await told(store.write("other/gmail", RECORD, expected=None), Unwritten)


async def test_a_secret_of_another_type_is_refused(bare: State) -> None:
    """Nothing is kept in a service account's token or a release of Helm's."""
    bare.make({"release": b"x"}, type="helm.sh/release.v1")
    async with bare.open() as store:
        assert "is of the type helm.sh/release.v1, not Opaque" in await told(store.load(KEY), Unwritten)


async def test_a_record_that_is_too_large_changes_nothing(state: State) -> None:
    """The store says how large it is and what to do, sends nothing, and keeps record and lease as they are."""
    async with state.open() as store:
        version = await store.write(KEY, RECORD, expected=None, lease=30)
        message = await told(store.write(KEY, big(2**20), expected=version), Unwritten)
        assert re.search(
            rf"the record {KEY} has 10\d{{5}} bytes, and a Secret holds 1048576 at most; ask", message
        )
        found = await held(store)
        assert (found.record, found.version, found.lease_left) == (RECORD, version, 30)


async def test_what_others_keep_in_the_secret_counts(state: State) -> None:
    """A mebibyte is the most for all values together: it is counted before anything is sent."""
    state.patch({"data": {"note": "A" * 4 * 2**18}})
    async with state.open() as store:
        message = await told(store.write(KEY, big(2**18), expected=None), Unwritten)
        assert (
            "bytes with 786432 bytes that others keep there, and a Secret holds 1048576 at most; ask"
            in message
        )
        # Just what fits: the API server counts in the same way.
        room = 2**18 - len(encode_record(big(0), KEY))
        await store.write(KEY, big(room), expected=None)


def big(size: int) -> Record:
    """Make a record with so many bytes more than an empty one."""
    return Record(lineage="big", client_id="x" * size)


# What the API server says


async def test_a_missing_secret_is_an_error(bare: State) -> None:
    """A Secret that is gone must not be taken for a record that never was: it is named, with the line that makes it."""
    words = (
        f"the store {bare.url}: the Secret {bare.namespace}/{NAME}: there is none; "
        f"create it: kubectl -n {bare.namespace} create secret generic {NAME}"
    )
    async with bare.open() as store:
        assert await told(store.load(KEY), Unwritten) == words
        assert await told(store.write(KEY, RECORD, expected=None), Unwritten) == words
        assert await told(store.delete(KEY, expected="1"), Unwritten) == words


async def test_a_missing_right_is_printed_as_a_rule(state: State) -> None:
    """Whoever we are there, and the rule that is missing, ready to be pasted into the Role."""
    rule = f'- {{apiGroups: [""], resources: [secrets], resourceNames: [{NAME}], verbs: [get, patch]}}'
    state.cluster.allow(state.account, [Rule("secrets", ["get"], names=[NAME])])
    async with state.open() as store:
        await until(lambda: store.load(KEY))
        message = await told(store.write(KEY, RECORD, expected=None), Unwritten)
        assert f"{state.account.user} may not patch it; add this rule to a Role in the namespace" in message
        assert message.endswith(f"{state.namespace} that is bound to it: {rule}")
        assert await told(store.probe(KEY), Unwritten) == message
        other = await told(store.load("basketball-api/other"), Unwritten)
        assert f"{state.account.user} may not get it" in other
        assert "resourceNames: [state-other]" in other


async def until(action: Callable[[], Any]) -> None:
    """Wait until it is allowed: a real server takes a moment to learn of a Role."""
    with anyio.fail_after(PATIENCE):
        while True:
            try:
                await action()
            except StoreError:
                await anyio.sleep(0.05)
            else:
                return


async def test_a_probe_needs_the_right_to_write_and_writes_nothing(state: State) -> None:
    """`doctor` learns whether a record could be written, and from whom it could not."""
    before = state.content
    async with state.open() as store:
        await store.probe(KEY)
    assert state.content == before

    state.patch({"immutable": True})
    async with state.open() as store:
        assert "is immutable" in await told(store.probe(KEY), Unwritten)


async def test_a_store_that_may_not_be_listed_says_so(state: State) -> None:
    """Only commands list; where the right is lacking they are told so by a kind of its own, with the rule."""
    async with state.open() as store:
        message = await told(store.keys(), Unlisted)
        assert message.endswith('- {apiGroups: [""], resources: [secrets], verbs: [list]}')


async def test_only_records_are_listed(state: State) -> None:
    """Other Secrets, emptied ones and those of another prefix are none of ours."""
    state.cluster.allow(state.account, [Rule("secrets", ["get", "patch", "list"])])
    labels = {"token-sidecar/holds": "record"}
    for name, key in (("state-other", KEY), ("mine-gmail", KEY), ("state-x", "")):
        annotations = {"token-sidecar/key": key}
        state.cluster.make_secret(
            state.namespace, name, {"record": b""}, labels=labels, annotations=annotations
        )
    async with state.open() as store:
        await until(store.keys)
        assert await store.keys() == []
        await store.write(KEY, RECORD, expected=None)
        assert await store.keys() == [KEY]
        state.patch({"data": None})
        assert await store.keys() == []


UNKNOWN = {500: "HTTP 500", 502: "HTTP 502", 503: "HTTP 503", 504: "HTTP 504"}


@pytest.mark.parametrize("code", [500, 502, 503, 504])
async def test_a_write_that_a_failing_server_got_may_have_happened(faulty: State, code: int) -> None:
    """After a 5xx nobody knows; after one of the read before it, nothing was written. Both are tried again."""
    assert isinstance(faulty.cluster, Fake)
    async with faulty.open() as store:
        faulty.cluster.faults.append(Fault(verb="get", status=code))
        assert f"can't serve it now (HTTP {code})" in await told(
            store.write(KEY, RECORD, expected=None), Unwritten
        )
        faulty.cluster.faults.append(Fault(verb="patch", status=code))
        assert f"HTTP {code}" in await told(store.write(KEY, RECORD, expected=None), StoreError)
        await store.write(KEY, RECORD, expected=None)


async def test_a_server_that_asks_for_peace_gets_it(faulty: State) -> None:
    """For as long as it asks, and no longer than 30 s, calls fail without a request: a rotated pair may be waiting."""
    cluster = faulty.cluster
    assert isinstance(cluster, Fake)
    async with faulty.open() as store:
        cluster.faults.append(Fault(verb="patch", status=429, retry_after=100_000))
        assert "HTTP 429" in await told(store.write(KEY, RECORD, expected=None), Unwritten)
        asked = len(cluster.requests)
        assert re.search(r"left alone for [123]\d s more", await told(store.load(KEY), Unwritten))
        assert len(cluster.requests) == asked
        store._api._not_before -= client.LONGEST_PAUSE
        await store.write(KEY, RECORD, expected=None)


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (400, "the API server refuses the request (HTTP 400: BadRequest); look at its log"),
        (410, "what was asked for is too old; read it again"),
        (413, "the API server refuses the request (HTTP 413"),
        (422, "the API server refuses the request (HTTP 422: Invalid); look at its log"),
    ],
)
async def test_a_refused_write_has_not_happened(faulty: State, code: int, words: str) -> None:
    """With a 4xx the server says that it has done nothing, and so does the store."""
    assert isinstance(faulty.cluster, Fake)
    body = status(code, {400: "BadRequest", 410: "Gone", 422: "Invalid"}.get(code, ""), "")
    async with faulty.open() as store:
        faulty.cluster.faults.append(Fault(verb="patch", status=code, body=body))
        assert words in await told(store.write(KEY, RECORD, expected=None), Unwritten)


def status(code: int, reason: str, message: str) -> bytes:
    """Write how an API server says no."""
    said = {
        "kind": "Status",
        "apiVersion": "v1",
        "status": "Failure",
        "message": message,
        "reason": reason,
        "code": code,
    }
    return json.dumps(said).encode()


@pytest.mark.parametrize(
    ("code", "message", "words"),
    [
        (
            403,
            'admission webhook "guard.example.com" denied the request: saw {}',
            'refuses to patch it (admission webhook "guard.example.com" denied the request)',
        ),
        (
            403,
            "ValidatingAdmissionPolicy 'no-secrets' with binding 'all' denied request: {}",
            "(ValidatingAdmissionPolicy 'no-secrets' with binding 'all' denied request)",
        ),
        (403, "secrets is forbidden: {}", "refuses to patch it (its audit log says why)"),
        (422, "Secret is invalid: data: Invalid value: {}", "HTTP 422: Invalid"),
        (
            422,
            "data: Forbidden: field is immutable when `immutable` is set: {}",
            "it is immutable; delete it",
        ),
        (500, "etcdserver: request timed out, {}", "etcdserver: request timed out"),
    ],
)
async def test_no_message_repeats_what_was_sent(faulty: State, code: int, message: str, words: str) -> None:
    """Policies and validators quote what they refuse; of their words only names are repeated."""
    assert isinstance(faulty.cluster, Fake)
    body = status(code, "Forbidden" if code == 403 else "Invalid", message.format(SECRET))
    async with faulty.open() as store:
        faulty.cluster.faults.append(Fault(verb="patch", status=code, body=body))
        with pytest.raises(StoreError) as caught:
            await store.write(KEY, RECORD, expected=None)
    assert words in str(caught.value)
    assert "sim-" not in everything(caught.value)


STRANGE = {
    "page": b"<html>login</html>",
    "empty": b"{}",
    "null": b"null",
    "half": b'{"kind":"Secret","metadata":{}}',
    "Latin-1": b'{"kind":"\xff"}',
    "deep": b'{"details":' + b"[" * 100_000,
}


@pytest.mark.parametrize("body", STRANGE.values(), ids=STRANGE)
@pytest.mark.parametrize("code", [200, 404])
async def test_what_is_no_kubernetes_api_is_not_believed(faulty: State, code: int, body: bytes) -> None:
    """A page of a proxy is neither an empty Secret nor a missing one: a token would be taken for unseeded."""
    assert isinstance(faulty.cluster, Fake)
    faulty.cluster.faults.append(Fault(verb="get", status=code, body=body))
    async with faulty.open() as store:
        message = await told(store.load(KEY), Unwritten)
    assert "is no Kubernetes API" in message or "make sure that it is a Kubernetes API" in message


@pytest.mark.parametrize("moment", ["before", "after"])
async def test_a_lost_reply_is_told_by_the_next_load(faulty: State, moment: str) -> None:
    """A write whose answer never came may have happened; a load tells, and the same write can't happen twice."""
    assert isinstance(faulty.cluster, Fake)
    async with faulty.open() as store:
        version = await store.write(KEY, RECORD, expected=None)
        faulty.cluster.faults.append(Fault(verb="patch", close=moment))  # type: ignore[arg-type]
        assert "connection to the API server broke" in await told(
            store.write(KEY, LATER, expected=version), StoreError
        )
        if moment == "after":
            with pytest.raises(Conflict):
                await store.write(KEY, LATER, expected=version)
            assert (await held(store)).record == LATER
        else:
            assert (await held(store)).version == version
            await store.write(KEY, LATER, expected=version)


async def test_whoever_waits_no_more_asks_no_more(faulty: State) -> None:
    """A call that has begun is seen home; behind a cancellation none begins."""
    assert isinstance(faulty.cluster, Fake)
    async with faulty.open() as store:
        with anyio.CancelScope() as scope:
            scope.cancel()
            await store.load(KEY)
    assert scope.cancelled_caught
    assert list(faulty.cluster.requests) == []


async def test_a_silent_server_holds_nobody_up(faulty: State) -> None:
    """A call ends in time; what was being read has changed nothing, what was being written may have."""
    cluster = faulty.cluster
    assert isinstance(cluster, Fake)
    async with faulty.open(patience=0.5) as store:
        await until(lambda: store.load(KEY))
        cluster.faults.append(Fault(delay=1, times=None))
        assert "did not answer for 0.5 s" in await once_connected(lambda: store.load(KEY), Unwritten)
        await once_connected(lambda: store.write(KEY, LATER, expected=None), StoreError)
        # Each is in time, and together they are longer than a call may be.
        cluster.faults[:] = [Fault(delay=0.4, status=401, times=None)]
        assert "did not answer for 0.5 s" in await once_connected(lambda: store.load(KEY), Unwritten)
        with cluster.silent():
            assert "can't be reached (no connection in time)" in await told(store.load(KEY), Unwritten)


async def once_connected(action: Callable[[], Any], kind: type[StoreError]) -> str:
    """Return the words of the first failure that was not one to connect, on a machine that may be busy."""
    while True:
        with pytest.raises(StoreError) as caught:
            await action()
        if "can't be reached" not in str(caught.value):
            assert type(caught.value) is kind
            return str(caught.value)


async def test_a_write_that_has_begun_is_waited_for(faulty: State) -> None:
    """A cancellation in the middle leaves nobody in doubt: the write ends as it would have."""
    assert isinstance(faulty.cluster, Fake)
    async with faulty.open() as store:
        await store.load(KEY)
        faulty.cluster.faults.append(Fault(verb="patch", late=0.5))
        version = ""
        with anyio.move_on_after(0.1):
            version = await store.write(KEY, RECORD, expected=None)
        assert version == (await held(store)).version


async def test_nothing_is_logged_about_its_requests(
    faulty: State, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At debug level the HTTP library would write what travels."""
    loggers = [logging.getLogger(name) for name in ("httpx2", "httpcore2.connection", "httpcore2.http11")]
    for logger in loggers:
        monkeypatch.setattr(logger, "disabled", False)
    caplog.set_level(logging.DEBUG)
    async with faulty.open() as store:
        await store.write(KEY, RECORD, expected=None)
    assert not [one.name for one in caplog.records if one.name.startswith("http")]


async def test_a_server_that_is_away_is_waited_for(state: State) -> None:
    """A daemon starts while the API server is away: each call says so at once, and works when it is back."""
    with state.cluster.down():
        async with state.open() as store:
            message = await told(store.load(KEY), Unwritten)
            assert re.search(
                r"can't be reached \(connection (refused|reset by peer)\); the next call", message
            )
            await told(store.write(KEY, RECORD, expected=None), Unwritten)
    async with state.open() as store:
        version = await store.write(KEY, RECORD, expected=None)
        with state.cluster.down():
            # That may be noticed on a connection which was there before, when part of it is sent.
            with pytest.raises(StoreError):
                await store.write(KEY, LATER, expected=version)
            await told(store.write(KEY, LATER, expected=version), Unwritten)
        await until(lambda: store.write(KEY, LATER, expected=version))


# Who we are there


@pytest.fixture
def pod(state: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Live as in a pod: no kubeconfig, a projected token, and a proxy for the way to providers."""
    folder = state.account.mount(tmp_path / "serviceaccount")
    monkeypatch.setattr(client, "ACCOUNT", folder)
    monkeypatch.delenv("KUBECONFIG")
    for name, value in state.account.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    return folder


@pytest.mark.usefixtures("pod")
async def test_a_pods_token_is_read_again_when_it_has_rotated(state: State) -> None:
    """The old token ends, the new one lies in its place: one refusal, and the call goes through."""
    async with state.open() as store:
        version = await store.write(KEY, RECORD, expected=None)
        old = state.account.token
        state.account.renew()
        state.cluster.revoke_tokens(state.namespace, state.account.name, old)
        state.account.renew()
        before = len(refused(state))
        version = await store.write(KEY, LATER, expected=version)
        assert (await held(store)).version == version
        if state.cluster.kind == "fake":
            assert len(refused(state)) == before + 1


def refused(state: State) -> list[Any]:
    """Return the requests that were answered with 401."""
    cluster = state.cluster
    return [one for one in cluster.requests if one.status == 401] if isinstance(cluster, Fake) else []


@pytest.mark.usefixtures("pod")
async def test_a_kubeconfig_that_is_named_goes_first(
    state: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever sets $KUBECONFIG in a pod means it, as with kubectl."""
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "other"))
    with pytest.raises(ConfigError, match=r"\$KUBECONFIG names .*other, which is no file"):
        async with state.open():
            pass


async def test_a_token_that_is_refused_is_told(state: State, pod: Path) -> None:
    """An account that is gone is named with what to look at; with a token that works the next call goes through."""
    async with state.open() as store:
        assert await store.load(KEY) is None
        state.account.revoke()
        message = await told(store.load(KEY), Unwritten)
        assert "does not know us (401), even with the token read anew; look at the service account" in message
        (pod / "token").unlink()
        message = await told(store.load(KEY), Unwritten)
        assert "neither a service account's token nor a kubeconfig" in message
        state.account.renew()
        assert await store.load(KEY) is None


async def test_another_authority_is_taken_up(state: State, pod: Path) -> None:
    """A cluster's CA that changes under a daemon is read again after the call that was refused for it."""
    right = (pod / "ca.crt").read_bytes()
    from tests import pki

    (pod / "ca.crt").write_bytes(pki.Authority("somebody else").certificate)
    async with state.open() as store:
        message = await told(store.load(KEY), Unwritten)
        assert "the API server's certificate is refused" in message
        (pod / "ca.crt").write_bytes(right)
        assert await store.load(KEY) is None


@pytest.mark.parametrize(
    ("kubeconfig", "words"),
    [
        (None, "there is neither a service account's token nor a kubeconfig; in a pod, project a token into"),
        (
            "homeless",
            "there is neither a service account's token nor a kubeconfig; in a pod, project a token",
        ),
        ("missing", "which is no file; name one file there"),
        ("text: [", "can't be used (ParserError); correct it"),
        ("clusters: []", "can't be used ('contexts' is missing); correct it"),
        ("{clusters: [], contexts: [], current-context: x}", "Context 'x' not found"),
    ],
)
async def test_no_way_to_an_api_is_told_at_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kubeconfig: str | None, words: str
) -> None:
    """Without a configuration no later call can work: opening the store says what is missing, and where."""
    monkeypatch.setattr(client, "ACCOUNT", tmp_path / "nothing")
    monkeypatch.setattr(client, "DEFAULT_KUBECONFIG", tmp_path / "nothing")
    monkeypatch.delenv("KUBECONFIG", raising=False)
    if kubeconfig == "homeless":
        monkeypatch.setattr(client, "DEFAULT_KUBECONFIG", Path("~nobody-of-this-name/.kube/config"))
    elif kubeconfig is not None:
        path = tmp_path / "kubeconfig"
        monkeypatch.setenv("KUBECONFIG", str(path))
        if kubeconfig != "missing":
            path.write_text(kubeconfig, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        async with open_store("kubernetes://ns/state", SystemClock()):
            pass
    assert words in str(caught.value)
    assert str(caught.value).startswith("store: ")
