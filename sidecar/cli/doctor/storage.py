"""The store: reached, of a schema that we know, writable, and every record of ours opens."""

from __future__ import annotations

import secrets
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

import anyio

from sidecar.cli import common
from sidecar.cli.doctor.lines import Check
from sidecar.errors import ConfigError, Conflict, RecordUnreadable, SidecarError, StoreError, StoreMissing
from sidecar.ports import SupportsDiagnosis, SupportsProbe
from sidecar.tokens import Record, new_id

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection

    from sidecar.cli.doctor.examination import Examination
    from sidecar.cli.doctor.lines import Line
    from sidecar.ports import Held, Store

LEASE = 10.0
"""Seconds for which the trial's record is protected; it is gone after milliseconds."""
AT_ONCE = 8
"""Tokens."""
MOST = 500
"""Records of others that are looked at."""


async def store(exam: Examination) -> list[Line]:
    """Open the store, try it, and read the records of all tokens."""
    settings = exam.settings
    check = Check("store", settings.store.scheme)
    if not exam.store_known:
        return [
            check.skipped("its URL is in a file, which is not read while the configuration has errors here")
        ]
    if settings.store.scheme == "memory":
        return [check.skipped("it is in the daemon's own memory, and can't be asked from outside")]
    lines: list[Line] = []
    try:
        async with common.make_store(settings, create=False) as opened:
            if isinstance(opened, SupportsDiagnosis):
                lines += check.found(await opened.diagnose())
            else:
                lines.append(check.ok("reached"))
            lines += await _writable(exam, opened)
            lines += await _records(exam, opened)
            lines += await _others(exam, opened)
    except StoreMissing as missing:
        exam.held, exam.others = dict.fromkeys(settings.tokens), {}
        text, _, remedy = str(missing).partition("; ")
        lines.append(check.warning(text, remedy))
    except (StoreError, ConfigError) as error:
        lines.append(_unseen(check, error) if _by_mode(exam) else check.error(error))
    return lines


def _by_mode(exam: Examination) -> bool:
    """Tell whether a refusal may be this user's alone: a file's modes decide, and we are not the daemon."""
    return exam.stranger and exam.settings.store.sqlite_path is not None


def _unseen(check: Check, error: SidecarError) -> Line:
    text, _, remedy = str(error).partition("; ")
    return check.skipped(text, remedy)


async def _writable(exam: Examination, opened: Store) -> list[Line]:
    """Prove that a lease can be taken, that all see it, and that nobody else gets it meanwhile."""
    if isinstance(opened, SupportsProbe):
        return await _side_by_side(exam.settings.tokens, partial(_probed, exam, opened))
    check = Check("lease", opened.kind)
    key = f"{exam.settings.namespace}/doctor-{secrets.token_hex(8)}"
    began = exam.clock.monotonic()
    try:
        problem = await _round_trip(opened, key)
    except StoreError as error:
        return [_unseen(check, error) if _by_mode(exam) else check.error(error)]
    if problem:
        return [check.failed(problem, "this store can't keep two daemons apart: use another")]
    took = exam.clock.monotonic() - began
    return [check.ok(f"a record of its own was leased, read and removed in {1000 * took:.0f} ms")]


async def _probed(exam: Examination, opened: SupportsProbe, name: str) -> list[Line]:
    check = Check("lease", name)
    try:
        await opened.probe(common.key_of(exam.settings, name))
    except StoreError as error:
        return [check.error(error)]
    return [check.ok("its record could be written; nothing was")]


async def _round_trip(opened: Store, key: str) -> str:
    record = Record(lineage=new_id())
    try:
        await opened.write(key, record, expected=None, lease=LEASE)
        held = await opened.load(key)
        if held is None or held.record != record or held.lease_left <= 0:
            return "a lease that was written is not found again"
        with suppress(Conflict):
            await opened.write(key, record, expected=None, lease=LEASE)
            return "a second writer got a lease that was taken"
        await opened.write(key, record, expected=held.version)
    finally:
        with anyio.move_on_after(LEASE, shield=True):
            await _remove(opened, key)
    return ""


async def _remove(opened: Store, key: str) -> None:
    """Remove whatever is there by now: a write that failed may have happened."""
    held = await opened.load(key)
    if held is not None:
        await opened.delete(key, expected=held.version)


async def _records(exam: Examination, opened: Store) -> list[Line]:
    found: dict[str, Held | None] = {}
    lines = await _side_by_side(exam.settings.tokens, partial(_record, exam, opened, found))
    exam.held = found
    return lines


async def _record(exam: Examination, opened: Store, found: dict[str, Held | None], name: str) -> list[Line]:
    check = Check("record", name)
    try:
        held = found[name] = await opened.load(common.key_of(exam.settings, name))
    except RecordUnreadable as error:
        # Waiting does not make it readable.
        return [check.error(error, exit_code=1)]
    except StoreError as error:
        return [check.error(error)]
    return [_opened(exam, check, held) if held is not None else check.ok("there is none yet")]


async def _side_by_side(names: Collection[str], look: Callable[[str], Awaitable[list[Line]]]) -> list[Line]:
    """Look at several tokens at once, so that a store which is away takes the time of a few calls only."""
    found: dict[str, list[Line]] = {}
    limiter = anyio.CapacityLimiter(AT_ONCE)

    async def run(name: str) -> None:
        async with limiter:
            found[name] = await look(name)

    async with anyio.create_task_group() as tasks:
        for name in names:
            tasks.start_soon(run, name)
    return [line for name in names for line in found[name]]


def _opened(exam: Examination, check: Check, held: Held) -> Line:
    place = exam.settings.store
    text = f"generation {held.record.generation} of lineage {held.record.lineage[:12]}"
    if held.sealed_with:
        return check.ok(f"{text}, opened with the key {held.sealed_with}")
    if place.require_encryption:
        remedy = "if nobody slipped it in, seal it: token-sidecar store rekey"
        return check.failed(f"{text}, in clear, which store.require_encryption refuses", remedy)
    if place.encryption_keys:
        return check.warning(f"{text}, in clear although there are keys", "token-sidecar store rekey")
    return check.ok(f"{text}, in clear")


async def _others(exam: Examination, opened: Store) -> list[Line]:
    """Read the other records, for who else has our grants."""
    ours = {common.key_of(exam.settings, name) for name in exam.settings.tokens}
    check = Check("other records")
    try:
        keys = [key for key in await opened.keys() if key not in ours]
    except StoreError as error:
        return [_unseen(check, error)]
    exam.others, closed = {}, 0
    for key in keys[:MOST]:
        try:
            held = await opened.load(key)
        except RecordUnreadable:
            closed += 1
            continue
        if held is not None:
            exam.others[key] = held.record
    if closed or len(keys) > MOST:
        left = closed + max(0, len(keys) - MOST)
        return [check.skipped(f"{left} of {len(keys)} were not looked into for our grants")]
    return []
