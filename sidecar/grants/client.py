"""The OAuth client: who we are, and how it is proved to the token endpoint (RFC 6749 §2)."""

from __future__ import annotations

import base64
import json
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote_plus

import msgspec

from sidecar.clients.http import ClientCertificate, Sealed
from sidecar.clients.shared import SharedClients
from sidecar.clock import Clock
from sidecar.config.settings import Client
from sidecar.errors import ConfigError, Unfound
from sidecar.files import UnfitFile
from sidecar.grants import assertion, material
from sidecar.profile import AuthMethod, GrantType, Profile
from sidecar.tokens import fingerprint

if TYPE_CHECKING:
    from sidecar.clients.jose import Signer
    from sidecar.clients.pem import Certificate, PrivateKey

ASSERTION_TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"


class Credentials(msgspec.Struct, frozen=True):
    """A client's identity and its proof, as they are now."""

    id: str
    secret: str | None
    method: AuthMethod | None
    """None: the grant is proof enough, and the client is not named beside it."""
    signer: Any = None
    """A `Signer` of assertions, where the method or the grant needs one."""
    certificate: ClientCertificate | None = None
    """What to show at the TLS handshake."""
    certificate_name: str = ""
    """Changes with its content."""

    def __repr__(self) -> str:
        return f"Credentials({self.id!r}, {self.method or 'by its grant'})"

    @property
    def fingerprint(self) -> str:
        """Changes whenever the provider would be shown something else."""
        signing = self.signer.fingerprint if self.signer is not None else None
        return fingerprint(json.dumps([self.id, self.secret, self.method, signing, self.certificate_name]))

    def authenticate(self, form: Sealed, audience: str, now: float) -> tuple[Sealed, Sealed]:
        """Add the proof to a form; return the form and the headers to send with it.

        One style only, never a second one as well (RFC 6749 §2.3): some providers refuse both at once.
        `audience` is whom an assertion is for: the token endpoint (RFC 7523 §3).
        """
        proof: dict[str, str] = {}
        match self.method:
            case None:
                return form, Sealed()
            case AuthMethod.BASIC:
                # Both are form-encoded before they are joined (RFC 6749 §2.3.1): an id may hold a colon.
                pair = f"{quote_plus(self.id, safe='')}:{quote_plus(self.secret or '', safe='')}"
                return form, Sealed(Authorization="Basic " + base64.b64encode(pair.encode()).decode())
            case AuthMethod.POST:
                proof = {"client_secret": self.secret or ""}
            case AuthMethod.SECRET_JWT | AuthMethod.PRIVATE_KEY_JWT:
                signed = self.signer.sign(assertion.claims(self.id, self.id, audience, now))
                proof = {"client_assertion_type": ASSERTION_TYPE, "client_assertion": signed}
            case AuthMethod.TLS | AuthMethod.NONE:
                pass  # the id alone: a certificate was shown already (RFC 8705 §2), or there is nothing to show
        return Sealed({**form, "client_id": self.id, **proof}), Sealed()


