"""Row checksums, and the tables as SQLAlchemy Core sees them.

Rule 1: each row carries a checksum over all its other columns and its table's name; a row that is read is verified
        first. SQLite has no page checksums: of 200 flipped bits 36 changed a row unnoticed (threats L4, R28).
Rule 2: the encoding is unambiguous: a JSON array, so that no two rows share one encoding, nor 1 and "1", nor "" and
        NULL. What JSON cannot encode (bytes, broken UTF-8) was never written by us: not intact.
Rule 3: rows of the default environment are encoded without its name, as they were before there were others; rows of
        others have one column more, so that neither can be taken for the other.
Rule 4: what an act does to many names is read and written `AT_ONCE` at a time: a statement of its own for each name
        costs ten times what SQLite does for it, and all that time everybody else waits for the ledger.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache
from operator import itemgetter
from typing import Any, TypeVar

import orjson
from sqlalchemy import (
    ColumnElement,
    Connection,
    Delete,
    Insert,
    TableClause,
    TextClause,
    bindparam,
    column,
    table,
    text,
)
from sqlalchemy.dialects import sqlite

from iarproxy.ledger.values import Name
from iarproxy.oci import TagReference
from iarproxy.oci.routing import DEFAULT

T = TypeVar("T")

AT_ONCE = 500  # rows read or written by one statement
_CHECKSUM_SIZE = 16  # bytes: against rot, not against people; the journal's sha256 chain is there for those


def _table(name: str, *columns: str) -> TableClause:
    return table(name, *(column(each) for each in columns))


PINS = _table(
    "pins",
    *(
        "environment",
        "registry",
        "repository",
        "tag",
        "revision",
        "digest",
        "media_type",
        "size",
        "pinned_at",
        "source",
    ),
    *("previous_digest", "reason", "actor", "serial", "checksum"),
)
JOURNAL = _table(
    "journal",
    *(
        "serial",
        "at",
        "kind",
        "environment",
        "registry",
        "repository",
        "tag",
        "revision",
        "actor",
        "reason",
        "previous",
        "body",
    ),
    "hash",
)
DRIFT = _table(
    "drift",
    *(
        "environment",
        "registry",
        "repository",
        "tag",
        "pinned",
        "verdict",
        "digest",
        "media_type",
        "size",
        "first_seen",
    ),
    *("checked_at", "checksum"),
)
FOLLOWED = _table("followed", "registry", "repository", "tag", "digest", "media_type", "size", "fetched_at", "checksum")
LINKS = _table("links", "registry", "repository", "digest", "checksum")
SIGHTINGS = _table("sightings", "digest", "first_seen", "checksum")
CANDIDATES = _table(
    "candidates",
    *("environment", "registry", "repository", "tag", "digest", "media_type", "size", "source", "offered_at"),
    *("why", "detail", "checksum"),
)
META = _table("meta", "key", "value", "checksum")


TAG = ("registry", "repository", "tag")
NAME = ("environment", *TAG)


def where(source: TableClause, *names: str) -> tuple[ColumnElement[bool], ...]:
    """The condition that each of the columns `names` equals the parameter of its name.

    Statements are built once, with parameters: building one anew costs ten times what running it does.
    """
    return tuple(source.c[name] == bindparam(name) for name in names)


def tag_key(reference: TagReference) -> dict[str, str]:
    """The parameters that name a tag."""
    repository = reference.repository
    return {"registry": repository.registry, "repository": repository.name, "tag": reference.tag.value}


def key_of(name: Name) -> dict[str, str]:
    """The parameters that name a tag in an environment."""
    return {"environment": name.environment, **tag_key(name.reference)}


def for_each(statement: Insert | Delete) -> Callable[[Connection, Sequence[Mapping[str, Any]]], None]:
    """What runs `statement` for each of some rows; it is compiled here and now, and its parameters are taken as is."""
    compiled = statement.compile(dialect=sqlite.dialect())
    words, values = str(compiled), itemgetter(*compiled.positiontup or ())

    def run(connection: Connection, rows: Sequence[Mapping[str, Any]]) -> None:
        if rows:
            connection.exec_driver_sql(words, [values(row) for row in rows])

    return run


def newest_of(source: TableClause, by: str, names: Sequence[str], only: str = "TRUE") -> TextClause:
    """Of each of the keys in `sought`, which are columns `names`, the row of `source` whose `by` is the greatest.

    `only`: of which rows; SQL about the table `newest`.
    """
    among = f"FROM {source.name} AS newest WHERE {_same('newest', names)} AND {only}"
    greatest = f"{source.name}.{by} = (SELECT max(newest.{by}) {among})"
    return _of_each(source, names, f"{_same(source.name, names)} AND {greatest}")


def those_of(source: TableClause, names: Sequence[str]) -> TextClause:
    """The rows of `source` whose columns `names` are one of the keys in `sought`."""
    return _of_each(source, names, _same(source.name, names))


def sought(keys: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """The parameter of `newest_of` and `those_of`."""
    return {"sought": orjson.dumps(list(keys)).decode()}


def _of_each(source: TableClause, names: Sequence[str], condition: str) -> TextClause:
    """A CROSS JOIN, so that SQLite goes through the keys and looks each one up."""
    keys = ", ".join(f"json_extract(value, '$.{name}') AS {name}" for name in names)
    columns = ", ".join(f"{source.name}.{each.name}" for each in source.columns)
    return text(
        f"WITH sought AS MATERIALIZED (SELECT {keys} FROM json_each(:sought)) "  # noqa: S608  # our own names
        f"SELECT {columns} FROM sought CROSS JOIN {source.name} ON {condition}"
    )


def _same(source: str, names: Sequence[str]) -> str:
    return " AND ".join(f"{source}.{name} = sought.{name}" for name in names)


def several(values: Sequence[T]) -> Iterator[Sequence[T]]:
    """`values`, `AT_ONCE` of them at a time."""
    return (values[start : start + AT_ONCE] for start in range(0, len(values), AT_ONCE))


def checksum(name: str, values: Sequence[Any]) -> bytes:
    """The checksum of a row of table `name` whose other columns are `values`, in the table's order."""
    return hashlib.blake2b(orjson.dumps([name, *values]), digest_size=_CHECKSUM_SIZE).digest()


def sealed(into: TableClause, values: Mapping[str, Any]) -> dict[str, Any]:
    """`values` with the row's checksum, ready to insert into `into`."""
    return {**values, "checksum": checksum(into.name, _covered(into, _all_but_checksum(into)(values)))}


def is_intact(source: TableClause, row: Sequence[Any]) -> bool:
    """Whether `row`, all columns of `source` in order, is what was written."""
    return is_sealed(source.name, _covered(source, row))


def _covered(source: TableClause, row: Sequence[Any]) -> Sequence[Any]:
    """What of a row the checksum is over (rule 3)."""
    return row[1:] if row[0] == DEFAULT and _names(source)[0] == "environment" else row


@cache
def _names(source: TableClause) -> tuple[str, ...]:
    return tuple(each.name for each in source.columns)


@cache
def _all_but_checksum(source: TableClause) -> Callable[[Mapping[str, Any]], tuple[Any, ...]]:
    return itemgetter(*_names(source)[:-1])


def is_sealed(name: str, row: Sequence[Any]) -> bool:
    """Whether `row` ends with the checksum of what comes before it, as a row of table `name`."""
    try:
        return bool(checksum(name, row[:-1]) == row[-1])
    except (TypeError, ValueError):  # orjson.JSONEncodeError is a TypeError; broken UTF-8 arrives as lone surrogates
        return False
