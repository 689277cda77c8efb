"""A stand-in for Google's Gmail API on the loopback: takes mails from whoever shows a token that lives."""

from __future__ import annotations

import base64
import email
import json
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sidecar.testing import Provider

SEND = "/gmail/v1/users/me/messages/send"
PROFILE = "/gmail/v1/users/me/profile"


class GmailApi:
    """What came, and from whom it came without a living token."""

    def __init__(self, provider: Provider) -> None:
        self.provider = provider
        self.url = ""
        self.sent: Counter[str] = Counter()
        """Mails by their subject."""
        self.tokens: list[str] = []
        """What was shown and lived, in order."""
        self.refused: list[str] = []
        """Paths that were asked for without a living token."""
        self._lock = threading.Lock()

    def answer(self, method: str, path: str, authorization: str, body: bytes) -> tuple[int, dict[str, Any]]:
        """Answer one request as Google does, as far as its clients look at that."""
        token = authorization.removeprefix("Bearer ")
        with self._lock:
            if not self.provider.is_live(token):
                self.refused.append(path)
                return 401, {"error": {"code": 401, "status": "UNAUTHENTICATED"}}
            self.tokens.append(token)
            if (method, path) == ("POST", SEND):
                raw = json.loads(body)["raw"]
                mail = email.message_from_bytes(base64.urlsafe_b64decode(raw + "=" * (-len(raw) % 4)))
                self.sent[str(mail["subject"])] += 1
                return 200, {"id": f"mail-{self.sent.total()}", "threadId": "thread"}
            assert (method, path) == ("GET", PROFILE), f"{method} {path} is not acted"
            return 200, {"emailAddress": "coach@example.com", "messagesTotal": self.sent.total()}


@contextmanager
def serving(provider: Provider) -> Iterator[GmailApi]:
    """Serve for the length of the block."""
    api = GmailApi(provider)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            path, authorization = self.path.partition("?")[0], self.headers.get("Authorization", "")
            status, document = api.answer(self.command, path, authorization, body)
            content = json.dumps(document).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = _answer  # noqa: N815 - as the library names them

        def log_message(self, *_: object) -> None:
            """Say nothing: who asked what is in `api`."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        api.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield api
        finally:
            server.shutdown()
            thread.join()
