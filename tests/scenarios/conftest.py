"""The systems that asked for this project, end to end: real daemon, real client libraries, simulated providers."""

from __future__ import annotations

from tests.e2e.conftest import daemon, home, make_daemon, make_simulator, names, simulator

__all__ = ["daemon", "home", "make_daemon", "make_simulator", "names", "simulator"]
