"""The page docs/reference/errors.md, written from sidecar/errors.py."""

from __future__ import annotations

import inspect
from collections.abc import Iterator

from sidecar import errors
from sidecar.errors import SidecarError

INTRODUCTION = """\
# Errors

<!-- Written from sidecar/errors.py by `make reference`. -->

A command that fails says why in one line on standard error, and ends with one of these exit codes. Scripts decide by
the code; the line is for people, and names the place, the reason and the way out.

| Code | Meaning | What a script does |
|---|---|---|
| 0 | ok | goes on |
| 1 | failed: what was asked for could not be done | stops and shows the line |
| 2 | usage or configuration: the same call fails again | stops; `token-sidecar check` names every mistake |
| 3 | a human must act: the grant is dead, or not there yet | tells somebody, who [consents](../howto/login.md) |
| 4 | temporarily unavailable: the same call may succeed later | tries again |

`healthcheck` knows only 0 and 1. A daemon that is told to stop ends with 0.

These are the errors that there are. The message is what is said where nothing more is known; mostly the line names the
file, the token or the host as well. The name is what a traceback shows, and what Python code can catch.
"""

REMEDIES = {
    "SidecarError": "Read the line.",
    "ConfigError": "Mend what each line names, and let [`check`](commands.md#token-sidecar-check) look again.",
    "UsageError": "`--help` after the command tells its arguments.",
    "UnknownToken": "`token-sidecar status` lists the names; is it the right `--config`?",
    "HumanNeeded": "[When a grant is dead](../howto/dead-grant.md).",
    "ConsentRefused": "Ask again; is it the right account, and may it use this client?",
    "ConsentFailed": "Ask again; `login --dry-run` shows what would be asked.",
    "TemporarilyUnavailable": "Wait, and try again. A running daemon does so by itself.",
    "StoreError": "Wait; if it lasts, `doctor` says what is between you and the store.",
    "Unwritten": "Wait; nothing was changed.",
    "StoreMissing": "Start the daemon, or call `token-sidecar store migrate` as a role that may create tables.",
    "Unlisted": "Grant the right that the line names, or name the records one by one.",
    "Conflict": "Try again; the daemon does so by itself.",
    "RecordUnreadable": "Is an older version running beside a newer one? Upgrade it; the record is left as it is.",
    "Unfound": "Is the Secret, the secret or the row there, and may the daemon read it?",
    "SealError": "Give back the key that it was sealed with: [encryption](../explanation/encryption.md).",
    "EscrowError": "Make room in `state_dir`, and see who may write there; until then nothing is refreshed.",
    "InstanceRunning": "Stop the other daemon, or give this one its own `state_dir`.",
    "SeedError": "Is the file there, and readable for the daemon? `doctor` tries it.",
    "FormatError": "Name the `format` that the file is in: [formats](outputs.md).",
    "OutputError": "`doctor` tries the output, and says which right or directory is lacking.",
    "AccountsError": "Wait; those that are known go on. If it lasts, `doctor` tries the query.",
    "HookError": "Try the hook by hand: [tell the application](../howto/tell-the-application.md).",
    "CallError": "Wait; the daemon calls again.",
    "NotSent": "Is there a network, a name server, a proxy in between? `doctor` connects.",
    "NoAnswer": "Nothing by hand: the daemon settles it, as [rotation](../explanation/rotation.md) tells.",
    "LeaseLost": "Nothing: it is asked for again. If it lasts, the machine is too slow for `lease`.",
}


def generate() -> str:
    """Write the page, as Markdown."""
    return "\n".join([INTRODUCTION, *_rows(), ""])


def _rows() -> Iterator[str]:
    yield from ("| Message | Code | What to do | Name |", "|---|---|---|---|")
    for name, one in vars(errors).items():
        if inspect.isclass(one) and issubclass(one, SidecarError):
            words = " ".join(inspect.cleandoc(one.__doc__ or "").split())
            yield f"| {words} | {one.exit_code} | {REMEDIES[name]} | `{name}` |"
