"""The code version of a derivative: its algorithm's number, its own parameters, and the libraries that decide."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from kwneuro_assets.settings import Section, SettingsError
from kwneuro_assets.storage.files import file_sha256
from kwneuro_assets.versioning.content import text_version

Parameters = dict[str, str | float | int | bool | None]


@dataclass(frozen=True)
class Code:
    """All but its inputs that decides what a derivative becomes: the number of its algorithm, its parameters, of the
    settings' `section`, and the releases (2.4) of the libraries that were measured to change its numbers."""

    number: int
    parameters: Mapping[str, Any] = field(default_factory=dict)
    libraries: Mapping[str, str] = field(default_factory=dict)
    section: str = ""

    @property
    def version(self) -> str:
        """`<number>-<8 hex>`: the algorithm's own number and a hash over parameters and libraries."""
        return f"{self.number}-{text_version([dict(self.parameters), dict(self.libraries)])[:8]}"

    def changes_since(self, recorded: str | None, metadata: Mapping[str, Any]) -> tuple[str, ...]:
        """What differs from the recorded code version, in sentences; `metadata` as the materialization has it."""
        if recorded == self.version:
            return ()
        told = []
        number = (recorded or "").partition("-")[0]
        if number != str(self.number):
            told.append(f"its algorithm changed: number {number or 'unknown'}, now {self.number}")
        if isinstance(metadata.get("parameters"), Mapping):
            told += changes(metadata["parameters"], self.parameters, f"{self.section}.")
        if isinstance(metadata.get("libraries"), Mapping):
            before = {name: release(found) for name, found in metadata["libraries"].items() if name in self.libraries}
            told += changes(before, self.libraries, "library ")
        return tuple(told) or (f"its code version changed: {recorded}, now {self.version}",)


def parameters(settings: Section | None) -> Parameters:
    """The parameters as plain scalars; a file counts by its name and content, not by where it lies.

    Raises SettingsError where a file that a setting names cannot be read.
    """
    if settings is None:
        return {}
    plain: Parameters = {}
    for key, value in settings.model_dump(mode="json").items():
        extra = type(settings).model_fields[key].json_schema_extra
        names_a_file = isinstance(extra, dict) and extra.get("format") == "file"
        plain[key] = _file_content(key, value) if names_a_file and value is not None else value
    return plain


def library_versions(names: tuple[str, ...]) -> dict[str, str]:
    """The installed version of each distribution, `absent` where there is none; none of them is imported."""
    return {name: _installed(name) for name in names}


def release(version: str) -> str:
    """The release that a version belongs to: 2.4 of 2.4.6. Numerics change with these, bugs are mended within them."""
    return ".".join(version.split(".")[:2])


def changes(before: Mapping[str, Any], now: Mapping[str, Any], prefix: str = "") -> list[str]:
    """What became of named values, in sentences."""
    return [f"{prefix}{name}: was {old}, now {new}" for name, old, new in _different(before, now)]


def pairs(first: Mapping[str, Any], second: Mapping[str, Any], prefix: str = "") -> list[str]:
    """In which of their named values two things differ, in sentences."""
    return [f"{prefix}{name}: {one} and {other}" for name, one, other in _different(first, second)]


def _different(before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    for name in sorted({*before, *now}):
        if name not in before or name not in now or before[name] != now[name]:
            old, new = (_shown(of[name]) if name in of else "absent" for of in (before, now))
            yield name, old, new


def _shown(value: object) -> str:
    return "not set" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


@functools.cache
def _installed(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "absent"


def _file_content(key: str, path: str) -> str:
    file = Path(path).expanduser()
    try:
        return f"{file.name} sha256:{file_sha256(file)}"
    except OSError as error:
        raise SettingsError(f"{key}: the file {file} cannot be read: {error.strerror}") from None
