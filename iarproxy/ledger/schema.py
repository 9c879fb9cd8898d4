"""The schema: tables, the triggers that make pins immutable, and the steps from version to version.

Rule 1: immutability lives here, not in handlers (design invariant 3, threats T24): no UPDATE, no DELETE; a second
        first pin is ignored; a later revision must follow the current one and name its digest, a reason and an actor.
Rule 2: the BEFORE INSERT triggers are what stops INSERT OR REPLACE, whose implied delete fires no DELETE trigger.
Rule 3: a step, once released, never changes; version N+1 is a new step. All steps run in one transaction.
Rule 4: at open the database's own SQL must equal what the steps make in an empty database, object for object: a
        trigger that is missing, altered or added is found before it is relied upon.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from functools import cache
from typing import TypeAlias

from sqlalchemy import Connection, insert, select

from iarproxy.errors import ConfigError, LedgerDamaged
from iarproxy.ledger import admission, attached, bundles, leases, recalls, refusals, seeds, sets
from iarproxy.ledger.deliveries import STEP as _DELIVERIES
from iarproxy.ledger.proof.checkpoint_rows import STEP as _CHECKPOINTS
from iarproxy.ledger.rows import META, is_intact, sealed

Steps: TypeAlias = tuple[tuple[str, ...], ...]  # the statements of each version
APPLICATION_ID = 0x69617270  # "iarp": what `file` and other tools may recognise the database by

_PINS = """
CREATE TABLE pins (
  registry TEXT NOT NULL,
  repository TEXT NOT NULL,
  tag TEXT NOT NULL,
  revision INTEGER NOT NULL,
  digest TEXT, -- with media_type and size: NULL where a person removed the pin
  media_type TEXT,
  size INTEGER,
  pinned_at TEXT NOT NULL,
  source TEXT NOT NULL,
  previous_digest TEXT,
  reason TEXT NOT NULL,
  actor TEXT NOT NULL,
  serial INTEGER NOT NULL, -- of the journal row that made this one
  checksum BLOB NOT NULL,
  PRIMARY KEY (registry, repository, tag, revision)
) STRICT, WITHOUT ROWID
"""

_PINS_INSERT = """
CREATE TRIGGER pins_insert BEFORE INSERT ON pins
BEGIN
  SELECT RAISE(IGNORE) WHERE NEW.revision IS 1 AND EXISTS (
    SELECT 1 FROM pins WHERE registry = NEW.registry AND repository = NEW.repository AND tag = NEW.tag);
  SELECT RAISE(ABORT, 'a first pin has nothing before it') WHERE NEW.revision IS 1 AND NEW.previous_digest IS NOT NULL;
  SELECT RAISE(ABORT, 'a pin changes only by its next revision') WHERE NEW.revision IS NOT 1 AND NEW.revision IS NOT (
    SELECT max(revision) + 1 FROM pins
    WHERE registry = NEW.registry AND repository = NEW.repository AND tag = NEW.tag);
  SELECT RAISE(ABORT, 'a revision names the digest that it replaces')
    WHERE NEW.revision IS NOT 1 AND NEW.previous_digest IS NOT (
      SELECT digest FROM pins WHERE registry = NEW.registry AND repository = NEW.repository AND tag = NEW.tag
      ORDER BY revision DESC LIMIT 1);
  SELECT RAISE(ABORT, 'a revision needs a reason and an actor')
    WHERE NEW.revision IS NOT 1 AND (coalesce(trim(NEW.reason), '') = '' OR coalesce(trim(NEW.actor), '') = '');
END
"""

_JOURNAL = """
CREATE TABLE journal (
  serial INTEGER PRIMARY KEY,
  at TEXT NOT NULL,
  kind TEXT NOT NULL,
  registry TEXT,
  repository TEXT,
  tag TEXT,
  revision INTEGER, -- of the pin that this event made or removed; NULL for all other events
  actor TEXT NOT NULL,
  reason TEXT NOT NULL,
  previous TEXT NOT NULL,
  body TEXT NOT NULL,
  hash TEXT NOT NULL
) STRICT
"""

_JOURNAL_INSERT = """
CREATE TRIGGER journal_insert BEFORE INSERT ON journal
BEGIN
  SELECT RAISE(ABORT, 'the journal only grows at its end')
    WHERE NEW.serial IS NOT (SELECT coalesce(max(serial), 0) + 1 FROM journal);
  SELECT RAISE(ABORT, 'a line names the hash of the line before')
    WHERE NEW.previous IS NOT coalesce((SELECT hash FROM journal ORDER BY serial DESC LIMIT 1), '');
END
"""


def _frozen(name: str, act: str) -> str:
    return (
        f"CREATE TRIGGER {name}_{act.lower()} BEFORE {act} ON {name}\n"
        f"BEGIN\n  SELECT RAISE(ABORT, '{name} is append-only');\nEND"
    )


_MUTABLE = (
    """
