"""argv → exit code."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys

from sidecar import cli

PR_SET_DUMPABLE = 4


def main() -> None:
    """Run the command line; the console script `token-sidecar` and `python -m sidecar` start here."""
    harden()
    if os.getpid() == 1:
        # A container's first process: the kernel drops signals for it that nobody handles, and the daemon's own
        # handlers come when the store is open.
        signal.signal(signal.SIGTERM, lambda signum, _frame: os._exit(128 + signum))
    sys.exit(cli.main())


def harden() -> None:
    """Keep secrets in this process's memory: no core files, and no debugger of the same user.

    Every command may hold one, not only the daemon: `login`, `seed` and `token` do.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)


if __name__ == "__main__":
    main()
