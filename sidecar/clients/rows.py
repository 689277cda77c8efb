"""One row in a table of an application's own, in PostgreSQL: found by key columns, and one column of it changed.

What the table is like is learned from the catalogue, and learned anew after any refusal. Each step is one statement
and a transaction of its own, so that a pooler may stand between and nobody else's row is locked for longer than that.
A column is replaced only while it holds what was seen in it.
"""

# ruff: noqa: S608 - names can't be parameters; each is quoted here, and no value is ever in the text

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

import msgspec

from sidecar.clients.postgres import Fault, Postgres
from sidecar.config.settings import SqlOutput

if TYPE_CHECKING:
    from sidecar.config.settings import SqlCell

LAYOUT = """
SELECT quote_ident(current_user) AS role, found.oid::regclass::text AS shown, a.attname::text AS name,
    quote_ident(a.attname) AS quoted, format_type(t.oid, -1) AS type, coalesce(b.typname, t.typname)::text AS base,
    coalesce(b.typcategory, t.typcategory)::text AS category,
    has_column_privilege(found.oid, a.attnum, 'SELECT') AS "SELECT",
    has_column_privilege(found.oid, a.attnum, 'INSERT') AS "INSERT",
    has_column_privilege(found.oid, a.attnum, 'UPDATE') AS "UPDATE",
    ARRAY(
        SELECT s.oid::regclass::text FROM pg_attrdef d
        JOIN pg_depend x ON x.classid = 'pg_attrdef'::regclass AND x.objid = d.oid
            AND x.refclassid = 'pg_class'::regclass
        JOIN pg_class s ON s.oid = x.refobjid
        WHERE d.adrelid = found.oid
            AND CASE WHEN s.relkind = 'S' THEN NOT has_sequence_privilege(s.oid, 'USAGE') ELSE false END
    ) AS sequences
FROM (SELECT to_regclass($1) AS oid) AS found
LEFT JOIN pg_attribute a ON a.attrelid = found.oid AND a.attname = ANY($2::text[])
    AND a.attnum > 0 AND NOT a.attisdropped
LEFT JOIN pg_type t ON t.oid = a.atttypid
LEFT JOIN pg_type b ON b.oid = t.typbasetype
"""
"""One row for each column that is there, and one without a name where there is none. A type is named without its
length: a value that is cast to a length is cut off, and then found in another row."""

ABOUT = (
    "SELECT current_setting('server_version') AS release, "
    "inet_client_addr() IS NULL OR inet_client_addr() <<= '127.0.0.0/8' OR inet_client_addr() = '::1' AS near, "
    "coalesce((SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()), false) AS tls"
)

JSON = {"json", "jsonb"}
TEXTS = "S"
"""The category of `text`, `varchar` and the like."""
NOW = {"timestamp": "now() AT TIME ZONE 'UTC'", "timestamptz": "now()"}
"""How the present is written. A time without a zone is UTC: the session's own zone is the client's, and nobody's."""

ABOUT_THE_TABLE = {"22", "23", "25", "42", "55"}
"""Classes of SQLSTATE (PostgreSQL, appendix A); the others are of the server or of the network."""
REFUSALS = {
    "22001": ("the token is too long for {column}", "ALTER TABLE {table} ALTER {column} TYPE text"),
    "22P02": ("a value of `where` is none of its column's type", "correct `where`"),
    "23502": (
        "a new row lacks other columns, which may not be NULL",
        "let the application make the row, and write `mode: update`",
    ),
    "23503": ("a foreign key refuses the row", "let the application make the row, and write `mode: update`"),
    "23505": (
        "a unique constraint of other columns refuses the row",
        "let the application make the row, and write `mode: update`",
    ),
    "23514": ("a check constraint refuses the row", "look at the constraints of {table}"),
    "25006": ("the server is read-only: no primary", "name the primary in the URL, or all hosts"),
    "42501": (
        "{role} may not write this row though it has the rights to; a policy (row-level security) forbids it",
        "look at pg_policies",
    ),
    "42P10": (
        "no unique constraint covers {keys}, so that a row could be made twice",
        "ALTER TABLE {table} ADD UNIQUE ({keys}), or write `mode: update`",
    ),
    "55000": ("{table} is a view that can't be written", "name its table"),
}
"""SQLSTATE → reason, remedy, where they mean something else here than in general."""


class Column(msgspec.Struct, frozen=True):
    """What the catalogue says of a column."""

    quoted: str
    """Its name as the server quotes it, for people."""
    type: str
    """Its type as SQL, without a length."""
    base: str
    """The type's own name, that of the type below where it is a domain."""
    category: str
    """One letter (PostgreSQL, pg_type.typcategory)."""


