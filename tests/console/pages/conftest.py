"""The deployment that the console's pages are looked at with."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.console import gallery

if TYPE_CHECKING:
    from sidecar.config.settings import Settings


@pytest.fixture(scope="session")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """Give its configuration."""
    return gallery.settings(tmp_path_factory.mktemp("gallery"))
