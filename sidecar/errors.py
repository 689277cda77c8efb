"""Every error the project raises on purpose, under one root.

The docstring of a class is its default message, so each class has to explain itself. Messages name the
place, the reason and the way out, and never contain a secret: they end up in logs, answers and terminals.
"""

from __future__ import annotations

import inspect
import re


class SidecarError(Exception):
    """token-sidecar could not do what it was asked to."""

    exit_code = 1

    def __init__(self, message: str | None = None) -> None:
        """Take the message, or else the class's own docstring, or its name where Python forgets those (-OO)."""
        super().__init__(message or inspect.cleandoc(type(self).__doc__ or _words(type(self).__name__)))


def _words(name: str) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name.lstrip("_")).capitalize()


class ConfigError(SidecarError):
    """The configuration is not valid."""

    exit_code = 2

    def __init__(self, problems: list[str] | str | None = None, *, warnings: tuple[str, ...] = ()) -> None:
        """Take every problem found, one sentence each: all of them are reported in one run, warnings too."""
        self.warnings = warnings
        self.problems = [problems] if isinstance(problems, str) else list(problems or ())
        super().__init__("\n".join(self.problems) or None)


class UsageError(SidecarError):
    """The command was called with arguments that do not fit together."""

    exit_code = 2


class UnknownToken(UsageError):
    """There is no token of this name in the configuration."""


class HumanNeeded(SidecarError):
    """The grant is dead: a human has to consent again, with `token-sidecar login`."""

    exit_code = 3


class ConsentRefused(HumanNeeded):
    """The consent was refused, by the user or by the provider; nothing was changed."""


class ConsentFailed(SidecarError):
    """The consent came to nothing; nothing was changed."""


class TemporarilyUnavailable(SidecarError):
    """It cannot be done right now; the same call may succeed later."""

    exit_code = 4


class StoreError(SidecarError):
    """The store could not be reached or refused the operation; it is tried again."""

    exit_code = 4


class Unwritten(StoreError):
    """The store could not be reached, or refused the operation, and has certainly not changed; it is tried again."""


class StoreMissing(StoreError):
    """There is no store there yet; the daemon creates it, or `token-sidecar store migrate`."""


class Unlisted(StoreError):
    """The store may be read by name and not be listed: that right is lacking."""


class Conflict(StoreError):
    """The record was changed by somebody else since it was read; read it again and decide anew."""


class RecordUnreadable(StoreError):
    """The store holds a record that this version cannot read; it is left untouched."""


class Unfound(SidecarError):
    """What the configuration leaves to another place could not be read there."""


class SealError(SidecarError):
    """What is sealed here cannot be opened with the keys that are configured."""

    def __init__(self, reason: str | None = None, *, remedy: str = "") -> None:
        """Take reason and remedy apart: a store says in between that it leaves the record untouched."""
        self.reason, self.remedy = reason, remedy
        super().__init__(f"{reason}; {remedy}" if reason and remedy else reason)


class EscrowError(SidecarError):
    """The escrow in `state_dir` has no room or cannot be written, so no answer could be caught."""


class InstanceRunning(SidecarError):
    """Another daemon is running on this `state_dir`; give each its own."""


class SeedError(SidecarError):
    """A seed could not be read."""


class FormatError(SidecarError):
    """The bytes are not in the format that was expected."""


class OutputError(SidecarError):
    """An output could not be written."""


class AccountsError(SidecarError):
    """Who the accounts of a set are could not be found out; those that are known stay."""

    exit_code = 4


class HookError(SidecarError):
    """Who is to be told of a new token could not be told."""


class CallError(SidecarError):
    """The provider was called and gave no answer."""


class NotSent(CallError):
    """Nothing was sent to the provider: the refresh token is certainly unused."""

    def __init__(self, message: str | None = None, *, misconfigured: bool = False) -> None:
        """`misconfigured` marks what waiting does not cure, such as a certificate that does not verify."""
        super().__init__(message)
        self.misconfigured = misconfigured


class NoAnswer(CallError):
    """The request was sent and no whole answer came back: whether it was processed is unknown."""


class LeaseLost(NotSent):
    """The lease ran out before the first byte was sent, so the request was given up."""