class ClientIdentity:
    """Reads the client's settings, and its files again whenever they change."""

    def __init__(self, settings: Client, profile: Profile, clock: Clock) -> None:
        """Raises `ConfigError` for settings that contradict each other."""
        self._settings = settings
        self._profile = profile
        self._clock = clock
        self._files = material.Files()
        self._secrets = SecretChoice(settings.secret_files)
        self._signer: tuple[tuple[object, ...], Signer] | None = None
        self.clients: SharedClients | None = None
        """Through whom others are asked; None: through one of its own each time."""
        self._elsewhere = material.Material()
        self._unseen = "was not asked for yet"
        """Why it is not known what is kept elsewhere; empty: it is."""
        _reject_contradictions(settings)

    @property
    def files(self) -> tuple[Path, ...]:
        """Every file that is read, to be watched."""
        return tuple(self._settings.files.values())

    async def look(self) -> None:
        """See what is kept elsewhere than in files, where anything is. Never raises: `credentials` says why not."""
        if self._settings.id_aws_secret is None:
            return
        try:
            async with AsyncExitStack() as stack:
                clients = self.clients
                if clients is None:
                    clients = await stack.enter_async_context(SharedClients())
                text = await clients.secrets_manager.text(self._settings.id_aws_secret)
            self._elsewhere, self._unseen = material.client_anywhere(text.encode()), ""
        except Unfound as problem:
            # What was known a minute ago is most likely still so.
            self._unseen = "" if self._elsewhere.id else str(problem)
        except (ConfigError, UnfitFile) as problem:
            self._elsewhere, self._unseen = material.Material(), str(problem)

    def credentials(self) -> Credentials:
        """Return what holds now. Raises `ConfigError` naming file, reason and remedy, never the content."""
        held = self._material()
        if not held.id:
            raise ConfigError("client: the client's id is missing; give file, id, id_file or id_aws_secret")
        method = self._method(held)
        credentials = Credentials(held.id, held.secret, method, self._signer_for(held, method))
        if method is not AuthMethod.TLS:
            return credentials
        return self._with_certificate(credentials)

    def refused(self) -> str:
        """Go on to the next secret, since the provider didn't take this one; return what to tell a human.

        Empty where there is no other. Showing another one costs nothing: who the client is gets checked before
        the refresh token is looked at (RFC 6749 §3.2.1).
        """
        return self._secrets.refused()

    def accepted(self) -> None:
        """Stay with the secret that was taken."""
        self._secrets.accepted()

    # What there is

    def _material(self) -> material.Material:
        settings, read = self._settings, self._files.content
        parts = [material.Material(id=settings.id, secret=settings.secret, key_id=settings.key_id)]
        if settings.id_aws_secret is not None:
            if self._unseen:
                raise ConfigError(f"client.id_aws_secret {settings.id_aws_secret}: {self._unseen}")
            parts.append(self._elsewhere)
        if settings.id_file is not None:
            parts.append(read("client.id_file", settings.id_file, material.id_line))
        if settings.secret_file is not None:
            parts.append(read("client.secret_file", settings.secret_file, material.secret_line))
        if settings.secret_files:
            parts.append(material.Material(secret=self._preferred_secret()))
        if settings.private_key_file is not None:
            key = read("client.private_key_file", settings.private_key_file, material.private_key)
            parts.append(material.Material(key=key))
        if settings.file is not None:
            signed = self._profile.grant is GrantType.JWT_BEARER
            parse = material.google_service_account if signed else material.google_client
            parts.append(read("client.file", settings.file, parse))
        # The settings of one's own count before what is in a download.
        found = {
            name: next((value for part in parts if (value := getattr(part, name)) is not None), None)
            for name in material.Material.__struct_fields__
        }
        return material.Material(**found)

    def _preferred_secret(self) -> str:
        """Return the secret whose turn it is. A file that can't be read is passed over while another can be."""
        found: dict[int, str] = {}
        problem = ConfigError("client.secret_files: is empty; name the secrets' files")
        for index, path in reversed(list(enumerate(self._settings.secret_files))):
            try:
                held = self._files.content(f"client.secret_files[{index}]", path, material.secret_line)
                found[index] = held.secret or ""
            except ConfigError as error:
                problem = error
        if not found:
            raise problem
        return self._secrets.choose(dict(sorted(found.items())))

    # How it is proved

    def _method(self, held: material.Material) -> AuthMethod | None:
        asked, grant = self._settings.auth_method, self._profile.grant
        if asked is None and grant.is_signed:
            return None
        method = asked or self._profile.auth_method
        if asked is None and method.takes_secret and held.secret is None:
            if grant is GrantType.CLIENT_CREDENTIALS:
                # RFC 6749 §4.4: only a client that can prove itself may use this grant.
                raise ConfigError("client: the client_credentials grant needs a secret; give secret_file")
            return AuthMethod.NONE
        if method.takes_secret and held.secret is None:
            raise ConfigError(f"client.auth_method: {method} needs a secret; give secret_file")
        if method is AuthMethod.PRIVATE_KEY_JWT and held.key is None:
            raise ConfigError(f"client.auth_method: {method} needs a private key; give private_key_file")
        if method is AuthMethod.TLS and self._settings.certificate_file is None:
            raise ConfigError(f"client.auth_method: {method} needs a certificate; give certificate_file")
        return method

    def _signer_for(self, held: material.Material, method: AuthMethod | None) -> Signer | None:
        """Return what signs assertions, the same one for as long as its key is the same."""
        grant, algorithm = self._profile.grant, self._settings.signing_algorithm
        if not (grant.is_signed or method in {AuthMethod.SECRET_JWT, AuthMethod.PRIVATE_KEY_JWT}):
            return None
        by_secret = method is AuthMethod.SECRET_JWT or held.key is None
        proof = held.secret if by_secret else held.key
        if proof is None:
            raise ConfigError(f"client: the {grant} grant needs a private key; give private_key_file")
        parts = (proof, algorithm, held.key_id, None if by_secret else self._thumbprint(held.key))
        if self._signer is None or self._signer[0] != parts:
            self._signer = parts, self._sign_with(*parts)
        return self._signer[1]

    def _sign_with(
        self, proof: str | PrivateKey, algorithm: str | None, key_id: str | None, thumbprint: str | None
    ) -> Signer:
        from sidecar.clients import jose

        problem = ""
        try:
            if isinstance(proof, str):
                return jose.with_secret(proof, algorithm=algorithm, key_id=key_id)
            return jose.with_key(proof, algorithm=algorithm, key_id=key_id, thumbprint=thumbprint)
        except UnfitFile as unfit:
            problem = str(unfit)
        raise ConfigError(f"client.signing_algorithm: {problem}")

    def _thumbprint(self, key: PrivateKey) -> str | None:
        path = self._settings.certificate_file
        return None if path is None else self._checked_certificate(path, key).thumbprint

    def _with_certificate(self, credentials: Credentials) -> Credentials:
        settings = self._settings
        file = settings.certificate_file
        if file is None:
            return credentials
        place = settings.private_key_file or file
        label = "client.certificate_file" if place is file else "client.private_key_file"
        key = self._files.content(label, place, material.private_key)
        found = self._checked_certificate(file, key)
        shown = ClientCertificate(file, place)
        return msgspec.structs.replace(credentials, certificate=shown, certificate_name=found.thumbprint)

    def _checked_certificate(self, path: Path, key: PrivateKey) -> Certificate:
        found = self._files.content("client.certificate_file", path, material.certificate)
        now = self._clock.wall()
        problem = None
        if now >= found.ends:
            problem = f"expired on {_day(found.ends)}; put a new one there"
        elif now < found.begins:
            problem = f"counts only from {_day(found.begins)} on; wait, or correct this machine's clock"
        elif found.public != key.public:
            problem = "is not the certificate of the private key that is given; write both anew"
        if problem is not None:
            raise ConfigError(f"client.certificate_file {path}: {problem}")
        return found


