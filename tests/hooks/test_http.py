"""Telling an application over HTTP."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from msgspec.structs import replace

from sidecar.errors import HookError
from sidecar.ports import Mark, Occasion
from tests.hooks.conftest import OUTPUTS, MakeHook, occasion


class Application:
    """A server that notes each request and answers as it is told."""

    def __init__(self) -> None:
        self.status = 200
        self.answer = b""
        self.requests: list[tuple[str, str, dict[str, str], bytes]] = []
        noted = self

        class Handler(BaseHTTPRequestHandler):
            def handle_any(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
                headers = {name.lower(): value for name, value in self.headers.items()}
                noted.requests.append((self.command, self.path, headers, body))
                self.send_response(noted.status)
                self.send_header("Location", f"{noted.url}/elsewhere")
                self.send_header("Content-Length", str(len(noted.answer)))
                self.end_headers()
                self.wfile.write(noted.answer)

            do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = handle_any  # noqa: N815 - http.server's names

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"


@pytest.fixture
def application() -> Iterator[Application]:
    """Serve while a test lasts."""
    application = Application()
    thread = threading.Thread(target=application.server.serve_forever, args=(0.05,))
    thread.start()
    yield application
    application.server.shutdown()
    application.server.server_close()
    thread.join()


async def test_it_tells_names_and_no_token(application: Application, make_hook: MakeHook) -> None:
    """One endpoint can serve many tokens: the body says which one it is, and where."""
    hook = make_hook(http={"url": f"{application.url}/-/reload?x=1"})

    assert await hook.run(occasion(7))

    [(method, path, headers, body)] = application.requests
    assert (method, path, headers["content-type"]) == ("POST", "/-/reload?x=1", "application/json")
    assert json.loads(body) == {
        "token": "gmail",
        "lineage": "one",
        "generation": 7,
        "outputs": list(OUTPUTS),
    }


@pytest.mark.parametrize("secret", ["/services/sim-cs-0123456789abcdef", "/?key=sim-cs-0123456789abcdef"])
async def test_a_webhook_is_called_by_its_host_alone(
    application: Application, make_hook: MakeHook, secret: str
) -> None:
    """Its path may be a secret as well as its query: metrics, log and traces, which name it, have neither."""
    application.status = 404
    hook = make_hook(http={"url": f"{application.url}{secret}"})

    with pytest.raises(HookError) as caught:
        await hook.run(occasion())

    assert hook.id == f"http:POST {application.url.removeprefix('http://')}"
    assert "sim-cs" not in f"{hook.id} {caught.value}"


async def test_request_and_success_are_what_the_application_wants(
    application: Application, make_hook: MakeHook
) -> None:
    """Method, headers, body and status are the application's to choose; a GET has no body."""
    application.status = 418
    headers = {"authorization": "Bearer of-the-admin", "Content-Type": "application/x-ndjson"}
    call = {"url": application.url, "method": "PUT", "headers": headers, "body": "{}", "expect": [418]}

    assert await make_hook(http=call).run(occasion())
    assert await make_hook(http={"url": application.url, "method": "GET", "expect": [418]}).run(occasion())

    (method, _, sent, body), (_, _, without, nothing) = application.requests
    assert (method, body, nothing) == ("PUT", b"{}", b"")
    assert {name: sent[name] for name in ("authorization", "content-type")} == {
        "authorization": "Bearer of-the-admin",
        "content-type": "application/x-ndjson",
    }
    assert "content-type" not in without


@pytest.mark.parametrize(
    ("status", "way_out"),
    [(302, "no redirect is followed"), (403, "by `headers`"), (404, "correct `url`"), (500, "own log")],
)
async def test_any_other_status_is_an_error(
    application: Application, make_hook: MakeHook, status: int, way_out: str
) -> None:
    """Redirects are not followed, and nothing of the answer is repeated."""
    application.status, application.answer = status, b"sim-at-in-the-answer-of-an-application"

    with pytest.raises(HookError) as caught:
        await make_hook(http={"url": application.url}).run(occasion())

    assert f"it answered {status}; " in str(caught.value)
    assert way_out in str(caught.value)
    assert "sim-at" not in str(caught.value)
    assert len(application.requests) == 1


async def test_nobody_there_is_an_error(make_hook: MakeHook) -> None:
    """It names the place and the reason."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        with pytest.raises(HookError, match=f"http:POST 127.0.0.1:{port}: 127.0.0.1:{port}: connection"):
            await make_hook(http={"url": f"http://127.0.0.1:{port}"}).run(occasion())


async def test_what_was_told_is_remembered(application: Application, make_hook: MakeHook) -> None:
    """A daemon that starts again, and one that lags behind, tell nobody what he knows; a new consent is news."""
    call = {"url": application.url}
    assert await make_hook(http=call).run(occasion(2))

    assert not await make_hook(http=call).run(occasion(2))
    assert not await make_hook(http=call).run(occasion(1))
    assert await make_hook(http=call, token="drive").run(occasion(2, token="drive"))
    assert await make_hook(http=call).run(occasion(1, lineage="two", seeds=2))
    assert await make_hook(http=call, name="another").run(occasion(2))
    assert len(application.requests) == 4


async def test_a_new_or_restored_store_mutes_nobody(application: Application, make_hook: MakeHook) -> None:
    """Its counts begin anew or go back, while what it issues is later than all that was told of before."""
    call = {"url": application.url}
    before = occasion(40, seeds=3)
    assert await make_hook(http=call).run(before)

    for lineage, seeds, generation in (("one", 3, 31), ("two", 1, 1)):
        later = Mark(lineage, generation, seeds, before.mark.issued_at + seeds * 100 + generation)
        assert not await make_hook(http=call).run(Occasion("gmail", replace(later, issued_at=1.0)))
        before = Occasion("gmail", replace(later, issued_at=before.mark.issued_at + 3600))
        assert await make_hook(http=call).run(before)


async def test_what_failed_is_told_again(application: Application, make_hook: MakeHook) -> None:
    """Only who heard of it is left alone."""
    application.status = 503
    with pytest.raises(HookError):
        await make_hook(http={"url": application.url}).run(occasion())
    application.status = 200

    assert await make_hook(http={"url": application.url}).run(occasion())


async def test_by_lineage_it_tells_of_new_consents_alone(
    application: Application, make_hook: MakeHook
) -> None:
    """Whatever generation it comes with."""
    call = {"url": application.url}
    assert await make_hook(http=call, when="lineage").run(occasion(1))
    assert not await make_hook(http=call, when="lineage").run(occasion(9))
    assert await make_hook(http=call, when="lineage").run(occasion(1, lineage="two", seeds=2))


async def test_headers_are_not_shown(make_hook: MakeHook) -> None:
    """They may hold a password of the application's."""
    hook: Any = make_hook(
        http={"url": "https://app/?key=hidden", "headers": {"X-Key": "hidden"}, "body": "hidden"}
    )

    assert "X-Key" in repr(hook._call)
    assert "hidden" not in repr(hook._call)
