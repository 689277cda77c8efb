from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from tests.helm import documents
from tests.helm.cases import CASES, GMAIL
from tests.helm.release import Helm, HelmError, merged

ON: dict[str, Any] = {
    **CASES["monitored"]["token-sidecar"],
    "config": {"store": "kubernetes://${POD_NAMESPACE}/basketball"},
    "serviceAccount": {"name": "mailer"},
}
"""Values with which everything is rendered, so that each of them shows."""

CONTEXT = {
    "runAsNonRoot": (False, "runAsNonRoot: false"),
    "runAsUser": (4711, "runAsUser: 4711"),
    "runAsGroup": (4711, "runAsGroup: 4711"),
    "allowPrivilegeEscalation": (True, "allowPrivilegeEscalation: true"),
    "readOnlyRootFilesystem": (False, "readOnlyRootFilesystem: false"),
    "capabilities.drop": (["NET_RAW"], "- NET_RAW"),
    "seccompProfile.type": ("Localhost", "type: Localhost"),
}
PROBE = {"periodSeconds": (77, "periodSeconds: 77"), "failureThreshold": (88, "failureThreshold: 88")}
PROBE |= {"timeoutSeconds": (99, "timeoutSeconds: 99")}

CHANGES: dict[str, tuple[Any, str] | tuple[Any, str, dict[str, Any]]] = {
    "enabled": (False, ""),
    "fullnameOverride": ("other", 'name: "other"'),
    "labels": ({"team": "mail"}, "team: mail"),
    "annotations": ({"owner": "mail"}, "owner: mail"),
    "image.repository": ("r.example/ts", 'image: "r.example/ts:0.1.0"'),
    "image.tag": ("9", 'image: "token-sidecar:9"'),
    "image.digest": (f"sha256:{'a' * 64}", 'image: "token-sidecar@sha256:aaaa'),
    "image.pullPolicy": ("Never", "imagePullPolicy: Never"),
    "config": ({"max_workers": 3}, "max_workers: 3"),
    "native": (False, "token-sidecar-once"),
    "onceWait": ("9m", '--wait, "9m"', {"native": False}),
    "secretMounts": ({"extra": "/etc/extra"}, 'secretName: "extra"'),
    "env": ({"NAME": "value"}, 'value: "value"'),
    "extraVolumes": ({"extra": {"emptyDir": {}}}, "name: extra"),
    "extraVolumeMounts": ({"extra": {"mountPath": "/extra"}}, "mountPath: /extra"),
    "tokensDirectory": (
        "/run/other",
        'mountPath: "/run/other"',
        {"config": {"tokens": {"gmail": {"outputs": []}}}},
    ),
    "tokensSizeLimit": ("3Mi", 'sizeLimit: "3Mi"'),
    "stateSizeLimit": ("5Mi", 'sizeLimit: "5Mi"'),
    "appVolumeMount.mountPath": ("/var/app", 'mountPath: "/var/app"'),
    "appVolumeMount.readOnly": (False, "readOnly: false"),
    "resources.requests.cpu": ("11m", "cpu: 11m"),
    "resources.requests.memory": ("65Mi", "memory: 65Mi"),
    "resources.limits.memory": ("129Mi", "memory: 129Mi"),
    **{f"securityContext.{key}": change for key, change in CONTEXT.items()},
    "probeHandler": ("exec", "command: [token-sidecar, healthcheck, live]"),
    **{f"startupProbe.{key}": change for key, change in PROBE.items()},
    **{f"livenessProbe.{key}": change for key, change in PROBE.items()},
    **{f"readinessProbe.{key}": change for key, change in PROBE.items()},
    "startupProbe.enabled": (False, ""),
    "livenessProbe.enabled": (False, ""),
    "readinessProbe.enabled": (False, ""),
    "lifecycle": ({"postStart": {"exec": {"command": ["hello"]}}}, "- hello"),
    "terminationMessagePolicy": ("File", "terminationMessagePolicy: File"),
    "serviceAccount.create": (True, "kind: ServiceAccount\nmetadata"),
    "serviceAccount.name": ("postman", "name: postman"),
    "serviceAccount.annotations": ({"role": "mail"}, "role: mail", {"serviceAccount": {"create": True}}),
    "serviceAccountToken.mount": ("never", ""),
    "serviceAccountToken.expirationSeconds": (1234, "expirationSeconds: 1234"),
    "rbac.create": (False, ""),
    "stateSecrets.create": (False, ""),
    "stateSecrets.annotations": ({"prune": "never"}, "prune: never"),
    "podMonitor.enabled": (False, ""),
    "podMonitor.labels": ({"which": "p"}, "which: p"),
    "podMonitor.interval": ("17s", "interval: 17s"),
    "podMonitor.scrapeTimeout": ("7s", "scrapeTimeout: 7s"),
    "podMonitor.selector.app.kubernetes.io/instance": ("other", "app.kubernetes.io/instance: other"),
    "prometheusRule.enabled": (False, ""),
    "prometheusRule.labels": ({"release": "p"}, "release: p"),
    "prometheusRule.alertLabels": ({"team": "post"}, "team: post"),
    "prometheusRule.disabled": (["TokenSidecarOutputNotRead"], ""),
    "prometheusRule.severities": ({"TokenSidecarOutputNotRead": "critical"}, "severity: critical"),
    "prometheusRule.runbookUrl": (
        "https://docs.example.com/",
        "runbook_url: https://docs.example.com/docs/runbooks/tokensidecardown.html",
    ),
    "prometheusRule.dashboardUrl": (
        "https://grafana.example.com/d/token-sidecar",
        "dashboard_url: https://grafana.example.com/d/token-sidecar",
    ),
    "prometheusRule.consoleUrl": (
        "https://tokens.example.com/",
        "console: https://tokens.example.com/tokens/{{ $labels.token }}",
    ),
    "dashboard.enabled": (False, ""),
    "dashboard.labels.grafana_dashboard": ("yes", 'grafana_dashboard: "yes"'),
    "dashboard.annotations": ({"folder": "Mail"}, "folder: Mail"),
    "dashboard.consoleUrl": (
        "https://tokens.example.com/",
        "https://tokens.example.com/tokens/${__value.raw}",
    ),
    "test.enabled": (False, ""),
    "test.annotations": ({"sidecar.istio.io/inject": "false"}, 'sidecar.istio.io/inject: "false"'),
    "test.pod": ({"nodeSelector": {"disk": "ssd"}}, "disk: ssd"),
    **{f"test.securityContext.{key}": change for key, change in CONTEXT.items()},
}
"""Value → another one, and what the manifests then have that they hadn't; nothing where they lose something."""


