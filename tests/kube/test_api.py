"""What we know of Kubernetes' API, asked of the fake server and of a real one: so the fake can be trusted."""

from __future__ import annotations

import base64
import json
import threading
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

import httpx2
import lightkube
import pytest
from lightkube.config.kubeconfig import KubeConfig
from lightkube.core.exceptions import ApiError
from lightkube.resources.core_v1 import Secret
from lightkube.types import PatchType

from tests.kube import apiserver, objects
from tests.kube.cluster import MERGE, STRATEGIC, ApiTrouble, Cluster, Object, Rule, place
from tests.kube.fake import Fake, Fault

if TYPE_CHECKING:
    from pathlib import Path

STATE = "state-gmail"
OURS = Rule("secrets", ["get", "update", "patch", "watch"], [STATE])


def encoded(text: str | bytes) -> str:
    """Write what a Secret holds."""
    return base64.b64encode(text.encode() if isinstance(text, str) else text).decode()


def status(answer: httpx2.Response) -> Object:
    """Read a refusal, without what says nothing."""
    said: Object = answer.json()
    assert (said["kind"], said["apiVersion"], said["status"]) == ("Status", "v1", "Failure")
    assert answer.status_code == said["code"]
    return {key: said[key] for key in ("code", "reason", "message", "details") if said.get(key)}


def version(content: Object) -> str:
    """Return an object's `resourceVersion`."""
    return str(content["metadata"]["resourceVersion"])


def owners(content: Object) -> dict[str, set[str]]:
    """Return who owns which fields; not who owns the maps that they are in, which releases see differently."""
    owned: dict[str, set[str]] = {}
    for entry in content["metadata"]["managedFields"]:
        paths = ("/".join(path).replace("f:", "") for path in objects.read(entry["fieldsV1"]))
        fields = {path for path in paths if path not in {"data", "metadata/annotations", "metadata/labels"}}
        owned[f"{entry['manager']} by {entry['operation']}"] = fields
    return {who: fields for who, fields in owned.items() if fields}


# Who may do what


def test_a_role_with_names_allows_just_its_verbs_on_just_these_objects(
    cluster: Cluster, namespace: str
) -> None:
    """With get, update, patch and watch on one Secret, all else is refused, and the server says what was missing."""
    account = cluster.account(namespace, rules=[OURS])
    cluster.make_secret(namespace, STATE)
    cluster.make_secret(namespace, "other")
    mine, others, all_of_them = (place("secrets", namespace, name) for name in (STATE, "other", None))

    def refused(method: str, path: str, verb: str, name: str, body: Any = None, **query: Any) -> None:
        answer = cluster.ask(method, path, body, token=account.token, **query)
        named = f' "{name}"' if name else ""
        assert status(answer) == {
            "code": 403,
            "reason": "Forbidden",
            "message": f'secrets{named} is forbidden: User "{account.user}" cannot {verb} resource "secrets" in API '
            f'group "" in the namespace "{namespace}"',
            "details": {"kind": "secrets"} | ({"name": name} if name else {}),
        }

    assert cluster.ask("GET", mine, token=account.token).status_code == 200
    refused("GET", others, "get", "other")
    refused("GET", all_of_them, "list", "")
    refused("GET", all_of_them, "list", STATE, fieldSelector=f"metadata.name={STATE}")
    refused("GET", all_of_them, "watch", "", watch="true")
    refused("POST", all_of_them, "create", "", {"metadata": {"name": "new"}})
    refused("DELETE", mine, "delete", STATE)
    assert cluster.may(account, "patch", "secrets", namespace, STATE)
    assert not cluster.may(account, "patch", "secrets", namespace, "other")


def test_an_account_asks_for_its_own_rights(cluster: Cluster, namespace: str) -> None:
    """Everybody who is known may ask what he may do."""
    account = cluster.account(namespace, rules=[OURS])

    def allowed(name: str) -> bool:
        what = {"namespace": namespace, "verb": "patch", "resource": "secrets", "name": name}
        review = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": what},
        }
        path = "apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
        answer = cluster.ask("POST", path, review, token=account.token)
        assert answer.status_code == 201
        return bool(answer.json()["status"]["allowed"])

    assert allowed(STATE)
    assert not allowed("other")


