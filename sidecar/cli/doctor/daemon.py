"""The running daemon: whether there is one, of this version, on this configuration, and awake."""

from __future__ import annotations

from typing import TYPE_CHECKING

from anyio import to_thread

from sidecar import __version__
from sidecar.cli import common
from sidecar.cli.doctor.lines import Check
from sidecar.errors import SidecarError
from sidecar.server.client import ControlClient, NotRunning
from sidecar.server.wire import SOCKET_FILE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sidecar.cli.doctor.examination import Examination
    from sidecar.cli.doctor.lines import Line

PATIENCE = 5.0
"""Seconds."""
SLOW = 60.0
"""Seconds after which a change of the file should have been noticed, whatever watches it."""

CHECK = Check("daemon")


async def daemon(exam: Examination) -> list[Line]:
    """Ask the daemon how it is."""
    client = ControlClient(exam.settings.state_dir / SOCKET_FILE, timeout=PATIENCE)
    try:
        exam.daemon = await to_thread.run_sync(client.status, abandon_on_cancel=True)
    except NotRunning as absence:
        text, _, remedy = str(absence).partition("; ")
        return [CHECK.warning(f"{text}: what follows is from the store and the outputs", remedy)]
    except SidecarError as error:
        text, _, remedy = str(error).partition("; ")
        return [CHECK.skipped(text, remedy)]
    wrong = list(_wrong(exam))
    if wrong:
        return wrong
    up = common.span(exam.daemon["uptime"])
    return [CHECK.ok(f"version {__version__}, up for {up}, on this configuration")]


def _wrong(exam: Examination) -> Iterator[Line]:
    document = exam.daemon or {}
    config, path = document.get("config", {}), exam.settings.path
    if document.get("version") != __version__:
        text = f"runs version {document.get('version')}, and this is {__version__}"
        yield CHECK.warning(text, "restart it")
    if not config.get("accepted", True):
        for problem in config["problems"]:
            text, _, remedy = str(problem).partition("; ")
            yield CHECK.failed(f"refused the changed configuration: {text}", remedy, exit_code=2)
    elif config.get("path") not in {None, str(path)}:
        text = f"runs on {config['path']}, and this looked at {path}"
        yield CHECK.warning(text, f"name its own: --config {config['path']}")
    elif document["tokens"].keys() != exam.names or _overlooked(exam):
        yield CHECK.warning("has not read the changed configuration", "send it SIGHUP, and see its log")
    for worker, beat in document.get("heartbeats", {}).items():
        if beat["stale"]:
            yield CHECK.failed(
                f"worker {worker}: no heartbeat for {common.span(beat['age'])}", "restart the daemon"
            )


def _overlooked(exam: Examination) -> bool:
    read_at = (exam.daemon or {}).get("config", {}).get("read_at")
    changed = exam.settings.path.stat().st_mtime
    return read_at is not None and read_at < changed < exam.clock.wall() - SLOW
