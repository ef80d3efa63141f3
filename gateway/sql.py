"""The tables of policies and recordings, in SQLite or PostgreSQL: the only file that knows SQLAlchemy.

Blocking: callers on an event loop use a thread. It stores what it is given; what is sealed stays sealed here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError, NoSuchModuleError, SQLAlchemyError

_meta = sa.MetaData()
_versions = sa.Table(
    "policy_versions",
    _meta,
    sa.Column("digest", sa.String(64), primary_key=True),
    sa.Column("name", sa.String(64), nullable=False, index=True),
    sa.Column("at", sa.Double, nullable=False),
    sa.Column("by", sa.String(200), nullable=False),
    sa.Column("files", sa.JSON, nullable=False),
    sa.Column("parts", sa.JSON, nullable=False),
)
_history = sa.Table(
    "policy_history",
    _meta,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("name", sa.String(64), nullable=False, index=True),
    sa.Column("at", sa.Double, nullable=False),
    sa.Column("action", sa.String(20), nullable=False),
    sa.Column("digest", sa.String(64), nullable=False),
    sa.Column("previous", sa.String(64), nullable=False),
    sa.Column("by", sa.String(200), nullable=False),
    sa.Column("plan", sa.String(40), nullable=False),
    sa.Column("note", sa.Text, nullable=False),
)
_plans = sa.Table(
    "policy_plans",
    _meta,
    sa.Column("id", sa.String(40), primary_key=True),
    sa.Column("name", sa.String(64), nullable=False, index=True),
    sa.Column("base", sa.String(64), nullable=False),
    sa.Column("digest", sa.String(64), nullable=False),
    sa.Column("at", sa.Double, nullable=False),
    sa.Column("by", sa.String(200), nullable=False),
    sa.Column("approved_by", sa.String(200), nullable=False),
    sa.Column("report", sa.JSON, nullable=False),
)
_recordings = sa.Table(
    "recordings",
    _meta,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("request_id", sa.String(128), nullable=False, index=True),
    sa.Column("at", sa.Double, nullable=False, index=True),
    sa.Column("policy", sa.String(64), nullable=False),
    sa.Column("digest", sa.String(64), nullable=False),
    sa.Column("route", sa.String(200), nullable=False),
    sa.Column("kept_for", sa.String(20), nullable=False),
    sa.Column("weight", sa.Double, nullable=False),
    sa.Column("key_id", sa.String(40), nullable=False),
    sa.Column("sealed", sa.LargeBinary, nullable=False),
    sa.Index("recordings_by_policy", "policy", "digest", "at"),
)
Row = Mapping[str, Any]


class DatabaseError(Exception):
    """The database could not be reached or refused. Says what kind of fault, never a value or an address."""


class Database:
    """One database of one URL; tables are made when they are not there."""

    def __init__(self, url: str) -> None:
        """Raises: DatabaseError."""
        if url.startswith("sqlite:///"):
            file = Path(url.removeprefix("sqlite:///"))
            file.parent.mkdir(parents=True, exist_ok=True)
            if not file.exists():
                file.touch(mode=0o600)  # policies and what is recorded are nobody else's
        try:
            self._engine = sa.create_engine(url, pool_pre_ping=not url.startswith("sqlite"), hide_parameters=True)
            if url.startswith("sqlite"):
                sa.event.listen(self._engine, "connect", _as_shared_file)
            self._make_tables()
        except (ImportError, NoSuchModuleError):
            scheme = url.partition(":")[0]
            hint = "postgresql+psycopg://... needs the extra 'postgres': pip install 'callgate[postgres]'"
            raise DatabaseError(
                f"the policy store cannot be opened: there is no driver for '{scheme}'; {hint}"
            ) from None
        except (SQLAlchemyError, OSError) as error:
            raise DatabaseError(f"the policy store cannot be opened ({type(error).__name__})") from None

    def _make_tables(self) -> None:
        try:
            _meta.create_all(self._engine)
        except SQLAlchemyError:  # another worker made a table between our look and our making it
            _meta.create_all(self._engine)

    def close(self) -> None:
        self._engine.dispose()

    # --- versions and history ---

    def add_version(self, row: Row) -> None:
        """Keeps a version; one that is there stays as it is, since its digest is its content."""
        with self._begin() as connection:
            there = connection.execute(sa.select(_versions.c.digest).where(_versions.c.digest == row["digest"])).first()
            if there is not None:
                return
            try:
                with connection.begin_nested():
                    connection.execute(_versions.insert().values(**row))
            except IntegrityError:  # another worker was faster
                pass

    def version(self, digest: str) -> Row | None:
        """The version of a digest, or of the only one that begins so."""
        found = self._all(sa.select(_versions).where(_versions.c.digest.startswith(digest, autoescape=True)).limit(2))
        return found[0] if len(found) == 1 else None

    def versions(self, name: str) -> list[Row]:
        return self._all(sa.select(_versions).where(_versions.c.name == name).order_by(_versions.c.at))

    def add_history(self, row: Row) -> None:
        with self._begin() as connection:
            connection.execute(_history.insert().values(**row))

    def history(self, name: str) -> list[Row]:
        """Every activation of a policy, newest first; the first one is what runs."""
        return self._all(sa.select(_history).where(_history.c.name == name).order_by(_history.c.id.desc()))

    def add_plan(self, row: Row) -> None:
        with self._begin() as connection:
            connection.execute(_plans.insert().values(**row))

    def plan(self, plan_id: str) -> Row | None:
        return self._first(sa.select(_plans).where(_plans.c.id == plan_id))

    def plans_for(self, name: str, base: str, digest: str) -> list[Row]:
        """Plans of exactly these two digests, newest first."""
        wanted = (_plans.c.name == name) & (_plans.c.base == base) & (_plans.c.digest == digest)
        return self._all(sa.select(_plans).where(wanted).order_by(_plans.c.at.desc()))

    def plans(self, name: str, most: int) -> list[Row]:
        """Plans of a policy, newest first."""
        return self._all(sa.select(_plans).where(_plans.c.name == name).order_by(_plans.c.at.desc()).limit(most))

    def approve_plan(self, plan_id: str, by: str) -> None:
        with self._begin() as connection:
            connection.execute(_plans.update().where(_plans.c.id == plan_id).values(approved_by=by))

    # --- recordings ---

    def add_recordings(self, rows: Sequence[Row]) -> None:
        with self._begin() as connection:
            connection.execute(_recordings.insert(), list(rows))

    def delete_recordings(self, before: float) -> int:
        with self._begin() as connection:
            return connection.execute(_recordings.delete().where(_recordings.c.at < before)).rowcount

    def recordings(self, policy: str, digest: str, since: float, most: int) -> Iterator[Row]:
        """Recordings of one version, newest first, read a thousand at a time."""
        wanted = (_recordings.c.policy == policy) & (_recordings.c.digest == digest) & (_recordings.c.at >= since)
        last: int | None = None
        left = most
        while left > 0:
            page = wanted if last is None else wanted & (_recordings.c.id < last)
            rows = self._all(
                sa.select(_recordings).where(page).order_by(_recordings.c.id.desc()).limit(min(1000, left))
            )
            yield from rows
            if len(rows) < min(1000, left):
                return
            last, left = rows[-1]["id"], left - len(rows)

    def count_recordings(self, policy: str, since: float) -> dict[str, int]:
        """How many recordings there are of each version of a policy."""
        wanted = (_recordings.c.policy == policy) & (_recordings.c.at >= since)
        query = (
            sa.select(_recordings.c.digest, sa.func.count().label("total")).where(wanted).group_by(_recordings.c.digest)
        )
        try:
            with self._engine.connect() as connection:
                return {row.digest: row.total for row in connection.execute(query)}
        except SQLAlchemyError as error:
            raise _fault(error) from None

    def recording(self, request_id: str, since: float) -> Row | None:
        """The newest recording of a request."""
        wanted = (_recordings.c.request_id == request_id) & (_recordings.c.at >= since)
        return self._first(sa.select(_recordings).where(wanted).order_by(_recordings.c.id.desc()))

    def _all(self, query: sa.Select[Any]) -> list[Row]:
        try:
            with self._engine.connect() as connection:
                return [dict(row._mapping) for row in connection.execute(query)]
        except SQLAlchemyError as error:
            raise _fault(error) from None

    def _first(self, query: sa.Select[Any]) -> Row | None:
        rows = self._all(query.limit(1))
        return rows[0] if rows else None

    @contextmanager
    def _begin(self) -> Iterator[sa.Connection]:
        try:
            with self._engine.begin() as connection:
                yield connection
        except SQLAlchemyError as error:
            raise _fault(error) from None


def _fault(error: SQLAlchemyError) -> DatabaseError:
    return DatabaseError(f"the policy store did not answer ({type(error).__name__})")


def _as_shared_file(connection: Any, _: Any) -> None:
    """Several processes write to one SQLite file: readers do not wait for writers, writers wait for each other."""
    for pragma in ("journal_mode=WAL", "busy_timeout=5000", "synchronous=NORMAL"):
        connection.execute(f"PRAGMA {pragma}")
