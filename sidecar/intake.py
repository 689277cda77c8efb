"""What comes into a record from outside: seeds, and tokens that applications refreshed by themselves."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

from msgspec.structs import replace

from sidecar import rotation
from sidecar.errors import ConfigError, ConsentFailed, SeedError
from sidecar.events import Adopted, Seeded, SeedRefused, Warned
from sidecar.standing import quoted
from sidecar.tokens import ADOPTION, CONSENT, REVOCATION, SEED, ExpirySource, OutcomeClass

if TYPE_CHECKING:
    from sidecar.ledger import Ledger
    from sidecar.ports import Seed, Seeding
    from sidecar.publisher import Publisher
    from sidecar.setup import Setup, Surroundings
    from sidecar.tokens import AccessToken, Record


class Planting(NamedTuple):
    """What came of a seed that was given by hand, or of a login."""

    lineage: str
    """The one that is in force now."""
    aside: bool = False
    """Whether that is another's, who was faster, and ours is kept among its orphans."""


class Intake:
    """Takes seeds and adoptions into one token's record."""

    __slots__ = ("_around", "_ledger", "missing", "problem")

    def __init__(self, around: Surroundings, ledger: Ledger) -> None:
        """Take nothing yet."""
        self._around = around
        self._ledger = ledger
        self.problem = ""
        """Why the seed that was looked at last could not be taken; empty: it could, or was taken before."""
        self.missing = ""
        """What was missing when there was no seed; empty: there was one."""

    async def take_seed(self, setup: Setup, seed: Seed, *, fallen_back: str) -> str:
        """Plant the seed if it is new; returns what was done, in words.

        `fallen_back`: why a seed may be spent of which the store knows nothing; empty: there is no reason. Raises
        `Conflict` and `StoreError`.
        """
        try:
            seeding = await seed.read()
            self.problem, self.missing = "", "" if seeding else seed.missing
            if seeding is None or not self._is_new(seeding, fallen_back):
                return ""
            lineage = await self._plant(setup, self._ledger, seeding, origin=seed.id)
            self._around.emit(Seeded(setup.name, seed.id, seeding.fingerprint, lineage))
        except (SeedError, ConfigError) as error:
            if str(error) != self.problem:
                self._around.emit(SeedRefused(setup.name, seed.id, str(error)))
            self.problem = str(error)
            return ""
        return f"took the seed {seeding.fingerprint} from {seed.id}"

    def _is_new(self, seeding: Seeding, fallen_back: str) -> bool:
        record = self._ledger.record
        if record is not None and seeding.fingerprint in record.spent:
            return False
        if fallen_back:
            raise SeedError(fallen_back)
        return True

    async def plant(
        self, setup: Setup, seeding: Seeding, *, origin: str, force: bool, since: str | None
    ) -> Planting:
        """Start a new lineage on request; see `Renewer.plant`."""
        await setup.grant.locate()  # no turn may have done it yet
        # A ledger of its own: a turn that is waiting for an answer must not take this write for its own.
        ledger = self._ledger.twin()
        await ledger.sync()
        record, passed_over = ledger.record, None
        with suppress(SeedError, ConfigError):
            passed_over = await setup.seed.read() if setup.seed is not None else None
        try:
            if record is not None and since is not None and not force:
                _check_account(setup.name, record, seeding)
            if record is not None and since not in {None, record.lineage}:
                if rotation.knows(record, seeding.refresh):  # from an earlier try, whose reply was lost
                    return Planting(record.lineage, aside=seeding.fingerprint not in record.seeds)
                if not record.is_dead():
                    return await self._keep_aside(setup, ledger, record, seeding)
            # What a consent brought is alive, even where the provider gives the same refresh token again.
            force = force or since is not None
            lineage = await self._plant(
                setup, ledger, seeding, origin=origin, force=force, since=since, passed_over=passed_over
            )
            self._around.emit(Seeded(setup.name, origin, seeding.fingerprint, lineage, asked=True))
            return Planting(lineage)
        finally:
            self._ledger.distrust()

    async def _keep_aside(self, setup: Setup, ledger: Ledger, record: Record, seeding: Seeding) -> Planting:
        ours = rotation.begun(seeding.client_id, seeding.endpoint)
        kept = rotation.with_orphan(record, replace(ours, refresh=seeding.refresh))
        # Whoever calls the provider at this moment goes on to be protected.
        await ledger.write(kept, lease=ledger.lease_left)
        reason = (
            f"the consent that gave {seeding.fingerprint} was overtaken by another one, and is kept beside it"
        )
        self._around.emit(Warned("login", reason, setup.name))
        return Planting(record.lineage, aside=True)

    async def _plant(
        self,
        setup: Setup,
        ledger: Ledger,
        seeding: Seeding,
        *,
        origin: str,
        force: bool = False,
        since: str | None = None,
        passed_over: Seeding | None = None,
    ) -> str:
        record = ledger.record
        if record is not None and seeding.fingerprint in record.spent and not force:
            raise SeedError(
                f"{origin}: this refresh token ({seeding.fingerprint}) was already used for {setup.name}; "
                "sending it again may kill the grant. Give a new one, or add --force if you are sure"
            )
        planted = rotation.seeded(
            record,
            seeding,
            client_id=seeding.client_id or setup.grant.client_id(),
            endpoint=seeding.endpoint or setup.grant.endpoint,
            issuer=setup.grant.issuer,
            passed_over=passed_over,
        )
        what = SEED if since is None else CONSENT
        await ledger.write(self._told(planted, what, f"from {origin}" if what == SEED else ""))
        return planted.lineage

    def _told(self, record: Record, what: str, reason: str) -> Record:
        around = self._around
        return rotation.told(
            record,
            OutcomeClass.SUCCESS,
            reason,
            now=around.clock.wall(),
            instance=around.instance,
            what=what,
        )

    async def reread(self) -> Record | None:
        """Read the record as the store has it now. Raises `StoreError`."""
        ledger = self._ledger.twin()
        await ledger.sync()
        return ledger.record

    async def bury(self, fingerprint: str, *, reason: str) -> bool:
        """Write down that a refresh token was ended on request; see `Renewer.bury`."""
        ledger = self._ledger.twin()
        await ledger.sync()
        record = ledger.record
        if record is None or record.refresh is None or record.refresh.fingerprint != fingerprint:
            return False
        try:
            ended = rotation.ended(record, reason, now=self._around.clock.wall())
            await ledger.write(self._told(ended, REVOCATION, reason))
        finally:
            self._ledger.distrust()
        return True

    async def adopt(self, setup: Setup, publisher: Publisher) -> str:
        """Take over what an application refreshed by itself, if it outlives ours; returns what was done, in words.

        Raises `Conflict` and `StoreError`.
        """
        found, record = await publisher.foreign(), self._ledger.record
        if found is None or record is None or self._ledger.debt is not None:
            return ""
        output, foreign = found
        attempt = record.attempt
        held_elsewhere = (
            attempt is not None and attempt.instance != self._around.instance and self._ledger.lease_left > 0
        )
        if held_elsewhere or not _ends_later(foreign.access, record.access):
            return ""
        adopted = rotation.adopted(record, foreign)
        await self._ledger.write(self._told(adopted, ADOPTION, f"which the application wrote to {output.id}"))
        name = foreign.access.fingerprint
        self._around.emit(Adopted(setup.name, output.id, name))
        return f"adopted {name}, which the application wrote to {output.id}"


def _check_account(name: str, record: Record, seeding: Seeding) -> None:
    """Refuse another account's consent: a browser that is signed in to several offers the wrong one first.

    Raises `ConsentFailed`. Where the provider doesn't tell whose consent it is, nothing is compared.
    """
    if record.account and seeding.account and record.account != seeding.account:
        raise ConsentFailed(
            f"{name}: that was the consent of {seeding.account}, and {name} is {record.account}'s; nothing was "
            f"changed. Choose {record.account} on the provider's page, or, if the change is meant: "
            f"token-sidecar login {quoted(name)} --any-account"
        )


def _ends_later(found: AccessToken, ours: AccessToken | None) -> bool:
    """Tell whether a token that an application wrote is certain to outlive ours."""
    if found.expires_at is None or found.expiry_source is ExpirySource.ASSUMED:
        return False
    if ours is None:
        return True
    return found.value != ours.value and ours.expires_at is not None and found.expires_at > ours.expires_at
