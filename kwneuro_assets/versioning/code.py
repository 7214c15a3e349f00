"""The code version of a derivative: its algorithm's number and its own parameters."""

from __future__ import annotations

from pathlib import Path

from kwneuro_assets.settings import Section, SettingsError
from kwneuro_assets.storage.files import file_sha256
from kwneuro_assets.versioning.content import text_version

Parameters = dict[str, str | float | int | bool | None]


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


def code_version(number: int, settings: Section | None) -> str:
    """`<number>-<8 hex>`: the algorithm's own number and a hash over its parameters."""
    return f"{number}-{text_version(parameters(settings))[:8]}"


def _file_content(key: str, path: str) -> str:
    file = Path(path).expanduser()
    try:
        return f"{file.name} sha256:{file_sha256(file)}"
    except OSError as error:
        raise SettingsError(f"{key}: the file {file} cannot be read: {error.strerror}") from None
