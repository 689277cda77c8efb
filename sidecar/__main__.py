"""argv → exit code."""

from __future__ import annotations

import os
import resource
import signal
import sys

from sidecar import cli


def main() -> None:
    """Run the command line; the console script `token-sidecar` and `python -m sidecar` start here."""
    # Every command may hold a secret, not only the daemon.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if os.getpid() == 1:
        # A container's first process: the kernel drops signals for it that nobody handles, and the daemon's own
        # handlers come when the store is open.
        signal.signal(signal.SIGTERM, lambda signum, _frame: os._exit(128 + signum))
    sys.exit(cli.main())


if __name__ == "__main__":
    main()
