"""A simulated OAuth2 provider for tests: over HTTP, as a process, or as a pure state machine.

simulator = Simulator(ProviderConfig(rotation=Rotation.ALWAYS, access_ttl=15))
with simulator.serve() as url:
    seed = simulator.provider.new_grant(scope="mail.read")
"""

from __future__ import annotations

from sidecar.testing import faults, shapes
from sidecar.testing.config import ClientAuth, Consent, GraceAnswer, ProviderConfig, Rotation
from sidecar.testing.faults import Delivery, Fault, Reply
from sidecar.testing.memory import request_token
from sidecar.testing.provider import Exchange, NoAnswer, Provider
from sidecar.testing.report import FamilyReport, Fate, Report, RequestRecord, TokenUses, fingerprint
from sidecar.testing.server import Simulator

__all__ = [
    "ClientAuth",
    "Consent",
    "Delivery",
    "Exchange",
    "FamilyReport",
    "Fate",
    "Fault",
    "GraceAnswer",
    "NoAnswer",
    "Provider",
    "ProviderConfig",
    "Reply",
    "Report",
    "RequestRecord",
    "Rotation",
    "Simulator",
    "TokenUses",
    "faults",
    "fingerprint",
    "request_token",
    "shapes",
]