class SecretChoice:
    """Which of several secrets is shown: the first that the provider takes."""

    def __init__(self, paths: tuple[Path, ...]) -> None:
        self._paths = paths
        self._secrets: dict[int, str] = {}
        self._shown = 0
        self._tried: set[int] = set()
        """Refused since one was taken."""

    def choose(self, secrets: dict[int, str]) -> str:
        """Return the one whose turn it is; where any has changed, the first is tried again."""
        if secrets != self._secrets:
            self._secrets, self._shown, self._tried = secrets, next(iter(secrets)), set()
        return secrets[self._shown]

    def refused(self) -> str:
        """Go on to one that was not refused yet; without one, stay until the back-off is over."""
        if len(self._secrets) < 2:  # noqa: PLR2004
            return ""
        self._tried.add(self._shown)
        refused = f"client.secret_files[{self._shown}] ({self._paths[self._shown]}) was refused"
        others = [index for index in self._secrets if index not in self._tried]
        if not others:
            self._tried = set()
            return f"{refused}, and so were all others; put the secret there that the provider knows"
        self._shown = others[0]
        return f"{refused}; trying client.secret_files[{self._shown}] ({self._paths[self._shown]})"

    def accepted(self) -> None:
        """Begin a new round: whatever was refused before may be right next time."""
        self._tried = set()


def _day(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).strftime("%d %B %Y at %H:%M UTC").lstrip("0")


def _reject_contradictions(settings: Client) -> None:
    secrets = ("file", "secret", "secret_file", "secret_files")
    sources = {
        "id": [
            name for name in ("file", "id", "id_file", "id_aws_secret") if getattr(settings, name) is not None
        ],
        "secret": [name for name in secrets if getattr(settings, name)],
    }
    # A downloaded file may lack the secret, or hold one that was replaced: then a secret of one's own counts.
    if "file" in sources["secret"] and len(sources["secret"]) > 1:
        sources["secret"].remove("file")
    problems = [
        f"client: {' and '.join(names)} all name the client's {what}; keep one"
        for what, names in sources.items()
        if len(names) > 1
    ]
    if problems:
        raise ConfigError(problems)
