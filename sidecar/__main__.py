"""argv → exit code."""

from __future__ import annotations

import sys

from sidecar import cli


def main() -> None:
    """Run the command line; the console script `token-sidecar` and `python -m sidecar` start here."""
    sys.exit(cli.run())


if __name__ == "__main__":
    main()