def leaves(value: Any, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """Find everything in values.yaml that isn't a mapping with something in it."""
    if isinstance(value, dict) and value:
        return [leaf for key, inner in value.items() for leaf in leaves(inner, (*path, key))]
    return [path]


LEAVES = {
    ".".join(path): path for path in leaves(yaml.safe_load((documents.CHART / "values.yaml").read_text()))
}


def nested(path: tuple[str, ...], value: Any) -> dict[str, Any]:
    """Write a value at its place."""
    return {path[0]: nested(path[1:], value) if path[1:] else value}


def rendered(helm: Helm, app: Path, values: dict[str, Any]) -> list[str]:
    """Render the example, with every feature on."""
    return helm.text(app, {"token-sidecar": merged(ON, values)}).splitlines()


def test_each_value_has_its_test() -> None:
    """Whatever stands in values.yaml is changed below."""
    assert set(CHANGES) == set(LEAVES)


@pytest.mark.parametrize("name", CHANGES)
def test_each_value_does_something(helm: Helm, app: Path, name: str) -> None:
    """Changing one value changes the manifests, and the change shows what was asked for."""
    value, shown, *more = CHANGES[name]
    beside = dict(more[0]) if more else {}
    before = rendered(helm, app, beside)
    after = rendered(helm, app, merged(beside, nested(LEAVES[name], value)))

    assert after != before
    if shown:
        assert "\n".join(after).count(shown) > "\n".join(before).count(shown)
    else:
        assert len(after) < len(before)


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"imag": {}}, "imag"),
        ({"image": {"tagg": "1"}}, "tagg"),
        ({"resources": {"request": {}}}, "request"),
        ({"securityContext": {"runAsUsr": 1}}, "runAsUsr"),
        ({"securityContext": {"capabilities": {"dropp": []}}}, "dropp"),
        ({"livenessProbe": {"periodSecond": 1}}, "periodSecond"),
        ({"secretMounts": {"oauth": {"mountPath": "/x", "optionl": True}}}, "optionl"),
        ({"env": {"A": {"valeFrom": {}}}}, "valeFrom"),
        ({"extraVolumeMounts": {"a": {"mountPath": "/a", "readonly": True}}}, "readonly"),
        ({"lifecycle": {"preStopp": {}}}, "preStopp"),
        ({"serviceAccount": {"nam": "x"}}, "nam"),
        ({"podMonitor": {"interval_": "1s"}}, "interval_"),
        ({"test": {"enable": True}}, "enable"),
        ({"config": {"token": {}}}, "token"),
        ({"config": {"tokens": {"gmail": {"sed": "/x"}}}}, "sed"),
        (
            {"config": {"tokens": {"gmail": {"outputs": [{"file": "/run/tokens/x", "fromat": "raw"}]}}}},
            "fromat",
        ),
        ({"config": {"tokens": {"gmail": {"client": {"fil": "/x"}}}}}, "fil"),
    ],
)
def test_a_misspelt_value_is_named(helm: Helm, app: Path, values: dict[str, Any], named: str) -> None:
    """Helm refuses to render, and says which key it doesn't know: of the chart's values and of `config` alike."""
    with pytest.raises(HelmError) as caught:
        helm.text(app, {"token-sidecar": values})

    assert f"Additional property {named} is not allowed" in str(caught.value)


