"""What is rendered again and again: an application's chart, in each way that its owner may want it."""

from __future__ import annotations

from typing import Any

GMAIL: dict[str, Any] = {
    "provider": "google",
    "client": {"file": "/etc/oauth/credentials.json"},
    "seed": "/etc/oauth/gmail-westsidebasketball.json",
    "outputs": [{"file": "/run/tokens/gmail-westsidebasketball.json", "format": "gmail-sdk", "group": 2000}],
}

KINDS = ("Deployment", "StatefulSet", "Job", "CronJob")

CASES: dict[str, dict[str, Any]] = {
    **{kind.lower(): {"kind": kind} for kind in KINDS},
    "classic": {"token-sidecar": {"native": False}},
    "classic-job": {"kind": "Job", "token-sidecar": {"native": False}},
    "disabled": {"token-sidecar": {"enabled": False}},
    "kubernetes": {
        "token-sidecar": {
            "serviceAccount": {"create": True},
            "config": {
                "store": "kubernetes://${POD_NAMESPACE}/basketball",
                "tokens": {"gmail": GMAIL, "Alice_Smith": {**GMAIL, "seed": "/etc/oauth/b", "outputs": []}},
            },
        }
    },
    "postgres": {
        "token-sidecar": {
            "config": {"store": {"url_file": "/etc/database/url"}},
            "secretMounts": {
                "database": {"mountPath": "/etc/database", "items": [{"key": "url", "path": "url"}]}
            },
        }
    },
    "openshift": {
        "podSecurityContext": {"fsGroup": None},
        "securityContext": {"runAsUser": None, "runAsGroup": None},
        "token-sidecar": {
            "securityContext": {"runAsUser": "", "runAsGroup": ""},
            "config": {
                "tokens": {"gmail": {"outputs": [{"file": "/run/tokens/gmail.json", "format": "gmail-sdk"}]}}
            },
            "test": {
                "pod": {"securityContext": {"fsGroup": None}},
                "securityContext": {"runAsUser": "", "runAsGroup": ""},
            },
        },
    },
    "mesh": {"token-sidecar": {"probeHandler": "exec", "config": {"server": {"host": "127.0.0.1"}}}},
    "monitored": {
        "token-sidecar": {
            "podMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
            "prometheusRule": {"enabled": True, "alertLabels": {"team": "mail"}},
            "dashboard": {"enabled": True},
        }
    },
    "everything": {
        "token-sidecar": {
            "fullnameOverride": "mail-tokens",
            "labels": {"team": "mail"},
            "annotations": {"example.org/owner": "mail"},
            "image": {
                "repository": "registry.example/token-sidecar",
                "digest": f"sha256:{'0' * 64}",
                "pullPolicy": "Always",
            },
            "env": {"HTTPS_PROXY": "http://proxy.example:3128", "POD_UID": "fixed"},
            "extraVolumes": {"data": {"persistentVolumeClaim": {"claimName": "tokens"}}},
            "extraVolumeMounts": {"data": {"mountPath": "/var/lib/token-sidecar"}},
            "secretMounts": {"{{ .Release.Name }}.oauth": {"mountPath": "/etc/more", "optional": True}},
            "config": {
                "store": "sqlite:///var/lib/token-sidecar/tokens.db",
                "state_dir": "/run/state",
                "server": {"port": 19640},
                "log": {"level": "debug"},
            },
            "appVolumeMount": {"mountPath": "/var/secrets/tokens", "readOnly": False},
            "startupProbe": {"exec": {"command": ["token-sidecar", "healthcheck", "startup"]}},
            "livenessProbe": {"initialDelaySeconds": 3},
            "readinessProbe": {"enabled": False},
            "lifecycle": {"postStart": {"exec": {"command": ["true"]}}},
            "terminationMessagePolicy": "File",
            "serviceAccount": {"create": True, "name": "mailer", "annotations": {"example.org/role": "mail"}},
            "serviceAccountToken": {"mount": "always", "expirationSeconds": 1200},
            "test": {"enabled": False},
        }
    },
}