CREATE TABLE drift (
  registry TEXT NOT NULL,
  repository TEXT NOT NULL,
  tag TEXT NOT NULL,
  pinned TEXT NOT NULL,
  verdict TEXT NOT NULL,
  digest TEXT,
  media_type TEXT,
  size INTEGER,
  first_seen TEXT NOT NULL,
  checked_at TEXT NOT NULL,
  checksum BLOB NOT NULL,
  PRIMARY KEY (registry, repository, tag)
) STRICT, WITHOUT ROWID
""",
    """
CREATE TABLE followed (
  registry TEXT NOT NULL,
  repository TEXT NOT NULL,
  tag TEXT NOT NULL,
  digest TEXT NOT NULL,
  media_type TEXT NOT NULL,
  size INTEGER NOT NULL,
  fetched_at TEXT NOT NULL,
  checksum BLOB NOT NULL,
  PRIMARY KEY (registry, repository, tag)
) STRICT, WITHOUT ROWID
""",
    """
CREATE TABLE links (
  registry TEXT NOT NULL,
  repository TEXT NOT NULL,
  digest TEXT NOT NULL,
  checksum BLOB NOT NULL,
  PRIMARY KEY (registry, repository, digest)
) STRICT, WITHOUT ROWID
""",
    """
CREATE TABLE meta (
  key TEXT NOT NULL PRIMARY KEY,
  value TEXT NOT NULL,
  checksum BLOB NOT NULL
) STRICT, WITHOUT ROWID
""",
)

_BY_REVISION = (
    "CREATE UNIQUE INDEX journal_by_revision ON journal (registry, repository, tag, revision) "
    "WHERE revision IS NOT NULL"
)

# Version 3: a pin is of a tag in an environment. Rows and their checksums stay as they were (`rows`, rule 3).
_NAMED_PINS = """
CREATE TABLE pins (
  environment TEXT NOT NULL,
  registry TEXT NOT NULL,
  repository TEXT NOT NULL,
  tag TEXT NOT NULL,
  revision INTEGER NOT NULL,
  digest TEXT, -- with media_type and size: NULL where the pin was taken away
  media_type TEXT,
  size INTEGER,
  pinned_at TEXT NOT NULL,
  source TEXT NOT NULL,
  previous_digest TEXT,
  reason TEXT NOT NULL,
  actor TEXT NOT NULL,
  serial INTEGER NOT NULL, -- of the journal row that made this one
  checksum BLOB NOT NULL,
  PRIMARY KEY (environment, registry, repository, tag, revision)
) STRICT, WITHOUT ROWID
"""

_NAMED_PINS_INSERT = """
CREATE TRIGGER pins_insert BEFORE INSERT ON pins
BEGIN
  SELECT RAISE(IGNORE) WHERE NEW.revision IS 1 AND EXISTS (
    SELECT 1 FROM pins WHERE environment = NEW.environment
    AND registry = NEW.registry AND repository = NEW.repository AND tag = NEW.tag);
  SELECT RAISE(ABORT, 'a first pin has nothing before it') WHERE NEW.revision IS 1 AND NEW.previous_digest IS NOT NULL;
  SELECT RAISE(ABORT, 'a pin changes only by its next revision') WHERE NEW.revision IS NOT 1 AND NEW.revision IS NOT (
    SELECT max(revision) + 1 FROM pins WHERE environment = NEW.environment
    AND registry = NEW.registry AND repository = NEW.repository AND tag = NEW.tag);
  SELECT RAISE(ABORT, 'a revision names the digest that it replaces')
    WHERE NEW.revision IS NOT 1 AND NEW.previous_digest IS NOT (
      SELECT digest FROM pins WHERE environment = NEW.environment
      AND registry = NEW.registry AND repository = NEW.repository AND tag = NEW.tag
      ORDER BY revision DESC LIMIT 1);
  SELECT RAISE(ABORT, 'a revision needs a reason and an actor')
    WHERE NEW.revision IS NOT 1 AND (coalesce(trim(NEW.reason), '') = '' OR coalesce(trim(NEW.actor), '') = '');
