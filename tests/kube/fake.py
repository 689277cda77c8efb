"""A fake API server over HTTPS on the loopback, strict where it matters to us, and able to misbehave.

It holds the kinds of objects that `cluster.PREFIXES` names. `test_api.py` runs over it and over a real server. It runs
in threads of the process that starts it; what it holds stays from a stop to the next start, what watches could look
back on does not.

`faults` are met by requests in turn:

    fake.faults.append(Fault(verb="patch", status=429, retry_after=1))     # once
    fake.faults.append(Fault(close="after", times=3))                      # processed, and no answer
    fake.faults.append(Fault(verb="get", delay=2.0, times=None))           # until `faults.clear()`

`requests` has every request with its verb, user and status. `forget()` makes all watches' history too old.
"""

from __future__ import annotations

import json
import secrets
import socket
import ssl
import tempfile
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from copy import deepcopy
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Literal, Self
from urllib.parse import parse_qsl, unquote, urlsplit

from tests import pki
from tests.kube import objects
from tests.kube.cluster import APPLY, KINDS, MERGE, PREFIXES, STRATEGIC, Cluster, Object
from tests.kube.objects import Refused
from tests.postgres import free_port

MAX_BODY = 3 << 20
HISTORY = 1000
"""Events that watches can look back on."""
ADMIN = "admin"
ANONYMOUS = "system:anonymous"
KIND_OF = {resource: kind for kind, resource in KINDS.items()}
WORKLOADS = {"deployments", "statefulsets", "daemonsets"}
OPEN_PATHS = {"readyz", "livez", "healthz"}
SELF_REVIEWS = {"selfsubjectaccessreviews", "selfsubjectreviews"}
REVIEWS = {*SELF_REVIEWS, "subjectaccessreviews"}


@dataclass
class Fault:
    """What happens to the next requests that it is meant for."""

    verb: str = ""
    """Of Kubernetes: `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`; empty: every one."""
    name: str = ""
    """Of the object; empty: every one."""
    times: int | None = 1
    """For how many requests; None: until it is taken away."""
    delay: float = 0.0
    """Seconds before it is processed."""
    late: float = 0.0
    """Seconds between processing and answer."""
    status: int = 0
    """What is answered in place of processing it."""
    retry_after: float | None = None
    close: Literal["", "before", "after"] = ""
    """Close the connection without an answer, before processing or after it."""
    body: bytes | None = None
    """What is answered in place of a Status: some proxy's page."""
    when: Callable[[Request], bool] = lambda _request: True

    def meets(self, request: Request) -> bool:
        """Tell whether it is meant for this request."""
        return (
            self.times != 0
            and self.verb in {"", request.verb}
            and self.name in {"", request.name}
            and not request.is_admin
            and self.when(request)
        )


