"""The one way to AWS Secrets Manager: secrets by name, one request a call, and an end to every call.

aiobotocore finds region, endpoint and credentials as every SDK of AWS does (environment, profile, container, instance).
Nothing is tried twice here, neither by the SDK: a write whose reply was lost has to be looked for, and who repeats it
blindly doesn't know which of the two it was. Neither a message nor a traceback holds what was sent or what came back.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from enum import StrEnum
from functools import cache
from typing import Any, Self, TypeVar
from urllib.parse import urlsplit

import anyio
import anyio.lowlevel
import botocore.exceptions as sdk
import msgspec
from aiobotocore.config import AioConfig
from aiobotocore.session import AioSession
from botocore.loaders import Loader, create_loader

from sidecar.errors import Unfound

T = TypeVar("T")

CALL_SECONDS = 5.0
"""For so long a call takes at most: credentials, connecting and the answer together."""
CONNECT_SECONDS = 2.0
CLOSE_SECONDS = 1.0
CONNECTIONS = 16
REREAD_AFTER = 60.0
"""Seconds for which what seldom changes is not read again."""
VALUE_LIMIT = 65_536
"""Bytes that the value of a secret has at most."""
TAG_LIMIT = 256
"""Characters that the value of a tag has at most."""
SETTLED_AFTER = 60.0
"""Seconds after which what AWS tells is taken for what is: its answers may lag behind what it has acknowledged."""
PAGE = 100
"""Secrets that one page of a list has at most."""
CURRENT = "AWSCURRENT"
"""The staging label of the version that readers get."""

WAIT = "the next call tries again"


class Kind(StrEnum):
    """What a fault means for whoever called."""

    MISSING = "missing"
    """There is no such secret, or no such version of it."""
    EXISTS = "exists"
    """There is one of that name, or a version of that id with another value."""
    DELETED = "deleted"
    """It is marked for deletion, or about to be gone."""
    MOVED = "moved"
    """The label is not on the version that it was to be taken from."""
    FORBIDDEN = "forbidden"
    """A right is lacking: on the secret, or on the key that it is encrypted with."""
    UNAUTHORIZED = "unauthorized"
    """There are no credentials, or AWS does not take them."""
    INVALID = "invalid"
    """The request itself was refused: no later call with the same will do better."""
    LIMIT = "limit"
    """A quota is used up."""
    TEMPORARY = "temporary"
    """Throttled, a fault of the service, a time-out: later it may work."""
    UNREACHABLE = "unreachable"
    """No connection came about."""
    UNCONFIGURED = "unconfigured"
    """There is no telling which region or endpoint is meant."""


class Fault(Exception):
    """Why a call failed, and the way out. Holds nothing that was sent."""

    def __init__(self, kind: Kind, reason: str, remedy: str, *, refused: bool) -> None:
        super().__init__(f"{reason}; {remedy}")
        self.kind = kind
        self.reason = reason
        self.remedy = remedy
        self.refused = refused
        """Whether it is certain that nothing was changed: nothing was asked, or AWS said no."""


class Described(msgspec.Struct, frozen=True):
    """What there is to know of a secret without its value."""

    name: str
    arn: str
    stages: dict[str, str]
    """Staging label → id of the version that it is on."""
    tags: dict[str, str]
    deleted: bool
    """Whether it is marked for deletion; until the window is over it can be restored."""
    rotates: bool
    """Whether a function of AWS's own rotation writes it, too."""
    key: str
    """The customer's KMS key; empty: AWS's own."""

    @property
    def current(self) -> str | None:
        """Id of the version that readers get; None: it has no value yet."""
        return self.stages.get(CURRENT)


class Value(msgspec.Struct, frozen=True):
    """One version of a secret, which nobody can change any more."""

    version: str
    text: str | None
    """None: it is binary."""
    created: float
    """Unix seconds."""

    def __repr__(self) -> str:
        """Show no byte of it."""
        return f"Value(version={self.version})"