@pytest.mark.parametrize(
    ("values", "place"),
    [
        ({"config": {"tokens": {"gmail": {"on_dead": "never"}}}}, "config.tokens.gmail.on_dead"),
        ({"config": {"tokens": {"gmail": {"lease": "soon"}}}}, "config.tokens.gmail.lease"),
        ({"config": {"server": {"port": 70000}}}, "config.server.port"),
        ({"tokensDirectory": "run/tokens"}, "tokensDirectory"),
        ({"env": {"PORT": 8080}}, "env.PORT"),
        ({"image": {"digest": "latest"}}, "image.digest"),
        ({"securityContext": {"runAsUser": 0}}, "securityContext.runAsUser"),
        ({"probeHandler": "tcp"}, "probeHandler"),
    ],
)
def test_a_wrong_value_is_named(helm: Helm, app: Path, values: dict[str, Any], place: str) -> None:
    """So is a value that can't be."""
    with pytest.raises(HelmError) as caught:
        helm.text(app, {"token-sidecar": values})

    assert f"- {place}: " in str(caught.value)


def test_the_schema_is_of_the_draft_that_it_names() -> None:
    """Newer versions of Helm are stricter about that."""
    jsonschema.Draft7Validator.check_schema(json.loads(documents.SCHEMA.read_text(encoding="utf-8")))


@pytest.mark.parametrize(
    ("tokens", "valid"), [({"gmail": GMAIL}, True), ({"gmail": {**GMAIL, "sed": "x"}}, False)]
)
def test_other_validators_read_the_schema_alike(*, tokens: dict[str, Any], valid: bool) -> None:
    """It doesn't hang on the library that one version of Helm has."""
    validator = jsonschema.Draft7Validator(json.loads(documents.SCHEMA.read_text(encoding="utf-8")))

    assert validator.is_valid({"config": {"tokens": tokens}}) is valid


