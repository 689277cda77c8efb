"""A real kube-apiserver with its etcd, for tests: of its own folder and ports, gone with the process that started it.

`KUBEBUILDER_ASSETS` names the directory with the two programs, as in the tests of operators (envtest). No kubelet and
no controller runs: what is created stays as it is. RBAC is on. Made for Kubernetes 1.20 and everything after it: no
option is given that one of them does not know.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Self

import httpx2

from tests import pki
from tests.kube.cluster import Cluster
from tests.postgres import free_port

ASSETS = "KUBEBUILDER_ASSETS"
PATIENCE = 120.0
"""Seconds for a start: it takes a few, and far more on a busy machine."""
POLL = 0.05
TAIL = 30
"""Lines of a log that are shown where a program does not start."""


def assets() -> Path | None:
    """Return where the programs are, if they are anywhere."""
    named = os.environ.get(ASSETS)
    return Path(named) if named else None


# Ends with its child, and ends it when the tests are gone: their end of the pipe closes, however they died.
_KEEPER = """
import os, subprocess, sys, threading
child = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL)
threading.Thread(target=lambda: (sys.stdin.read(), os.killpg(0, 9)), daemon=True).start()
sys.exit(child.wait())
"""


class Program:
    """One program and its log."""

    def __init__(self, path: Path, log: Path, *arguments: str) -> None:
        self._command = [str(path), *arguments]
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def runs(self) -> bool:
        """Whether it has been started and not stopped."""
        return self._process is not None

    def start(self) -> None:
        """Start it."""
        assert self._process is None, f"{self._command[0]} runs already"
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _KEEPER, *self._command],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                process_group=0,
            )

    def stop(self) -> None:
        """End it at once: one that stands still takes no SIGTERM, and nothing that was answered is lost."""
        if self._process is None:
            return
        process, self._process = self._process, None
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        # It is no child of ours, and takes a moment to let go of its connections.
        while any(group == process.pid for group in _groups()):
            time.sleep(POLL / 10)

    def signal(self, signum: signal.Signals) -> None:
        """Send it a signal."""
        assert self._process is not None
        os.killpg(self._process.pid, signum)

    def ended(self) -> int | None:
        """Return its exit code once it has ended by itself."""
        return self._process.poll() if self._process else None

    def tail(self) -> str:
        """Return the end of its log."""
        lines = (
            self._log.read_text(encoding="utf-8", errors="replace").splitlines() if self._log.exists() else []
        )
        return "\n".join(lines[-TAIL:])


class ApiServer(Cluster):
    """The real thing."""

    kind = "real"

    def __init__(self, programs: Path, directory: Path) -> None:
        self.port = free_port()
        self.admin_token = f"sim-at-{secrets.token_hex(16)}"
        self._directory = directory
        authority = pki.Authority("the cluster's authority")
        self.ca = authority.certificate
        serving = authority.issue("kube-apiserver")
        account_key = pki.rsa_key()
        files = {
            "serving.crt": serving.certificate,
            "serving.key": serving.key,
            "accounts.key": pki.pem(account_key),
            "accounts.pub": pki.public_pem(account_key),
            # token, user, uid, groups
            "tokens.csv": f'{self.admin_token},admin,admin,"system:masters"\n'.encode(),
        }
        for name, content in files.items():
            (directory / name).write_bytes(content)
            (directory / name).chmod(0o600)
        self._etcd_url, peer = (f"http://127.0.0.1:{free_port()}" for _ in range(2))
        self._etcd = Program(
            programs / "etcd",
            directory / "etcd.log",
            f"--data-dir={directory}/etcd",
            f"--listen-client-urls={self._etcd_url}",
            f"--advertise-client-urls={self._etcd_url}",
            f"--listen-peer-urls={peer}",
            f"--initial-advertise-peer-urls={peer}",
            f"--initial-cluster=default={peer}",
            # No test takes the machine's power away.
            "--unsafe-no-fsync",
        )
        self._server = Program(
            programs / "kube-apiserver",
            directory / "kube-apiserver.log",
            f"--etcd-servers={self._etcd_url}",
            "--bind-address=127.0.0.1",
            "--advertise-address=127.0.0.1",
            "--endpoint-reconciler-type=none",
            f"--secure-port={self.port}",
            f"--cert-dir={directory}",
            f"--tls-cert-file={directory}/serving.crt",
            f"--tls-private-key-file={directory}/serving.key",
            f"--token-auth-file={directory}/tokens.csv",
            "--authorization-mode=RBAC",
            # Nobody makes the default accounts, nor the tokens that pods would be given.
            "--disable-admission-plugins=ServiceAccount",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-key-file={directory}/accounts.pub",
            f"--service-account-signing-key-file={directory}/accounts.key",
            "--service-cluster-ip-range=10.0.0.0/24",
            "--allow-privileged=true",
        )

    def start(self) -> Self:
        if not self._etcd.runs:
            self._etcd.start()
            self._wait("etcd", self._etcd, self._etcd_answers)
        self._server.start()
        self._wait("kube-apiserver", self._server, self._is_ready)
        return self

    def stop(self) -> None:
        self._server.stop()

    def close(self) -> None:
        """End both."""
        self.stop()
        self._etcd.stop()

    def pause(self) -> None:
        self._server.signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._server.signal(signal.SIGCONT)
        # Its way to etcd may have ended meanwhile.
        self._wait("kube-apiserver", self._server, self._is_ready)

    def revoke_tokens(self, namespace: str, account: str, token: str) -> None:
        self.delete("serviceaccounts", namespace, account)
        self.create(
            {
                "apiVersion": "v1",
                "kind": "ServiceAccount",
                "metadata": {"name": account, "namespace": namespace},
            }
        )
        # It remembers for ten seconds that a token was good.
        end = time.monotonic() + PATIENCE
        while self.ask("GET", "version", token=token).status_code != 401:
            assert time.monotonic() < end, "the token still works"
            time.sleep(POLL)

    def version(self) -> str:
        """Return what it says it is."""
        return str(self.ask("GET", "version").json()["gitVersion"])

    def _etcd_answers(self) -> bool:
        with urllib.request.urlopen(f"{self._etcd_url}/health", timeout=5) as answer:  # noqa: S310 - loopback
            return bool(answer.status == 200)

    def _is_ready(self) -> bool:
        return self.ask("GET", "readyz", timeout=5).status_code == 200

    def _wait(self, name: str, program: Program, ready: Callable[[], bool]) -> None:
        end = time.monotonic() + PATIENCE
        while True:
            code = program.ended()
            if code is not None or time.monotonic() > end:
                why = "is not ready" if code is None else f"ended with {code}"
                self.close()
                raise RuntimeError(f"{name} {why}; it wrote at last:\n{program.tail()}")
            try:
                if ready():
                    return
            except (OSError, httpx2.HTTPError):
                pass
            time.sleep(POLL)


def _groups() -> Iterator[int]:
    """Give the process groups of everything that runs; of a process that is dying, its threads still do."""
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            fields = path.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
            state, group, threads = fields[0], int(fields[2]), int(fields[17])
            if state not in "ZX" or threads > 1:
                yield group


@contextmanager
def running(programs: Path | None = None) -> Iterator[ApiServer]:
    """Run one for the length of the block."""
    found = programs or assets()
    assert found is not None, f"${ASSETS} names no directory with etcd and kube-apiserver"
    for name in ("etcd", "kube-apiserver"):
        assert shutil.which(found / name), f"${ASSETS} is {found}, and there is no program {name} in it"
    with tempfile.TemporaryDirectory(prefix="kube-") as folder:
        server = ApiServer(found, Path(folder))
        try:
            yield server.start()
        finally:
            server.close()
