"""The grants: how each stands, until when a human has time, and who else may be using it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from sidecar.cli import common, status, stored
from sidecar.cli.doctor.lines import Check
from sidecar.errors import ConfigError, SeedError
from sidecar.outputs import open_output
from sidecar.ports import Grade
from sidecar.seeds import read_seed_file
from sidecar.server import health
from sidecar.tokens import AccessState, GrantState

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from sidecar.cli.doctor.examination import Examination
    from sidecar.cli.doctor.lines import Line
    from sidecar.config.settings import OutputTarget
    from sidecar.events import OutputView, TokenView
    from sidecar.tokens import Record

DAY = 86400.0
NOTICE = 2 * DAY
"""Seconds before a human's deadline from which on it is worth a warning."""

REMEDIES = {
    GrantState.UNPERSISTED: "repair the store; until then neither stop the daemon nor lose state_dir",
    GrantState.IN_DOUBT: "wait: it is resolved without you, unless the reason names a way out",
    GrantState.RETRYING: "it is tried again by itself, if a daemon runs",
}
"""What the state itself names no remedy for."""


async def views(exam: Examination) -> list[Line]:
    """Take what the daemon says of each token, else what the store says."""
    if exam.daemon is not None:
        exam.views = [view for view in status.views_of(exam.daemon) if view.token in exam.settings.tokens]
    elif exam.held is not None:
        exam.views = [
            await stored.view(exam.settings, name, held, exam.clock) for name, held in exam.held.items()
        ]
    else:
        return [Check("grant").skipped("neither the daemon nor the store could be asked")]
    return []


async def states(exam: Examination) -> list[Line]:
    """Say how each grant and its access token stand."""
    return [line for view in exam.views for line in _state(exam, view)]


def _state(exam: Examination, view: TokenView) -> Iterator[Line]:
    check, now = Check("grant", view.token), time.time()
    unusable = health.readyz_token([view], view.token, now=now)
    reasons = unusable.reasons if unusable is not None else ()
    remedy = view.remedy or REMEDIES.get(view.grant_state, "")
    told = f"{view.grant_state.value.replace('_', ' ')}: {view.reason}"
    access = view.access_state(now)
    left = "" if view.expires_at is None else f", {_left(view.expires_at - now)}"
    if view.grant_state in {GrantState.DEAD, GrantState.UNSEEDED}:
        line = check.failed(told, remedy, exit_code=3)
    elif view.grant_state in {GrantState.UNPERSISTED, GrantState.MISCONFIGURED}:
        line = check.failed(told, remedy)
    elif reasons:
        away = "" if exam.daemon is not None else "start the daemon"
        text = reasons[0].removeprefix(f"{view.token}: ").partition("; ")[0]
        line = check.failed(text, remedy or away or "it is tried again by itself", exit_code=4)
    elif view.reason:
        line = check.warning(told, remedy)
    else:
        line = check.ok(f"the access token {view.fingerprint} is {access.value}{left}")
    yield line if view.required else _milder(line)
    for output in view.outputs:
        if not output.output.startswith("file:"):
            yield _remote(Check("output", f"{view.token} {output.output}"), view, output)
    if view.missing_scopes and access is not AccessState.ABSENT:
        text = f"the access token lacks scopes: {' '.join(view.missing_scopes)}"
        yield check.warning(text, "consent again with all scopes, or take them out of `scopes`")


def _remote(check: Check, view: TokenView, output: OutputView) -> Line:
    """Tell how an output behind a network was last found; it is not tried."""
    if output.problem:
        text, _, way_out = output.problem.partition("; ")
        # One that is required is told with the grant, too.
        return check.warning(text, way_out)
    if output.fingerprint != view.fingerprint:
        return check.warning("does not hold the present token yet", "the daemon publishes it")
    return check.ok("holds the present token")


def _left(seconds: float) -> str:
    return f"{common.span(seconds)} left" if seconds > 0 else f"expired {common.span(-seconds)} ago"


def _milder(line: Line) -> Line:
    """Tell of a token that is not required."""
    found = line.finding
    if found.grade is not Grade.FAILED:
        return line
    return Check(line.check, line.subject).warning(f"{found.text} (not required)", found.remedy)


