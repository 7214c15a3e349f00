"""Reads the settings from a YAML file and the environment."""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from kwneuro_assets.credentials import credentials_error
from kwneuro_assets.errors import ActionableError
from kwneuro_assets.settings.pipeline import PipelineSettings

ENVIRONMENT_PREFIX = "KWNEURO_"
_URL_VARIABLES = {"KWNEURO_SOURCE": "source", "KWNEURO_STORE": "store"}
_YAML_NULL = ("", "~", "null")


class SettingsError(ActionableError, ValueError):
    """An invalid settings file or variable; the message names the key, the expected value and the value found."""


def load_settings(file: Path | None = None, environment: Mapping[str, str] | None = None) -> PipelineSettings:
    """The settings of a YAML file, overridden by environment variables.

    `file` defaults to `KWNEURO_SETTINGS`; without either, all keys have their defaults. `environment` defaults to
    `os.environ`. `KWNEURO_SOURCE` and `KWNEURO_STORE` set the two URLs, `KWNEURO_<SECTION>__<KEY>` any other key.

    >>> settings = load_settings(environment={"KWNEURO_DTI__MAX_BVALUE": "1000", "KWNEURO_STORE": "s3://lab/store"})
    >>> settings.dti.max_bvalue, settings.store.url
    (1000.0, 's3://lab/store')
    >>> load_settings(environment={"KWNEURO_DTI__MAX_BVAL": "1000"})
    Traceback (most recent call last):
    kwneuro_assets.settings.loading.SettingsError: environment variable KWNEURO_DTI__MAX_BVAL: unknown key \
'dti.max_bval'; the nearest valid one is 'dti.max_bvalue'

    Raises SettingsError if the file cannot be read or is not a mapping, if a key is unknown (the message names the
    nearest valid key), if a value is out of range, and if a URL contains credentials.
    """
    variables = os.environ if environment is None else environment
    if file is None and variables.get("KWNEURO_SETTINGS"):
        file = Path(variables["KWNEURO_SETTINGS"]).expanduser()
    tree = _read_file(file) if file else {}
    origin = f"settings file {file}" if file else "settings"
    _check_keys(tree, origin)
    origins: dict[tuple[str, ...], str] = {}
    for variable, section, key in _overrides(variables):
        origins[section, key] = f"environment variable {variable}"
        _check_keys({section: {key: None}}, origins[section, key])
        tree.setdefault(section, {})[key] = _parse(variables[variable], section, key)
    for section in ("source", "store"):  # first, so that no other message contains them
        if problem := credentials_error(str(tree.get(section, {}).get("url", ""))):
            raise SettingsError(problem)
    try:
        return PipelineSettings.model_validate(tree)
    except ValidationError as error:
        raise SettingsError(_message(error, origin, origins)) from None


def _message(error: ValidationError, origin: str, origins: Mapping[tuple[str, ...], str]) -> str:
    """The message for the first invalid key."""
    first = error.errors()[0]
    # Further parts of the location are pydantic's names for the members of a union.
    keys = tuple(str(part) for part in first["loc"][:2])
    section = PipelineSettings.model_fields[keys[0]].annotation
    field = section.model_fields[keys[1]] if section and len(keys) > 1 else None
    description = f" ({field.description})" if field else ""
    messages = [one["msg"] for one in error.errors() if one["loc"][:2] == first["loc"][:2]]
    expected = "; ".join(dict.fromkeys(f"{message[0].lower()}{message[1:]}" for message in messages))
    return f"{origins.get(keys, origin)}: {'.'.join(keys)}: {expected}, found {first['input']!r}{description}"


def _read_file(file: Path) -> dict[str, dict[str, Any]]:
    try:
        content = file.read_text(encoding="utf-8-sig")
        tree, texts = yaml.safe_load(content), yaml.load(content, yaml.BaseLoader)
    except OSError as error:
        raise SettingsError(f"settings file {file}: cannot be read: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError, ValueError) as error:
        raise SettingsError(f"settings file {file}: is not YAML: {' '.join(str(error).split())}") from None
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise SettingsError(f"settings file {file}: expected sections with keys, found {type(tree).__name__}")
    # YAML reads an empty section as None.
    return {
        section: {} if keys is None else _restore_texts(section, keys, texts.get(str(section)))
        for section, keys in tree.items()
    }


def _restore_texts(section: Any, keys: Any, texts: Any) -> Any:
    """The keys of a section, with text keys as written: YAML reads 010, on and 2024-01-01 as 8, True and a date."""
    if not isinstance(keys, dict) or not isinstance(texts, dict):
        return keys
    scalars = (str, bool, int, float, date)
    return {
        key: texts[str(key)]
        if isinstance(value, scalars) and str(key) in texts and _text_type(section, str(key))
        else value
        for key, value in keys.items()
    }


def _text_type(section: Any, key: str) -> Any:
    """The type of a key whose values are text, None for other keys."""
    field = PipelineSettings.model_fields.get(section)
    kind: Any = field.annotation if field else None
    found = kind.model_fields.get(key) if kind else None
    return found.annotation if found and found.annotation in (str, str | None) else None


def _check_keys(tree: Mapping[str, Any], origin: str) -> None:
    for section, keys in tree.items():
        field = PipelineSettings.model_fields.get(section)
        if field is None:
            raise SettingsError(_unknown(str(section), list(PipelineSettings.model_fields), origin))
        if not isinstance(keys, Mapping):
            raise SettingsError(f"{origin}: {section}: expected keys with values, found {keys!r}")
        kind = field.annotation
        assert kind is not None
        for key in keys:
            if key not in kind.model_fields:
                known = [f"{section}.{name}" for name in kind.model_fields]
                raise SettingsError(_unknown(f"{section}.{key}", known, origin))


def _unknown(key: str, known: list[str], origin: str) -> str:
    nearest = difflib.get_close_matches(key, known, n=1, cutoff=0)
    return f"{origin}: unknown key {key!r}; the nearest valid one is {nearest[0]!r}"


def _parse(text: str, section: str, key: str) -> Any:
    """The value of a variable, read as YAML; unquoted values of text keys and invalid YAML are literal text."""
    kind = _text_type(section, key)
    if kind is not None and not (kind is not str and text in _YAML_NULL) and not text.startswith(("'", '"')):
        return text
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return text


def _overrides(variables: Mapping[str, str]) -> list[tuple[str, str, str]]:
    """Variable, section and key of each override."""
    found = [(variable, section, "url") for variable, section in _URL_VARIABLES.items() if variables.get(variable)]
    for variable in sorted(variables):
        if variable.startswith(ENVIRONMENT_PREFIX) and "__" in variable:
            section, key = variable[len(ENVIRONMENT_PREFIX) :].lower().split("__", 1)
            found.append((variable, section, key))
    return found
