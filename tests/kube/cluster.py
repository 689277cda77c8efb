"""What tests need of a Kubernetes API server, whether it is the fake one (fake.py) or a real one (apiserver.py).

The fixtures are in tests/conftest.py: `cluster` (the fake one, and the real one too where KUBEBUILDER_ASSETS names a
directory with `etcd` and `kube-apiserver`), `fake_cluster` (only the fake one) and `namespace` (a new one in
`cluster`). All methods are synchronous and may be called from any thread.

    account = cluster.account(namespace, rules=[Rule("secrets", ["get", "patch"], names=["state-gmail"])])
    account.kubeconfig(tmp_path)     # a file for $KUBECONFIG, which names the token's file
    account.mount(tmp_path)          # a directory as kubelet makes it: token, ca.crt, namespace; and
    account.environment()            # KUBERNETES_SERVICE_HOST and _PORT, for in-cluster configuration
    account.renew(); account.revoke()
    cluster.make_secret(namespace, "state-gmail", annotations={…})      # by an admin
    cluster.secret(namespace, "state-gmail"); cluster.patch(…); cluster.delete(…); cluster.apply(…)
    with cluster.down(): …           # refuses connections; the records stay
    with cluster.silent(): …         # takes connections and says nothing

The fake one has `faults` and `requests` besides.
"""

from __future__ import annotations

import base64
import itertools
import json
import secrets
import ssl
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import httpx2

Object = dict[str, Any]

PREFIXES = {
    "namespaces": "api/v1",
    "secrets": "api/v1",
    "configmaps": "api/v1",
    "serviceaccounts": "api/v1",
    "roles": "apis/rbac.authorization.k8s.io/v1",
    "rolebindings": "apis/rbac.authorization.k8s.io/v1",
    "deployments": "apis/apps/v1",
    "statefulsets": "apis/apps/v1",
    "daemonsets": "apis/apps/v1",
}
"""Where each kind of object is, by its name in paths and in roles."""

KINDS = {
    "Namespace": "namespaces",
    "Secret": "secrets",
    "ConfigMap": "configmaps",
    "ServiceAccount": "serviceaccounts",
    "Role": "roles",
    "RoleBinding": "rolebindings",
    "Deployment": "deployments",
    "StatefulSet": "statefulsets",
    "DaemonSet": "daemonsets",
}

_COUNTER = itertools.count()

MERGE = "application/merge-patch+json"
STRATEGIC = "application/strategic-merge-patch+json"
APPLY = "application/apply-patch+yaml"


@dataclass(frozen=True)
class Rule:
    """One rule of a Role."""

    resource: str
    verbs: Sequence[str]
    names: Sequence[str] = ()

    def written(self) -> Object:
        """Write it as a Role has it."""
        group = "" if PREFIXES[self.resource].startswith("api/") else PREFIXES[self.resource].split("/")[1]
        rule: Object = {"apiGroups": [group], "resources": [self.resource], "verbs": [*self.verbs]}
        return rule | ({"resourceNames": [*self.names]} if self.names else {})


@dataclass
class Account:
    """A service account with a token, as a pod has one."""

    cluster: Cluster
    namespace: str
    name: str
    token: str
    folders: list[Path] = field(default_factory=list)
    """Where its token is kept, to be renewed."""

    @property
    def user(self) -> str:
        """Its name in messages and in audits."""
        return f"system:serviceaccount:{self.namespace}:{self.name}"

    def mount(self, folder: Path) -> Path:
        """Make what kubelet mounts into a container."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "ca.crt").write_bytes(self.cluster.ca)
        (folder / "namespace").write_text(self.namespace, encoding="utf-8")
        self.folders.append(folder)
        self._put_tokens()
        return folder

    def environment(self) -> dict[str, str]:
        """Return what kubelet sets in each container."""
        return {
            "KUBERNETES_SERVICE_HOST": "127.0.0.1",
            "KUBERNETES_SERVICE_PORT": str(self.cluster.port),
        }

    def kubeconfig(self, folder: Path) -> Path:
        """Write a file for $KUBECONFIG, and the token's file that it names."""
        self.mount(folder)
        user = {"tokenFile": str(folder / "token")}
        return self.cluster.write_kubeconfig(folder / "kubeconfig", user, self.namespace)

    def renew(self) -> str:
        """Put a new token where the old one is, which goes on working for a while, as kubelet does."""
        self.token = self.cluster.issue_token(self.namespace, self.name)
        self._put_tokens()
        return self.token

    def revoke(self) -> None:
        """End all tokens that it has; return once the server knows."""
        self.cluster.revoke_tokens(self.namespace, self.name, self.token)

    def _put_tokens(self) -> None:
        for folder in self.folders:
            fresh = folder / "token.new"
            fresh.write_text(self.token, encoding="utf-8")
            fresh.replace(folder / "token")


