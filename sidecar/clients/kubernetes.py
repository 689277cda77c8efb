"""The one way to a Kubernetes API: Secrets read and patched by name, and an end to every call.

lightkube speaks to the API server: in a pod as its service account, elsewhere as a kubeconfig says. `$KUBECONFIG`
goes before the pod's account, as it does for kubectl. The projected token is read again when the API no longer takes
it (401); whatever else may have changed on disk (a kubeconfig, the cluster's CA) is read again after a call that
found no way in. In a pod no proxy is asked, whatever the environment says for the way to providers.

Nothing is tried twice here, and nothing runs between calls. Neither a message nor a traceback holds what was sent
or what came back: the API's own words are quoted only where they are known to name nothing but names.
"""

from __future__ import annotations

import base64
import os
import re
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from enum import StrEnum
from http import HTTPStatus
from pathlib import Path
from typing import Any, Self, TypeVar

import anyio
import anyio.lowlevel
import httpx2
import lightkube
import msgspec
from lightkube.config.kubeconfig import KubeConfig, SingleConfig
from lightkube.resources import apps_v1, core_v1
from lightkube.types import PatchType

from sidecar.clients.http import chain, hush

T = TypeVar("T")

FIELD_MANAGER = "token-sidecar"
CALL_SECONDS = 5.0
"""For so long a call takes at most: connecting and the answer together."""
CLOSE_SECONDS = 1.0
SECRET_LIMIT = 2**20
"""Bytes that the API takes for all values of a Secret together, counted as they are before base64."""
LONGEST_PAUSE = 30.0
"""Seconds for which a `Retry-After` is heeded at most."""
ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
"""Where a pod has its service account."""
DEFAULT_KUBECONFIG = Path("~/.kube/config")

WORKLOADS = {
    "deployment": apps_v1.Deployment,
    "statefulset": apps_v1.StatefulSet,
    "daemonset": apps_v1.DaemonSet,
}
"""What has a pod template to annotate."""
WORKLOAD_VERBS = ("get", "patch")
RESTARTED_AT = "kubectl.kubernetes.io/restartedAt"
"""The annotation of `kubectl rollout restart`, which tools know how to show."""

WAIT = "the next call tries again"


class Kind(StrEnum):
    """What a fault means for whoever called."""

    MISSING = "missing"
    """404: there is no such object."""
    FORBIDDEN = "forbidden"
    """403: a right is lacking, or a policy says no."""
    UNAUTHORIZED = "unauthorized"
    """401: the API does not know who we are."""
    CONFLICT = "conflict"
    """409: it was changed since the resource version that was given."""
    GONE = "gone"
    """410: what was asked for is too old; begin again with a fresh read."""
    INVALID = "invalid"
    """The request itself was refused: no later call with the same will do better."""
    TEMPORARY = "temporary"
    """429, 5xx, a time-out: later it may work."""
    UNREACHABLE = "unreachable"
    """No connection came about."""
    UNCONFIGURED = "unconfigured"
    """There is no telling where the API is, or who we are to it."""


class Fault(Exception):
    """Why a call failed, and the way out. Holds nothing that was sent."""

    def __init__(
        self, kind: Kind, reason: str, remedy: str, *, refused: bool, retry_after: float | None = None
    ) -> None:
        super().__init__(f"{reason}; {remedy}")
        self.kind = kind
        self.reason = reason
        self.remedy = remedy
        self.refused = refused
        """Whether it is certain that nothing was changed: nothing was asked, or the server said no."""
        self.retry_after = retry_after
        """Seconds for which the server asked to be left alone."""


class Owner(msgspec.Struct, frozen=True):
    """An object that a Secret belongs to, and is deleted with."""

    kind: str
    name: str
    api_version: str


class Manager(msgspec.Struct, frozen=True):
    """Somebody who set fields of a Secret, as the API keeps track of them."""

    name: str
    keys: tuple[str, ...]
    """The keys of its data that it set; those of `stringData` too."""


