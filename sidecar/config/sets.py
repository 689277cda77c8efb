"""What can't be right of sets: above all, two accounts that would share a file, an object or a record."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

from sidecar.config import members
from sidecar.config.aws import secrets_place
from sidecar.config.context import Context
from sidecar.config.contradictions import Steps, cells, inputs, one_of, outputs, spot
from sidecar.config.members import ACCOUNT, SPARE, SPELLINGS
from sidecar.config.settings import Group, OnDead, SecretKey, Settings, SqlCell, TokenSettings
from sidecar.errors import ConfigError

SHORTEST = 1.0
"""Seconds between two looks at who the accounts are."""


def check(settings: Settings, context: Context) -> None:
    """Report every contradiction of sets, and `{account}` where there is no set."""
    for name, token in settings.tokens.items():
        for place in members.places(token):
            if place.kind is not None:
                text = f"{ACCOUNT} stands for the accounts of a set, and this is none; add `for_each`, or correct it"
                context.error(("tokens", name, *place.steps), text)
    for name, token in settings.sets.items():
        steps = ("tokens", name)
        _source(name, token, settings, context)
        _probes(token, steps, context)
        _places(token, steps, context)
        for index, output in enumerate(token.outputs):
            _apart(output, (*steps, "outputs", index), context)
        if token.seed is not None:
            _apart(token.seed, (*steps, "seed"), context)
    _prefixes_apart(settings, context)
    _files_apart(settings, context)
    _secrets_apart(settings, context)
    _cells_apart(settings, context)
    _aws_secrets_apart(settings, context)


def _source(name: str, token: TokenSettings, settings: Settings, context: Context) -> None:
    chosen, steps = token.for_each, ("tokens", name, "for_each")
    if chosen is None:
        return
    if chosen.sql is not None:
        one_of(chosen.sql, chosen.sql.LOCATIONS, (*steps, "sql"), context)
    if chosen.every < SHORTEST:
        context.error((*steps, "every"), "is too often; write 1s or more")
    if settings.store.scheme == "kubernetes":
        text = (
            "needs a store that makes room for accounts by itself; in a cluster's Secrets, which others create, this "
            "one doesn't: use postgresql://, sqlite:// or aws-secretsmanager://"
        )
        context.error(steps, text)
    profile = settings.profiles.get(name)
    if profile is not None and chosen.sql is None and not profile.needs_refresh_token:
        text = (
            f"would never find an account: the grant {profile.grant} has no refresh tokens, with which they come into "
            "the store; name the accounts by `sql`"
        )
        context.error(steps, text)


def _probes(token: TokenSettings, steps: Steps, context: Context) -> None:
    if token.on_dead is OnDead.RESTART:
        text = "would restart the daemon of all accounts when one account's grant is dead; write `report`, or `unready`"
        context.error((*steps, "on_dead"), text)


def _places(token: TokenSettings, steps: Steps, context: Context) -> None:
    """Report `{account}` where it can't be replaced by whatever an account may be called."""
    for place in members.places(token):
        at = (*steps, *place.steps)
        if place.kind is None:
            context.error(at, f"{ACCOUNT} is not replaced here; leave it out")
            continue
        text, limit = place.text, None
        if place.kind == "file":
            if ACCOUNT in str(Path(text).parent):
                problem = (
                    f"{ACCOUNT} belongs into the file's name: directories have to be there, and none is made"
                )
                context.error(at, problem)
                continue
            text = Path(text).name
        if place.kind in SPELLINGS:
            limit = SPELLINGS[place.kind].limit
        if text.count(ACCOUNT) > 1:
            context.error(at, f"has {ACCOUNT} in it more than once; leave one")
        elif limit is not None and len(text) - len(ACCOUNT) > limit - SPARE:
            context.error(
                at, f"leaves too little room for {ACCOUNT}; shorten the rest to {limit - SPARE} characters"
            )


def _apart(group: Group, steps: Steps, context: Context) -> None:
    if not any(members.places(group)) and not context.report.spoilt(context.mark(steps).label):
        text = (
            f"would be the same for all accounts; put {ACCOUNT} into its name, where each account's belongs"
        )
        context.error(steps, text)


