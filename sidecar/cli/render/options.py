"""What all commands of `render` have to know of the sidecar, as options; the defaults are the chart's."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import wraps
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import click

from sidecar.cli.options import PROGRAM, config_option
from sidecar.cli.render.names import LONGEST, fitting

Decorated = TypeVar("Decorated", bound=Callable[..., Any])


class Wish(NamedTuple):
    """What the options say."""

    name: str = PROGRAM
    namespace: str = "default"
    image: str = f"{PROGRAM}:{version(PROGRAM)}"
    native: bool = True
    user: int | None = 65532
    """None leaves the choice to the cluster."""
    group: int | None = 65532
    secrets: Mapping[str, str] = {}
    """A Secret's name → where its files appear in the sidecar."""
    directory: str = "/run/tokens"
    cpu: str = "10m"
    memory: str = "64Mi"
    memory_limit: str = "128Mi"
    exec_probes: bool = False
    service_account: str | None = None


DEFAULTS = Wish()


KINDS = {
    "deployment": ("apps/v1", "Deployment"),
    "statefulset": ("apps/v1", "StatefulSet"),
    "daemonset": ("apps/v1", "DaemonSet"),
    "job": ("batch/v1", "Job"),
    "cronjob": ("batch/v1", "CronJob"),
}


class Workload(NamedTuple):
    """What runs the pods."""

    api: str
    kind: str
    name: str


class WorkloadType(click.ParamType[Workload]):
    """`KIND/NAME`, as kubectl takes it."""

    name = "workload"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Workload:
        """Read it."""
        if isinstance(value, Workload):
            return value
        kind, slash, name = str(value).partition("/")
        if kind.lower() not in KINDS or not slash or not name:
            self.fail(f"{value!r} is no KIND/NAME with one of {', '.join(KINDS)}", param, ctx)
        return Workload(*KINDS[kind.lower()], name)


class Mount(click.ParamType[tuple[str, str]]):
    """`NAME:PATH`, a Secret and where its files appear."""

    name = "mount"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, str]:
        """Read it."""
        if isinstance(value, tuple):
            return value
        name, _, path = str(value).partition(":")
        if not name or not path.startswith("/"):
            self.fail(f"{value!r} is no NAME:/PATH", param, ctx)
        return name, path


def _check_name(_ctx: click.Context, _param: click.Parameter, name: str | None) -> str | None:
    if name is None or (len(name) <= LONGEST and re.fullmatch("[a-z0-9]([-.a-z0-9]*[a-z0-9])?", name)):
        return name
    raise click.BadParameter(
        f"{name!r} can't name objects and be a label: small letters, digits, `-` and `.`, at most {LONGEST}"
    )


def _check_mounts(
    _ctx: click.Context, _param: click.Parameter, mounts: tuple[tuple[str, str], ...]
) -> Mapping[str, str]:
    found: dict[str, str] = {}
    for secret, path in mounts:
        if secret in found:
            raise click.BadParameter(
                f"Secret {secret} is mounted at {found[secret]} already; all its files are there: name it once"
            )
        found[secret] = path
    return found


def _option(*names: str, **settings: Any) -> Callable[[Decorated], Decorated]:
    return click.option(*names, show_default="default" in settings, **settings)


_ID = click.IntRange(min=1)
_OPTIONS = (
    config_option,
    click.option(
        "--name",
        callback=_check_name,
        show_default="NAME-token-sidecar with --workload KIND/NAME, else token-sidecar",
        help="Of the ConfigMap, the Role and its binding.",
    ),
    _option("-n", "--namespace", default=DEFAULTS.namespace, help="The pods' namespace."),
    click.option(
        "--image", default=DEFAULTS.image, show_default="token-sidecar of this version", help="The sidecar's."
    ),
    _option("--classic", is_flag=True, help="No native sidecar: for Kubernetes before 1.29."),
    _option("--uid", "user", type=_ID, default=DEFAULTS.user, help="The sidecar's user."),
    _option("--gid", "group", type=_ID, default=DEFAULTS.group, help="Its group."),
    _option("--any-user", is_flag=True, help="Leave user and group to the cluster (OpenShift)."),
    _option(
        "--mount",
        "secrets",
        type=Mount(),
        multiple=True,
        callback=_check_mounts,
        metavar="NAME:PATH",
        help="A Secret that the sidecar alone sees, and where; may be repeated.",
    ),
    _option("--directory", default=DEFAULTS.directory, help="Where the application finds the tokens."),
    _option("--cpu", default=DEFAULTS.cpu, help="What the sidecar requests."),
    _option("--memory", default=DEFAULTS.memory, help="What it requests of memory."),
    _option("--memory-limit", default=DEFAULTS.memory_limit, help="The most that it may take."),
    _option("--exec-probes", is_flag=True, help="Probe by commands: for meshes that let nobody in."),
    _option("--service-account", help="That of the pods; needed where the daemon talks to Kubernetes."),
    _option(
        "-o",
        "--output",
        type=click.Path(path_type=Path, file_okay=False),
        help="A directory to write files to, in place of standard output.",
    ),
)


def sidecar_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add them; the command gets them as `wish`, and `config` and `output` as they are."""

    @wraps(command)
    def with_wish(**given: Any) -> Any:
        own = {key: given.pop(key) for key in Wish._fields if key in given}
        own |= {"native": not given.pop("classic"), "name": own["name"] or _name(given.get("workload"))}
        if given.pop("any_user"):
            own |= {"user": None, "group": None}
        return command(wish=Wish(**own), **given)

    decorated: Callable[..., Any] = with_wish
    for option in reversed(_OPTIONS):
        decorated = option(decorated)
    return decorated


def _name(workload: Workload | None) -> str:
    """Name the objects after the workload: a second application's must not replace the first one's."""
    return DEFAULTS.name if workload is None else fitting(f"{workload.name}-{DEFAULTS.name}")


def readers_option(command: Decorated) -> Decorated:
    """Add `--container`."""
    return click.option(
        "--container", "containers", multiple=True, help="One that reads tokens; may be repeated."
    )(command)
