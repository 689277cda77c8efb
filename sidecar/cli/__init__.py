"""The command line: one file per command, imported only when that command is called.

Every command either returns or raises; what an error looks like and which exit code it has is decided
here and nowhere else: 0 ok, 1 failed, 2 usage or configuration, 3 a human must act, 4 temporarily
unavailable.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator, Sequence

import click

from sidecar.cli.lazy import LazyGroup
from sidecar.cli.options import PROGRAM, examples
from sidecar.errors import ConfigError, SidecarError

COMMANDS = {
    "run": "Keep every token fresh until stopped.",
    "init": "Write a commented configuration to start from.",
    "check": "Check the configuration, without calling anybody.",
    "doctor": "Look at everything that can be wrong, and say what to do about it.",
    "status": "Show how every token is doing.",
    "token": "Print a valid access token.",
    "refresh": "Replace an access token that was refused.",
    "login": "Have a human consent, and take the new grant into the store.",
    "seed": "Give a token a new refresh token.",
    "export": "Take a refresh token out of the store.",
    "revoke": "End a token's grant at the provider.",
    "console": "Serve a web page to look at tokens and to consent again.",
    "healthcheck": "Ask the daemon's probes.",
    "providers": "Show what is known of OAuth2 providers.",
    "store": "Look after the records in the store.",
    "render": "Write what Kubernetes needs to run it beside an application.",
    "completion": "Print a shell's completion script.",
    "demo": "See the daemon keep a token alive, against a simulated provider.",
}
"""Name → summary. The command itself is in the module of its name, as the attribute of its name."""

root = LazyGroup(
    "token-sidecar",
    modules={name: f"sidecar.cli.{name}:{name}" for name in COMMANDS},
    summaries=COMMANDS,
    help="Keeps OAuth2 tokens fresh in files, so that applications only have to read them.",
    epilog=examples(
        ("token-sidecar demo", "see it work"),
        ("token-sidecar init credentials.json", "write a configuration"),
        ("token-sidecar check", "is it right?"),
        ("token-sidecar run", "keep the tokens fresh"),
        ("token-sidecar status", "how are they doing?"),
        intro=(
            "Every command has a --help of its own. Exit codes: 0 ok, 1 failed, 2 usage or configuration, "
            "3 a human must act, 4 temporarily unavailable."
        ),
    ),
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
click.version_option(package_name=PROGRAM, prog_name=PROGRAM, message="%(prog)s %(version)s")(root)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code; every expected failure is a line on standard error."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    code = _run(given)
    # Docker and kubelet know two answers.
    return min(code, 1) if given[:1] == ["healthcheck"] else code


def _run(arguments: list[str]) -> int:
    try:
        code = root.main(arguments, prog_name=PROGRAM, standalone_mode=False)
        sys.stdout.flush()
    except BaseExceptionGroup as group:
        known, unknown = group.split((SidecarError, OSError))
        if known is None or unknown is not None:
            raise
        return max(_report(error) for error in _leaves(known))
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        return error.exit_code
    except click.ClickException as error:
        return _report_usage(error)
    except click.Abort:
        return _complain("aborted", 1)
    except KeyboardInterrupt:
        return _complain("interrupted", 1)
    except BrokenPipeError:
        # Whoever read us has left. The interpreter flushes once more at its end, which must not fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (SidecarError, OSError) as error:
        return _report(error)
    return code if isinstance(code, int) else 0


def _leaves(group: BaseExceptionGroup[BaseException]) -> Iterator[BaseException]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)
        else:
            yield error


def _report(error: BaseException) -> int:
    match error:
        case ConfigError() if error.problems:
            # As they are: each begins with file, line and column, which editors jump to.
            for problem in error.problems:
                click.echo(_one_line(problem), err=True)
            for warning in error.warnings:
                click.echo(f"warning: {_one_line(warning)}", err=True)
            return error.exit_code
        case SidecarError():
            return _complain(str(error), error.exit_code)
        case OSError(strerror=str(reason)):
            return _complain(_masked(f"{error.filename}: {reason}") if error.filename else reason, 1)
        case _:
            return _complain(str(error) or type(error).__name__, 1)


def _report_usage(error: click.ClickException) -> int:
    context = error.ctx if isinstance(error, click.UsageError) else None
    hint = f" Try `{context.command_path} --help`." if context is not None else ""
    return _complain(
        f"{' '.join(_masked(error.format_message()).split()).rstrip('.')}.{hint}", error.exit_code
    )


def _complain(message: str, code: int) -> int:
    for line in message.splitlines():
        click.echo(f"{PROGRAM}: {_one_line(line)}", err=True)
    return code


def _masked(text: str) -> str:
    """Hide what looks like a token that was given where no secret belongs, and is quoted back."""
    from sidecar.config.report import looks_secret

    return re.sub(r"[A-Za-z0-9._~+/=-]{20,}", lambda word: "…" if looks_secret(word[0]) else word[0], text)


def _one_line(text: str) -> str:
    # Reasons may come from providers and file names; neither may steer the terminal.
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)
