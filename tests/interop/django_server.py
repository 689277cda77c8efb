"""An authorization server made of django-oauth-toolkit: `python -m tests.interop.django_server FOLDER OPTIONS`.

Its issuer has no path, and publishes by RFC 8414 alone. OPTIONS are members of `OAUTH2_PROVIDER`.
"""

from __future__ import annotations

import os
import secrets
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import django
from django.conf import settings
from django.urls import include, path

from tests.interop import serving

if TYPE_CHECKING:
    from wsgiref.types import WSGIApplication


PASSWORD = "alice's own"
SIGN_IN = "<form method=post>{% csrf_token %}{{ form }}</form>"


def access_token(*_: object, **__: object) -> str:
    """Make a token that the leak check knows."""
    return f"sim-at-{secrets.token_urlsafe(24)}"


def refresh_token(*_: object, **__: object) -> str:
    """Make a token that the leak check knows."""
    return f"sim-rt-{secrets.token_urlsafe(24)}"


def build(url: str, options: dict[str, Any]) -> tuple[WSGIApplication, dict[str, Any]]:
    """Set up a database with a user who has consented, and two clients."""
    folder = options.pop("folder")
    settings.configure(
        ALLOWED_HOSTS=["127.0.0.1"],
        SECRET_KEY=secrets.token_hex(32),
        INSTALLED_APPS=[
            "django.contrib.auth",
            "django.contrib.contenttypes",
            "django.contrib.sessions",
            "oauth2_provider",
        ],
        # What a user's browser needs: a session, a page to sign in, and the page that asks for the consent.
        MIDDLEWARE=[
            "django.contrib.sessions.middleware.SessionMiddleware",
            "django.middleware.csrf.CsrfViewMiddleware",
            "django.contrib.auth.middleware.AuthenticationMiddleware",
        ],
        TEMPLATES=[
            {
                "BACKEND": "django.template.backends.django.DjangoTemplates",
                "OPTIONS": {
                    "context_processors": ["django.template.context_processors.request"],
                    "loaders": [
                        ("django.template.loaders.locmem.Loader", {"registration/login.html": SIGN_IN}),
                        "django.template.loaders.app_directories.Loader",
                    ],
                },
            }
        ],
        LOGIN_URL="/sign-in/",
        DATABASES={
            "default": {
                "ENGINE": "django.db.backends.sqlite3",
                "NAME": f"{folder}/django.db",
                "OPTIONS": {"timeout": 20, "transaction_mode": "IMMEDIATE"},
            }
        },
        # Tables as the models are now, without the way there.
        MIGRATION_MODULES=dict.fromkeys(["auth", "contenttypes", "sessions", "oauth2_provider"]),
        PASSWORD_HASHERS=["django.contrib.auth.hashers.MD5PasswordHasher"],
        USE_TZ=True,
        OAUTH2_PROVIDER={
            "ACCESS_TOKEN_EXPIRE_SECONDS": 3600,
            "ACCESS_TOKEN_GENERATOR": access_token,
            "REFRESH_TOKEN_GENERATOR": refresh_token,
            **options,
        },
    )
    django.setup()
    from django.contrib.auth.views import LoginView
    from django.core.management import call_command
    from django.core.wsgi import get_wsgi_application

    settings.ROOT_URLCONF = (
        path("sign-in/", LoginView.as_view()),
        path("", include("oauth2_provider.urls", namespace="oauth2_provider")),
    )
    call_command("migrate", run_syncdb=True, verbosity=0)
    return get_wsgi_application(), {"issuer": url, **_consent()}


def _consent() -> dict[str, Any]:
    from django.contrib.auth.models import User
    from django.utils import timezone
    from oauth2_provider.models import AccessToken, Application, RefreshToken

    secret = f"sim-cs-{secrets.token_urlsafe(24)}"
    user = User.objects.create_user(username="alice", password=PASSWORD)
    client = Application.objects.create(
        client_id="web app:1",
        client_secret=secret,
        client_type=Application.CLIENT_CONFIDENTIAL,
        authorization_grant_type=Application.GRANT_AUTHORIZATION_CODE,
        redirect_uris="https://app.example/callback http://127.0.0.1/",
        user=user,
    )
    Application.objects.create(
        client_id="machine",
        client_secret=secret,
        client_type=Application.CLIENT_CONFIDENTIAL,
        authorization_grant_type=Application.GRANT_CLIENT_CREDENTIALS,
    )
    access = AccessToken.objects.create(
        user=user,
        application=client,
        token=access_token(),
        scope="read",
        expires=timezone.now() + timedelta(hours=1),
    )
    refresh = RefreshToken.objects.create(
        user=user,
        application=client,
        token=refresh_token(),
        access_token=access,
        token_family=os.urandom(16).hex(),
    )
    return {"client_id": client.client_id, "secret": secret, "refresh_token": refresh.token}


if __name__ == "__main__":
    serving.run(build)
