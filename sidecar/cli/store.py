"""`store`: for the rare moments in which a human has to look after records."""

from __future__ import annotations

import os
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sidecar.cli import common
from sidecar.cli.options import config_option, examples, json_option, name_argument
from sidecar.errors import StoreError, TemporarilyUnavailable, UsageError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from sidecar.config import Settings
    from sidecar.ports import Held, Store, SupportsRekey

REKEY_RACES = 20
"""Lost races against daemons in a row before a record is left to the next call."""


@click.group(
    epilog=examples(
        ("token-sidecar store list", "what is there"),
        ("token-sidecar store rename gmail gmail-alice", "after renaming a token in the configuration"),
        ("token-sidecar store rebind gmail", "after moving a grant to another client or endpoint"),
        ("token-sidecar store rekey", "after changing the keys that seal them"),
    )
)
def store() -> None:
    """Look after the records in the store.

    A record is one token's durable state, kept under the key namespace/name. The daemon needs none of
    these commands.
    """


@store.command("list")
@config_option
@json_option
def list_records(config: Path, *, as_json: bool) -> None:
    """List all records: key, lineage, generation, state, and the id of the key that seals each."""
    import anyio

    settings = common.load(config)
    rows = anyio.run(_list, settings)
    if as_json:
        common.print_json(rows)
    elif not rows:
        click.echo("the store holds no records")
    else:
        head = ["key", "lineage", "generation", "state", "access", "sealed_with", "configured", "reason"]
        common.show_table(
            [one.upper().replace("_", " ") for one in head],
            [[_cell(row[one]) for one in head] for row in rows],
        )


@store.command(
    epilog=examples(
        ("token-sidecar store migrate", "before the first start, or after an upgrade"),
        ("token-sidecar store migrate --print | psql …", "as somebody who may create tables"),
    )
)
@click.option("--print", "show", is_flag=True, help="Print the SQL instead of running it.")
@config_option
def migrate(config: Path, *, show: bool) -> None:
    """Create the store, or bring it up to date.

    The daemon does the same when it starts; this is for those who want it done beforehand, or by
    somebody else.
    """
    import anyio

    from sidecar.stores import migration

    settings = common.load(config)
    if show:
        script = migration(str(settings.store.url))
        if not script:
            raise UsageError(
                f"a {settings.store.scheme} store has no SQL that others could run; leave out --print"
            )
        click.echo(script, nl=False)
        return
    kind, count = anyio.run(_migrate, settings)
    click.echo(f"the {kind} store is up to date and holds {count} record{'' if count == 1 else 's'}")


@store.command(epilog=examples(("token-sidecar store rename gmail gmail-alice", "within the namespace")))
@click.argument("old")
@click.argument("new")
@config_option
def rename(old: str, new: str, config: Path) -> None:
    """Give a record another key, so that a renamed token keeps its grant.

    Stop the daemon first: it would take the record for lost, and write it again. OLD and NEW are names
    within the namespace, or whole keys with a slash.
    """
    import anyio

    settings = common.load(config)
    source, target = common.key_of(settings, old), common.key_of(settings, new)
    if source == target:
        raise UsageError(f"{source} is called that already")
    anyio.run(_rename, settings, source, target)
    click.echo(f"{source} is {target} now")


@store.command(epilog=examples(("token-sidecar store rebind gmail --yes", "without being asked")))
@name_argument
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@config_option
def rebind(name: str, config: Path, *, yes: bool) -> None:
    """Bind a refresh token to the client and endpoint that are configured now.

    A refresh token is only ever sent to the endpoint, and with the client, that it was given for. Rebind
    it if you know that the provider takes it from both: after the token endpoint moved, or the client got
    another id.
    """
    import anyio

    settings = common.load(config, token=name)
    client_id, endpoint, issuer = anyio.run(_configured, settings, name)
    held = common.read_record(settings, name)
    if held is None:
        raise UsageError(f"{name}: the store has no record of it")
    bound, wanted = (held.record.client_id, held.record.endpoint), (client_id, endpoint)
    click.echo(f"bound to:   client {bound[0]} at {bound[1]}")
    click.echo(f"configured: client {wanted[0]} at {wanted[1]}")
    if bound == wanted:
        click.echo("nothing to do")
        return
    if not yes:
        click.confirm(f"Send the refresh token of {name} to {endpoint} from now on?", abort=True, err=True)
    anyio.run(_rebind, settings, common.key_of(settings, name), held, (*wanted, issuer))
    click.echo(f"{name} is bound to client {client_id} at {endpoint} now")


