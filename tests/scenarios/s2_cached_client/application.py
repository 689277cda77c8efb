"""The application: a `GmailClient` for each account, built once and kept in a dictionary for as long as it runs.

`application.py SECRETS_DIR RESOURCE_URL PORT PID_FILE [supervised]` serves on loopback: `GET /mail` uses the client and
answers with its token's fingerprint and the status that the provider gave; `POST /-/reload` forgets the clients, and so
does SIGHUP. `supervised`: started anew whenever it ends, as systemd or Kubernetes would.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import gmail_sdk

ACCOUNT = "westsidebasketball"

_clients: dict[str, gmail_sdk.GmailClient] = {}


def gmail(secrets_dir: str) -> gmail_sdk.GmailClient:
    """Return the client, which read its token when it was built."""
    if ACCOUNT not in _clients:
        _clients[ACCOUNT] = gmail_sdk.GmailClient(account=ACCOUNT, secrets_dir=secrets_dir)
    return _clients[ACCOUNT]


class Handler(BaseHTTPRequestHandler):
    """What the application serves."""

    secrets_dir = ""
    resource_url = ""

    def do_GET(self) -> None:
        """Send a mail, so to speak."""
        client = gmail(self.secrets_dir)
        status = client._http.get(self.resource_url).status_code
        fingerprint = hashlib.sha256(str(client.access_token).encode()).hexdigest()[:12]
        self._answer({"fingerprint": fingerprint, "status": status, "pid": os.getpid()})

    def do_POST(self) -> None:
        """Forget the clients."""
        self.rfile.read(int(self.headers.get("Content-Length", "0")))
        _clients.clear()
        self._answer({})

    def _answer(self, document: dict[str, Any]) -> None:
        body = json.dumps(document).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Log nothing."""


def main() -> None:
    """Serve until it is ended."""
    secrets_dir, resource_url, port, pid_file, *supervised = sys.argv[1:]
    while supervised and os.fork():
        os.wait()
    Handler.secrets_dir, Handler.resource_url = secrets_dir, resource_url
    signal.signal(signal.SIGHUP, lambda *_: _clients.clear())
    server = ThreadingHTTPServer(("127.0.0.1", int(port)), Handler)
    Path(pid_file).write_text(f"{os.getpid()}\n", encoding="ascii")
    server.serve_forever()


if __name__ == "__main__":
    main()