async def deadlines(exam: Examination) -> list[Line]:
    """Say until when a human has to consent again."""
    lines = []
    for view in exam.views:
        check, at, rule = Check("deadline", view.token), view.refresh_expires_at, view.refresh_expiry_rule
        if at is None or rule is None or view.grant_state in {GrantState.DEAD, GrantState.UNSEEDED}:
            continue
        text, left = status.deadline(at, rule), at - time.time()
        remedy = f"consent again before: token-sidecar login {view.token}"
        daemons = rule in status.BY_ITSELF and exam.daemon is not None
        if left <= 0:
            line = check.failed(text, remedy, exit_code=3)
            lines.append(line if view.required else _milder(line))
        else:
            soon = left < NOTICE and not daemons  # which a running daemon sees to
            lines.append(check.warning(text, remedy) if soon else check.ok(text))
    return lines


# Who else has it.


async def writers(exam: Examination) -> list[Line]:
    """Look for traces of somebody else who uses the same grant."""
    lines = [line for view in exam.views for line in await _in_outputs(exam, view)]
    if not exam.held:
        return lines or [Check("other users").skipped("the store's records could not be compared")]
    ours = {
        common.key_of(exam.settings, name): held.record
        for name, held in exam.held.items()
        if held is not None
    }
    lines += _shared(ours, exam.others or {})
    lines += [line for name in exam.settings.tokens for line in _in_seed(exam, name)]
    for name, held in exam.held.items():
        if held is not None and held.record.orphans:
            text = f"{len(held.record.orphans)} rotated refresh tokens lost their record to a newer lineage"
            lines.append(Check("other users", name).warning(text, "nothing to do unless the grant dies"))
    looked_at = "no other record" if exam.others is not None else "none of these records"
    return lines or [Check("other users").ok(f"{looked_at}, no output and no seed shows one")]


async def _in_outputs(exam: Examination, view: TokenView) -> list[Line]:
    lines = []
    for target in exam.settings.tokens[view.token].outputs:
        if target.adopt or target.file is None:
            continue
        found = await _foreign(exam, target)
        if found is None or found == view.fingerprint or (exam.stranger and not exam.daemon):
            continue
        text = f"{target.file} holds the access token {found}, which nobody published from this state_dir"
        remedy = "find out who writes there: an application that refreshes by itself uses up the grant"
        lines.append(Check("other users", view.token).warning(text, remedy))
    return lines


async def _foreign(exam: Examination, target: OutputTarget) -> str | None:
    try:
        output = open_output(target, state_dir=exam.settings.state_dir, clock=exam.clock)
    except ConfigError:
        return None
    holding = await output.read_back()
    return holding.foreign.access.fingerprint if holding.foreign is not None else None


def _shared(ours: dict[str, Record], others: dict[str, Record]) -> Iterator[Line]:
    """Find records that came from one consent: each refreshes, and the other's refresh token dies of it."""
    everybody = {**others, **ours}
    for key, record in ours.items():
        for other, theirs in everybody.items():
            if other == key or (other in ours and other < key):
                continue  # pairs of ours are told once
            shared = _own(record) & _own(theirs)
            if not shared:
                continue
            check, text = (
                Check("other users", key),
                f"{other} came from the same refresh token, {min(shared)}",
            )
            if other in ours:
                yield check.failed(text, "keep one of the two tokens, with the outputs of both")
            else:
                yield check.warning(text, "end the daemon that still uses that record, if there is one")


def _own(record: Record) -> frozenset[str]:
    """Name every refresh token that a record ever had, as far as it remembers."""
    held = [record.refresh.fingerprint] if record.refresh is not None else []
    return record.spent.union(held)


def _in_seed(exam: Examination, name: str) -> Iterable[Line]:
    source = exam.settings.tokens[name].seed
    held = (exam.held or {}).get(name)
    if source is None or source.file is None or held is None or exam.daemon is not None:
        return
    try:
        living = exam.settings.profiles[name].lives_by_itself
        seeding = read_seed_file(source, source.file, living=living)
    except SeedError:
        return
    if seeding is not None and seeding.fingerprint not in _own(held.record):
        text = f"{source.file} holds a refresh token that the record never had, {seeding.fingerprint}"
        yield Check("seed", name).warning(text, "the daemon takes it when it starts")
