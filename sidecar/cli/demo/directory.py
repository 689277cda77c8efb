"""The demo's directory: what is in it, and the configuration, which newcomers are to read."""

from __future__ import annotations

import fcntl
import json
import os
import shlex
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Self

from sidecar.config.mounts import VOLATILE, Mounts
from sidecar.errors import UsageError

if TYPE_CHECKING:
    from types import TracebackType

MARKER = ".token-sidecar-demo"
FILES = (
    ".gitignore",
    "config.yaml",
    "credentials.json",
    "daemon.log",
    "daemon.pid",
    "provider.json",
    "provider.log",
    "provider.pid",
    "seed.json",
    "store.db",
    "store.db-journal",
    "store.db-shm",
    "store.db-wal",
)
TOKENS = {
    "gmail": ("tokens/gmail.json", "tokens/gmail.header"),
    "reports-api": ("tokens/reports-api.json",),
}
"""Token → the files that it is published to."""

GRANTS = {"gmail": "refresh token", "reports-api": "client credentials"}

# Written here once more: importing sidecar.server.serve takes longer than everything else here.
SOCKET_PATH_LIMIT = 107

CONFIG = """\
# The demo's configuration. `make demo` writes it anew each time, so try changes while the demo runs:
# the daemon notices, and touches only the tokens that changed.
# All keys: docs/reference/configuration.md

state_dir: {state_dir} # the daemon's own: answers on their way to the store, control socket
store: sqlite:store.db # refresh tokens live here; each rotation is committed before anybody uses it
server: {{port: 0}} # probes and metrics, on any free port

providers:
  simulator: # your own provider, or a built-in one (`token-sidecar providers`) such as google
    token_url: {token_url}
    {provider}

tokens:
  gmail: # the usual case: somebody consented once, and from then on there is a refresh token
    provider: simulator
    client: {{file: credentials.json}} # as it comes from Google's console
    seed: seed.json # the first refresh token; watched, so that a new consent is one new file
    outputs: # the same access token, in the form that each reader expects
      - {{file: tokens/gmail.json, format: gmail-sdk}}
      - {{file: tokens/gmail.header, format: header}} # curl -H @tokens/gmail.header …

  reports-api: # a machine's own access: no consent, no refresh token
    provider: simulator
    grant: client_credentials
    client: {{file: credentials.json}}
    scopes: [reports.read]
    outputs:
      - {{file: tokens/reports-api.json}}
{volatile}"""

VOLATILE_STORE = """
# This directory is in memory or in a container's own layer, and the store goes with it. For a demo that is
# fine; elsewhere put the store on a volume, or a human must consent again after each restart.
allow_volatile_store: true
"""


class Directory:
    """One demo's files; a context manager that keeps other demos out and clears away what an earlier one left."""

    def __init__(self, path: Path) -> None:
        """Touch nothing yet. `path` is as the user wrote it, and shown like that."""
        self.path = path
        self.state_dir = path.absolute() / "state"
        self._lock = -1

    def __enter__(self) -> Self:
        """Raises `UsageError` for a directory that is somebody else's, or `OSError`."""
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        if any(self.path.iterdir()) and not (self.path / MARKER).is_file():
            raise UsageError(
                f"{self.path} holds other files than a demo's, and they are left alone; name another directory "
                "with --directory"
            )
        self.path.chmod(0o700)
        self._lock = os.open(self.path / MARKER, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._lock)
            raise UsageError(
                f"a demo is running in {self.path} already; end it, or name another directory with --directory"
            ) from None
        self._clear()
        self._prepare()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Leave the files for a look; only a state_dir elsewhere is removed."""
        self._forget_state_dir()
        os.close(self._lock)

    def __truediv__(self, name: str) -> Path:
        """Return a file of the demo."""
        return self.path / name

    def shown(self, name: str) -> str:
        """Return a file's path as a shell wants it."""
        return shlex.quote(str(self.path / name))

    @property
    def is_state_elsewhere(self) -> bool:
        """Whether state_dir is not in here, because its socket's path would be too long."""
        return self.state_dir.parent != self.path.absolute()

    def write_config(self, token_url: str, provider: str) -> Path:
        """Write the configuration and return its path. `provider`: what there is to say of it beside its address."""
        state_dir = "state"
        if self.is_state_elsewhere:
            state_dir = json.dumps(str(self.state_dir).replace("$", "$$"))
        volatile = VOLATILE_STORE if Mounts.read().kind(self.path) in VOLATILE else ""
        path = self.path / "config.yaml"
        path.write_text(
            CONFIG.format(state_dir=state_dir, token_url=token_url, provider=provider, volatile=volatile),
            encoding="utf-8",
        )
        return path

    def _clear(self) -> None:
        self._forget_state_dir()
        state = self.path / "state"
        if state.is_symlink():
            state.unlink()
        elif state.exists():
            shutil.rmtree(state)
        for name in (*FILES, *(file for files in TOKENS.values() for file in files)):
            path = self.path / name
            path.unlink(missing_ok=True)
            for temporary in path.parent.glob(f".{path.name}.*"):
                temporary.unlink(missing_ok=True)

    def _prepare(self) -> None:
        (self.path / "tokens").mkdir(mode=0o755, exist_ok=True)
        # Tokens of a simulated provider are worthless, but a habit of committing them isn't.
        (self.path / ".gitignore").write_text("*\n", encoding="ascii")
        if len(os.fsencode(self.state_dir / "control.sock")) > SOCKET_PATH_LIMIT:
            self.state_dir = Path(tempfile.mkdtemp(prefix="token-sidecar-demo-"))
            os.pwrite(self._lock, os.fsencode(self.state_dir), 0)

    def _forget_state_dir(self) -> None:
        """Remove a state_dir elsewhere: this demo's, or that of an earlier one that was killed."""
        elsewhere = Path(os.fsdecode(os.pread(self._lock, 4096, 0)))
        if elsewhere.name.startswith("token-sidecar-demo-") and elsewhere.is_absolute():
            with suppress(FileNotFoundError):
                shutil.rmtree(elsewhere)
        os.ftruncate(self._lock, 0)
