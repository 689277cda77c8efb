"""An authorization server made of Authlib on Flask: `python -m tests.interop.authlib_server FOLDER OPTIONS`.

Its issuer has a path, as Keycloak's realms have, and publishes as OpenID Connect Discovery says. Refresh tokens
rotate without grace. Clients prove themselves by Basic or by an assertion, whose audience is the token endpoint.
"""

from __future__ import annotations

import json
import secrets
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from authlib.integrations.flask_oauth2 import AuthorizationServer
from authlib.oauth2.rfc6749 import ClientMixin, TokenMixin, grants
from authlib.oauth2.rfc6749.errors import InvalidGrantError, InvalidRequestError
from authlib.oauth2.rfc6749.grants.base import BaseGrant, TokenEndpointMixin
from authlib.oauth2.rfc7009 import RevocationEndpoint
from authlib.oauth2.rfc7523 import JWTBearerClientAssertion
from authlib.oauth2.rfc8414 import AuthorizationServerMetadata
from flask import Flask
from joserfc import jwk

from tests.interop import serving

if TYPE_CHECKING:
    from wsgiref.types import WSGIApplication

REALM = "/realms/corp"
EXCHANGE = "urn:ietf:params:oauth:grant-type:token-exchange"
JWT_TYPE = "urn:ietf:params:oauth:token-type:jwt"


class Client(ClientMixin):  # type: ignore[misc] # Authlib has no types
    """A registered client."""

    def __init__(self, client_id: str, secret: str, methods: set[str]) -> None:
        self.client_id, self.secret, self.methods = client_id, secret, methods

    def get_client_id(self) -> str:
        """Return its identifier."""
        return self.client_id

    def check_client_secret(self, client_secret: str) -> bool:
        """Compare."""
        return secrets.compare_digest(client_secret.encode(), self.secret.encode())

    def check_endpoint_auth_method(self, method: str, endpoint: str) -> bool:
        """Take the method that it was registered for, and no other."""
        return method in self.methods

    def check_grant_type(self, grant_type: str) -> bool:
        """Allow all."""
        return True

    def get_allowed_scope(self, scope: str) -> str:
        """Leave out what is not known."""
        return " ".join(one for one in (scope or "").split() if one in {"read", "write"})


class Token(TokenMixin):  # type: ignore[misc]
    """An issued pair."""

    def __init__(self, client_id: str, **members: Any) -> None:
        self.client_id, self.members, self.revoked = client_id, members, False

    def check_client(self, client: Client) -> bool:
        """Tell whether it was issued to this client."""
        return self.client_id == client.client_id

    def get_scope(self) -> str:
        """Return what was granted."""
        return str(self.members.get("scope") or "")


clients: dict[str, Client] = {}
tokens: list[Token] = []
assertions: set[str] = set()


def issued(kind: str, value: str) -> Token | None:
    """Find what is alive."""
    return next((one for one in tokens if one.members.get(kind) == value and not one.revoked), None)


class Refreshing(grants.RefreshTokenGrant):  # type: ignore[misc]
    """Rotates, and forgives nothing."""

    INCLUDE_NEW_REFRESH_TOKEN = True
    TOKEN_ENDPOINT_AUTH_METHODS = ("client_secret_basic", "client_assertion_jwt")

    def authenticate_refresh_token(self, refresh_token: str) -> Token | None:
        """Find it."""
        return issued("refresh_token", refresh_token)

    def authenticate_user(self, refresh_token: Token) -> str:
        """Name whom it is for."""
        return "alice"

    def revoke_old_credential(self, refresh_token: Token) -> None:
        """End it at once."""
        refresh_token.revoked = True


class Machine(grants.ClientCredentialsGrant):  # type: ignore[misc]
    """Client credentials."""

    TOKEN_ENDPOINT_AUTH_METHODS = ("client_secret_basic", "client_assertion_jwt")


class Exchanging(BaseGrant, TokenEndpointMixin):  # type: ignore[misc]
    """The token exchange, as far as RFC 8693 §2.1 and §2.2.1 require it; Authlib leaves it to its users."""

    GRANT_TYPE = EXCHANGE
    TOKEN_ENDPOINT_AUTH_METHODS = ("client_secret_basic",)
    subjects: Path

    def validate_token_request(self) -> None:
        """Take the subject token that is in force, for one audience."""
        self.request.client = self.authenticate_token_endpoint_client()
        form = self.request.form
        if form.get("subject_token_type") != JWT_TYPE:
            raise InvalidRequestError("subject_token_type")
        if form.get("subject_token") != self.subjects.read_text(encoding="utf-8"):
            raise InvalidGrantError("subject_token")
        if form.get("audience") != "api":
            error = InvalidRequestError("audience")
            error.error = "invalid_target"
            raise error

    def create_token_response(self) -> tuple[int, dict[str, Any], Any]:
        """Answer with the token's type, and with a refresh token that nobody asked for."""
        token = self.generate_token(scope=self.request.payload.scope, include_refresh_token=True)
        kind = "urn:ietf:params:oauth:token-type:access_token"
        return 200, {**token, "issued_token_type": kind}, self.TOKEN_RESPONSE_HEADER