def _prefixes_apart(settings: Settings, context: Context) -> None:
    for one, other in combinations(settings.sets, 2):
        mine, theirs = settings.prefix_of(one), settings.prefix_of(other)
        if mine.startswith(theirs) or theirs.startswith(mine):
            text = f"takes in records of the set `{one}`; give each set's records a beginning (`store`) of their own"
            context.error(("tokens", other, "for_each"), text)


class _File(NamedTuple):
    steps: Steps
    path: Path
    what: str

    @property
    def varies(self) -> bool:
        return ACCOUNT in self.path.name


def _files_apart(settings: Settings, context: Context) -> None:
    """Report files of which an account's name may make another one's."""
    read = [_File((), path, what) for path, what in inputs(settings)]
    written = [
        _File((*steps, "file"), spot(output.file), context.mark(steps).label)
        for steps, output in outputs(settings)
        if output.file is not None
    ]
    for index, mine in enumerate(written):
        for other in (*read, *written[:index]):
            meets = mine.path.parent == other.path.parent and members.may_meet(
                mine.path.name, other.path.name
            )
            # Of those that are the same for everybody it has been said.
            if (mine.varies or other.varies) and meets and mine.path != other.path:
                text = f"an account's name could make this {other.what}; give one of them another directory"
                context.error(mine.steps, text)


def _secrets_apart(settings: Settings, context: Context) -> None:
    found = list(_secrets(settings))
    for (mine, place), (other, theirs) in combinations(found, 2):
        varies = ACCOUNT in place.name + place.key + theirs.name + theirs.key
        meets = members.may_meet(place.name, theirs.name) and members.may_meet(place.key, theirs.key)
        if varies and meets and place != theirs and place.namespace == theirs.namespace:
            text = f"an account's name could make this {context.mark(mine).label}; name one of them otherwise"
            context.error(other, text)


def _aws_secrets_apart(settings: Settings, context: Context) -> None:
    """Report secrets at AWS of which an account's name may make another one's, or a record's."""
    taken = list(_aws_secrets(settings))
    for steps, output in outputs(settings):
        if output.aws_secret is None:
            continue
        mine, place = output.aws_secret.name, (*steps, "aws_secret")
        for what, name in taken:
            if ACCOUNT in mine + name and mine != name and members.may_meet(mine, name):
                context.error(place, f"an account's name could make this {what}; name one of them otherwise")
        taken.append((context.mark(steps).label, mine))


def _aws_secrets(settings: Settings) -> Iterator[tuple[str, str]]:
    """Go through all secrets at AWS that no token may be written to, each with what it is."""
    if settings.store.scheme == "aws-secretsmanager":
        with suppress(ConfigError):  # its adapter says what is wrong
            place = secrets_place(settings.store.url or "")
            for name in settings.tokens:
                yield f"the record of `{name}`", place.secret_of(settings.key_of(name))
            for name in settings.sets:
                yield f"a record of `{name}`", place.beginning_of(settings.prefix_of(name)) + ACCOUNT
    for name, token in settings.entries.items():
        if token.seed is not None and token.seed.aws_secret is not None:
            yield f"tokens.{name}.seed", token.seed.aws_secret.name
        if token.client.id_aws_secret is not None:
            yield f"tokens.{name}.client.id_aws_secret", token.client.id_aws_secret


def _cells_apart(settings: Settings, context: Context) -> None:
    """Report rows that an account's name may lead to, though they are another token's."""
    for (mine, one), (other, two) in combinations(cells(settings), 2):
        varies = any(members.places(one)) or any(members.places(two))
        if varies and one.cell != two.cell and _may_be_one_row(one, two):
            text = f"an account's name could make this the row of {context.mark(mine).label}; tell their rows apart"
            context.error(other, text)


def _may_be_one_row(one: SqlCell, two: SqlCell) -> bool:
    if (one.table, one.column) != (two.table, two.column) or one.where.keys() != two.where.keys():
        return False
    return all(members.may_meet(str(value), str(two.where[name])) for name, value in one.where.items())


def _secrets(settings: Settings) -> Iterator[tuple[Steps, SecretKey]]:
    for name, token in settings.entries.items():
        if token.seed is not None and token.seed.kubernetes_secret is not None:
            yield ("tokens", name, "seed"), token.seed.kubernetes_secret
    for steps, output in outputs(settings):
        if output.kubernetes_secret is not None:
            yield (*steps, "kubernetes_secret"), output.kubernetes_secret
