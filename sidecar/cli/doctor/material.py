"""What the configuration and the files that it names hold."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import msgspec

from sidecar import config as configuration
from sidecar import contents
from sidecar.cli import check as command
from sidecar.cli import common
from sidecar.cli.doctor.lines import Check
from sidecar.errors import ConfigError, SeedError
from sidecar.grants import material
from sidecar.grants.client import ClientIdentity
from sidecar.seeds import read_seed_file

if TYPE_CHECKING:
    from pathlib import Path

    from sidecar.cli.doctor.examination import Examination
    from sidecar.cli.doctor.lines import Line
    from sidecar.config import Settings

SOON = 14 * 86400.0
"""Seconds before its end from which on a client's certificate is worth a warning."""

CONFIGURATION = Check("configuration")


class Read(msgspec.Struct, frozen=True):
    """A configuration that can be worked with, and what is wrong with it on this machine."""

    settings: Settings
    problems: list[str]
    warnings: list[str]


def read(path: Path) -> Read:
    """Read the configuration. Raises `ConfigError` for one that no machine could run with."""
    try:
        loaded = configuration.load(path, also=contents.check)
    except ConfigError as error:
        # What is wrong may be this machine's files alone: then the rest can be looked at all the same.
        settings = configuration.load(path, disk=False, also=contents.check).settings
        return Read(settings, error.problems, list(error.warnings))
    return Read(loaded.settings, [], list(loaded.warnings))


def about(found: Read, *, stranger: bool) -> list[Line]:
    """Say what `check` says."""
    settings = found.settings
    times = {name: command.timing(settings, name) for name in settings.entries}
    warnings = [*found.warnings]
    warnings += [
        f"{settings.path}: tokens.{name}: {warning}"
        for name, one in times.items()
        for warning in one.warnings
    ]
    lines = [_problem(problem, stranger=stranger) for problem in found.problems]
    if not found.problems:
        lines.append(CONFIGURATION.ok(f"{settings.path} is valid: {settings.counted}"))
    return [*lines, *(CONFIGURATION.warning(*_parted(warning)) for warning in warnings)]


def refused(error: ConfigError) -> list[Line]:
    """Say why there is nothing to go by."""
    problems = [CONFIGURATION.failed(*_parted(problem), exit_code=2) for problem in error.problems]
    warnings = [CONFIGURATION.warning(*_parted(warning)) for warning in error.warnings]
    rest = Check("everything else").skipped("without a configuration there is nothing to look at")
    return [*problems, *warnings, rest]


def _problem(problem: str, *, stranger: bool) -> Line:
    text, remedy = _parted(problem)
    if stranger:
        return CONFIGURATION.warning(f"as user {os.geteuid()} sees it: {text}", remedy)
    return CONFIGURATION.failed(text, remedy, exit_code=2)


def _parted(sentence: str) -> tuple[str, str]:
    text, _, remedy = sentence.partition("; ")
    return text, remedy


async def seeds(exam: Examination) -> list[Line]:
    """Name what each seed holds. One that can't be used was reported with the configuration."""
    lines = []
    for name, token in exam.settings.tokens.items():
        if token.seed is None:
            continue
        if token.seed.file is None:
            where = "table" if token.seed.sql is not None else "Secret"
            lines.append(Check("seed", name).skipped(f"it is in a {where}, which the daemon reads"))
            continue
        living = exam.settings.profiles[name].lives_by_itself
        try:
            seeding = read_seed_file(token.seed, token.seed.file, living=living)
        except SeedError:
            continue
        if seeding is not None:
            text = f"{token.seed.file} holds the refresh token {seeding.fingerprint}"
            lines.append(Check("seed", name).ok(text))
    return lines


async def clients(exam: Examination) -> list[Line]:
    """Name how each client proves itself, and until when. One that can't was reported with the configuration."""
    lines = []
    for name, token in exam.settings.entries.items():
        check, profile = Check("client", name), exam.settings.profiles[name]
        try:
            identity = ClientIdentity(token.client, profile, exam.clock)
            await identity.look()
            held = identity.credentials()
        except ConfigError:
            continue
        lines.append(check.ok(f"{held.id}, by {held.method or f'the {profile.grant} grant itself'}"))
        if token.client.certificate_file is not None:
            lines.append(_certificate(check, token.client.certificate_file, exam.clock.wall()))
    return lines


def _certificate(check: Check, path: Path, now: float) -> Line:
    left = material.certificate(path.read_bytes()).ends - now
    if left < SOON:
        return check.warning(f"the certificate {path} ends in {common.span(left)}", "put a new one there")
    return check.ok(f"the certificate {path} is good for {common.span(left)}")