class Secret(msgspec.Struct, frozen=True):
    """A Secret as it was read."""

    namespace: str
    name: str
    type: str
    resource_version: str
    data: dict[str, bytes]
    annotations: dict[str, str]
    labels: dict[str, str]
    owners: tuple[Owner, ...]
    managers: tuple[Manager, ...]
    immutable: bool
    deleting: bool
    """Whether it is being deleted, and is only kept by finalizers."""

    def __repr__(self) -> str:
        """Show where it is, and no byte of what is in it."""
        return f"Secret({self.namespace}/{self.name}, resource_version={self.resource_version})"

    def size_with(self, data: Mapping[str, bytes | None]) -> int:
        """Count the bytes of all values once these keys are changed; `SECRET_LIMIT` is the most."""
        return sum(len(value or b"") for value in {**self.data, **data}.values())


class Keeper(msgspec.Struct, frozen=True):
    """Who writes a Secret's data, and would undo what others write there."""

    name: str
    remedy: str


MANIFEST = "take `data` and `stringData` out of its manifest, or name a Secret that no tool writes"
ELSEWHERE = "name a Secret of its own here, without data, that no tool writes"
OWNERS = {
    "ExternalSecret": "the External Secrets Operator",
    "SealedSecret": "the Sealed Secrets controller",
}
"""Kind of an owner → who that is."""
MARKS = {
    "reconcile.external-secrets.io/": "the External Secrets Operator",
    "sealedsecrets.bitnami.com/managed": "the Sealed Secrets controller",
    "sealedsecrets.bitnami.com/patch": "the Sealed Secrets controller",
}
"""How a label or annotation begins → who set it, and writes the data."""
MANAGERS = {
    "externalsecrets.external-secrets.io": ("the External Secrets Operator", ELSEWHERE),
    "external-secrets": ("the External Secrets Operator", ELSEWHERE),
    "sealed-secrets": ("the Sealed Secrets controller", ELSEWHERE),
    "argocd": ("Argo CD", MANIFEST),
    "kustomize-controller": ("Flux", MANIFEST),
    "helm-controller": ("Flux", MANIFEST),
    "helm": ("Helm", MANIFEST),
}
"""How a field manager's name begins → who that is, and the way out."""


def keeper(secret: Secret, key: str | None = None) -> Keeper | None:
    """Tell who else writes this Secret's data, or only what is under `key`; None: nobody that is known.

    A tool that keeps the Secret but none of its data is none: so a chart's empty Secret is there.
    """
    for owner in secret.owners:
        if owner.kind in OWNERS:
            return Keeper(f"{OWNERS[owner.kind]} ({owner.kind} {owner.name})", ELSEWHERE)
    for mark in (*secret.labels, *secret.annotations):
        for prefix, name in MARKS.items():
            if mark.startswith(prefix):
                return Keeper(f"{name} ({mark})", ELSEWHERE)
    for manager in secret.managers:
        if not manager.keys or (key is not None and key not in manager.keys):
            continue
        for prefix, (name, remedy) in MANAGERS.items():
            if manager.name.lower().startswith(prefix):
                return Keeper(f"{name} (field manager {manager.name}, key {manager.keys[0]})", remedy)
    return None


def unwritable(secret: Secret, key: str | None = None, *, undone: str) -> str:
    """Say why a Secret, or what is under `key`, must not be written, and the way out; empty: it may be.

    `undone` says what another writer would undo.
    """
    if secret.deleting:
        return "is being deleted, and finalizers hold it; see who waits for what in its `metadata.finalizers`"
    if secret.immutable:
        return "is immutable; delete it and create it again without `immutable: true`"
    found = keeper(secret, key)
    return f"is written by {found.name}, which would undo {undone}; {found.remedy}" if found else ""


class Workload(msgspec.Struct, frozen=True):
    """What was read of a workload."""

    namespace: str
    name: str
    resource_version: str
    annotations: dict[str, str]
    """Its own, not those of its pods."""


