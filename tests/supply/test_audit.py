"""The audit of what is pinned: a check that could not check has failed."""

from __future__ import annotations

import json
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from supply import audit

Run = Callable[..., subprocess.CompletedProcess[str]]
Known = dict[str, list[dict[str, Any]]]

HASH = f" \\\n    --hash=sha256:{'0' * 64}"
BAIT: Known = {"pyyaml": [{"id": "PYSEC-2021-142", "aliases": ["CVE-2020-14343"], "affected": []}]}


class Database(ThreadingHTTPServer):
    """Answers as OSV does: what is known of one version of one package; 500 for those that are `broken`."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.known: Known = {}
        self.broken: set[str] = set()
        self.asked: list[tuple[str, str]] = []

    @property
    def url(self) -> str:
        """Where it is asked."""
        return f"http://127.0.0.1:{self.server_port}/v1/query"


class Answer(BaseHTTPRequestHandler):
    """One question."""

    server: Database

    def do_POST(self) -> None:
        """Answer it."""
        question = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        name = question["package"]["name"]
        self.server.asked.append((name, question["version"]))
        vulnerabilities = self.server.known.get(name)
        body = json.dumps({"vulns": vulnerabilities} if vulnerabilities else {}).encode()
        self.send_response(500 if name in self.server.broken else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def database() -> Iterator[Database]:
    """A database of vulnerabilities on loopback."""
    with Database() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def pinned(tmp_path: Path) -> Path:
    """Two packages, and one that another system wants."""
    file = tmp_path / "requirements.txt"
    lines = [f"Good_One==1.2{HASH}", f"other==3.4{HASH}", f"far==5.6 ; sys_platform == 'emscripten'{HASH}"]
    file.write_text("\n".join(lines), encoding="utf-8")
    return file


def test_a_database_that_is_away_fails_the_audit(run: Run) -> None:
    """The very command of `make audit`, with nobody at the other end, says that nothing was checked, and fails."""
    with socket.create_server(("127.0.0.1", 0)) as trial:
        port = trial.getsockname()[1]

    done = run("audit", "--database", f"http://127.0.0.1:{port}/v1/query")

    assert done.returncode == 2
    assert done.stderr.startswith("NOT CHECKED: the database could not be asked")
    assert done.stdout == ""


def test_a_database_that_knows_nothing_fails_the_audit(run: Run, database: Database, pinned: Path) -> None:
    """An empty answer to everything isn't good news: the package that everybody knows of is asked about first."""
    done = run("audit", "--database", database.url, pinned)

    assert done.returncode == 2
    assert "NOT CHECKED: the database knows nothing against pyyaml==5.3" in done.stderr
    assert database.asked == [("pyyaml", "5.3")]


def test_an_answer_that_is_missing_fails_the_audit(run: Run, database: Database, pinned: Path) -> None:
    """One package that the database fails at is enough."""
    database.known = BAIT
    database.broken = {"other"}

    done = run("audit", "--database", database.url, pinned)

    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("NOT CHECKED")


def test_a_pin_that_the_report_leaves_out_fails_the_audit(
    pinned: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was skipped, for whatever reason, was not checked, and is named."""
    vulnerable = {"name": "good-one", "version": "1.2", "vulns": [{"id": "PYSEC-2026-2"}]}
    monkeypatch.setattr(audit, "report", lambda *_: [vulnerable])

    with pytest.raises(audit.NotChecked, match=r"no answer for other==3\.4$"):
        audit.audit([pinned], [])


def test_pins_without_a_vulnerability_pass(run: Run, database: Database, pinned: Path) -> None:
    """All that this machine would install was asked about, by its canonical name, and the count is told."""
    database.known = BAIT

    done = run("audit", "--database", database.url, pinned)

    assert done.returncode == 0, done.stderr
    assert done.stdout == "2 pinned packages were looked up, 0 with known vulnerabilities\n"
    assert set(database.asked) == {("pyyaml", "5.3"), ("good-one", "1.2"), ("other", "3.4")}


def test_a_vulnerability_is_named_and_fails_the_audit(run: Run, database: Database, pinned: Path) -> None:
    """Package, version, every name of it, and the version that mends it."""
    package = {"name": "other", "ecosystem": "PyPI"}
    ranges = [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "3.5"}]}]
    database.known = BAIT | {
        "other": [
            {
                "id": "PYSEC-2026-1",
                "aliases": ["CVE-2026-1"],
                "summary": "Burns the house down",
                "affected": [{"package": package, "ranges": ranges}],
            }
        ]
    }

    done = run("audit", "--database", database.url, pinned)

    assert done.returncode == 1, done.stderr
    assert done.stdout.splitlines() == [
        "other 3.4: PYSEC-2026-1, CVE-2026-1; mended in 3.5. Burns the house down",
        "2 pinned packages were looked up, 1 with known vulnerabilities",
    ]