def test_rights_in_another_namespace_are_given_there(cluster: Cluster, namespace: str) -> None:
    """A Role says nothing of other namespaces; one there, bound to an account from here, does."""
    elsewhere = cluster.namespace()
    account = cluster.account(namespace, rules=[OURS])
    cluster.make_secret(elsewhere, STATE)
    there = place("secrets", elsewhere, STATE)
    assert cluster.ask("GET", there, token=account.token).status_code == 403
    cluster.allow(account, [OURS], namespace=elsewhere)
    assert cluster.ask("GET", there, token=account.token).status_code == 200


def test_no_token_is_anonymous_and_a_bad_one_is_nobody(cluster: Cluster, namespace: str) -> None:
    """Without a token it is 403 for somebody anonymous; with a wrong one 401, whatever is asked for."""
    cluster.make_secret(namespace, STATE)
    path = place("secrets", namespace, STATE)
    anonymous = status(cluster.ask("GET", path, token=None))
    assert (anonymous["code"], "system:anonymous" in anonymous["message"]) == (403, True)
    wrong = status(cluster.ask("GET", path, token="sim-at-0123456789abcdef"))
    assert wrong == {"code": 401, "reason": "Unauthorized", "message": "Unauthorized"}


def test_old_and_new_token_work_until_they_are_revoked(
    cluster: Cluster, namespace: str, tmp_path: Path
) -> None:
    """A renewed token is in the mounted file, the one before it goes on working, and revoking ends both."""
    account = cluster.account(namespace, rules=[OURS])
    cluster.make_secret(namespace, STATE)
    folder = account.mount(tmp_path / "account")
    path, old = place("secrets", namespace, STATE), account.token
    account.renew()
    assert (folder / "token").read_text(encoding="utf-8") == account.token != old
    assert [cluster.ask("GET", path, token=token).status_code for token in (old, account.token)] == [200, 200]
    account.revoke()
    assert cluster.ask("GET", path, token=account.token).status_code == 401
    account.renew()
    assert cluster.ask("GET", path, token=account.token).status_code == 200


# Writes


def test_a_stale_write_is_refused_and_changes_nothing(cluster: Cluster, namespace: str) -> None:
    """PUT and PATCH that name an older version are 409; those that name the newest, or none, are done."""
    before = version(cluster.make_secret(namespace, STATE))
    now = cluster.patch("secrets", namespace, STATE, {"data": {"record": encoded("first")}})
    path = place("secrets", namespace, STATE)
    whole = {"metadata": {"name": STATE, "resourceVersion": before}, "data": {"record": encoded("lost")}}
    for answer in (
        cluster.ask("PATCH", path, whole, content_type=MERGE),
        cluster.ask("PATCH", path, whole, content_type=STRATEGIC),
        cluster.ask("PUT", path, whole),
    ):
        assert status(answer) == {
            "code": 409,
            "reason": "Conflict",
            "message": f'Operation cannot be fulfilled on secrets "{STATE}": the object has been modified; please '
            "apply your changes to the latest version and try again",
            "details": {"name": STATE, "kind": "secrets"},
        }
    assert cluster.secret(namespace, STATE) == now
    whole["metadata"]["resourceVersion"] = version(now)
    newer = cluster.ask("PATCH", path, whole, content_type=MERGE)
    assert newer.status_code == 200
    assert version(newer.json()) != version(now)
    assert cluster.ask("PUT", path, {"metadata": {"name": STATE}}).status_code == 200
    assert cluster.secret_data(namespace, STATE) == {}


def test_a_write_that_changes_nothing_is_no_new_version(cluster: Cluster, namespace: str) -> None:
    """A PATCH with what is there leaves the version, so a version alone does not tell one write from another."""
    cluster.make_secret(namespace, STATE)
    change = {"data": {"record": encoded("same")}}
    first = cluster.patch("secrets", namespace, STATE, change)
    again = cluster.patch("secrets", namespace, STATE, change, manager="somebody")
    assert version(first) == version(again)