@dataclass
class Request:
    """One request as it was understood."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes
    user: str = ANONYMOUS
    verb: str = ""
    group: str = ""
    resource: str = ""
    subresource: str = ""
    namespace: str = ""
    name: str = ""
    status: int = 0
    """What it was answered with; 0: with nothing."""
    at: float = field(default_factory=time.time)

    @property
    def is_admin(self) -> bool:
        """Whether it came from the tests themselves."""
        return self.user == ADMIN

    @property
    def document(self) -> Any:
        """Its body, read."""
        return json.loads(self.body) if self.body else None

    @property
    def manager(self) -> str:
        """Who owns the fields that it writes."""
        return (
            self.query.get("fieldManager")
            or self.headers.get("user-agent", "").partition("/")[0]
            or "unknown"
        )


@dataclass(frozen=True)
class Event:
    """One change, for watches."""

    revision: int
    type: str
    resource: str
    content: Object


class Fake(Cluster):
    """One fake API server."""

    kind = "fake"

    def __init__(self) -> None:
        self.port = free_port()
        self.admin_token = f"sim-at-{secrets.token_hex(16)}"
        self.faults: list[Fault] = []
        self.requests: list[Request] = []
        """Of everybody but the admin."""
        self.bookmark_every = 60.0
        """Seconds between bookmarks, for watches that want them."""
        authority = pki.Authority("the cluster's authority")
        self.ca = authority.certificate
        self._context = _serving(authority)
        self._changed = threading.Condition(threading.RLock())
        self._objects: dict[tuple[str, str, str], Object] = {}
        self._tokens: dict[str, tuple[str, str, str]] = {}
        self._revision = 1
        self._history: deque[Event] = deque(maxlen=HISTORY)
        self._oldest = 1
        self._speaks = threading.Event()
        self._speaks.set()
        self._http: _Server | None = None

    # Its life

    def start(self) -> Self:
        assert self._http is None, "it runs already"
        self.forget()
        self._http = _Server(self.port, self, self._context)
        threading.Thread(target=self._http.serve_forever, args=(0.02,), name="fake-kube", daemon=True).start()
        return self

    def stop(self) -> None:
        if self._http is None:
            return
        http, self._http = self._http, None
        http.end()
        self.wake()

    def pause(self) -> None:
        self._speaks.clear()

    def resume(self) -> None:
        self._speaks.set()

    def wait_for_speech(self) -> None:
        """Stand still while it is paused."""
        self._speaks.wait()

    def wake(self) -> None:
        """Let all watches look."""
        with self._changed:
            self._changed.notify_all()

    def forget(self) -> None:
        """Make everything that watches could look back on too old."""
        with self._changed:
            self._history.clear()
            self._oldest = self._revision
            self._changed.notify_all()

    def revoke_tokens(self, namespace: str, account: str, token: str) -> None:
        del token
        with self._changed:
            self._tokens = {
                value: owner for value, owner in self._tokens.items() if owner[:2] != (namespace, account)
            }

    def counted(self, verb: str = "", *, name: str = "", status: int = 0) -> int:
        """Count requests."""
        return sum(
            verb in {"", one.verb} and name in {"", one.name} and status in {0, one.status}
            for one in list(self.requests)
        )

    # One request

    def handle(self, request: Request) -> Answer | Watch:
        """Do what a request asks for. Raises `Refused`."""
        if request.path in OPEN_PATHS:
            return Answer(200, b"ok", "text/plain; charset=utf-8")
        if request.path == "version":
            request.user = self._user(request)
            return Answer.of(200, {"major": "1", "minor": "36", "gitVersion": "v1.36.0-fake"})
        request.user = self._user(request)
        _understand(request)
        fault = self._fault_for(request)
        if fault is not None and fault.delay:
            time.sleep(fault.delay)
        if fault is not None and fault.close == "before":
            raise Hangup
        if fault is not None and fault.status:
            raise Told(fault)
        answer = self._processed(request)
        if fault is not None and fault.late:
            time.sleep(fault.late)
        if fault is not None and fault.close == "after":
            raise Hangup
        return answer

    def _processed(self, request: Request) -> Answer | Watch:
        with self._changed:
            self._authorize(request)
            if request.verb == "watch":
                return self._watch(request)
            code = 201 if request.verb == "create" else 200
            return Answer.of(code, self._act(request))

    def _fault_for(self, request: Request) -> Fault | None:
        with self._changed:
            for fault in self.faults:
                if fault.meets(request):
                    if fault.times is not None:
                        fault.times -= 1
                    return fault
        return None

    def _user(self, request: Request) -> str:
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if not token:
            return ANONYMOUS
        if token == self.admin_token:
            return ADMIN
        with self._changed:
            namespace, account, uid = self._tokens.get(token, ("", "", ""))
            found = self._objects.get(("serviceaccounts", namespace, account))
        if scheme.lower() != "bearer" or found is None or found["metadata"]["uid"] != uid:
            raise Refused(401, "Unauthorized", "Unauthorized")
        return f"system:serviceaccount:{namespace}:{account}"

    def _authorize(self, request: Request, *, verb: str = "") -> None:
        verb = verb or request.verb
        if request.resource in SELF_REVIEWS and request.user != ANONYMOUS:
            return
        if self._may(request.user, verb, request.group, _with_sub(request), request.namespace, request.name):
            return
        resource = f"{_with_sub(request)}.{request.group}".removesuffix(".")
        which = f' "{request.name}"' if request.name else ""
        scope = f'in the namespace "{request.namespace}"' if request.namespace else "at the cluster scope"
        raise Refused(
            403,
            "Forbidden",
            f'{resource}{which} is forbidden: User "{request.user}" cannot {verb} resource '
            f'"{_with_sub(request)}" in API group "{request.group}" {scope}',
            {
                **_named(request),
                **({"group": request.group} if request.group else {}),
                "kind": request.resource,
            },
        )

    def _may(self, user: str, verb: str, group: str, resource: str, namespace: str, name: str) -> bool:
        if user == ADMIN:
            return True
        bindings = self._all("rolebindings", namespace) if namespace else []
        for binding in bindings:
            if not any(_is_subject(subject, user, namespace) for subject in binding.get("subjects") or []):
                continue
            role = self._objects.get(("roles", namespace, binding["roleRef"]["name"]), {})
            rules = role.get("rules") or []
            if any(
                objects.allows(one, verb=verb, group=group, resource=resource, name=name) for one in rules
            ):
                return True
        return False

    # Objects

    def _all(self, resource: str, namespace: str) -> list[Object]:
        return [
            content
            for (kind, within, _), content in sorted(self._objects.items())
            if kind == resource and namespace in {"", within}
        ]

    def _act(self, request: Request) -> Object:
        if request.resource in REVIEWS:
            return self._review(request)
        if request.subresource == "token":
            return self._issue(request)
        match request.verb:
            case "get":
                return self._existing(request)
            case "list":
                return self._list(request)
            case "create":
                return self._create(request)
            case "update":
                return self._update(request)
            case "patch":
                return self._patch(request)
            case "delete":
                return self._delete(request)
            case _:
                raise Refused(405, "MethodNotAllowed", "the server does not allow this method", {})

    def _existing(self, request: Request) -> Object:
        found = self._objects.get(_key(request))
        if found is None:
            raise _missing(request)
        return found

    def _list(self, request: Request) -> Object:
        return {
            "kind": f"{KIND_OF[request.resource]}List",
            "apiVersion": PREFIXES[request.resource].split("/", 1)[1],
            "metadata": {"resourceVersion": str(self._revision)},
            "items": [
                {key: value for key, value in content.items() if key not in {"kind", "apiVersion"}}
                for content in self._all(request.resource, request.namespace)
                if _selected(content, request)
            ],
        }

    def _create(self, request: Request) -> Object:
        if request.namespace and ("namespaces", "", request.namespace) not in self._objects:
            details = {"name": request.namespace, "kind": "namespaces"}
            raise Refused(404, "NotFound", f'namespaces "{request.namespace}" not found', details)
        content = _sent(request)
        metadata = content["metadata"]
        if not metadata.get("name") and metadata.get("generateName"):
            metadata["name"] = metadata["generateName"] + secrets.token_hex(3)[:5]
        request.name = str(metadata.get("name", ""))
        if _key(request) in self._objects:
            details = {"name": request.name, "kind": request.resource}
            raise Refused(
                409, "AlreadyExists", f'{request.resource} "{request.name}" already exists', details
            )
        return self._born(request, content)

    def _born(self, request: Request, content: Object) -> Object:
        content = objects.normalised(content)
        metadata = content["metadata"]
        metadata.pop("resourceVersion", None)
        metadata |= {
            "uid": str(uuid.uuid4()),
            "creationTimestamp": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        }
        if request.namespace:
            metadata["namespace"] = request.namespace
        if content["kind"] == "Secret":
            content.setdefault("type", "Opaque")
        if request.resource in WORKLOADS:
            metadata["generation"] = 1
        owners = metadata.get("managedFields") if request.verb == "patch" else None
        objects.check(content["kind"], None, content)
        metadata["managedFields"] = owners or objects.updated(None, content, request.manager)
        return self._keep(request, content, "ADDED")

    def _update(self, request: Request) -> Object:
        old = self._existing(request)
        new = _sent(request)
        _same_object(request, new)
        return self._replaced(request, old, new)

    def _replaced(
        self, request: Request, old: Object, new: Object, owners: list[Object] | None = None
    ) -> Object:
        said = new["metadata"].get("resourceVersion")
        if said is not None:
            _check_version(request, said, self._revision_of(old))
        new = objects.normalised(new)
        metadata = new["metadata"]
        for kept in ("uid", "creationTimestamp", "generation", "namespace", "name"):
            if kept in old["metadata"] and kept not in metadata:
                metadata[kept] = old["metadata"][kept]
        metadata["creationTimestamp"] = old["metadata"]["creationTimestamp"]
        if old["kind"] == "Secret":
            new.setdefault("type", old["type"])
        objects.check(new["kind"], old, new)
        if request.resource in WORKLOADS and _has_moved(request.resource, old, new):
            metadata["generation"] = old["metadata"]["generation"] + 1
        asked = metadata.get("managedFields")
        metadata["resourceVersion"] = old["metadata"]["resourceVersion"]
        before = {**old, "metadata": {**old["metadata"], "managedFields": []}} if asked == [{}] else old
        metadata["managedFields"] = owners or objects.updated(before, new, request.manager)
        if _bare(new) == _bare(old):
            return old
        return self._keep(request, new, "MODIFIED")

    def _patch(self, request: Request) -> Object:
        way = request.headers.get("content-type", "").partition(";")[0]
        if way == APPLY:
            return self._apply(request)
        if way not in {MERGE, STRATEGIC}:
            raise Refused(415, "UnsupportedMediaType", "415: Unsupported Media Type", {})
        old = self._existing(request)
        try:
            change = request.document
        except ValueError:
            raise Refused(400, "BadRequest", "error decoding patch: invalid JSON") from None
        merge = objects.merged if way == MERGE else objects.strategically_merged
        new = deepcopy(merge(old, change))
        wrong = objects.unreadable(new)
        if wrong:
            # It repeats the whole object, as the real one does: what is in a Secret gets into a client's errors.
            text = json.dumps(json.dumps(new, separators=(",", ":")))
            cause = ("FieldValueInvalid", f"Invalid value: {text}: {wrong}", "patch")
            raise objects.invalid("", "", [cause])
        _same_object(request, new)
        return self._replaced(request, old, new)

    def _apply(self, request: Request) -> Object:
        if not request.query.get("fieldManager"):
            cause = ("FieldValueRequired", "Required value: is required for apply patch", "fieldManager")
            raise objects.invalid("PatchOptions.meta.k8s.io", "", [cause])
        config = request.document
        old = self._objects.get(_key(request))
        if old is None:
            self._authorize(request, verb="create")
        said = config["metadata"].pop("resourceVersion", None)
        if said is not None and old is not None:
            _check_version(request, said, self._revision_of(old))
        force = request.query.get("force") == "true"
        result = objects.applied(old, config, request.query["fieldManager"], force=force)
        if old is None:
            return self._born(request, result)
        return self._replaced(request, old, result, result["metadata"]["managedFields"])

    def _delete(self, request: Request) -> Object:
        old = self._existing(request)
        wanted = (request.document or {}).get("preconditions", {}).get("resourceVersion")
        if wanted not in {None, old["metadata"]["resourceVersion"]}:
            raise Refused(
                409,
                "Conflict",
                f'Operation cannot be fulfilled on {old["kind"]} "{request.name}": the ResourceVersion in the '
                f"precondition ({wanted}) does not match the ResourceVersion in record "
                f"({old['metadata']['resourceVersion']}). The object might have been modified",
                {"name": request.name, "kind": old["kind"]},
            )
        uid = old["metadata"]["uid"]
        if not _is_dry(request):
            del self._objects[_key(request)]
            self._note("DELETED", request.resource, old)
        details = {"name": request.name, "kind": request.resource, "uid": uid}
        return {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details}

    def _keep(self, request: Request, content: Object, what: str) -> Object:
        if _is_dry(request):
            return content
        self._objects[_key(request)] = self._note(what, request.resource, content)
        return self._objects[_key(request)]

    def _note(self, what: str, resource: str, content: Object) -> Object:
        self._revision += 1
        content = {**content, "metadata": {**content["metadata"], "resourceVersion": str(self._revision)}}
        self._history.append(Event(self._revision, what, resource, content))
        if len(self._history) == HISTORY:
            self._oldest = self._history[0].revision
        self._changed.notify_all()
        return content

    @staticmethod
    def _revision_of(content: Object) -> str:
        return str(content["metadata"]["resourceVersion"])

    # Reviews and tokens

    def _review(self, request: Request) -> Object:
        asked: Object = request.document
        if request.resource == "selfsubjectreviews":
            return {**asked, "status": {"userInfo": {"username": request.user}}}
        what = asked["spec"]["resourceAttributes"]
        allowed = self._may(
            asked["spec"].get("user", request.user),
            what.get("verb", ""),
            what.get("group", ""),
            what.get("resource", ""),
            what.get("namespace", ""),
            what.get("name", ""),
        )
        return {**asked, "status": {"allowed": allowed}}

    def _issue(self, request: Request) -> Object:
        account = self._existing(request)
        token = f"sim-at-{secrets.token_hex(32)}"
        self._tokens[token] = (request.namespace, request.name, account["metadata"]["uid"])
        return {**request.document, "status": {"token": token, "expirationTimestamp": "2099-01-01T00:00:00Z"}}

    # Watches

    def _watch(self, request: Request) -> Watch:
        said = request.query.get("resourceVersion", "")
        if said and not said.isdigit():
            wrong = f'resourceVersion: Invalid value: "{said}": strconv.ParseUint: parsing "{said}": invalid syntax'
            raise Refused(500, "", wrong)
        now = [
            Event(self._revision, "ADDED", request.resource, content)
            for content in self._all(request.resource, request.namespace)
            if _selected(content, request)
        ]
        since = int(said or "0")
        return Watch(request, since or self._revision, [] if since else now)

    def events(self, watch: Watch) -> Iterator[Object]:
        """Give what a watch sees, until its time is over, the server ends, or its history is gone."""
        seconds = float(watch.request.query.get("timeoutSeconds") or 3600)
        end, server = time.monotonic() + seconds, self._http
        marks = watch.request.query.get("allowWatchBookmarks") == "true"
        next_mark = time.monotonic() + self.bookmark_every
        for event in watch.first:
            yield {"type": event.type, "object": event.content}
        since = watch.since
        while server is self._http and time.monotonic() < end:
            with self._changed:
                if since < self._oldest:
                    yield {"type": "ERROR", "object": self._too_old(since)}
                    return
                events = [event for event in self._history if event.revision > since]
                if not events:
                    self._changed.wait(
                        min(end, next_mark) - time.monotonic() if marks else end - time.monotonic()
                    )
            for event in events:
                since = event.revision
                if event.resource == watch.request.resource and _selected(event.content, watch.request):
                    yield {"type": event.type, "object": event.content}
            if marks and time.monotonic() >= next_mark:
                next_mark = time.monotonic() + self.bookmark_every
                yield {"type": "BOOKMARK", "object": _bookmark(watch.request, since)}

    def _too_old(self, since: int) -> Object:
        return {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": f"too old resource version: {since} ({self._oldest})",
            "reason": "Expired",
            "code": 410,
        }


@dataclass(frozen=True)
class Answer:
    """What is sent back."""

    code: int
    body: bytes
    content_type: str = "application/json"
    headers: tuple[tuple[str, str], ...] = ()

    @classmethod
    def of(cls, code: int, content: Object, headers: tuple[tuple[str, str], ...] = ()) -> Answer:
        """Write an object."""
        return cls(code, json.dumps(content, separators=(",", ":")).encode() + b"\n", headers=headers)


@dataclass(frozen=True)
class Watch:
    """An answer that goes on."""

    request: Request
    since: int
    first: list[Event]


class Hangup(Exception):
    """The connection is closed without an answer."""


class Told(Refused):
    """What a fault answers."""

    def __init__(self, fault: Fault) -> None:
        reasons = {429: "TooManyRequests", 500: "InternalError", 503: "ServiceUnavailable", 504: "Timeout"}
        super().__init__(fault.status, reasons.get(fault.status, ""), f"told to answer {fault.status}", {})
        wait = fault.retry_after
        self.headers = () if wait is None else (("Retry-After", f"{wait:g}"),)
        self.body = fault.body


# Over HTTP


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 256

    def __init__(self, port: int, fake: Fake, context: ssl.SSLContext) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.fake = fake
        self._context = context
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._over = False

    def finish_request(self, request: Any, client_address: Any) -> None:
        """Speak TLS in the connection's own thread."""
        with self._lock:
            if self._over:
                return
            self._open.add(request)
        try:
            self.fake.wait_for_speech()
            with suppress(OSError), self._context.wrap_socket(request, server_side=True) as stream:
                with self._lock:
                    self._open = self._open - {request} | {stream}
                    over = self._over
                try:
                    if not over:
                        _Handler(stream, client_address, self)
                finally:
                    with self._lock:
                        self._open.discard(stream)
        finally:
            with self._lock:
                self._open.discard(request)

    def end(self) -> None:
        """Close it, and every connection."""
        self.shutdown()
        self.server_close()
        with self._lock:
            self._over = True
            connections = [*self._open]
        for connection in connections:
            with suppress(OSError):
                # Of a TLS connection that another thread reads from, only this ends the reading.
                socket.socket.shutdown(connection, socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: a client that goes away is no news."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1
    server: _Server

    def handle_one_request(self) -> None:
        with suppress(OSError):
            super().handle_one_request()
            return
        self.close_connection = True

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name is the library's
        """Say nothing: a request's line may hold what is secret."""

    def _do(self) -> None:
        fake = self.server.fake
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        fake.wait_for_speech()
        split = urlsplit(self.path)
        request = Request(
            self.command,
            unquote(split.path).strip("/"),
            dict(parse_qsl(split.query, keep_blank_values=True)),
            {name.lower(): value for name, value in self.headers.items()},
            body,
        )
        try:
            answer = self._answer(fake, request)
        except Hangup:
            self.close_connection = True
            with suppress(OSError):
                socket.socket.shutdown(self.connection, socket.SHUT_RDWR)
            return
        finally:
            if not request.is_admin:
                fake.requests.append(request)
        fake.wait_for_speech()
        if isinstance(answer, Watch):
            self._stream(fake, answer)
        else:
            self._send(answer)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _do  # noqa: N815 - the names are the library's

    @staticmethod
    def _answer(fake: Fake, request: Request) -> Answer | Watch:
        try:
            if len(request.body) > MAX_BODY:
                limit = f"Request entity too large: limit is {MAX_BODY}"
                raise Refused(413, "RequestEntityTooLarge", limit)  # noqa: TRY301 - one way for all of them
            answer = fake.handle(request)
        except Told as told:
            request.status = told.code
            if told.body is not None:
                return Answer(told.code, told.body, "text/html", told.headers)
            return Answer.of(told.code, told.status, told.headers)
        except Refused as refused:
            request.status = refused.code
            return Answer.of(refused.code, refused.status)
        request.status = answer.code if isinstance(answer, Answer) else 200
        return answer

    def _send(self, answer: Answer) -> None:
        self.send_response(answer.code)
        for name, value in (("Content-Type", answer.content_type), *answer.headers):
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        self.wfile.write(answer.body)
        self.wfile.flush()

    def _stream(self, fake: Fake, watch: Watch) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self.wfile.flush()
        for event in fake.events(watch):
            line = json.dumps(event, separators=(",", ":")).encode() + b"\n"
            fake.wait_for_speech()
            self.wfile.write(b"%x\r\n%s\r\n" % (len(line), line))
            self.wfile.flush()
        self.wfile.write(b"0\r\n\r\n")
        self.wfile.flush()


def _serving(authority: pki.Authority) -> ssl.SSLContext:
    pair = authority.issue("kube-apiserver")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "both.pem").write_bytes(pair.certificate + pair.key)
        context.load_cert_chain(Path(folder) / "both.pem")
    return context