class SecretsManager:
    """A client of one account and region. One serves any number of calls at once; the first one connects."""

    def __init__(self, *, patience: float = CALL_SECONDS) -> None:
        """Ask nothing yet. `patience`: seconds for a whole call."""
        self._patience = patience
        self._stack: AsyncExitStack | None = None
        self._api: Any = None
        self._opening = anyio.Lock()
        self._texts: dict[str, tuple[float, str]] = {}

    async def __aenter__(self) -> Self:
        """Connect to nothing: a daemon starts while AWS is away."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close the connections."""
        stack, self._stack, self._api = self._stack, None, None
        if stack is not None:
            with anyio.move_on_after(CLOSE_SECONDS, shield=True):
                await stack.aclose()

    async def place(self) -> str:
        """Say where secrets are: the region, and the endpoint if it is one of the user's own. Raises `Fault`."""
        return await self._call("ListSecrets", "", _place)

    async def describe(self, name: str) -> Described:
        """Read what there is to know of a secret without its value. Raises `Fault`."""
        return _described(await self._ask("DescribeSecret", name, SecretId=name))

    async def value(self, name: str, version: str | None = None) -> Value:
        """Read a version of a secret; by default the current one. Raises `Fault`."""
        which = {"VersionId": version} if version is not None else {}
        found = await self._ask("GetSecretValue", name, SecretId=name, **which)
        return Value(found["VersionId"], found.get("SecretString"), found["CreatedDate"].timestamp())

    async def text(self, name: str) -> str:
        """Read the current value of a secret that seldom changes; it may be a minute old. Raises `Unfound`."""
        read, text = self._texts.get(name, (0.0, ""))
        if text and anyio.current_time() - read < REREAD_AFTER:
            return text
        try:
            found = await self.value(name)
        except Fault as fault:
            problem = str(fault)
        else:
            text = (found.text or "").strip()
            self._texts[name] = (anyio.current_time(), text)
            return text
        raise Unfound(problem)

    async def create(self, name: str, text: str, *, version: str, tags: Mapping[str, str]) -> None:
        """Make a secret with its first version, if there is none of that name. Raises `Fault` (`EXISTS`, `DELETED`)."""
        await self._ask(
            "CreateSecret",
            name,
            Name=name,
            SecretString=text,
            ClientRequestToken=version,
            Tags=[{"Key": key, "Value": value} for key, value in tags.items()],
        )

    async def put(self, name: str, text: str, *, version: str, stages: Sequence[str]) -> None:
        """Add a version with these labels. The same again does nothing; raises `Fault` (`EXISTS` for another value)."""
        await self._ask(
            "PutSecretValue",
            name,
            SecretId=name,
            SecretString=text,
            ClientRequestToken=version,
            VersionStages=list(stages),
        )

    async def move(self, name: str, stage: str, *, to: str, away_from: str) -> None:
        """Move a label from one version to another, if it is still there. Raises `Fault` (`MOVED`)."""
        await self._ask(
            "UpdateSecretVersionStage",
            name,
            SecretId=name,
            VersionStage=stage,
            MoveToVersionId=to,
            RemoveFromVersionId=away_from,
        )

    async def tag(self, name: str, tags: Mapping[str, str]) -> None:
        """Set these tags, and leave all others as they are. Raises `Fault`."""
        pairs = [{"Key": key, "Value": value} for key, value in tags.items()]
        await self._ask("TagResource", name, SecretId=name, Tags=pairs)

    async def delete(self, name: str, *, for_good: bool = False) -> None:
        """Mark a secret for deletion in 30 days, or delete it with no way back. Raises `Fault`."""
        how = {"ForceDeleteWithoutRecovery": True} if for_good else {}
        await self._ask("DeleteSecret", name, SecretId=name, **how)

    async def restore(self, name: str) -> None:
        """Take a secret's mark for deletion away. Raises `Fault`."""
        await self._ask("RestoreSecret", name, SecretId=name)

    async def list(self, prefix: str) -> list[Described]:
        """Read what there is to know of all secrets whose names begin so, page by page. Raises `Fault`."""
        found: list[Described] = []
        page: dict[str, str] = {}
        while True:
            asked = {"Filters": [{"Key": "name", "Values": [prefix]}], "MaxResults": PAGE, **page}
            answer = await self._ask("ListSecrets", "", **asked)
            found += map(_described, answer.get("SecretList", ()))
            if not answer.get("NextToken"):
                # What a filter means is AWS's business; whose names these are is ours.
                return [one for one in found if one.name.startswith(prefix)]
            page = {"NextToken": answer["NextToken"]}

    async def _ask(self, action: str, name: str, **members: Any) -> dict[str, Any]:
        async def asked(api: Any) -> dict[str, Any]:
            return dict(await getattr(api, _snake(action))(**members))

        return await self._call(action, name, asked)

    async def _call(self, action: str, name: str, work: Callable[[Any], Awaitable[T]]) -> T:
        """Have `work` done. Once it began, nothing but the end of its time cancels it.

        A write whose outcome nobody waited for would be one to be in doubt of.
        """
        await anyio.lowlevel.checkpoint_if_cancelled()
        place = f"the secret {name}" if name else "Secrets Manager"
        fault = Fault(
            Kind.TEMPORARY,
            f"{place}: AWS did not answer for {self._patience:g} s",
            "look at the network, and at what the SDK's credentials come from",
            refused=action in READS,
        )
        with anyio.move_on_after(self._patience, shield=True):
            try:
                return await work(await self._connected())
            except Exception as error:  # noqa: BLE001 - whatever it was, it is explained below
                fault = _explained(error, action, place)
        if fault.kind in {Kind.UNAUTHORIZED, Kind.UNCONFIGURED}:
            # What the SDK found, or did not find, it would keep for ever.
            await self.__aexit__()
        # Raised here, where nothing is handled: the library's errors hold what was sent, and would come along.
        raise fault

    async def _connected(self) -> Any:
        async with self._opening:
            if self._api is None:
                _hush()
                session = AioSession()
                session.register_component("data_loader", _descriptions())
                # Other SDKs go by AWS_REGION, which containers and functions are given; this one does not.
                region = os.environ.get("AWS_DEFAULT_REGION") or os.environ.get("AWS_REGION")
                opened = session.create_client("secretsmanager", region_name=region, config=self._settings())
                stack = AsyncExitStack()
                self._api = await stack.enter_async_context(opened)
                self._stack = stack
        return self._api

    def _settings(self) -> AioConfig:
        return AioConfig(
            connect_timeout=CONNECT_SECONDS,
            read_timeout=self._patience,
            max_pool_connections=CONNECTIONS,
            retries={"total_max_attempts": 1, "mode": "standard"},
        )