class Kubernetes:
    """A client of one API server. Enter it before use; one serves any number of calls at once."""

    def __init__(self, *, verbs: Sequence[str] = ("get", "patch"), patience: float = CALL_SECONDS) -> None:
        """Take what its user does with a Secret by name, for the rule that it prints where a right is lacking.

        `patience`: seconds for a whole call.
        """
        self._verbs = tuple(verbs)
        self._patience = patience
        self._session: _Session | None = None
        self._not_before = 0.0

    async def __aenter__(self) -> Self:
        """Find out where the API is; nothing is asked of it yet. Raises `Fault` (`UNCONFIGURED`)."""
        hush()
        if self._session is None:
            self._session = self._begin()
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close the connections, after the calls that are under way."""
        session, self._session = self._session, None
        if session is not None and not session.users:
            await session.close()

    async def get_secret(self, namespace: str, name: str, *, verbs: Sequence[str] = ()) -> Secret:
        """Read a Secret; `verbs`: what is done with this one, if not the usual. Raises `Fault`."""
        asked = _Asked("get", "", "secrets", namespace, name, tuple(verbs) or self._verbs)

        async def got(api: lightkube.AsyncClient) -> Secret:
            return _secret(await api.get(core_v1.Secret, name, namespace=namespace))

        return await self._call(asked, got)

    async def change_secret(
        self,
        namespace: str,
        name: str,
        *,
        data: Mapping[str, bytes | None] | None = None,
        annotations: Mapping[str, str | None] | None = None,
        labels: Mapping[str, str | None] | None = None,
        resource_version: str | None = None,
        dry_run: bool = False,
    ) -> Secret:
        """Change the given keys of a Secret and leave all others as they are; None removes a key. Raises `Fault`.

        With `dry_run` the API server does all of it but the change: it looks at the rights, too.

        With a `resource_version` it is a `CONFLICT` if the Secret was changed since. After a `Fault` it may or may
        not have happened, unless that says that it was `refused`.
        """
        metadata: dict[str, Any] = {}
        if annotations:
            metadata["annotations"] = dict(annotations)
        if labels:
            metadata["labels"] = dict(labels)
        if resource_version is not None:
            metadata["resourceVersion"] = resource_version
        patch: dict[str, Any] = {"metadata": metadata}
        if data:
            patch["data"] = {key: _written(value) for key, value in data.items()}
        asked = _Asked("patch", "", "secrets", namespace, name, self._verbs)

        async def changed(api: lightkube.AsyncClient) -> Secret:
            return _secret(await _patched(api, core_v1.Secret, asked, patch, dry_run=dry_run))

        return await self._call(asked, changed)

    async def list_secrets(self, namespace: str, labels: Mapping[str, str]) -> list[Secret]:
        """Read all Secrets of a namespace that have these labels. Raises `Fault`."""
        asked = _Asked("list", "", "secrets", namespace, "", ("list",))

        async def listed(api: lightkube.AsyncClient) -> list[Secret]:
            found = api.list(core_v1.Secret, namespace=namespace, labels=dict(labels))
            return [_secret(secret) async for secret in found]

        return await self._call(asked, listed)

    async def get_workload(self, kind: str, namespace: str, name: str) -> Workload:
        """Read what there is to say of a workload of this kind (a key of `WORKLOADS`). Raises `Fault`."""
        asked = _Asked("get", "apps", f"{kind}s", namespace, name, WORKLOAD_VERBS)
        return _workload(
            await self._call(asked, lambda api: api.get(WORKLOADS[kind], name, namespace=namespace))
        )

    async def restart_workload(
        self, kind: str, seen: Workload, annotations: Mapping[str, str], *, at: str
    ) -> None:
        """Have the pods of a workload replaced, as `kubectl rollout restart` does; `at` is the time, in RFC 3339.

        The annotations are put on the workload itself in the same step. It is a `CONFLICT` if the workload was
        changed since it was `seen`. Raises `Fault`.
        """
        asked = _Asked("patch", "apps", f"{kind}s", seen.namespace, seen.name, WORKLOAD_VERBS)
        patch = {
            "metadata": {"annotations": dict(annotations), "resourceVersion": seen.resource_version},
            "spec": {"template": {"metadata": {"annotations": {RESTARTED_AT: at}}}},
        }
        await self._call(asked, lambda api: _patched(api, WORKLOADS[kind], asked, patch))

    async def _call(self, asked: _Asked, work: Callable[[lightkube.AsyncClient], Awaitable[T]]) -> T:
        """Have `work` done. Once it began, nothing but the end of its time cancels it.

        A write whose outcome nobody waited for would be one to be in doubt of.
        """
        # Between two calls somebody may well stop waiting; within one nobody can.
        await anyio.lowlevel.checkpoint_if_cancelled()
        pause = self._not_before - anyio.current_time()
        if pause > 0:
            raise asked.fault(
                Kind.TEMPORARY,
                f"the API server asked to be left alone for {pause:.0f} s more",
                WAIT,
                refused=True,
            )
        fault = asked.late(self._patience)
        with anyio.move_on_after(self._patience, shield=True):
            try:
                async with self._connected() as session:
                    return await work(session.api)
            except Exception as error:  # noqa: BLE001 - whatever it was, it is explained below
                fault = self._explained(asked, error)
        if fault.retry_after is not None:
            self._not_before = anyio.current_time() + fault.retry_after
        # Raised here, where nothing is handled: the library's errors hold what was sent, and would come along.
        raise fault

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[_Session]:
        if self._session is None:
            self._session = self._begin()
        session = self._session
        session.users += 1
        try:
            yield session
        except Exception as error:
            # What it was made from may be outdated: a CA, a kubeconfig, an address.
            if self._session is session and _status(error) in {None, HTTPStatus.UNAUTHORIZED}:
                self._session = None
            raise
        finally:
            session.users -= 1
            if self._session is not session and not session.users:
                await session.close()

    def _begin(self) -> _Session:
        config, in_pod = configuration()
        timeout = httpx2.Timeout(self._patience, connect=0.4 * self._patience, pool=0.8 * self._patience)
        try:
            api = lightkube.AsyncClient(
                config, timeout=timeout, field_manager=FIELD_MANAGER, trust_env=not in_pod
            )
        except Exception as error:  # noqa: BLE001 - it may quote a key
            problem = _told(error)
        else:
            return _Session(api)
        raise _unconfigured(f"{ACCOUNT if in_pod else config.fname} can't be used ({problem})", "correct it")

    def _explained(self, asked: _Asked, error: Exception) -> Fault:
        answer = _answer(error)
        if answer is not None:
            return asked.judged(answer)
        if isinstance(error, Fault):
            return error
        # What goes wrong on the network comes wrapped: these are about a file of the login, or its plugin.
        if isinstance(error, (lightkube.ConfigError, FileNotFoundError, PermissionError)):
            return asked.fault(
                Kind.UNAUTHORIZED,
                f"there is nothing to log in with ({_unusable(error)})",
                "look at the pod's projected service-account token, or at the kubeconfig",
                refused=True,
            )
        if isinstance(error, (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout)):
            reason, remedy = _unreachable(error)
            return asked.fault(Kind.UNREACHABLE, reason, remedy, refused=True)
        if isinstance(error, httpx2.TimeoutException):
            return asked.late(self._patience)
        if isinstance(error, httpx2.TransportError):
            return asked.fault(Kind.TEMPORARY, "the connection to the API server broke", WAIT, refused=False)
        return asked.fault(
            Kind.TEMPORARY,
            f"the answer of the API server can't be understood ({type(error).__name__})",
            "make sure that it is a Kubernetes API that is asked",
            refused=False,
        )


def configuration() -> tuple[SingleConfig, bool]:
    """Find out where the API is, and who we are to it; tell whether as a pod. Raises `Fault`."""
    named = os.environ.get("KUBECONFIG", "")
    # Those of os.path, which answer where pathlib's raise: no such user, no such right.
    if not named and os.path.exists(ACCOUNT / "token") and os.environ.get("KUBERNETES_SERVICE_HOST"):  # noqa: PTH110
        return _loaded(lambda: KubeConfig.from_service_account(ACCOUNT), ACCOUNT), True
    path = Path(os.path.expanduser(named or DEFAULT_KUBECONFIG))  # noqa: PTH111
    if os.path.isfile(path):  # noqa: PTH113
        return _loaded(lambda: KubeConfig.from_file(path), path), False
    if named:
        raise _unconfigured(f"$KUBECONFIG names {named}, which is no file", "name one file there")
    raise _unconfigured(
        "there is neither a service account's token nor a kubeconfig",
        f"in a pod, project a token into {ACCOUNT}, as the chart does; elsewhere, set $KUBECONFIG",
    )


def own_namespace() -> str:
    """Return the namespace that is meant where none is named: the pod's own, or the kubeconfig's, as for kubectl."""
    try:
        return configuration()[0].namespace or "default"
    except Fault:
        return "default"


def _loaded(load: Callable[[], KubeConfig], place: Path) -> SingleConfig:
    try:
        config = load().get()
    except OSError as error:
        problem = error.strerror or "unreadable"
    except KeyError as error:
        problem = f"{error} is missing"
    except Exception as error:  # noqa: BLE001 - it may quote what it found
        problem = str(error) if isinstance(error, lightkube.ConfigError) else type(error).__name__
    else:
        if config is not None and config.user is not None:
            return config
        problem = "it names no user"
    raise _unconfigured(f"{place} can't be used ({problem})", "correct it")


def _unconfigured(reason: str, remedy: str) -> Fault:
    return Fault(Kind.UNCONFIGURED, reason, remedy, refused=True)


class _Session:
    """The connections that were made with one reading of the configuration."""

    def __init__(self, api: lightkube.AsyncClient) -> None:
        self.api = api
        self.users = 0

    async def close(self) -> None:
        with anyio.move_on_after(CLOSE_SECONDS, shield=True):
            await self.api.aclose()


class _Details(msgspec.Struct, frozen=True):
    retryAfterSeconds: float = 0  # noqa: N815 - the API's own name
    causes: list[dict[str, Any]] = []


class _Status(msgspec.Struct, frozen=True):
    """How the API server says no (`meta/v1.Status`)."""

    kind: str = ""
    reason: str = ""
    message: str = ""
    details: _Details | None = None


class _Answer(msgspec.Struct, frozen=True):
    """An answer that is no success."""

    code: int
    retry_after: float | None
    status: _Status | None
    """None: it did not come from a Kubernetes API."""


class _Asked(msgspec.Struct, frozen=True):
    """What was asked, in the words of RBAC."""

    verb: str
    group: str
    resource: str
    namespace: str
    name: str
    verbs: tuple[str, ...]

    @property
    def place(self) -> str:
        kind = self.resource.removesuffix("s") if self.name else self.resource
        named = f" {self.namespace}/{self.name}" if self.name else f" of the namespace {self.namespace}"
        return f"the {'Secret' if kind == 'secret' else kind}{named}"

    @property
    def rule(self) -> str:
        """The rule of a Role that allows it, in YAML."""
        named = f", resourceNames: [{self.name}]" if self.name else ""
        verbs = ", ".join(self.verbs)
        return f'- {{apiGroups: ["{self.group}"], resources: [{self.resource}]{named}, verbs: [{verbs}]}}'

    def fault(
        self, kind: Kind, reason: str, remedy: str, *, refused: bool, retry_after: float | None = None
    ) -> Fault:
        return Fault(kind, f"{self.place}: {reason}", remedy, refused=refused, retry_after=retry_after)

    def late(self, patience: float) -> Fault:
        return self.fault(
            Kind.TEMPORARY,
            f"the API server did not answer for {patience:g} s",
            "look at the network, and at the API server",
            refused=False,
        )

    def judged(self, answer: _Answer) -> Fault:
        """Say what an answer means. Whatever is refused with a 3xx or 4xx has not been done."""
        kind, reason, remedy = self._meaning(answer)
        return self.fault(
            kind,
            reason,
            remedy,
            refused=answer.code < HTTPStatus.INTERNAL_SERVER_ERROR,
            retry_after=answer.retry_after,
        )

    def _meaning(self, answer: _Answer) -> tuple[Kind, str, str]:
        status, code = answer.status, answer.code
        if code == HTTPStatus.UNAUTHORIZED:
            return (
                Kind.UNAUTHORIZED,
                "the API server does not know us (401), even with the token read anew",
                "look at the service account, at the audience of its projected token, and at the node's clock",
            )
        if code == HTTPStatus.TOO_MANY_REQUESTS or code >= HTTPStatus.INTERNAL_SERVER_ERROR:
            told = f" ({_quoted(status)})" if status and _quoted(status) else ""
            return Kind.TEMPORARY, f"the API server can't serve it now (HTTP {code}){told}", WAIT
        if status is None:
            return (
                Kind.TEMPORARY,
                f"what answered (HTTP {code}) is no Kubernetes API",
                "correct the server's address, or look at what stands between",
            )
        if code == HTTPStatus.NOT_FOUND:
            create = f"create it: kubectl -n {self.namespace} create secret generic {self.name}"
            remedy = (
                create
                if self.resource == "secrets"
                else "correct its name, or remove it from the configuration"
            )
            return Kind.MISSING, "there is none", remedy
        if code == HTTPStatus.FORBIDDEN:
            return self._forbidden(status)
        if code == HTTPStatus.CONFLICT:
            return Kind.CONFLICT, "it was changed since it was read", "read it again and decide anew"
        if code == HTTPStatus.GONE:
            return Kind.GONE, "what was asked for is too old", "read it again"
        causes = "; ".join(_cause(cause) for cause in (status.details or _Details()).causes)
        told = _quoted(status) or causes or status.reason or "no reason given"
        if "immutable" in status.message:
            return (
                Kind.INVALID,
                "it is immutable",
                "delete it and create it again without `immutable: true`",
            )
        return Kind.INVALID, f"the API server refuses the request (HTTP {code}: {told})", "look at its log"

    def _forbidden(self, status: _Status) -> tuple[Kind, str, str]:
        user = re.search(r'User "([^"]{1,300})" cannot ', status.message)
        if user is None:
            told = _quoted(status) or "its audit log says why"
            return (
                Kind.FORBIDDEN,
                f"the API server refuses to {self.verb} it ({told})",
                "ask whoever set that policy or quota, or change it",
            )
        role = f"add this rule to a Role in the namespace {self.namespace} that is bound to it: {self.rule}"
        return Kind.FORBIDDEN, f"{user[1]} may not {self.verb} it", role


QUOTABLE = (
    r'admission webhook "[\w.-]{1,200}" denied the request',
    r'failed calling webhook "[\w.-]{1,200}"',
    r"Validating\w*Policy '[\w.-]{1,200}' with binding '[\w.-]{1,200}' denied request",
    r"exceeded quota: [\w.-]{1,200}",
    r"etcdserver: [a-z ,]{1,80}",
    r"because it is being terminated",
    r"namespace [\w.-]{1,63} is being terminated",
)
"""What may be repeated of the API's messages. Others can hold a piece of what was sent."""


