"""What goes wrong on the way to AWS: each is one sentence with place, reason and way out, and quotes no secret."""

from __future__ import annotations

from typing import Any

import anyio
import botocore.exceptions as sdk
import pytest

from sidecar.clients.aws import Fault, Kind, SecretsManager, _explained

SECRET = "sim-rt-0123456789abcdef01234567"


@pytest.fixture
def anyio_backend() -> str:
    """The client library knows no other event loop."""
    return "asyncio"


def refusal(code: str, message: str = SECRET, status: int = 400, action: str = "PutSecretValue") -> Fault:
    """Explain an answer of AWS's."""
    response: Any = {
        "Error": {"Code": code, "Message": message},
        "ResponseMetadata": {"HTTPStatusCode": status},
    }
    return _explained(sdk.ClientError(response, action), action, "the secret s")


@pytest.mark.parametrize(
    ("code", "message", "kind", "told"),
    [
        (
            "AccessDeniedException",
            "User: arn:aws:sts::1:assumed-role/r/i is not authorized to perform: secretsmanager:PutSecretValue on x",
            Kind.FORBIDDEN,
            "arn:aws:sts::1:assumed-role/r/i may not PutSecretValue; allow the action secretsmanager:PutSecretValue",
        ),
        ("AccessDeniedException", "Access to KMS is not allowed", Kind.FORBIDDEN, "allow kms:Decrypt and"),
        ("DecryptionFailure", SECRET, Kind.FORBIDDEN, "allow kms:Decrypt and kms:GenerateDataKey"),
        ("ResourceNotFoundException", SECRET, Kind.MISSING, "there is none; create it, or correct its name"),
        ("ExpiredTokenException", SECRET, Kind.UNAUTHORIZED, "look at where the SDK finds them"),
        ("LimitExceededException", SECRET, Kind.LIMIT, "about 100 versions and 50 tags"),
        ("ThrottlingException", SECRET, Kind.TEMPORARY, "AWS throttles us"),
        ("InvalidRequestException", "currently marked deleted", Kind.DELETED, "restore it"),
        ("SomethingElse", SECRET, Kind.INVALID, "AWS refuses PutSecretValue (SomethingElse)"),
        (SECRET, SECRET, Kind.INVALID, "no reason given"),
    ],
)
def test_a_refusal_names_its_reason(code: str, message: str, kind: Kind, told: str) -> None:
    """What AWS refuses has certainly not been done; a missing right is named by its IAM action."""
    fault = refusal(code, message)
    assert (fault.kind, fault.refused) == (kind, True)
    assert told in str(fault)
    assert "sim-" not in str(fault)


def test_a_label_that_moved_is_a_lost_race() -> None:
    """The same code of AWS's means something else when a label is moved."""
    assert refusal("InvalidParameterException", action="UpdateSecretVersionStage").kind is Kind.MOVED


def test_a_fault_of_the_service_leaves_doubt_about_writes() -> None:
    """After a 5xx nobody knows whether a write was done; a read has changed nothing either way."""
    assert not refusal("InternalServiceError", status=500).refused
    assert refusal("InternalServiceError", status=500, action="DescribeSecret").refused


@pytest.mark.parametrize(
    ("error", "kind", "refused"),
    [
        (sdk.NoRegionError(), Kind.UNCONFIGURED, True),
        (sdk.NoCredentialsError(), Kind.UNAUTHORIZED, True),
        (sdk.CredentialRetrievalError(provider="x", error_msg=SECRET), Kind.UNAUTHORIZED, True),
        (sdk.EndpointConnectionError(endpoint_url="https://x"), Kind.UNREACHABLE, True),
        (sdk.ReadTimeoutError(endpoint_url="https://x"), Kind.TEMPORARY, False),
        (sdk.ConnectionClosedError(endpoint_url="https://x"), Kind.TEMPORARY, False),
        (ValueError(SECRET), Kind.TEMPORARY, False),
    ],
)
def test_no_answer_is_told_from_no_request(error: Exception, kind: Kind, refused: bool) -> None:  # noqa: FBT001
    """Where nothing was sent nothing has changed; where the answer is missing it may have."""
    fault = _explained(error, "PutSecretValue", "the secret s")
    assert (fault.kind, fault.refused) == (kind, refused)
    assert "sim-" not in str(fault)


async def test_a_call_has_an_end() -> None:
    """Whatever AWS does, a call comes back within its time, and a write is then in doubt."""

    class Silent(SecretsManager):
        async def _connected(self) -> Any:
            await anyio.sleep_forever()

    for call, refused in (("describe", True), ("restore", False)):
        with pytest.raises(Fault, match=r"did not answer for 0\.05 s") as caught:
            await getattr(Silent(patience=0.05), call)("s")
        assert caught.value.refused is refused
        assert caught.value.__context__ is None