# What requests mean


def _understand(request: Request) -> None:
    """Read verb, kind and name from method and path. Raises `Refused`."""
    parts = request.path.split("/")
    prefix, rest = (2, "") if parts[0] == "api" else (3, parts[1] if len(parts) > 1 else "")
    request.group, below = rest, parts[prefix:]
    if below[:1] == ["namespaces"] and len(below) > 2:
        request.namespace, below = below[1], below[2:]
    request.resource, request.name, request.subresource, *_ = [*below, "", "", ""]
    if request.resource not in PREFIXES and request.resource not in REVIEWS:
        raise Refused(404, "NotFound", "the server could not find the requested resource", {})
    request.verb = _verb(request)
    if request.verb in {"list", "watch"}:
        # Rules with names hold for those who ask for one object only.
        _, _, request.name = request.query.get("fieldSelector", "").partition("metadata.name=")


def _verb(request: Request) -> str:
    match request.method:
        case "GET" if request.name:
            return "get"
        case "GET":
            return "watch" if request.query.get("watch") in {"1", "true"} else "list"
        case other:
            return {"POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}[other]


def _key(request: Request) -> tuple[str, str, str]:
    return request.resource, request.namespace, request.name


def _with_sub(request: Request) -> str:
    return f"{request.resource}/{request.subresource}".removesuffix("/")


def _named(request: Request) -> Object:
    return {"name": request.name} if request.name else {}


def _is_dry(request: Request) -> bool:
    return request.query.get("dryRun") == "All"


def _is_subject(subject: Object, user: str, namespace: str) -> bool:
    if subject["kind"] != "ServiceAccount":
        return bool(subject["kind"] == "User" and subject["name"] == user)
    return user == f"system:serviceaccount:{subject.get('namespace', namespace)}:{subject['name']}"


def _selected(content: Object, request: Request) -> bool:
    within = content["metadata"].get("namespace", "")
    return request.namespace in {"", within} and objects.selected(
        content, request.query.get("fieldSelector", ""), request.query.get("labelSelector", "")
    )


def _missing(request: Request) -> Refused:
    resource = f"{request.resource}.{request.group}".removesuffix(".")
    group = {"group": request.group} if request.group else {}
    details = {"name": request.name, **group, "kind": request.resource}
    return Refused(404, "NotFound", f'{resource} "{request.name}" not found', details)


def _sent(request: Request) -> Object:
    """Read an object that was sent in whole."""
    try:
        content = request.document
    except ValueError:
        raise Refused(400, "BadRequest", "the object provided is unrecognized") from None
    kind = KIND_OF[request.resource]
    content = {
        "kind": kind,
        "apiVersion": PREFIXES[request.resource].removeprefix("apis/").removeprefix("api/"),
        **content,
    }
    content.setdefault("metadata", {})
    wrong = objects.unreadable(content)
    if wrong:
        version = content["apiVersion"]
        told = f'{kind} in version "{version}" cannot be handled as a {kind}: {wrong}'
        raise Refused(400, "BadRequest", told)
    return content


def _same_object(request: Request, content: Object) -> None:
    metadata = content["metadata"]
    if metadata.setdefault("name", request.name) != request.name:
        raise Refused(
            400,
            "BadRequest",
            f"the name of the object ({metadata['name']}) does not match the name on the URL ({request.name})",
        )
    if metadata.setdefault("namespace", request.namespace) != request.namespace:
        raise Refused(
            400,
            "BadRequest",
            f"the namespace of the object ({metadata['namespace']}) does not match the namespace on the request "
            f"({request.namespace})",
        )


def _check_version(request: Request, said: str, is_: str) -> None:
    if not said.isdigit():
        raise Refused(500, "", f'strconv.ParseUint: parsing "{said}": invalid syntax')
    if said == is_:
        return
    resource = f"{request.resource}.{request.group}".removesuffix(".")
    raise Refused(
        409,
        "Conflict",
        f'Operation cannot be fulfilled on {resource} "{request.name}": the object has been modified; please '
        "apply your changes to the latest version and try again",
        {
            "name": request.name,
            **({"group": request.group} if request.group else {}),
            "kind": request.resource,
        },
    )


def _has_moved(resource: str, old: Object, new: Object) -> bool:
    """Tell whether a workload's controller has something to do: of Deployments, annotations count too."""
    notes = [one["metadata"].get("annotations") for one in (old, new)]
    return old.get("spec") != new.get("spec") or (resource == "deployments" and notes[0] != notes[1])


def _bare(content: Object) -> Object:
    """Return what has to differ for a write to be one."""
    metadata = {key: value for key, value in content["metadata"].items() if key != "managedFields"}
    return {**content, "metadata": metadata}


def _bookmark(request: Request, since: int) -> Object:
    return {
        "kind": KIND_OF[request.resource],
        "apiVersion": PREFIXES[request.resource].split("/", 1)[1],
        "metadata": {"resourceVersion": str(since), "creationTimestamp": None},
    }


@contextmanager
def running() -> Iterator[Fake]:
    """Run one for the length of the block."""
    fake = Fake()
    try:
        yield fake.start()
    finally:
        fake.stop()