NONE = [
    "annotations",
    "labels",
    "appVolumeMount",
    "serviceAccountToken",
    "test",
    "podMonitor",
    "prometheusRule",
    "dashboard",
    "rbac",
    "stateSecrets",
    "stateSecrets.annotations",
    "test.annotations",
    "serviceAccount",
]


@pytest.mark.parametrize("path", NONE)
def test_a_block_may_be_taken_away(helm: Helm, chart: Path, path: str) -> None:
    """Null for a whole block is nothing of it, or the default where something has to be: never a template's trace."""
    given: Any = None
    for key in reversed(path.split(".")):
        given = {key: given}
    values = {**merged(ON, {"config": {"tokens": {"gmail": GMAIL}}}), "rbac": {"create": False}}

    # Not `merged`: of ON's own block nothing may be left.
    manifests = helm.template(chart, {**values, **given})

    kinds = {one["kind"] for one in manifests}
    gone = {
        "test": "Pod",
        "podMonitor": "PodMonitor",
        "prometheusRule": "PrometheusRule",
        "stateSecrets": "Secret",
    }
    assert gone.get(path) not in kinds
    if path != "test":
        [pod] = [one["spec"] for one in manifests if one["kind"] == "Pod"]
        [mount] = pod["containers"][0]["volumeMounts"]
        assert mount == {"name": "token-sidecar-tokens", "mountPath": "/run/tokens", "readOnly": True}
        [token] = [one["projected"]["sources"][0] for one in pod["volumes"] if "projected" in one]
        assert token == {"serviceAccountToken": {"path": "token", "expirationSeconds": 3600}}


def closed(schema: Any, place: str = "") -> list[str]:
    """Find the mappings with named keys that take any other key too."""
    if isinstance(schema, list):
        return [found for part in schema for found in closed(part, place)]
    if not isinstance(schema, dict):
        return []
    inner = [found for key, part in schema.items() for found in closed(part, f"{place}/{key}")]
    named = isinstance(schema.get("properties"), dict) and schema.get("type") == "object"
    return [place, *inner] if named and schema.get("additionalProperties") is not False else inner


def test_no_mapping_takes_unknown_keys() -> None:
    """Wherever the schema names keys it takes no others."""
    assert closed(json.loads(documents.SCHEMA.read_text(encoding="utf-8"))) == []


def test_the_schema_has_the_configurations() -> None:
    """The chart's schema of `config` is the daemon's own."""
    assert documents.SCHEMA.read_text(encoding="utf-8") == documents.schema_text(), (
        "renew it with: make chart"
    )


def test_the_readme_has_the_values() -> None:
    """The table in the chart's README says what values.yaml says."""
    assert documents.README.read_text(encoding="utf-8") == documents.readme_text(), (
        "renew it with: make chart"
    )


def test_every_value_is_explained() -> None:
    """Each has a comment in values.yaml, on itself or on the mapping that it is in."""
    assert [".".join(value.path) for value in documents.values() if not value.text] == []


@pytest.mark.parametrize(
    "tokens",
    [
        {"odd": {**GMAIL, "seed": "yes", "scopes": ["1e3", "0640", "on", "~", "2024-01-01", "12:30"]}},
        {"big": {**GMAIL, "installation": "123456789012345678"}},
        {
            "text": {
                "outputs": [
                    {"file": "/run/tokens/x", "template": "a: {{ access_token }}\n  # b\n\n'c' \"d\"\t\n"}
                ]
            }
        },
        {
            "numbers": {
                **GMAIL,
                "refresh_at": 0.7,
                "lease": 9,
                "outputs": [{"file": "/run/tokens/x", "group": 1000650000}],
            }
        },
    ],
)
def test_the_configuration_arrives_as_it_was_written(helm: Helm, chart: Path, tokens: dict[str, Any]) -> None:
    """Helm's way of writing YAML means to our reader what the owner wrote."""
    manifests = helm.template(chart, {"config": {"tokens": tokens}})

    [text] = [one["data"]["config.yaml"] for one in manifests if one["kind"] == "ConfigMap"]
    assert yaml.safe_load(text)["tokens"] == tokens
