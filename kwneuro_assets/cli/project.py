"""What all commands share: the opened project, its options, and errors as messages without a traceback.

Modules that take time to import are imported inside the functions that need them: `--help` shows up at once.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kwneuro_assets.cli.exit_codes import USAGE_ERROR

if TYPE_CHECKING:
    from dagster import DagsterInstance

    from kwneuro_assets.settings import PipelineSettings
    from kwneuro_assets.storage.store import DerivativeStore
    from kwneuro_assets.subjects import StoreKey, SubjectKey


def source_and_store_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options `--source` and `--store`, which set the environment variables of the same name."""
    for name, what in (("store", "Folder or URL of the derivatives"), ("source", "Folder or URL of the BIDS dataset")):
        variable = f"KWNEURO_{name.upper()}"
        command = click.option(
            f"--{name}", metavar="URL", help=f"{what} [default: ${variable}, the settings, HOME/{name}].",
            expose_value=False, callback=_set_environment(variable),
        )(command)  # fmt: skip
    return command


def _set_environment(variable: str) -> Callable[[click.Context, click.Parameter, str | None], None]:
    def callback(context: click.Context, parameter: click.Parameter, value: str | None) -> None:
        if value is not None:
            os.environ[variable] = value

    return callback


@contextmanager
def open_project(home: Path | None) -> Iterator[tuple[DagsterInstance, PipelineSettings]]:
    """The Dagster instance and the settings of the project; runs whose process has ended are reported as failed."""
    from dagster import DagsterInstance

    from kwneuro_assets.launchers.liveness import end_dead_runs

    with errors_as_messages():
        settings = project_settings(home)
        with DagsterInstance.get() as instance:
            end_dead_runs(instance)
            yield instance, settings


def project_settings(home: Path | None) -> PipelineSettings:
    """The settings of the project; see `use_project_folder`."""
    from kwneuro_assets.cli.project_folder import use_project_folder

    with errors_as_messages():
        return use_project_folder(home)


@contextmanager
def errors_as_messages() -> Iterator[None]:
    """Print an error that the user can resolve without a traceback, and exit with `USAGE_ERROR`."""
    from kwneuro_assets.errors import ActionableError

    try:
        yield
    except ActionableError as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(USAGE_ERROR)


def project_store(settings: PipelineSettings) -> DerivativeStore:
    """The store of the derivatives."""
    from kwneuro_assets.storage.store import DerivativeStore

    return DerivativeStore(settings.store.url, settings.source.url, settings.store.verify)


def subject_keys(subjects: tuple[str, ...]) -> list[SubjectKey]:
    """The parsed subject keys. Raises InvalidData if one is not valid."""
    from kwneuro_assets.subjects import SubjectKey

    return [SubjectKey.parse(key) for key in subjects]


def store_keys(subjects: tuple[str, ...]) -> list[StoreKey]:
    """The parsed subject keys, without repetitions; `group` is the group. Raises InvalidData if one is not valid."""
    from kwneuro_assets.subjects import parse_key

    return [parse_key(key) for key in dict.fromkeys(subjects)]