@store.command(
    epilog=examples(
        ("token-sidecar store rekey", "once every daemon has the new key"),
        ("token-sidecar store rekey --clear", "before the keys are taken out of the configuration"),
    )
)
@click.option("--clear", is_flag=True, help="Keep the records in clear instead.")
@config_option
def rekey(config: Path, *, clear: bool) -> None:
    """Seal every record with the first of the configured keys.

    A record keeps the key that it is sealed with, or stays in clear, until this is done: so new keys can be
    given to all daemons first, and one after the other. Daemons may run meanwhile, and nothing of theirs is
    lost. A key that seals no record any more, as `store list` tells, can be taken away.
    """
    import anyio

    settings = common.load(config)
    if not settings.store.encryption_keys:
        raise UsageError("no keys are configured; name files with keys under store.encryption_keys")
    if clear and settings.store.require_encryption:
        raise UsageError("the daemon would refuse them; take store.require_encryption away first")
    changed, left, problems = anyio.run(_rekey, settings, clear)
    for problem in problems:
        click.echo(problem, err=True)
    click.echo(f"{changed} changed, {left} had it already, {len(problems)} could not be changed")
    if problems:
        raise StoreError("some records keep the key that they have; keep it in the configuration")


@store.command(epilog=examples(("token-sidecar store keygen /etc/token-sidecar/store.key", "a new key")))
@click.argument("path", metavar="FILE", type=click.Path(path_type=Path, dir_okay=False))
def keygen(path: Path) -> None:
    """Make a new key, in a new file that only you can read.

    Name the file under store.encryption_keys, and keep a copy in a safe place: without the key nothing that
    it sealed can be opened. No existing file is touched.
    """
    import base64
    import secrets

    from sidecar.seal.keyring import KEY_BYTES, Key

    key = Key(secrets.token_bytes(KEY_BYTES))
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        raise UsageError(f"{path} exists already, and may hold a key that is in use; name another") from None
    with os.fdopen(descriptor, "wb") as file:
        file.write(base64.b64encode(key.secret) + b"\n")
    click.echo(f"{path} holds the key {key.id}")


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "-" if value is None else str(value)


async def _list(settings: Settings) -> list[dict[str, Any]]:
    async with common.open_existing(settings) as store:
        if store is None:
            return []
        return [await _row(settings, store, key) for key in await _keys(settings, store)]


async def _keys(settings: Settings, store: Store) -> list[str]:
    """List all keys; where the store can't be listed, those of the configured tokens, and say so."""
    from sidecar.errors import Unlisted

    try:
        return await store.keys()
    except Unlisted as error:
        click.echo(f"{error}; only the configured tokens' records are looked at", err=True)
        return [
            key
            for key in sorted(common.key_of(settings, name) for name in settings.tokens)
            if await _is(store, key)
        ]


async def _is(store: Store, key: str) -> bool:
    try:
        return await store.load(key) is not None
    except StoreError:
        return True  # and what is wrong with it is told by whoever works on it


async def _row(settings: Settings, store: Store, key: str) -> dict[str, Any]:
    import time

    from sidecar import schedule
    from sidecar.profile import Profile
    from sidecar.standing import Troubles, standing

    name = settings.name_of(key)
    row: dict[str, Any] = {
        "key": key,
        "lineage": None,
        "generation": None,
        "state": "unreadable",
        "access": None,
        "sealed_with": None,
        "expires_at": None,
        "refresh_expires_at": None,
        "configured": name is not None,
        "reason": "",
    }
    try:
        held = await store.load(key)
    except StoreError as error:
        return {**row, "reason": str(error)}
    if held is None:
        return {**row, "state": "gone"}
    record, access = held.record, held.record.access
    troubles = Troubles(unanswered=held.lease_left <= 0)
    state, reason = standing(record, troubles, needs_refresh_token=False, now=time.time())
    left = access.seconds_left(time.time()) if access is not None else None
    profile, ttl = Profile(), None
    if name is not None:
        found = settings.resolve(name)
        profile, ttl = found.profile, found.settings.refresh_token_ttl
    deadline = schedule.deadline(record, profile, ttl)
    return {
        **row,
        "lineage": record.lineage[:12],
        "generation": record.generation,
        "state": state.value,
        "access": None if left is None else "expired" if left <= 0 else "valid",
        "sealed_with": held.sealed_with or None,
        "expires_at": access.expires_at if access is not None else None,
        "refresh_expires_at": deadline.at if deadline is not None else None,
        "reason": reason,
    }