class Layout(msgspec.Struct, frozen=True):
    """What the catalogue says of the table, as far as it matters here."""

    table: str
    """Its name as the server quotes it, for people."""
    role: str
    columns: dict[str, Column]


class Found(msgspec.Struct, frozen=True):
    """What a row holds."""

    content: str | None
    """None: NULL."""
    updated: float | None = None
    """When it was written, in Unix seconds; None: it doesn't say."""

    def __repr__(self) -> str:
        """Show no token."""
        return f"Found(updated={self.updated})"


class Row:
    """One row, used by one output or seed. Every method may raise `Fault`."""

    def __init__(self, database: Postgres, cell: SqlCell) -> None:
        """Take where it is; nothing happens yet."""
        self._database = database
        self._cell = cell
        self._table = ".".join(map(quoted, cell.relation))
        self._column = cell.column
        self._keys = tuple(cell.where)
        self._values = tuple(map(str, cell.where.values()))
        self._writes = isinstance(cell, SqlOutput)
        self._inserts = isinstance(cell, SqlOutput) and cell.mode == "upsert"
        self._updated = cell.updated_column if isinstance(cell, SqlOutput) else None
        self._layout: Layout | None = None

    @property
    def name(self) -> str:
        """Where it is, as a URL: no two rows or columns share one, whatever they are called."""
        column = f"{quote(self._cell.table, safe='')}/{quote(self._cell.column, safe='')}"
        return f"sql:{self._database.target.place}/{column}?{urlencode(self._cell.where)}"

    async def is_json(self) -> bool:
        """Tell whether the column takes JSON alone."""
        return (await self.layout()).columns[self._column].base in JSON

    async def read(self) -> Found | None:
        """Return what the row holds; None: there is no such row. More than one is a `Fault`."""
        layout = await self.layout()
        updated = f"extract(epoch FROM {quoted(self._updated)})::float8" if self._updated else "NULL::float8"
        rows = await self._fetch(
            f"SELECT {quoted(self._column)}::text AS content, {updated} AS updated "
            f"FROM {self._table} WHERE {self._condition(layout)} LIMIT 2",
            *self._values,
        )
        if len(rows) > 1:
            raise Fault(
                f"more than one row of {layout.table} matches `where`",
                "add columns to `where` until it names a single one",
            )
        return Found(rows[0]["content"], rows[0]["updated"]) if rows else None

    async def replace(self, content: str, *, seen: Found) -> bool:
        """Write the column, if it still holds what was seen; tell whether it did."""
        layout = await self.layout()
        new, old = (f"${len(self._keys) + offset}::text" for offset in (1, 2))
        changes = {self._column: self._cast(new, layout), **self._stamp(layout)}
        rows = await self._fetch(
            f"UPDATE {self._table} SET {', '.join(f'{quoted(name)} = {value}' for name, value in changes.items())} "
            f"WHERE {self._condition(layout)} AND {quoted(self._column)}::text IS NOT DISTINCT FROM {old} "
            "RETURNING true AS done",
            *self._values,
            content,
            seen.content,
        )
        return bool(rows)

    async def insert(self, content: str) -> bool:
        """Make the row, if there is none; tell whether it was made."""
        layout = await self.layout()
        values = {
            **dict(zip(self._keys, self._parameters(layout), strict=True)),
            self._column: self._cast(f"${len(self._keys) + 1}::text", layout),
            **self._stamp(layout),
        }
        keys = ", ".join(map(quoted, self._keys))
        rows = await self._fetch(
            f"INSERT INTO {self._table} ({', '.join(map(quoted, values))}) VALUES ({', '.join(values.values())}) "
            f"ON CONFLICT ({keys}) DO NOTHING RETURNING true AS done",
            *self._values,
            content,
        )
        return bool(rows)

    async def about(self) -> tuple[str, bool]:
        """Tell the server's release, and whether the token crosses a network in clear."""
        [row] = await self._database.fetch(ABOUT)
        pooled = self._database.target.pooler is not None
        return str(row["release"]), not (row["tls"] or row["near"] or pooled)

    async def layout(self) -> Layout:
        """Learn what the table is like, and whether the role has its rights there."""
        if self._layout is None:
            names = [*self._keys, self._column, *([self._updated] if self._updated else [])]
            self._layout = self._judged(names, await self._catalogue(names))
        return self._layout

    async def _catalogue(self, names: Sequence[str]) -> list[Any]:
        try:
            return await self._database.fetch(LAYOUT, self._table, names)
        except Fault as fault:
            if fault.sqlstate != "42501":
                raise
        role = quoted(self._database.target.user or "ROLE")
        schema = self._table.partition('".')[0].removesuffix('"') + '"'
        raise Fault(
            f"{role} may not look into the schema {schema}", f"GRANT USAGE ON SCHEMA {schema} TO {role}"
        )

    def _judged(self, names: Sequence[str], rows: Sequence[Any]) -> Layout:
        table, role = rows[0]["shown"], rows[0]["role"]
        if table is None:
            raise Fault(
                f"there is no table {self._table}, or it is hidden from {role}",
                f"correct `table`, write its schema before it, or GRANT USAGE ON SCHEMA … TO {role}",
            )
        known = {row["name"]: row for row in rows if row["name"] is not None}
        for name in names:
            if name not in known:
                raise Fault(f"{table} has no column {quoted(name)}", "correct it, or add it to the table")
        columns = {
            name: Column(row["quoted"], row["type"], row["base"], row["category"])
            for name, row in known.items()
        }
        layout = Layout(table, role, columns)
        self._check_types(layout)
        if lacking := self._lacking(layout, known, rows[0]["sequences"]):
            raise Fault(f"{role} lacks rights on {table}", "; ".join(lacking))
        return layout

    def _check_types(self, layout: Layout) -> None:
        column = layout.columns[self._column]
        if column.base not in JSON and column.category != TEXTS:
            raise Fault(
                f"{layout.table}.{column.quoted} is of the type {column.type}, which holds no token",
                "name a column of the type text, json or jsonb",
            )
        if self._updated and layout.columns[self._updated].base not in NOW:
            updated = layout.columns[self._updated]
            raise Fault(
                f"{layout.table}.{updated.quoted} is of the type {updated.type}",
                "name a column of the type timestamp or timestamptz, or leave `updated_column` out",
            )

    def _lacking(self, layout: Layout, known: dict[str, Any], sequences: Sequence[str]) -> list[str]:
        """Write the statements that grant what is missing."""
        written = [name for name in (self._column, self._updated) if name is not None]
        needed = {"SELECT": list(known)}
        if self._writes:
            needed["UPDATE"] = written
        if self._inserts:
            needed["INSERT"] = [*self._keys, *written]
        lines = []
        for right, names in needed.items():
            lack = [layout.columns[name].quoted for name in names if not known[name][right]]
            if lack:
                lines.append(f"GRANT {right} ({', '.join(lack)}) ON {layout.table} TO {layout.role}")
        if self._inserts:
            lines += [f"GRANT USAGE ON SEQUENCE {name} TO {layout.role}" for name in sequences]
        return lines

    def _parameters(self, layout: Layout) -> list[str]:
        """Write the values of `where`, each as its column's type."""
        return [
            f"${number}::text::{layout.columns[name].type}" for number, name in enumerate(self._keys, start=1)
        ]

    def _condition(self, layout: Layout) -> str:
        pairs = zip(self._keys, self._parameters(layout), strict=True)
        return " AND ".join(f"{quoted(name)} = {value}" for name, value in pairs)

    def _cast(self, parameter: str, layout: Layout) -> str:
        # What is no JSON column takes text by assignment, which refuses what is too long; a cast would cut it off.
        column = layout.columns[self._column]
        return f"{parameter}::{column.type}" if column.base in JSON else parameter

    def _stamp(self, layout: Layout) -> dict[str, str]:
        return {self._updated: NOW[layout.columns[self._updated].base]} if self._updated else {}

    async def _fetch(self, statement: str, *arguments: Any) -> list[Any]:
        try:
            return await self._database.fetch(statement, *arguments)
        except Fault as fault:
            refused = fault
        if refused.sqlstate[:2] not in ABOUT_THE_TABLE:
            raise refused
        # The table, or what the role may do there, is not what it was; looking again may tell better what is wrong.
        self._layout = None
        raise self._explained(refused, await self.layout())

    def _explained(self, fault: Fault, layout: Layout) -> Fault:
        if fault.sqlstate not in REFUSALS:
            return fault
        reason, remedy = REFUSALS[fault.sqlstate]
        names = {
            "table": layout.table,
            "role": layout.role,
            "column": layout.columns[self._column].quoted,
            "keys": ", ".join(layout.columns[name].quoted for name in self._keys),
        }
        return Fault(reason.format(**names), remedy.format(**names), sqlstate=fault.sqlstate)


def quoted(name: str) -> str:
    """Write an identifier so that it is one, whatever it is made of."""
    return '"{}"'.format(name.replace('"', '""'))
