"""What is inside the files that a configuration names: checked before anything relies on it.

The configuration itself is judged by its own layer, which knows no formats. This is the rest of the same report:
every problem is told at its place in the configuration, in the same run. `check`, the start of the daemon and each
reload agree in it.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

from sidecar import formats
from sidecar.clients.shared import SharedClients
from sidecar.clock import SystemClock
from sidecar.config.contradictions import cells
from sidecar.errors import ConfigError, SeedError
from sidecar.grants.client import ClientIdentity
from sidecar.seal import open_sealer
from sidecar.seeds import read_seed_file
from sidecar.stores import open_store

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sidecar.config import Settings
    from sidecar.config.context import Context
    from sidecar.config.contradictions import Steps
    from sidecar.config.settings import SqlAccounts, SqlCell


def check(settings: Settings, context: Context) -> None:
    """Report what is wrong inside the files that are named, and with the formats of outputs."""
    for name, token in settings.entries.items():
        for index, output in enumerate(token.outputs):
            steps = ("tokens", name, "outputs", index)
            if not context.report.spoilt(context.mark(steps).label):
                for problem in formats.problems(output):
                    context.error(steps, problem)
    _store(settings, context)
    _libraries(settings, context)
    if settings.tracing.enabled and (problem := no_traces()):
        context.error(("tracing", "enabled"), problem)
    _databases(settings, context)
    if context.disk:
        _keys(settings, context)
        _clients(settings, context)
        _seeds(settings, context)


def no_traces() -> str:
    """Say why no traces can be made; empty: they can. Nothing of them is imported but empty packages."""
    try:
        found = find_spec("opentelemetry.exporter.otlp.proto.http.trace_exporter")
    except ModuleNotFoundError:
        found = None
    return "" if found else "traces are made by the extra `otel`: pip install 'token-sidecar[otel]'"


def _store(settings: Settings, context: Context) -> None:
    place = settings.store
    if not context.report.spoilt(context.mark(("store",)).label):
        try:
            open_store(str(place.url), SystemClock(), url_file=place.url_file)
        except ConfigError as error:
            for problem in error.problems:
                context.error(("store",), problem.removeprefix("store: "))


def _libraries(settings: Settings, context: Context) -> None:
    for steps in _in_clusters(settings):
        try:
            _ = SharedClients().kubernetes
        except ConfigError as error:
            context.error(steps, str(error))
    for steps in _in_aws(settings):
        try:
            _ = SharedClients().secrets_manager
        except ConfigError as error:
            context.error(steps, str(error))


def _databases(settings: Settings, context: Context) -> None:
    places: list[tuple[Steps, SqlCell | SqlAccounts]] = [*cells(settings), *_lists(settings)]
    for steps, cell in places:
        if context.report.spoilt(context.mark(steps).label) or (cell.url_file and not context.disk):
            continue
        try:
            SharedClients().database(cell.url, cell.url_file)
        except ConfigError as error:
            context.error(steps, str(error))


def _lists(settings: Settings) -> Iterator[tuple[Steps, SqlAccounts]]:
    """Go through all lists of accounts in databases, each with its place in the file."""
    for name, token in settings.sets.items():
        if token.for_each is not None and token.for_each.sql is not None:
            yield ("tokens", name, "for_each", "sql"), token.for_each.sql


def _in_clusters(settings: Settings) -> Iterator[Steps]:
    """Go through all that is to be found in a Kubernetes cluster, each with its place in the file."""
    for name, token in settings.entries.items():
        if token.seed is not None and token.seed.kubernetes_secret is not None:
            yield "tokens", name, "seed", "kubernetes_secret"
        for index, output in enumerate(token.outputs):
            if output.kubernetes_secret is not None:
                yield "tokens", name, "outputs", index, "kubernetes_secret"
        for index, hook in enumerate(token.after_refresh):
            if hook.rollout_restart is not None:
                yield "tokens", name, "after_refresh", index, "rollout_restart"


def _in_aws(settings: Settings) -> Iterator[Steps]:
    """Go through all that is to be found in AWS Secrets Manager beside the store, each with its place in the file."""
    for name, token in settings.entries.items():
        if token.client.id_aws_secret is not None:
            yield "tokens", name, "client", "id_aws_secret"
        if token.seed is not None and token.seed.aws_secret is not None:
            yield "tokens", name, "seed", "aws_secret"
        for index, output in enumerate(token.outputs):
            if output.aws_secret is not None:
                yield "tokens", name, "outputs", index, "aws_secret"


def _keys(settings: Settings, context: Context) -> None:
    for index, path in enumerate(settings.store.encryption_keys):
        steps = ("store", "encryption_keys", index)
        if context.report.spoilt(context.mark(steps).label):
            continue
        try:
            open_sealer([path])
        except ConfigError as error:
            context.error(steps, str(error))


def _clients(settings: Settings, context: Context) -> None:
    for name, token in settings.entries.items():
        steps = ("tokens", name, "client")
        profile = settings.profiles.get(name)
        if profile is None or context.report.spoilt(context.mark(steps).label):
            continue
        if token.client.id_aws_secret is not None:
            continue  # nobody is asked here
        try:
            ClientIdentity(token.client, profile, SystemClock()).credentials()
        except ConfigError as error:
            for problem in error.problems:
                context.error(steps, problem)


def _seeds(settings: Settings, context: Context) -> None:
    owners: dict[str, str] = {}
    for name, token in settings.entries.items():
        steps = ("tokens", name, "seed")
        if token.seed is None or token.seed.file is None or token.for_each is not None:
            continue
        if context.report.spoilt(context.mark(steps).label):
            continue
        profile = settings.profiles.get(name)
        try:
            living = profile is not None and profile.lives_by_itself
            seeding = read_seed_file(token.seed, token.seed.file, living=living)
        except SeedError as error:
            context.error(steps, str(error))
            continue
        if seeding is not None and seeding.fingerprint in owners:
            text = (
                f"holds the refresh token that the seed of `{owners[seeding.fingerprint]}` holds; give each "
                "its own"
            )
            context.error(steps, text)
        elif seeding is not None:
            owners[seeding.fingerprint] = name
