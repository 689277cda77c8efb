"""argv → exit code."""

from __future__ import annotations

import resource
import sys

from sidecar import cli


def main() -> None:
    """Run the command line; the console script `token-sidecar` and `python -m sidecar` start here."""
    # Every command may hold a secret, not only the daemon.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    sys.exit(cli.main())


if __name__ == "__main__":
    main()