def test_a_merge_patch_changes_what_it_names(cluster: Cluster, namespace: str) -> None:
    """Keys that it does not name stay, those that it names as null go, and an empty map is none."""
    cluster.make_secret(namespace, STATE, {"a": b"1", "b": b"2"}, annotations={"x": "1", "y": "2"})
    change = {"data": {"b": None, "c": encoded("3")}, "metadata": {"annotations": {"x": None}}}
    now = cluster.patch("secrets", namespace, STATE, change)
    assert now["data"] == {"a": encoded("1"), "c": encoded("3")}
    assert now["metadata"]["annotations"] == {"y": "2"}
    emptied = cluster.patch(
        "secrets", namespace, STATE, {"data": {"a": None, "c": None}, "metadata": {"annotations": None}}
    )
    assert "data" not in emptied
    assert "annotations" not in emptied["metadata"]
    texts = cluster.patch("secrets", namespace, STATE, {"stringData": {"d": "ü"}, "dta": {"e": "misspelt"}})
    assert texts["data"] == {"d": encoded("ü")}
    assert not {"stringData", "dta"} & texts.keys()


def test_a_dry_run_is_answered_and_not_done(cluster: Cluster, namespace: str) -> None:
    """With dryRun=All the answer shows what would be."""
    cluster.make_secret(namespace, STATE)
    path, change = place("secrets", namespace, STATE), {"data": {"record": encoded("x")}}
    answer = cluster.ask("PATCH", path, change, content_type=MERGE, dryRun="All")
    assert answer.json()["data"] == change["data"]
    assert cluster.secret_data(namespace, STATE) == {}


def test_what_is_not_there(cluster: Cluster, namespace: str) -> None:
    """A missing Secret is 404 for every verb, a missing namespace 404 for creation; a second of a name is 409."""
    path = place("secrets", namespace, "nope")
    missing = {
        "code": 404,
        "reason": "NotFound",
        "message": 'secrets "nope" not found',
        "details": {"name": "nope", "kind": "secrets"},
    }
    assert status(cluster.ask("GET", path)) == missing
    assert status(cluster.ask("PUT", path, {"metadata": {"name": "nope"}})) == missing
    assert status(cluster.ask("PATCH", path, {"data": {}}, content_type=MERGE)) == missing
    assert status(cluster.ask("DELETE", path)) == missing
    content = {"metadata": {"name": STATE}}
    nowhere = status(cluster.ask("POST", place("secrets", "no-such-namespace"), content))
    assert (nowhere["code"], nowhere["message"]) == (404, 'namespaces "no-such-namespace" not found')
    assert cluster.ask("POST", place("secrets", namespace), content).status_code == 201
    twice = status(cluster.ask("POST", place("secrets", namespace), content))
    assert (twice["code"], twice["reason"]) == (409, "AlreadyExists")


def test_a_secret_made_anew_has_another_uid(cluster: Cluster, namespace: str) -> None:
    """Deleted and created again it is another object, and a version of the first is none of the second."""
    first = cluster.make_secret(namespace, STATE)
    cluster.delete("secrets", namespace, STATE)
    second = cluster.make_secret(namespace, STATE)
    assert first["metadata"]["uid"] != second["metadata"]["uid"]
    change = {"metadata": {"resourceVersion": version(first)}, "data": {"a": encoded("1")}}
    with pytest.raises(ApiTrouble, match="has been modified"):
        cluster.patch("secrets", namespace, STATE, change)


# What it refuses


def test_what_a_secret_may_hold(cluster: Cluster, namespace: str) -> None:
    """Data to one MiB, annotations to a quarter of it, keys without blanks, names in lower case."""
    cluster.make_secret(namespace, STATE)
    path = place("secrets", namespace, STATE)

    def wrong(change: Object) -> tuple[int, list[str]]:
        said = status(cluster.ask("PATCH", path, change, content_type=MERGE))
        assert said["reason"] == "Invalid"
        assert said["message"].startswith(f'Secret "{STATE}" is invalid: ')
        return said["code"], sorted({cause["field"] for cause in said["details"]["causes"]})

    assert wrong({"data": {"record": encoded(bytes((1 << 20) + 1))}}) == (422, ["data"])
    assert wrong({"data": {"re cord": encoded("1")}}) == (422, ["data[re cord]"])
    assert wrong({"metadata": {"annotations": {"long": "x" * (1 << 18)}}}) == (422, ["metadata.annotations"])
    assert wrong({"metadata": {"annotations": {"with blank": "x"}}}) == (422, ["metadata.annotations"])
    assert wrong({"type": "another"}) == (422, ["type"])
    assert cluster.ask(
        "PATCH", path, {"data": {"record": encoded(bytes(1 << 20))}}, content_type=MERGE
    ).is_success
    with pytest.raises(ApiTrouble, match="a lowercase RFC 1123 subdomain"):
        cluster.make_secret(namespace, "Not_A_Name")


