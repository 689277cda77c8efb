"""A network between a daemon and its database that can fall silent, as one does whose packets are dropped."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

CHUNK = 65536


class Wire:
    """Passes connections on to a port of this machine."""

    def __init__(self, port: int) -> None:
        """Listen on a port of its own; `port`: where connections lead."""
        self._target = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self.deaf = False
        """Nothing that is sent arrives. Connections are taken all the same, and stay open."""
        self.mute = False
        """No answer comes back, though what was sent has arrived."""
        threading.Thread(target=self._accept, name="wire", daemon=True).start()

    def close(self) -> None:
        """Take no more connections."""
        # Closing alone would leave the thread in its accept.
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    @contextmanager
    def silent(self) -> Iterator[None]:
        """Drop everything, both ways, until the end of the block."""
        self.deaf = self.mute = True
        try:
            yield
        finally:
            self.deaf = self.mute = False

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            try:
                far = socket.create_connection(("127.0.0.1", self._target))
            except OSError:
                near.close()
                continue
            ends = threading.Barrier(2)
            threading.Thread(target=self._pass, args=(near, far, True, ends), daemon=True).start()
            threading.Thread(target=self._pass, args=(far, near, False, ends), daemon=True).start()

    def _pass(self, source: socket.socket, sink: socket.socket, there: bool, ends: threading.Barrier) -> None:  # noqa: FBT001
        with suppress(OSError):
            while data := source.recv(CHUNK):
                if not (self.deaf if there else self.mute):
                    sink.sendall(data)
        for end in (source, sink):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        # Closed by the last to leave: the other may be using it still.
        if ends.wait() == 0:
            source.close()
            sink.close()