def _quoted(status: _Status | None) -> str:
    found = (re.search(pattern, status.message) for pattern in QUOTABLE) if status else ()
    return next((match[0] for match in found if match), "")


def _cause(cause: dict[str, Any]) -> str:
    field, reason = str(cause.get("field", "")), str(cause.get("reason", ""))
    return f"{field if re.fullmatch(r'[A-Za-z.]{1,80}', field) else 'a field'}: {reason[:80]}"


async def _patched(
    api: lightkube.AsyncClient,
    kind: type[Any],
    asked: _Asked,
    patch: dict[str, Any],
    *,
    dry_run: bool = False,
) -> Any:
    return await api.patch(
        kind, asked.name, patch, namespace=asked.namespace, patch_type=PatchType.MERGE, dry_run=dry_run
    )


def _written(value: bytes | None) -> str | None:
    return None if value is None else base64.b64encode(value).decode()


def _secret(found: core_v1.Secret) -> Secret:
    metadata = found.metadata
    # An answer that is not a Secret must not be taken for an empty one.
    if metadata is None or not metadata.name or not metadata.namespace or not metadata.resourceVersion:
        raise ValueError("no Secret")
    return Secret(
        namespace=metadata.namespace,
        name=metadata.name,
        type=found.type or "Opaque",
        resource_version=metadata.resourceVersion,
        data={key: base64.b64decode(value) for key, value in (found.data or {}).items()},
        annotations=dict(metadata.annotations or {}),
        labels=dict(metadata.labels or {}),
        owners=tuple(Owner(one.kind, one.name, one.apiVersion) for one in metadata.ownerReferences or ()),
        managers=tuple(
            Manager(one.manager or "", _keys(one.fieldsV1)) for one in metadata.managedFields or ()
        ),
        immutable=bool(found.immutable),
        deleting=metadata.deletionTimestamp is not None,
    )


