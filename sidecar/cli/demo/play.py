"""The demo's course: start, live, end, judge. One loop on the main thread; readers and askers have their own."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sidecar import schedule
from sidecar.cli.demo import provider
from sidecar.cli.demo.directory import GRANTS, TOKENS
from sidecar.cli.demo.processes import Child
from sidecar.cli.demo.reader import Reader, Repeating
from sidecar.cli.demo.screen import BAD, GOOD, PLAIN, Event, Introduction, OutputRow, Row, Scene
from sidecar.cli.demo.trouble import Troubles
from sidecar.cli.demo.verdict import Facts, Verdict, judge
from sidecar.errors import SidecarError
from sidecar.profile import Profile
from sidecar.schedule import Policy
from sidecar.server.client import ControlClient
from sidecar.server.wire import SOCKET_FILE

if TYPE_CHECKING:
    from sidecar.cli.demo.directory import Directory
    from sidecar.cli.demo.screen import Screen

TICK = 0.1
STANDSTILL = 2.0
"""Seconds between two ticks after which this machine, or this process, must have been asleep."""
DAEMON_PAUSE = 1.0
PROVIDER_PAUSE = 3.0
"""Seconds before what somebody ended is started again."""
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
SAME_PRESS = 0.5
"""Seconds in which a second signal is no second wish: a terminal tells `make` and us at once."""