def test_a_body_above_three_mib_is_not_even_read(cluster: Cluster, namespace: str) -> None:
    """It is 413."""
    cluster.make_secret(namespace, STATE)
    change = {"data": {"record": "x" * (3 << 20)}}
    answer = cluster.ask("PATCH", place("secrets", namespace, STATE), change, content_type=MERGE)
    said = status(answer)
    assert (said["code"], said["reason"]) == (413, "RequestEntityTooLarge")


def test_a_refused_patch_may_repeat_the_secret_in_its_message(cluster: Cluster, namespace: str) -> None:
    """What is no base64 is refused in words that hold all the rest of the Secret: never to be put into a log."""
    cluster.make_secret(namespace, STATE, {"old": b"a-secret-of-before"})
    change = {"data": {"record": "%%%"}}
    said = status(cluster.ask("PATCH", place("secrets", namespace, STATE), change, content_type=MERGE))
    assert (said["code"], said["reason"]) == (422, "Invalid")
    assert cluster.kind == "real" or encoded("a-secret-of-before") in said["message"]
    created = status(cluster.ask("POST", place("secrets", namespace), {"metadata": {"name": "n"}} | change))
    assert (created["code"], created["reason"]) == (400, "BadRequest")


def test_an_immutable_secret_keeps_its_data(cluster: Cluster, namespace: str) -> None:
    """Its data can't be changed, its annotations can, and it can't be made mutable."""
    cluster.make_secret(namespace, STATE, {"a": b"1"}, immutable=True)
    for change in ({"data": {"a": encoded("2")}}, {"immutable": False}):
        with pytest.raises(ApiTrouble, match="field is immutable when `immutable` is set"):
            cluster.patch("secrets", namespace, STATE, change)
    cluster.patch("secrets", namespace, STATE, {"metadata": {"annotations": {"a": "b"}}})


def test_an_object_is_what_its_path_says(cluster: Cluster, namespace: str) -> None:
    """Another name or namespace in the body is 400, another uid 422, another type of patch 415."""
    cluster.make_secret(namespace, STATE)
    path = place("secrets", namespace, STATE)

    def code(metadata: Object) -> int:
        return cluster.ask("PATCH", path, {"metadata": metadata}, content_type=MERGE).status_code

    assert [code({"name": "x"}), code({"namespace": "x"}), code({"uid": "x"})] == [400, 400, 422]
    assert cluster.ask("PATCH", path, {"data": {}}).status_code == 415
    assert cluster.ask("GET", "apis/nonsense/v1/things").status_code == 404


# Who owns which field


def test_whoever_changes_a_field_owns_it(cluster: Cluster, namespace: str) -> None:
    """Ownership goes with the value: by creation, by a patch, from one to the other, and away with the field."""
    made = cluster.make_secret(namespace, STATE, annotations={"x": "y"}, manager="helm")
    assert owners(made) == {"helm by Update": {"metadata/annotations/x", "type"}}

    note = {"metadata": {"annotations": {"token-sidecar/key": "a/b"}}, "data": {"record": encoded("1")}}
    ours = cluster.patch("secrets", namespace, STATE, note, manager="token-sidecar")
    assert owners(ours) == {
        **owners(made),
        "token-sidecar by Update": {"data/record", "metadata/annotations/token-sidecar/key"},
    }
    taken = cluster.patch("secrets", namespace, STATE, {"data": {"record": encoded("2")}}, manager="thief")
    assert owners(taken) == {
        **owners(made),
        "thief by Update": {"data/record"},
        "token-sidecar by Update": {"metadata/annotations/token-sidecar/key"},
    }
    gone = {"metadata": {"annotations": {"token-sidecar/key": None}}, "data": {"record": None}}
    assert owners(cluster.patch("secrets", namespace, STATE, gone, manager="x")) == owners(made)