class Revoking(RevocationEndpoint):  # type: ignore[misc]
    """RFC 7009."""

    CLIENT_AUTH_METHODS = ("client_secret_basic",)

    def query_token(self, token_string: str, token_type_hint: str | None) -> Token | None:
        """Find it, whatever it is said to be."""
        return issued("refresh_token", token_string) or issued("access_token", token_string)

    def revoke_token(self, token: Token, request: object) -> None:
        """End it."""
        token.revoked = True


class Assertion(JWTBearerClientAssertion):  # type: ignore[misc]
    """`private_key_jwt`; each assertion once."""

    def __init__(self, audience: str, key: dict[str, Any]) -> None:
        super().__init__()
        self._audience, self._key = audience, key

    def get_audiences(self) -> list[str]:
        """Ask for the token endpoint's URL."""
        return [self._audience]

    def validate_jti(self, claims: dict[str, Any], jti: str) -> bool:
        """Tell whether it is new."""
        new = jti not in assertions
        assertions.add(jti)
        return new

    def resolve_client_public_key(self, client: Client) -> Any:
        """Return the one that was registered."""
        return jwk.import_key(self._key)


def build(url: str, options: dict[str, Any]) -> tuple[WSGIApplication, dict[str, Any]]:
    """Set up a user who has consented, and a client for each way to prove itself."""
    app = Flask(__name__)
    app.config["OAUTH2_ACCESS_TOKEN_GENERATOR"] = lambda *_, **__: f"sim-at-{secrets.token_urlsafe(24)}"
    app.config["OAUTH2_REFRESH_TOKEN_GENERATOR"] = lambda *_, **__: f"sim-rt-{secrets.token_urlsafe(24)}"
    app.config["OAUTH2_TOKEN_EXPIRES_IN"] = dict.fromkeys(
        ("client_credentials", "refresh_token", EXCHANGE), 3600
    )
    app.config["OAUTH2_SCOPES_SUPPORTED"] = ["read", "write"]
    issuer, secret = f"{url}{REALM}", f"sim-cs-{secrets.token_urlsafe(24)}+/%&ü:"
    for name, method in (("app", "client_secret_basic"), ("signing", "client_assertion_jwt")):
        clients[name] = Client(name, secret, {method})

    def save_token(token: dict[str, Any], request: Any) -> None:
        tokens.append(Token(request.client.client_id, **token))

    server = AuthorizationServer(app, clients.get, save_token)
    Exchanging.subjects = Path(options["folder"]) / "subject"
    for grant in (Refreshing, Machine, Exchanging):
        server.register_grant(grant)
    server.register_endpoint(Revoking)
    server.register_client_auth_method(
        "client_assertion_jwt", Assertion(f"{issuer}/token", options.get("public_key", {}))
    )
    routes = {
        "token": ("POST", server.create_token_response),
        "revoke": ("POST", lambda: server.create_endpoint_response("revocation")),
        ".well-known/openid-configuration": (
            "GET",
            lambda: {**_metadata(issuer), **_changes(options["folder"])},
        ),
    }
    for name, (method, view) in routes.items():
        app.add_url_rule(f"{REALM}/{name}", name.replace(".", ""), view, methods=[method])
    seeds = {}
    for name in clients:
        seeds[name] = f"sim-rt-{secrets.token_urlsafe(24)}"
        tokens.append(Token(name, refresh_token=seeds[name], scope="read", issued_at=time.time()))
    return app, {
        "issuer": issuer,
        "client_id": "app",
        "secret": secret,
        "refresh_token": seeds["app"],
        "seeds": seeds,
    }


def _metadata(issuer: str) -> dict[str, Any]:
    document = AuthorizationServerMetadata(
        issuer=issuer,
        token_endpoint=f"{issuer}/token",
        revocation_endpoint=f"{issuer}/revoke",
        authorization_endpoint=f"{issuer}/authorize",
        jwks_uri=f"{issuer}/jwks",
        response_types_supported=["code"],
        token_endpoint_auth_methods_supported=["private_key_jwt", "client_secret_basic"],
        token_endpoint_auth_signing_alg_values_supported=["RS256", "ES256"],
    )
    return dict(document)


def _changes(folder: str) -> dict[str, Any]:
    """Let a test change what is published."""
    file = Path(folder) / "metadata.json"
    return dict(json.loads(file.read_text(encoding="utf-8"))) if file.exists() else {}


if __name__ == "__main__":
    serving.run(build)
