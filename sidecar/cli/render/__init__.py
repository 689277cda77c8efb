"""`render`: what Kubernetes needs to run the daemon beside an application whose chart is somebody else's."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import click

from sidecar.cli.options import examples
from sidecar.cli.render.options import Wish, Workload, WorkloadType, readers_option, sidecar_options
from sidecar.errors import UsageError

if TYPE_CHECKING:
    from sidecar.cli.render.configured import Configured
    from sidecar.cli.render.shape import Json, Shape

OBJECTS, PART = "token-sidecar.yaml", "patch.yaml"
PARAMETERS_LABEL = "token-sidecar/parameters"


class Sidecar(NamedTuple):
    """Everything that the commands write from."""

    wish: Wish
    configured: Configured
    parts: Shape


@click.group(
    epilog=examples(
        ("token-sidecar render values --style bitnami", "values for somebody else's chart"),
        (
            "token-sidecar render kustomize --workload deployment/app --container app -o sidecar",
            "a component",
        ),
        ("token-sidecar render manifests | kubectl apply -f -", "an example that runs"),
    )
)
def render() -> None:
    """Write what Kubernetes needs to run it beside an application.

    For applications whose chart is somebody else's; your own includes the templates of helm/token-sidecar,
    which make the same of a pod. Nothing is asked of a cluster, and no secret is written. The configuration
    is checked as `check --no-disk` does.
    """


@render.command(
    epilog=examples(
        ("token-sidecar render values --style extra", "most charts"),
        (
            "token-sidecar render values --style bjw-s --container app -o .",
            "with what stands beside the pods",
        ),
    )
)
@sidecar_options
@click.option(
    "--style",
    type=click.Choice(("extra", "bitnami", "stakater", "bjw-s")),
    default="extra",
    show_default=True,
    help="Whose way of writing values.",
)
@click.option("--controller", default="main", show_default=True, help="bjw-s: the controller.")
@click.option("--container", default="main", show_default=True, help="bjw-s: the container that reads.")
def values(
    wish: Wish, config: Path, output: Path | None, style: str, controller: str, container: str
) -> None:
    """Write values for a chart that takes more containers and volumes.

    The ConfigMap and what else stands beside the pods goes into token-sidecar.yaml with --output; without,
    `render manifests --objects` writes it.
    """
    from sidecar.cli.render import page
    from sidecar.cli.render.styles import STYLES

    sidecar = _sidecar(wish, config)
    write, note = STYLES[style]
    native = (
        "The init container token-sidecar must have `restartPolicy: Always`. Some charts drop it (OneChart does), or "
        "refuse it by their schema; without it pods wait for ever. Use `render kustomize` for these, or --classic."
    )
    classic = "There must be an init container token-sidecar-once, and a container token-sidecar."
    head = page.header(
        f"values --style {style}",
        f"1. Merge this into the chart's values. {note}",
        f"2. {_beside(wish)}",
        _account(wish),
        f"3. Look at what comes out: `helm template …`. {native if wish.native else classic}",
    )
    text = head + page.dump(write(sidecar.parts, controller, container))
    _put(output, {"values.yaml": text, OBJECTS: _objects(sidecar)}, text)


@render.command(
    epilog=examples(
        (
            "token-sidecar render kustomize --workload deployment/app --container app -o sidecar",
            "components: [sidecar]",
        ),
        (
            "token-sidecar render kustomize --workload deployment/app --container app",
            "for Flux: below postRenderers",
        ),
    )
)
@sidecar_options
@click.option(
    "--workload", type=WorkloadType(), metavar="KIND/NAME", required=True, help="What runs the pods."
)
@readers_option
def kustomize(
    wish: Wish, config: Path, output: Path | None, workload: Workload, containers: tuple[str, ...]
) -> None:
    """Write a Kustomize component, or the patch alone.

    With --output a directory that a kustomization.yaml names under `components`. Without, the patch as
    `patches:` has it, in a kustomization.yaml or in a Flux HelmRelease.
    """
    from sidecar.cli.render import page
    from sidecar.cli.render.workloads import part

    _need(containers)
    sidecar = _sidecar(wish, config)
    patch = part(workload, containers, sidecar.parts)
    target = {"kind": workload.kind, "name": workload.name}
    order = "Kustomize puts our init container before the others, so that they find tokens too."
    component = {
        "apiVersion": "kustomize.config.k8s.io/v1alpha1",
        "kind": "Component",
        "resources": [OBJECTS],
        "patches": [{"path": PART, "target": target}],
    }
    files = {
        "kustomization.yaml": page.header(
            "kustomize",
            "Name this directory under `components:` in your kustomization.yaml, then look: `kubectl kustomize .`.",
            "No namePrefix or nameSuffix may reach state Secrets: the daemon knows them by their names.",
            _account(wish),
        )
        + page.dump(component),
        PART: page.header("kustomize", order) + page.dump(patch),
        OBJECTS: _objects(sidecar),
    }
    head = page.header(
        "kustomize",
        "Goes into a kustomization.yaml as it is, and into a Flux HelmRelease below `spec.postRenderers[].kustomize`. "
        + order,
        _beside(wish),
        _account(wish),
    )
    _put(output, files, head + page.dump({"patches": [{"target": target, "patch": page.dump(patch)}]}))


@render.command(
    epilog=examples(
        ("token-sidecar render manifests | kubectl apply -f -", "an example that runs"),
        ("token-sidecar render manifests --workload deployment/app --container app", "into yours"),
        ("token-sidecar render manifests --objects", "beside `render values`"),
    )
)
@sidecar_options
@click.option(
    "--workload", type=WorkloadType(), metavar="KIND/NAME", help="What runs the pods. [default: an example]"
)
@readers_option
@click.option("--objects", "only_objects", is_flag=True, help="Only what stands beside the pods.")
def manifests(
    wish: Wish,
    config: Path,
    output: Path | None,
    workload: Workload | None,
    containers: tuple[str, ...],
    *,
    only_objects: bool,
) -> None:
    """Write everything as plain YAML.

    The ConfigMap, the state Secrets, and what the pods' account may do; then a Deployment as an example, or
    with --workload the part that is to be merged into one that is there, by server-side apply.
    """
    from sidecar.cli.render import page
    from sidecar.cli.render.workloads import example, part

    sidecar = _sidecar(wish, config)
    files = {OBJECTS: _objects(sidecar)}
    if workload is not None and not only_objects:
        _need(containers)
        files[PART] = page.header(
            "manifests",
            "A part of a workload that is there, to be merged into it: `kubectl apply --server-side --field-manager "
            "token-sidecar-render -f …`. The sidecar comes after the init containers that are there.",
            _account(wish),
        ) + page.dump(part(workload, containers, sidecar.parts, wish.namespace))
    elif not only_objects:
        files["example.yaml"] = page.header(
            "manifests",
            "An example that lists its tokens. Put your application in the place of the container `app`.",
        ) + page.dump(example(wish, sidecar.parts, [*sidecar.configured.groups]))
    _put(output, files, "---\n".join(files.values()))


@render.command(
    epilog=examples(
        (
            "token-sidecar render injector --name gmail -n mail | kubectl apply -f -",
            "pods: token-sidecar/inject: gmail",
        ),
    )
)
@sidecar_options
@readers_option
@click.option(
    "--label", default=PARAMETERS_LABEL, show_default=True, help="By which the injector finds ConfigMaps."
)
def injector(wish: Wish, config: Path, output: Path | None, containers: tuple[str, ...], label: str) -> None:
    """Write the ConfigMap by which helm/token-sidecar-injector knows what to inject.

    A cluster with that chart puts a sidecar into every pod of the namespace whose label
    `token-sidecar/inject` is the ConfigMap's name.
    """
    from sidecar.cli.render.objects import parameters

    sidecar = _sidecar(wish, config)
    found = parameters(wish, sidecar.configured, containers, label)
    text = _objects(
        sidecar, found, f"Pods with the label `token-sidecar/inject: {wish.name}` get the sidecar."
    )
    _put(output, {OBJECTS: text}, text)


def _sidecar(wish: Wish, config: Path) -> Sidecar:
    from sidecar.cli.render import configured
    from sidecar.cli.render.shape import shape

    found = configured.read(config, wish.namespace)
    return Sidecar(wish, found, shape(wish, found))


def _objects(sidecar: Sidecar, config_map: Json | None = None, note: str = "") -> str:
    from sidecar.cli.render import page
    from sidecar.cli.render.objects import objects

    head = page.header("…", "What stands beside the pods.", note, _account(sidecar.wish))
    return head + page.dump(*objects(sidecar.wish, sidecar.configured, config_map))


def _beside(wish: Wish) -> str:
    command = f"token-sidecar render manifests --objects --name {wish.name}"
    return f"Apply what stands beside the pods: `{command}`, with the same options."


def _account(wish: Wish) -> str:
    if wish.service_account is None:
        return ""
    return f"The pods must run as ServiceAccount {wish.service_account}, which gets the permissions."


def _need(containers: tuple[str, ...]) -> None:
    if not containers:
        raise UsageError("--container: name the application's containers that read tokens")


def _put(output: Path | None, files: dict[str, str], text: str) -> None:
    from sidecar.cli.render import page

    if output is None:
        click.echo(text, nl=False)
    else:
        page.write(output, files)