def test_what_is_applied_belongs_to_who_applied_it(cluster: Cluster, namespace: str) -> None:
    """Applied fields are owned until they are applied no more, or changed by another: then applying is a conflict."""

    def config(**data: str) -> Object:
        content = {key: encoded(value) for key, value in data.items()}
        metadata = {"name": STATE, "namespace": namespace, "labels": {"app": "x"}}
        return {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "data": content}

    first = cluster.apply(config(a="1"), manager="argocd-controller", force=False)
    applied = {"data/a", "metadata/labels/app"}
    assert owners(first) == {"argocd-controller by Apply": applied}

    changed = cluster.patch(
        "secrets", namespace, STATE, {"data": {"a": encoded("2")}}, manager="token-sidecar"
    )
    assert owners(changed) == {
        "argocd-controller by Apply": {"metadata/labels/app"},
        "token-sidecar by Update": {"data/a"},
    }
    with pytest.raises(ApiTrouble, match=r'conflict with \\"token-sidecar\\" using v1.*: .data.a'):
        cluster.apply(config(a="1"), manager="argocd-controller", force=False)
    assert cluster.secret_data(namespace, STATE) == {"a": b"2"}

    forced = cluster.apply(config(a="1"), manager="argocd-controller")
    assert owners(forced) == {"argocd-controller by Apply": applied}
    assert cluster.secret_data(namespace, STATE) == {"a": b"1"}
    cluster.apply(config(b="1"), manager="argocd-controller")
    assert cluster.secret_data(namespace, STATE) == {"b": b"1"}


def test_applied_text_is_owned_as_text(cluster: Cluster, namespace: str) -> None:
    """Whoever applies `stringData` owns no field of `data`, and keeps it where it can't be read."""
    metadata = {"name": STATE, "namespace": namespace}
    manifest = {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": {"a": "1"}}
    made = cluster.apply(manifest, manager="argocd-controller")
    assert owners(made) == {"argocd-controller by Apply": {"stringData/a"}}
    assert cluster.secret_data(namespace, STATE) == {"a": b"1"}


def test_applying_metadata_alone_leaves_the_data(cluster: Cluster, namespace: str) -> None:
    """A GitOps tool whose manifest has no data owns none, and syncs for ever without touching it."""
    metadata = {"name": STATE, "namespace": namespace, "annotations": {"argocd.argoproj.io/tracking-id": "x"}}
    manifest = {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "type": "Opaque"}
    cluster.apply(manifest, manager="argocd-controller")
    cluster.patch("secrets", namespace, STATE, {"data": {"record": encoded("1")}}, manager="token-sidecar")
    synced = cluster.apply(manifest, manager="argocd-controller")
    assert owners(synced)["token-sidecar by Update"] == {"data/record"}
    assert not any(field.startswith("data/") for field in owners(synced)["argocd-controller by Apply"])
    assert cluster.secret_data(namespace, STATE) == {"record": b"1"}


def test_an_owner_is_kept_and_owned(cluster: Cluster, namespace: str) -> None:
    """An ownerReference stays through our patches, and whoever applied it can take it away."""
    reference = {"apiVersion": "external-secrets.io/v1", "kind": "ExternalSecret", "name": "e", "uid": "1-2"}
    manifest = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": STATE, "namespace": namespace, "ownerReferences": [reference]},
    }
    cluster.apply(manifest, manager="external-secrets")
    ours = cluster.patch("secrets", namespace, STATE, {"data": {"a": encoded("1")}}, manager="token-sidecar")
    assert [reference.items() <= one.items() for one in ours["metadata"]["ownerReferences"]] == [True]
    assert 'k:{"uid":"1-2"}' in str(owners(ours)["external-secrets by Apply"])
    del manifest["metadata"]["ownerReferences"]  # type: ignore[attr-defined]
    assert "ownerReferences" not in cluster.apply(manifest, manager="external-secrets")["metadata"]