READS = {"DescribeSecret", "GetSecretValue", "ListSecrets"}


@cache
def _descriptions() -> Loader:
    """Keep what the SDK knows of its services: each client would read it again."""
    return create_loader()


async def _place(api: Any) -> str:
    endpoint, region = str(api.meta.endpoint_url), str(api.meta.region_name)
    host = urlsplit(endpoint).hostname or ""
    return region if re.search(r"\.(amazonaws\.com(\.cn)?|api\.aws)$", host) else f"{region}, at {endpoint}"


def _described(found: Mapping[str, Any]) -> Described:
    versions = found.get("VersionIdsToStages") or found.get("SecretVersionsToStages") or {}
    return Described(
        name=found["Name"],
        arn=found.get("ARN", ""),
        stages={label: version for version, labels in versions.items() for label in labels},
        tags={tag["Key"]: tag["Value"] for tag in found.get("Tags") or ()},
        deleted=found.get("DeletedDate") is not None,
        rotates=bool(found.get("RotationEnabled")),
        key=found.get("KmsKeyId") or "",
    )


def _snake(action: str) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "_", action).lower()


LOGGERS = ("aiobotocore", "aiohttp", "botocore")


def _hush() -> None:
    """Switch off the libraries' own logging, which tells all that is sent."""
    for known in logging.root.manager.loggerDict:
        if known.partition(".")[0] in LOGGERS:
            logging.getLogger(known).disabled = True
    for name in LOGGERS:
        logging.getLogger(name).disabled = True


