"""The application's own models of both layouts that its owners proposed, and the code that reads them."""

from __future__ import annotations

import datetime as dt
import json
from typing import Any

from sqlalchemy import DateTime, String, Text, func, select
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column


class Base(DeclarativeBase):
    """All tables."""


class OAuthToken(Base):
    """A table for tokens."""

    __tablename__ = "oauth_tokens"

    id: Mapped[int] = mapped_column(primary_key=True)
    account: Mapped[str] = mapped_column(String(100), unique=True)
    token_json: Mapped[str] = mapped_column(Text)
    updated_at: Mapped[dt.datetime | None] = mapped_column(DateTime, server_default=func.now())
    created_at: Mapped[dt.datetime | None] = mapped_column(DateTime, server_default=func.now())


class Tenant(Base):
    """A table that is there already."""

    __tablename__ = "tenants"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    gmail_account: Mapped[str | None] = mapped_column(String(100))
    gmail_token: Mapped[dict[str, Any] | None] = mapped_column(JSONB)
    gmail_token_updated_at: Mapped[dt.datetime | None]


def load_own(session: Session, account: str) -> tuple[dict[str, Any], dt.datetime | None] | None:
    """Find a token in the table for tokens."""
    row = session.scalars(select(OAuthToken).where(OAuthToken.account == account)).one_or_none()
    return (json.loads(row.token_json), row.updated_at) if row is not None else None


def load_tenants(session: Session, account: str) -> tuple[dict[str, Any], dt.datetime | None] | None:
    """Find a token in a tenant's row."""
    row = session.scalars(select(Tenant).where(Tenant.gmail_account == account)).one()
    return (row.gmail_token, row.gmail_token_updated_at) if row.gmail_token is not None else None