# Watches


class Watching:
    """A watch in a thread of its own, until it has seen so many events or its end."""

    def __init__(
        self, cluster: Cluster, namespace: str, token: str, *, until: int = 1000, **query: str
    ) -> None:
        self.seen: list[tuple[str, Object]] = []
        self.ended = False
        self._thread = threading.Thread(
            target=self._run, args=(cluster, namespace, token, until, query), daemon=True
        )
        self._thread.start()

    def _run(self, cluster: Cluster, namespace: str, token: str, until: int, query: dict[str, str]) -> None:
        url = f"{cluster.url}/{place('secrets', namespace)}"
        chosen = {"watch": "true", "fieldSelector": f"metadata.name={STATE}", **query}
        headers = {"Authorization": f"Bearer {token}"}
        with cluster.client.stream("GET", url, params=chosen, headers=headers, timeout=60) as answer:
            assert answer.status_code == 200, answer.read()
            for line in answer.iter_lines():
                event = json.loads(line)
                self.seen.append((event["type"], event["object"]))
                if len(self.seen) >= until:
                    return
        self.ended = True

    def results(self) -> list[str]:
        """Wait for its end; return the types of what came."""
        self._thread.join(60)
        assert not self._thread.is_alive(), f"it saw no more than {self.seen}"
        return [what for what, _ in self.seen]


def test_a_watch_of_one_object_sees_each_of_its_changes(cluster: Cluster, namespace: str) -> None:
    """From the version of a GET on, it sees every change to this object and none to another; then a deletion."""
    account = cluster.account(namespace, rules=[OURS])
    since = version(cluster.make_secret(namespace, STATE))
    watch = Watching(cluster, namespace, account.token, until=3, resourceVersion=since)
    cluster.make_secret(namespace, "other")
    cluster.patch("secrets", namespace, STATE, {"data": {"a": encoded("1")}})
    cluster.patch("secrets", namespace, STATE, {"metadata": {"labels": {"a": "b"}}})
    cluster.delete("secrets", namespace, STATE)
    assert watch.results() == ["MODIFIED", "MODIFIED", "DELETED"]
    assert watch.seen[0][1]["data"] == {"a": encoded("1")}


def test_a_watch_from_nowhere_begins_with_what_is_there(cluster: Cluster, namespace: str) -> None:
    """Without a version it tells the object first; it ends by itself when its time is over."""
    account = cluster.account(namespace, rules=[OURS])
    cluster.make_secret(namespace, STATE)
    watch = Watching(cluster, namespace, account.token, timeoutSeconds="1")
    assert (watch.results(), watch.ended) == (["ADDED"], True)


def test_a_watch_whose_version_is_too_old_is_gone(cluster: Cluster, namespace: str) -> None:
    """After a restart the history begins anew: 410 as an event, and a watch from a fresh GET works."""
    account = cluster.account(namespace, rules=[OURS])
    old = version(cluster.make_secret(namespace, STATE))
    for number in range(3):
        cluster.patch("secrets", namespace, STATE, {"data": {"a": encoded(str(number))}})
    with cluster.down(), pytest.raises(httpx2.ConnectError):
        cluster.ask("GET", "readyz")
    watch = Watching(cluster, namespace, account.token, resourceVersion=old)
    assert watch.results() == ["ERROR"]
    gone = watch.seen[0][1]
    assert (gone["kind"], gone["code"], gone["reason"]) == ("Status", 410, "Expired")
    found = cluster.secret(namespace, STATE)
    assert found is not None
    fresh = Watching(cluster, namespace, account.token, until=1, resourceVersion=version(found))
    cluster.patch("secrets", namespace, STATE, {"data": {"a": encoded("new")}})
    assert fresh.results() == ["MODIFIED"]