def _workload(found: Any) -> Workload:
    metadata = found.metadata
    if metadata is None or not metadata.name or not metadata.namespace or not metadata.resourceVersion:
        raise ValueError("no workload")
    return Workload(
        metadata.namespace, metadata.name, metadata.resourceVersion, dict(metadata.annotations or {})
    )


def _keys(fields: Any) -> tuple[str, ...]:
    """Read a `FieldsV1`, where `f:` goes before the name of each field that is managed."""
    managed = fields if isinstance(fields, dict) else {}
    parts = [managed.get(f"f:{part}") or {} for part in ("data", "stringData")]
    return tuple(sorted({key.removeprefix("f:") for part in parts for key in part if key.startswith("f:")}))


def _refusal(error: BaseException) -> httpx2.Response | None:
    """Find the answer behind an error: the library stumbles over those that are not its own kind of JSON."""
    found = (link.response for link in chain(error) if isinstance(link, httpx2.HTTPStatusError))
    return next(found, None)


def _status(error: BaseException) -> int | None:
    response = _refusal(error)
    return response.status_code if response is not None else None


def _answer(error: BaseException) -> _Answer | None:
    response = _refusal(error)
    if response is None:
        return None
    try:
        status = msgspec.json.decode(response.content, type=_Status)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        status = None
    if status is not None and status.kind != "Status":
        status = None
    asked = response.headers.get("Retry-After", "")
    seconds = (
        float(asked)
        if asked.isdecimal()
        else (status.details.retryAfterSeconds if status and status.details else 0)
    )
    return _Answer(response.status_code, min(seconds, LONGEST_PAUSE) or None, status)


