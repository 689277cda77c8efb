"""What of the documentation is written from code: `make reference` writes it anew, tests compare."""

from __future__ import annotations

from collections.abc import Callable

from sidecar.cli import portrait
from sidecar.cli import reference as commands
from sidecar.config import reference as configuration
from sidecar.config import schema
from sidecar.observers import metrics
from tests.docs import errors_page, events_page, pictures
from tests.docs.pages import DOCS

WRITTEN: dict[str, Callable[[], str]] = {
    "images/layers.svg": pictures.floors,
    "images/turn.svg": pictures.turn,
    "reference/commands.md": commands.generate,
    "reference/config.schema.json": schema.render,
    "reference/configuration.md": configuration.generate,
    "reference/errors.md": errors_page.generate,
    "reference/events.md": events_page.generate,
    "reference/metrics.md": metrics.reference,
    "reference/providers.md": portrait.reference,
}
"""File below docs/ → who writes it. `make crash-matrix` and `make chart` write what takes long, or is Helm's."""


def main() -> None:
    """Write all of it."""
    for name, write in WRITTEN.items():
        (DOCS / name).write_text(write(), encoding="utf-8")


if __name__ == "__main__":
    main()