def test_lists_and_their_selectors(cluster: Cluster, namespace: str) -> None:
    """An admin lists by labels and by name."""
    cluster.make_secret(namespace, "a", labels={"app": "x"})
    cluster.make_secret(namespace, "b", labels={"app": "y"})

    def names(**query: Any) -> list[str]:
        found = cluster.ask("GET", place("secrets", namespace), **query).json()
        assert found["kind"] == "SecretList"
        return [one["metadata"]["name"] for one in found["items"]]

    assert names() == ["a", "b"]
    assert names(labelSelector="app=y") == ["b"]
    assert names(fieldSelector="metadata.name=a") == ["a"]


# Workloads


@pytest.mark.parametrize(
    ("kind", "resource"),
    [("Deployment", "deployments"), ("StatefulSet", "statefulsets"), ("DaemonSet", "daemonsets")],
)
def test_a_new_note_in_its_template_restarts_a_workload(
    cluster: Cluster, namespace: str, kind: str, resource: str
) -> None:
    """A strategic merge patch of the template's annotations is a new generation; the rest of it stays."""
    account = cluster.account(namespace, rules=[Rule(resource, ["get", "patch"], ["app"])])
    labels = {"app": "x"}
    cluster.create(
        {
            "apiVersion": "apps/v1",
            "kind": kind,
            "metadata": {"name": "app", "namespace": namespace},
            "spec": {
                "selector": {"matchLabels": labels},
                "template": {
                    "metadata": {"labels": labels},
                    "spec": {"containers": [{"name": "app", "image": "app:1"}]},
                },
                **({"serviceName": "app"} if kind == "StatefulSet" else {}),
            },
        }
    )
    note = {"kubectl.kubernetes.io/restartedAt": "2026-11-21T00:00:00Z"}
    change = {"spec": {"template": {"metadata": {"annotations": note}}}}
    path = place(resource, namespace, "app")
    for way in (STRATEGIC, MERGE):
        answer = cluster.ask("PATCH", path, change, token=account.token, content_type=way)
        assert answer.status_code == 200, answer.text
        now = answer.json()
        assert now["metadata"]["generation"] == 2
        assert now["spec"]["template"]["metadata"]["annotations"] == note
        assert now["spec"]["template"]["spec"]["containers"][0]["image"] == "app:1"
    refused = cluster.ask(
        "PATCH", place(resource, namespace, "b"), change, token=account.token, content_type=MERGE
    )
    assert status(refused)["message"] == (
        f'{resource}.apps "b" is forbidden: User "{account.user}" cannot patch resource "{resource}" in API group '
        f'"apps" in the namespace "{namespace}"'
    )


# Its life, and the client that we use


def test_it_can_fall_silent(cluster: Cluster, namespace: str) -> None:
    """While it stands still it takes connections and answers nothing; afterwards all is as it was."""
    cluster.make_secret(namespace, STATE, {"a": b"1"})
    path = place("secrets", namespace, STATE)
    with cluster.silent(), pytest.raises(httpx2.TimeoutException):
        cluster.ask("GET", path, timeout=0.3)
    assert cluster.secret_data(namespace, STATE) == {"a": b"1"}