def _unusable(error: Exception) -> str:
    """Repeat of lightkube's own errors only what is known to hold no output of a plugin."""
    told = re.match(
        r"Token file \S+ not found|auth exec api version \S+ not implemented|auth-provider not supported",
        str(error),
    )
    if isinstance(error, OSError):
        return error.strerror or "unreadable"
    return told[0] if told else "the kubeconfig's plugin failed"


def _told(error: Exception) -> str:
    if isinstance(error, ssl.SSLError):
        return (error.reason or type(error).__name__).replace("_", " ").lower()
    return getattr(error, "strerror", None) or type(error).__name__


def _unreachable(error: Exception) -> tuple[str, str]:
    if isinstance(error, httpx2.TimeoutException):
        return "the API server can't be reached (no connection in time)", WAIT
    links = list(chain(error))
    for link in links:
        if isinstance(link, ssl.SSLCertVerificationError):
            return (
                f"the API server's certificate is refused: {link.verify_message or 'it does not verify'}",
                "look at the cluster's CA (ca.crt beside the service account's token, or the kubeconfig's)",
            )
    for link in links:
        match link:
            case socket.gaierror():
                return "the API server's name does not resolve", "correct it, or look at the DNS"
            case ssl.SSLError():
                return f"TLS with the API server failed ({_told(link)})", "look at what stands between"
            case OSError() if link.errno is not None:
                return f"the API server can't be reached ({os.strerror(link.errno).lower()})", WAIT
    return "the API server can't be reached", WAIT