END
"""

_NAMED_DRIFT = """
CREATE TABLE drift (
  environment TEXT NOT NULL,
  registry TEXT NOT NULL,
  repository TEXT NOT NULL,
  tag TEXT NOT NULL,
  pinned TEXT NOT NULL,
  verdict TEXT NOT NULL,
  digest TEXT,
  media_type TEXT,
  size INTEGER,
  first_seen TEXT NOT NULL,
  checked_at TEXT NOT NULL,
  checksum BLOB NOT NULL,
  PRIMARY KEY (environment, registry, repository, tag)
) STRICT, WITHOUT ROWID
"""

_ENVIRONMENTS = (
    *("ALTER TABLE pins RENAME TO unnamed_pins", "DROP TRIGGER pins_insert"),
    *("DROP TRIGGER pins_update", "DROP TRIGGER pins_delete"),
    _NAMED_PINS,
    "INSERT INTO pins SELECT 'default', * FROM unnamed_pins",
    *("DROP TABLE unnamed_pins", _NAMED_PINS_INSERT, _frozen("pins", "UPDATE"), _frozen("pins", "DELETE")),
    *("ALTER TABLE drift RENAME TO unnamed_drift", "DROP INDEX drift_unsteady"),
    _NAMED_DRIFT,
    "INSERT INTO drift SELECT 'default', * FROM unnamed_drift",
    "DROP TABLE unnamed_drift",
    "CREATE INDEX drift_unsteady ON drift (environment, registry, repository, tag) WHERE verdict <> 'steady'",
    "ALTER TABLE journal ADD COLUMN environment TEXT NOT NULL DEFAULT 'default'",
    *("DROP INDEX journal_by_reference", "DROP INDEX journal_by_revision"),
    "CREATE INDEX journal_by_name ON journal (environment, registry, repository, tag, serial)",
    _BY_REVISION.replace("(registry", "(environment, registry"),
)

_STEPS: Steps = (
    (
        *(_PINS, _PINS_INSERT, _frozen("pins", "UPDATE"), _frozen("pins", "DELETE")),
        *(_JOURNAL, _JOURNAL_INSERT, _frozen("journal", "UPDATE"), _frozen("journal", "DELETE")),
        "CREATE INDEX journal_by_reference ON journal (registry, repository, tag, serial)",
        _BY_REVISION,
        *_MUTABLE,
    ),
    # of a million pins that were checked, the few that are not steady
    ("CREATE INDEX drift_unsteady ON drift (registry, repository, tag) WHERE verdict <> 'steady'",),
    _ENVIRONMENTS,
    recalls.STEP,
    (*admission.STEP, *seeds.STEP),
    _DELIVERIES,
    _CHECKPOINTS,
    attached.STEP,
    leases.STEP,
    # what people did, which is little, in a journal of much
    ("CREATE INDEX journal_acts ON journal (kind) WHERE actor <> 'iarproxy'",),
    (*sets.STEP, *bundles.STEP),
    refusals.STEP,
)
VERSION = len(_STEPS)

_OBJECTS = "SELECT type, name, tbl_name, coalesce(sql, '') FROM sqlite_schema ORDER BY type, name"


@cache
def _expected(steps: Steps) -> tuple[tuple[str, ...], ...]:
    with closing(sqlite3.connect(":memory:")) as empty:
        for step in steps:
            for statement in step:
                empty.execute(statement.strip())
        return tuple(tuple(row) for row in empty.execute(_OBJECTS))


def is_blank(connection: Connection) -> bool:
    """Whether the database holds nothing at all, as after a crash before its first commit."""
    return not connection.exec_driver_sql("SELECT count(*) FROM sqlite_schema").scalar_one()


def upgrade(connection: Connection, steps: Steps = _STEPS) -> None:
    """Run the steps that the database lacks, inside the caller's transaction.

    Raises:
        ConfigError: when a newer iarproxy made this database.
    """
    version = connection.exec_driver_sql("PRAGMA user_version").scalar_one()
    if version > len(steps):
        raise ConfigError(
            f"this database has schema {version}; this iarproxy knows {len(steps)}: install the newer one again"
        )
    for statement in (statement for step in steps[version:] for statement in step):
        connection.exec_driver_sql(statement.strip())
    if version < len(steps):
        connection.exec_driver_sql(f"PRAGMA user_version = {len(steps)}")
        connection.exec_driver_sql(f"PRAGMA application_id = {APPLICATION_ID}")


def check(connection: Connection, steps: Steps = _STEPS) -> None:
    """Insist that tables, indexes and triggers are exactly ours (rule 4).

    Raises:
        LedgerDamaged: naming the object that differs.
    """
    found = {tuple(row) for row in connection.exec_driver_sql(_OBJECTS)}
    differing = sorted({str(row[1]) for row in found ^ set(_expected(steps))})
    if differing:
        raise LedgerDamaged(
            f"the schema of this database is not the one that iarproxy made: {', '.join(differing)[:200]}"
        )


def write_meta(connection: Connection, key: str, value: str) -> None:
    """Write one fact about the ledger as a whole, once."""
    connection.execute(insert(META).values(sealed(META, {"key": key, "value": value})))


def read_meta(connection: Connection, key: str) -> str:
    """A fact written by `write_meta`.

    Raises:
        LedgerDamaged: when it is missing or fails its checksum.
    """
    row = connection.execute(select(META).where(META.c.key == key)).one_or_none()
    if row is None or not is_intact(META, row):
        raise LedgerDamaged(f"the ledger's own record of its {key} is missing or damaged")
    return str(row.value)
