"""What the servers have in common: a port of their own, one line that says they are ready, and a lossy proxy."""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from socketserver import ThreadingMixIn
from typing import TYPE_CHECKING, Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

LOSE = "lose-the-next-answer"
"""While a file of this name is in the server's folder, the next token answer is lost on its way, once processed."""


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _Quiet(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name is the library's
        """Say nothing: a request's line may hold what is secret."""


def run(build: Callable[[str, dict[str, Any]], tuple[WSGIApplication, dict[str, Any]]]) -> None:
    """Serve what `build(url, options)` returns until killed; print what it says beside it as one line of JSON."""
    folder, options = Path(sys.argv[1]), json.loads(sys.argv[2])
    tempfile.tempdir = str(folder)
    server = make_server("127.0.0.1", 0, _nothing_yet, _Server, _Quiet)
    url = f"http://127.0.0.1:{server.server_port}"
    app, told = build(url, {**options, "folder": str(folder)})
    server.set_app(_losing(app, folder / LOSE))
    print(json.dumps({"url": url, **told}), flush=True)  # noqa: T201 - that is its way of telling
    server.serve_forever()


def _nothing_yet(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    start_response("503 Service Unavailable", [])
    return [b""]


def _losing(app: WSGIApplication, flag: Path) -> WSGIApplication:
    """Stand before the server as a proxy that loses an answer."""

    def proxy(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        if not environ["PATH_INFO"].rstrip("/").endswith("/token") or not flag.exists():
            return app(environ, start_response)
        flag.unlink()
        b"".join(app(environ, lambda *_: lambda _data: None))
        start_response("502 Bad Gateway", [("Content-Type", "text/html")])
        return [b"<html>the upstream server hung up"]

    return proxy