MEANINGS = {
    "ResourceNotFoundException": Kind.MISSING,
    "ResourceExistsException": Kind.EXISTS,
    "AccessDeniedException": Kind.FORBIDDEN,
    "AccessDenied": Kind.FORBIDDEN,
    "DecryptionFailure": Kind.FORBIDDEN,
    "EncryptionFailure": Kind.FORBIDDEN,
    "UnrecognizedClientException": Kind.UNAUTHORIZED,
    "InvalidClientTokenId": Kind.UNAUTHORIZED,
    "InvalidSignatureException": Kind.UNAUTHORIZED,
    "SignatureDoesNotMatch": Kind.UNAUTHORIZED,
    "ExpiredTokenException": Kind.UNAUTHORIZED,
    "ExpiredToken": Kind.UNAUTHORIZED,
    "RequestExpired": Kind.UNAUTHORIZED,
    "MissingAuthenticationTokenException": Kind.UNAUTHORIZED,
    "InvalidIdentityToken": Kind.UNAUTHORIZED,
    "LimitExceededException": Kind.LIMIT,
    "ThrottlingException": Kind.TEMPORARY,
    "TooManyRequestsException": Kind.TEMPORARY,
    "RequestLimitExceeded": Kind.TEMPORARY,
}
"""How AWS says no → what that means. Any other 4xx is `INVALID`."""

UNCONFIGURED = (
    sdk.NoRegionError,
    sdk.ProfileNotFound,
    sdk.ConfigNotFound,
    sdk.ConfigParseError,
    sdk.InvalidRegionError,
    sdk.UnknownEndpointError,
    sdk.InvalidEndpointConfigurationError,
)
WITHOUT_CREDENTIALS = (
    sdk.NoCredentialsError,
    sdk.PartialCredentialsError,
    sdk.CredentialRetrievalError,
    sdk.TokenRetrievalError,
    sdk.InfiniteLoopConfigError,
    sdk.UnknownCredentialError,
    sdk.SSOError,
)


