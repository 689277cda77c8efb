"""The sidecar as values of charts that somebody else wrote: one function for each way of writing them."""

from __future__ import annotations

from collections.abc import Callable

from sidecar.cli.render.shape import CONTAINER, Json, Shape
from sidecar.errors import UsageError

Style = Callable[[Shape, str, str], Json]


def extra(parts: Shape, _controller: str, _container: str) -> Json:
    """Lists whose names begin with `extra`, as most charts have them."""
    return {
        "podAnnotations": parts.annotations,
        "extraInitContainers": parts.init_containers,
        **({"extraContainers": parts.containers} if parts.containers else {}),
        "extraVolumes": parts.volumes,
        "extraVolumeMounts": [parts.mount],
    }


def bitnami(parts: Shape, _controller: str, _container: str) -> Json:
    """Bitnami's names."""
    return {
        "podAnnotations": parts.annotations,
        "initContainers": parts.init_containers,
        **({"sidecars": parts.containers} if parts.containers else {}),
        "extraVolumes": parts.volumes,
        "extraVolumeMounts": [parts.mount],
    }


def stakater(parts: Shape, _controller: str, _container: str) -> Json:
    """Maps by name below `deployment`."""
    return {
        "deployment": {
            "additionalPodAnnotations": parts.annotations,
            "initContainers": _by_name(parts.init_containers),
            **({"additionalContainers": parts.containers} if parts.containers else {}),
            "volumes": _by_name(parts.volumes),
            "volumeMounts": _by_name([parts.mount]),
        }
    }


def bjw_s(parts: Shape, controller: str, container: str) -> Json:
    """Containers and volumes by name, and each volume says where it is mounted."""
    ours = [*parts.init_containers, *parts.containers]
    return {
        "controllers": {
            controller: {
                "pod": {"annotations": parts.annotations},
                "initContainers": {one["name"]: _bjw_s_container(one) for one in parts.init_containers},
                **(
                    {"containers": {one["name"]: _bjw_s_container(one) for one in parts.containers}}
                    if parts.containers
                    else {}
                ),
            }
        },
        "persistence": {
            volume["name"]: {
                "type": "custom",
                "volumeSpec": {key: value for key, value in volume.items() if key != "name"},
                "advancedMounts": {
                    controller: {
                        one["name"]: [_bjw_s_mount(mount)]
                        for one in [*ours, {"name": container, "volumeMounts": [parts.mount]}]
                        for mount in one["volumeMounts"]
                        if mount["name"] == volume["name"]
                    }
                },
            }
            for volume in parts.volumes
        },
    }


STYLES: dict[str, tuple[Style, str]] = {
    "extra": (
        extra,
        "Look the names up in the chart's own values: some have extraInitContainers, others initContainers.",
    ),
    "bitnami": (
        bitnami,
        "In charts of several parts these keys stand below one of them, such as `primary:` or `web:`.",
    ),
    "stakater": (stakater, "For stakater's application chart."),
    "bjw-s": (
        bjw_s,
        "For charts made with bjw-s' common library 4, such as app-template: --controller and --container name yours.",
    ),
}


def _by_name(items: list[Json]) -> Json:
    return {one["name"]: {key: value for key, value in one.items() if key != "name"} for one in items}


def _bjw_s_container(container: Json) -> Json:
    repository, _, tag = container["image"].rpartition(":")
    if not repository or "/" in tag:
        raise UsageError(f"--image: bjw-s' charts want a tag or a digest, and {container['image']} has none")
    probes = {f"{kind}Probe": kind for kind in ("startup", "liveness", "readiness")}
    own = {"name", "image", "imagePullPolicy", "volumeMounts", *probes}
    return {
        "image": {"repository": repository, "tag": tag, "pullPolicy": container["imagePullPolicy"]},
        **{key: value for key, value in container.items() if key not in own},
        "probes": {
            kind: {"enabled": True, "custom": True, "spec": container[key]}
            for key, kind in probes.items()
            if key in container
        },
    }


def _bjw_s_mount(mount: Json) -> Json:
    return {"path": mount["mountPath"], **({"readOnly": True} if mount.get("readOnly") else {})}


__all__ = ["CONTAINER", "STYLES"]
