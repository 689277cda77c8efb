"""Words to the service manager: sd_notify(3), which is one datagram to the socket that `$NOTIFY_SOCKET` names.

It is written here, since it is these few lines: the packages for it are bindings to libsystemd, which has to be there
and compiled against, or copies of these lines.
"""

from __future__ import annotations

import os
import socket
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

STATUS_LIMIT = 500
"""Characters of a status, which is one line of `systemctl status`."""


class ServiceManager:
    """Whoever started this process and wants to know how it goes; nobody, where `$NOTIFY_SOCKET` isn't set."""

    def __init__(self, environ: Mapping[str, str], warn: Callable[[str], None]) -> None:
        """`warn` takes in words, once, that it can't be reached."""
        self._address = environ.get("NOTIFY_SOCKET", "")
        self._warn: Callable[[str], None] | None = warn
        self._status = ""
        self._is_ready = False
        self.watchdog = _watchdog(environ) if self._address else None
        """Seconds within which it wants to hear from us; None: it doesn't."""

    @property
    def listens(self) -> bool:
        """Whether there is one."""
        return bool(self._address)

    def starting(self, seconds: float) -> None:
        """Say that start-up takes longer, and that there will be word of it again within so many seconds."""
        self._send(f"EXTEND_TIMEOUT_USEC={seconds * 1e6:.0f}")

    def ready(self) -> None:
        """Say that start-up, or a reload, is done."""
        self._is_ready = True
        self._send("READY=1")

    def reloading(self) -> None:
        """Say that the configuration is being read again; `ready` says that this is over."""
        if self._is_ready:  # before that, it would take the end of this for the end of start-up
            self._send(f"RELOADING=1\nMONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")

    def reloaded(self) -> None:
        """Say that the configuration was read, be it to be refused."""
        if self._is_ready:
            self._send("READY=1")

    def stopping(self) -> None:
        """Say that this process is ending."""
        self._send("STOPPING=1\nSTATUS=stopping: what is under way is seen home")

    def alive(self) -> None:
        """Put the watchdog off for another period, if there is one."""
        if self.watchdog is not None:
            self._send("WATCHDOG=1")

    def status(self, text: str) -> None:
        """Show this to humans, if it is news."""
        line = " ".join(text.split())[:STATUS_LIMIT]
        if line != self._status:
            self._status = line
            self._send(f"STATUS={line}")

    def _send(self, message: str) -> None:
        if not self._address:
            return
        # "@" stands for the zero byte that an abstract socket's name begins with.
        address = f"\0{self._address[1:]}" if self._address.startswith("@") else self._address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
                sock.settimeout(0)
                sock.sendto(message.encode(), address)
        except OSError as error:
            if self._warn is not None:
                self._warn(
                    f"the service manager can't be told how it goes ({error.strerror}); see NotifyAccess="
                )
            self._warn = None


def _watchdog(environ: Mapping[str, str]) -> float | None:
    """Read what sd_watchdog_enabled(3) reads."""
    period, whose = environ.get("WATCHDOG_USEC", ""), environ.get("WATCHDOG_PID", "")
    if not period.isdecimal() or not int(period) or (whose and whose != str(os.getpid())):
        return None
    return int(period) / 1e6