def _explained(error: Exception, action: str, place: str) -> Fault:
    if isinstance(error, Fault):
        return error
    if isinstance(error, sdk.ClientError):
        return _judged(error, action, place)
    reads = action in READS
    if isinstance(error, UNCONFIGURED):
        what = "no region is set" if isinstance(error, sdk.NoRegionError) else _words(error)
        remedy = "set AWS_REGION, or correct AWS_PROFILE and its file"
        return Fault(Kind.UNCONFIGURED, f"{place}: {what}", remedy, refused=True)
    if isinstance(error, WITHOUT_CREDENTIALS):
        remedy = (
            "give the daemon a role (EKS pod identity, an ECS task role, an instance profile), or AWS_PROFILE or "
            "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        )
        return Fault(
            Kind.UNAUTHORIZED, f"{place}: no credentials are found ({_words(error)})", remedy, refused=True
        )
    if isinstance(error, (sdk.EndpointConnectionError, sdk.ConnectTimeoutError, sdk.ProxyConnectionError)):
        remedy = (
            "look at the network and the DNS, at a VPC's endpoint for secretsmanager, and at AWS_ENDPOINT_URL"
        )
        return Fault(Kind.UNREACHABLE, f"{place}: AWS can't be reached", remedy, refused=True)
    if isinstance(error, sdk.SSLError):
        remedy = "look at what stands between, or name its CA in AWS_CA_BUNDLE"
        return Fault(Kind.UNREACHABLE, f"{place}: TLS with AWS failed", remedy, refused=True)
    if isinstance(error, sdk.ParamValidationError):
        return Fault(
            Kind.INVALID, f"{place}: the request is not one that AWS takes", "look at the name", refused=True
        )
    if isinstance(error, sdk.HTTPClientError):
        return Fault(Kind.TEMPORARY, f"{place}: the connection to AWS broke", WAIT, refused=reads)
    remedy = "make sure that it is AWS, or something like it, that is asked"
    return Fault(
        Kind.TEMPORARY,
        f"{place}: the answer to {action} can't be understood ({type(error).__name__})",
        remedy,
        refused=reads,
    )


def _judged(error: sdk.ClientError, action: str, place: str) -> Fault:
    """Say what an answer means. Whatever AWS refuses with a 4xx has not been done."""
    told = error.response.get("Error", {})
    code, message = str(told.get("Code", "")), str(told.get("Message", ""))
    status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 500))
    if status >= 500:  # noqa: PLR2004 - HTTP's
        reason = f"{place}: Secrets Manager can't serve it now (HTTP {status})"
        return Fault(Kind.TEMPORARY, reason, WAIT, refused=action in READS)
    kind = MEANINGS.get(code) or _kind_of_refusal(code, message, action)
    reason, remedy = _meaning(kind, code, message, action)
    return Fault(kind, f"{place}: {reason}", remedy, refused=True)


def _kind_of_refusal(code: str, message: str, action: str) -> Kind:
    if code == "InvalidRequestException" and "delet" in message:
        return Kind.DELETED
    if action == "UpdateSecretVersionStage" and code in {
        "InvalidParameterException",
        "InvalidRequestException",
    }:
        return Kind.MOVED
    return Kind.INVALID


def _meaning(kind: Kind, code: str, message: str, action: str) -> tuple[str, str]:
    match kind:
        case Kind.MISSING:
            return "there is none", "create it, or correct its name, the region and the account"
        case Kind.EXISTS:
            return "there is one already", "read it again and decide anew"
        case Kind.DELETED:
            return "it is marked for deletion", "restore it (aws secretsmanager restore-secret), or wait"
        case Kind.MOVED:
            return "another version is the current one by now", "read it again and decide anew"
        case Kind.FORBIDDEN:
            return _forbidden(code, message, action)
        case Kind.UNAUTHORIZED:
            return f"AWS does not take the credentials ({_code(code)})", (
                "look at where the SDK finds them, and at this machine's clock"
            )
        case Kind.LIMIT:
            return f"a quota is used up ({action}: {_code(code)})", (
                "a secret has about 100 versions and 50 tags: refresh less often, or remove tags"
            )
        case Kind.TEMPORARY:
            return f"AWS throttles us ({_code(code)})", WAIT
        case _:
            return f"AWS refuses {action} ({_code(code)})", "look at CloudTrail, where the request is"


def _forbidden(code: str, message: str, action: str) -> tuple[str, str]:
    kms = code in {"DecryptionFailure", "EncryptionFailure"} or "KMS" in message or "kms:" in message
    if kms:
        return f"the key that it is encrypted with can't be used for {action}", (
            "allow kms:Decrypt and kms:GenerateDataKey on that key, and enable it"
        )
    who = re.search(r"User: (arn:[\w:/+=,.@-]{1,300}) is not authorized", message)
    return f"{who[1] if who else 'the role'} may not {action}", (
        f"allow the action secretsmanager:{action} in the role's policy, and in the secret's own if it has one"
    )


def _code(code: str) -> str:
    return code if re.fullmatch(r"[A-Za-z.]{1,80}", code) else "no reason given"


def _words(error: Exception) -> str:
    """Name an error of the SDK by its class alone: its text may quote what it read."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", type(error).__name__.removesuffix("Error")).lower()