async def _migrate(settings: Settings) -> tuple[str, int]:
    async with common.make_store(settings) as store:
        return store.kind, len(await _keys(settings, store))


async def _rekey(settings: Settings, clear: bool) -> tuple[int, int, list[str]]:  # noqa: FBT001 - anyio.run
    from sidecar.ports import SupportsRekey

    changed, left, problems = 0, 0, []
    async with common.open_existing(settings) as store:
        if store is None:
            return 0, 0, []
        if not isinstance(store, SupportsRekey):
            raise UsageError(f"the {store.kind} store cannot seal records anew")
        for key in await _keys(settings, store):
            try:
                if await _rekey_one(store, key, clear=clear):
                    changed += 1
                else:
                    left += 1
            except StoreError as error:
                problems.append(str(error))
    return changed, left, problems


async def _rekey_one(store: SupportsRekey, key: str, *, clear: bool) -> bool:
    from sidecar.errors import Conflict

    for _ in range(REKEY_RACES):
        try:
            return await store.rekey(key, clear=clear)
        except Conflict:
            continue
    raise StoreError(f"the record {key} is changed by others all the time; try again")


@asynccontextmanager
async def _alone(settings: Settings, key: str) -> AsyncIterator[tuple[Store, Held]]:
    """Open the store while no daemon runs here, and none owes anything to this record."""
    from sidecar.escrow import Escrow
    from sidecar.seal import open_sealer
    from sidecar.state_dir import StateDir

    with StateDir(settings.state_dir) as state:
        escrow = Escrow(state.escrow, open_sealer(settings.store.encryption_keys))
        escrow.prepare()
        locked = escrow.locked()
        if locked:
            raise TemporarilyUnavailable(f"an answer that may be for {key} cannot be opened: {locked[0]}")
        if any(entry.key == key for entry in escrow.entries()):
            raise TemporarilyUnavailable(
                f"{key}: an answer for it waits in {state.escrow}; let the daemon run until it is stored, "
                "stop it, and "
                "try again"
            )
        async with common.open_existing(settings) as store:
            if store is None:
                raise UsageError(f"there is no store yet, and so no record {key}")
            held = await store.load(key)
            if held is None:
                raise UsageError(f"there is no record {key}; `token-sidecar store list` shows those that are")
            if held.record.attempt is not None and held.lease_left > 0:
                raise TemporarilyUnavailable(
                    f"{key}: a daemon is refreshing it; stop those that share this store, and try again"
                )
            yield store, held


async def _rename(settings: Settings, source: str, target: str) -> None:
    from sidecar.errors import Conflict

    async with _alone(settings, source) as (store, held):
        if await store.load(target) is not None:
            raise UsageError(f"there is a record {target} already; nothing is overwritten")
        version = await store.write(target, held.record, expected=None)
        try:
            await store.delete(source, expected=held.version)
        except Conflict:
            # Somebody refreshed it meanwhile: the copy is the older one, and two records must
            # not share a grant.
            await store.delete(target, expected=version)
            raise


async def _rebind(settings: Settings, key: str, seen: Held, wanted: tuple[str, str, str]) -> None:
    from sidecar.rotation import rebound

    async with _alone(settings, key) as (store, held):
        if (held.record.client_id, held.record.endpoint) != (seen.record.client_id, seen.record.endpoint):
            raise TemporarilyUnavailable(f"{key} was changed meanwhile; look at it again")
        client_id, endpoint, issuer = wanted
        record = rebound(held.record, client_id=client_id, endpoint=endpoint, issuer=issuer)
        await store.write(key, record, expected=held.version)


async def _configured(settings: Settings, name: str) -> tuple[str, str, str]:
    """Return client, endpoint and issuer as configured, asking the issuer where only it knows the endpoint."""
    from sidecar.clients.http import HttpClient
    from sidecar.clock import SystemClock
    from sidecar.grants import open_grant
    from sidecar.grants.discovery import Issuers

    clock, profile = SystemClock(), settings.profiles[name]
    async with HttpClient(clock, allow_insecure_http=settings.allow_insecure_http) as http:
        issuers = Issuers(http, settings.state_dir, clock)
        grant = open_grant(settings.tokens[name], profile, http, issuers)
        await grant.locate()
        if not grant.endpoint:
            raise TemporarilyUnavailable(f"{name}: {issuers.issuer(profile.issuer).problem}")
        return grant.client_id(), grant.endpoint, grant.issuer