@pytest.mark.parametrize("way", ["kubeconfig", "in the cluster"])
async def test_lightkube_speaks_to_it(
    cluster: Cluster, namespace: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    """The client that we use reads and writes over TLS with a token from a file, which it reads again after a 401."""
    account = cluster.account(namespace, rules=[OURS])
    cluster.make_secret(namespace, STATE)
    if way == "kubeconfig":
        config = KubeConfig.from_file(account.kubeconfig(tmp_path))
    else:
        for name, value in account.environment().items():
            monkeypatch.setenv(name, value)
        config = KubeConfig.from_service_account(account.mount(tmp_path))
    (tmp_path / "token").write_text("sim-at-0123456789abcdef", encoding="utf-8")
    async with AsyncExitStack() as stack:
        client = lightkube.AsyncClient(config, field_manager="token-sidecar", trust_env=False)
        stack.push_async_callback(client.close)
        with pytest.raises(ApiError, match="Unauthorized"):
            await client.get(Secret, STATE)
        account.renew()
        change = {"data": {"record": encoded("1")}}
        written = await client.patch(Secret, STATE, change, patch_type=PatchType.MERGE)
        assert written.data == change["data"]
        with pytest.raises(ApiError, match="is forbidden"):
            await client.get(Secret, "other")
        assert (await client.get(Secret, STATE)).data == change["data"]


def test_a_program_that_does_not_start_is_shown(tmp_path: Path) -> None:
    """An etcd or kube-apiserver that ends at once is an error with the end of what it wrote."""
    for name in ("etcd", "kube-apiserver"):
        (tmp_path / name).write_text("#!/bin/sh\necho a flag that is unknown >&2\nexit 3\n", encoding="utf-8")
        (tmp_path / name).chmod(0o755)
    with (
        pytest.raises(RuntimeError, match="etcd ended with 3; it wrote at last:\na flag"),
        apiserver.running(tmp_path),
    ):
        pass
    (tmp_path / "etcd").unlink()
    with pytest.raises(AssertionError, match="there is no program etcd"), apiserver.running(tmp_path):
        pass


# Only the fake one


@pytest.fixture
def misbehaving(fake_cluster: Fake) -> Any:
    """Give the fake one, and take its faults away at the end."""
    yield fake_cluster
    fake_cluster.faults.clear()


def test_faults_meet_those_that_they_are_meant_for(misbehaving: Fake) -> None:
    """An answer of one's own, with a wait or some proxy's page, for so many requests of one verb."""
    namespace = misbehaving.namespace()
    account = misbehaving.account(namespace, rules=[OURS])
    misbehaving.make_secret(namespace, STATE)
    path = place("secrets", namespace, STATE)
    misbehaving.faults += [
        Fault(verb="get", status=429, retry_after=7, times=2),
        Fault(verb="get", status=503, body=b"<html>bad gateway</html>"),
    ]
    patched = misbehaving.ask("PATCH", path, {}, token=account.token, content_type=MERGE)
    answers = [misbehaving.ask("GET", path, token=account.token) for _ in range(4)]
    assert patched.status_code == 200
    assert [answer.status_code for answer in answers] == [429, 429, 503, 200]
    assert (answers[0].headers["Retry-After"], status(answers[0])["reason"]) == ("7", "TooManyRequests")
    assert answers[2].text == "<html>bad gateway</html>"
    assert misbehaving.secret(namespace, STATE) is not None
    assert misbehaving.counted("get", name=STATE, status=429) == 2


@pytest.mark.parametrize(("when", "done"), [("before", {}), ("after", {"a": b"1"})])
def test_a_connection_closes_before_or_after_the_work(
    misbehaving: Fake, when: Any, done: dict[str, bytes]
) -> None:
    """No answer comes, and the write was done or was not."""
    namespace = misbehaving.namespace()
    account = misbehaving.account(namespace, rules=[OURS])
    misbehaving.make_secret(namespace, STATE)
    path = place("secrets", namespace, STATE)
    misbehaving.faults.append(Fault(verb="patch", close=when))
    change = {"data": {"a": encoded("1")}}
    with pytest.raises(httpx2.HTTPError):
        misbehaving.ask("PATCH", path, change, token=account.token, content_type=MERGE)
    assert misbehaving.secret_data(namespace, STATE) == done


def test_bookmarks_come_to_those_that_want_them(fake_cluster: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    """They tell how far a watch has come though nothing changed for it."""
    namespace = fake_cluster.namespace()
    monkeypatch.setattr(fake_cluster, "bookmark_every", 0.01)
    since = version(fake_cluster.make_secret(namespace, STATE))
    later = version(fake_cluster.make_secret(namespace, "other"))
    marks = {"allowWatchBookmarks": "true", "resourceVersion": since}
    watch = Watching(fake_cluster, namespace, fake_cluster.admin_token, until=1, **marks)
    assert watch.results() == ["BOOKMARK"]
    assert version(watch.seen[0][1]) == later


def test_history_can_be_forgotten(fake_cluster: Fake) -> None:
    """A watch that is under way is told 410 as well."""
    namespace = fake_cluster.namespace()
    account = fake_cluster.account(namespace, rules=[OURS])
    old = version(fake_cluster.make_secret(namespace, STATE))
    fake_cluster.make_secret(namespace, "other")
    fake_cluster.forget()
    assert Watching(fake_cluster, namespace, account.token, resourceVersion=old).results() == ["ERROR"]