class ApiTrouble(AssertionError):
    """The server refused what an admin asked for."""

    def __init__(self, answer: httpx2.Response) -> None:
        super().__init__(f"{answer.request.method} {answer.request.url}: {answer.status_code} {answer.text}")
        self.code = answer.status_code
        self.body = answer.text


class Cluster(ABC):
    """An API server, and an admin at it."""

    kind: str
    """`fake` or `real`."""
    port: int
    """Stays the same from start to start."""
    ca: bytes
    """Who signed its certificate, as PEM."""
    admin_token: str

    @property
    def url(self) -> str:
        """Where it is."""
        return f"https://127.0.0.1:{self.port}"

    # Its life

    @abstractmethod
    def start(self) -> Self:
        """Start it, or start it again with all that it held; return when it is ready."""

    @abstractmethod
    def stop(self) -> None:
        """End it, and every connection with it."""

    @abstractmethod
    def pause(self) -> None:
        """Make it take connections and requests, and say nothing."""

    @abstractmethod
    def resume(self) -> None:
        """Let it go on where it stood."""

    @abstractmethod
    def revoke_tokens(self, namespace: str, account: str, token: str) -> None:
        """End all tokens of a service account; return once this one is refused."""

    @contextmanager
    def down(self) -> Iterator[None]:
        """Refuse connections for the length of the block."""
        self.stop()
        try:
            yield
        finally:
            self.start()

    @contextmanager
    def silent(self) -> Iterator[None]:
        """Say nothing for the length of the block."""
        self.pause()
        try:
            yield
        finally:
            self.resume()

    # Who may do what

    def namespace(self, name: str | None = None) -> str:
        """Make a namespace of this name, or of a new one; return the name."""
        name = name or f"ns-{secrets.token_hex(5)}"
        self.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
        return name

    def account(
        self, namespace: str, name: str = "token-sidecar", *, rules: Sequence[Rule | Object] = ()
    ) -> Account:
        """Make a service account, and a Role and RoleBinding of the same name for it."""
        metadata = {"name": name, "namespace": namespace}
        self.create({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata})
        account = Account(self, namespace, name, self.issue_token(namespace, name))
        if rules:
            self.allow(account, rules)
        return account

    def allow(
        self, account: Account, rules: Sequence[Rule | Object], *, namespace: str | None = None
    ) -> None:
        """Let an account do this, in its own namespace or in another, and nothing else there."""
        metadata = {
            "name": f"{account.namespace}-{account.name}",
            "namespace": namespace or account.namespace,
        }
        group = "rbac.authorization.k8s.io"
        mark = Rule("configmaps", ["get"], [f"mark-{secrets.token_hex(5)}"])
        role: Object = {
            "apiVersion": f"{group}/v1",
            "kind": "Role",
            "metadata": metadata,
            "rules": [rule.written() if isinstance(rule, Rule) else rule for rule in (*rules, mark)],
        }
        if self.find("roles", metadata["namespace"], metadata["name"]) is not None:
            self.replace(role)
        else:
            self.create(role)
            self.create(
                {
                    "apiVersion": f"{group}/v1",
                    "kind": "RoleBinding",
                    "metadata": metadata,
                    "roleRef": {"apiGroup": group, "kind": "Role", "name": metadata["name"]},
                    "subjects": [
                        {"kind": "ServiceAccount", "name": account.name, "namespace": account.namespace}
                    ],
                }
            )
        # A server learns of its own rules by a watch.
        end = time.monotonic() + 60
        while not self.may(account, "get", "configmaps", metadata["namespace"], mark.names[0]):
            assert time.monotonic() < end, "the server does not see the new role"
            time.sleep(0.01)

    def may(self, account: Account, verb: str, resource: str, namespace: str, name: str = "") -> bool:
        """Tell whether the server thinks that an account may do this."""
        what = {"namespace": namespace, "verb": verb, "resource": resource, "name": name}
        review = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SubjectAccessReview",
            "spec": {"user": account.user, "resourceAttributes": what},
        }
        answer = checked(self.ask("POST", "apis/authorization.k8s.io/v1/subjectaccessreviews", review))
        return bool(answer["status"]["allowed"])

    def issue_token(self, namespace: str, account: str) -> str:
        """Ask for a token, as kubelet does."""
        # Two that are asked for alike within a second are one and the same.
        spec = {"expirationSeconds": 3600 + next(_COUNTER)}
        answer = self.ask(
            "POST",
            f"api/v1/namespaces/{namespace}/serviceaccounts/{account}/token",
            {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec},
        )
        return str(checked(answer)["status"]["token"])

    def write_kubeconfig(self, path: Path, user: Mapping[str, Any], namespace: str = "default") -> Path:
        """Write a file for $KUBECONFIG with this user in it."""
        authority = base64.b64encode(self.ca).decode()
        document = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "test",
            "clusters": [
                {
                    "name": "test",
                    "cluster": {"server": self.url, "certificate-authority-data": authority},
                }
            ],
            "contexts": [
                {"name": "test", "context": {"cluster": "test", "user": "test", "namespace": namespace}}
            ],
            "users": [{"name": "test", "user": dict(user)}],
        }
        path.write_text(json.dumps(document), encoding="utf-8")
        return path

    def admin_kubeconfig(self, path: Path, namespace: str = "default") -> Path:
        """Write one for somebody who may do everything."""
        return self.write_kubeconfig(path, {"token": self.admin_token}, namespace)

    # What an admin does. `manager` is the field manager

    def ask(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        token: str | None = "",
        content_type: str = "application/json",
        timeout: float = 30.0,
        headers: Mapping[str, str] | None = None,
        **query: Any,
    ) -> httpx2.Response:
        """Send one request, as an admin or with another token (None: with none), and return what came."""
        token = self.admin_token if token == "" else token
        content = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        sent = {
            **({"Authorization": f"Bearer {token}"} if token else {}),
            **({"Content-Type": content_type} if content is not None else {}),
            **(headers or {}),
        }
        return self.client.request(
            method, f"{self.url}/{path}", content=content, headers=sent, params=query, timeout=timeout
        )

    @cached_property
    def client(self) -> httpx2.Client:
        """The admin's HTTP client; it keeps no connection, since the server may be gone the next time."""
        context = ssl.create_default_context(cadata=self.ca.decode())
        return httpx2.Client(
            verify=context, trust_env=False, limits=httpx2.Limits(max_keepalive_connections=0)
        )

    def create(self, content: Object, *, manager: str = "admin") -> Object:
        """Create an object."""
        path = path_of(content, named=False)
        return checked(self.ask("POST", path, content, fieldManager=manager))

    def replace(self, content: Object, *, manager: str = "admin") -> Object:
        """Put an object in another's place, whatever is there unless the object says a `resourceVersion`."""
        return checked(self.ask("PUT", path_of(content), content, fieldManager=manager))

    def apply(self, content: Object, *, manager: str, force: bool = True) -> Object:
        """Apply an object from the server's side, as GitOps tools do."""
        answer = self.ask(
            "PATCH",
            path_of(content),
            content,
            content_type=APPLY,
            fieldManager=manager,
            force=str(force).lower(),
        )
        return checked(answer)

    def find(self, resource: str, namespace: str, name: str) -> Object | None:
        """Return an object, or None where there is none."""
        answer = self.ask("GET", place(resource, namespace, name))
        return None if answer.status_code == 404 else checked(answer)

    def patch(
        self,
        resource: str,
        namespace: str,
        name: str,
        change: Object,
        *,
        manager: str = "admin",
        content_type: str = MERGE,
    ) -> Object:
        """Change an object by a patch, merged as RFC 7386 says unless another way is named."""
        path = place(resource, namespace, name)
        return checked(self.ask("PATCH", path, change, content_type=content_type, fieldManager=manager))

    def delete(self, resource: str, namespace: str, name: str) -> None:
        """Delete an object."""
        checked(self.ask("DELETE", place(resource, namespace, name)))

    def make_secret(
        self,
        namespace: str,
        name: str,
        data: Mapping[str, bytes] | None = None,
        *,
        manager: str = "admin",
        type: str = "Opaque",  # noqa: A002 - Kubernetes' word
        immutable: bool = False,
        **metadata: Any,
    ) -> Object:
        """Create a Secret; `metadata` are labels, annotations and the like."""
        content: Object = {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": name, "namespace": namespace, **metadata},
            "type": type,
        }
        if data is not None:
            content["data"] = {key: base64.b64encode(value).decode() for key, value in data.items()}
        if immutable:
            content["immutable"] = True
        return self.create(content, manager=manager)

    def secret(self, namespace: str, name: str) -> Object | None:
        """Return a Secret as it is."""
        return self.find("secrets", namespace, name)

    def secret_data(self, namespace: str, name: str) -> dict[str, bytes]:
        """Return what a Secret holds, decoded."""
        found = self.secret(namespace, name)
        assert found is not None, f"there is no Secret {namespace}/{name}"
        return {key: base64.b64decode(value) for key, value in (found.get("data") or {}).items()}


def place(resource: str, namespace: str | None = None, name: str | None = None) -> str:
    """Return an object's path, or that of all of its kind."""
    within = f"/namespaces/{namespace}" if namespace and resource != "namespaces" else ""
    return f"{PREFIXES[resource]}{within}/{resource}" + (f"/{name}" if name else "")


def path_of(content: Object, *, named: bool = True) -> str:
    """Return the path of an object by what it says of itself."""
    metadata = content["metadata"]
    resource = KINDS[content["kind"]]
    return place(resource, metadata.get("namespace"), metadata["name"] if named else None)


def checked(answer: httpx2.Response) -> Object:
    """Return what came; raises `ApiTrouble` for what is no success."""
    if answer.is_error:
        raise ApiTrouble(answer)
    content: Object = answer.json()
    return content
