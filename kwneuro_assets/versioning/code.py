"""The code version of a derivative: algorithm version, its own parameters, version-relevant libraries, and weights."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from kwneuro_assets.imaging.content_hash import text_version
from kwneuro_assets.settings import Section, SettingsError

WEIGHTS_PREFIX = "network weights "  # of messages about them

Parameters = dict[str, str | float | int | bool | None]


@dataclass(frozen=True)
class Code:
    """Everything except the inputs that determines the content of a derivative.

    Attributes:
        algorithm_version: Raised manually when the results of the algorithm change.
        parameters: The values of the derivative's own settings.
        libraries: The release (2.4) of each library that was measured to change its numbers.
        sections: The section of the settings that has each parameter.
        weights: The SHA-256 of each file of network weights, by `<network>/<file>`, or `<network>: not installed`.
    """

    algorithm_version: int
    parameters: Mapping[str, Any] = field(default_factory=dict)
    libraries: Mapping[str, str] = field(default_factory=dict)
    sections: Mapping[str, str] = field(default_factory=dict)
    weights: Mapping[str, str] = field(default_factory=dict)

    @property
    def version(self) -> str:
        """`<n>-<8 hex>`: the algorithm version and a hash over parameters, libraries and the digests of weights."""
        weights = [dict(self.weights)] if self.weights else []  # no other derivative has them in its hash
        return f"{self.algorithm_version}-{text_version([dict(self.parameters), dict(self.libraries), *weights])[:8]}"

    def changes_since(self, recorded: str | None, metadata: Mapping[str, Any]) -> tuple[str, ...]:
        """One line for each difference from the recorded code version; `metadata` is that of the materialization."""
        if recorded == self.version:
            return ()
        lines = []
        before = (recorded or "").partition("-")[0]
        if before != str(self.algorithm_version):
            lines.append(f"algorithm version: was {before or 'unknown'}, now {self.algorithm_version}")
        if isinstance(metadata.get("parameters"), Mapping):
            lines += changes(self._by_section(metadata["parameters"]), self._by_section(self.parameters))
        if isinstance(metadata.get("libraries"), Mapping):
            releases = {name: release(found) for name, found in metadata["libraries"].items() if name in self.libraries}
            lines += changes(releases, self.libraries, "library ")
        if isinstance(metadata.get("weights"), Mapping):
            # Where only one of them has a network, another setting selects it, which is reported.
            old, new = short_digests(metadata["weights"]), short_digests(self.weights)
            old, new = ({name: one[name] for name in old.keys() & new.keys()} for one in (old, new))
            lines += changes(old, new, WEIGHTS_PREFIX)
        return tuple(lines) or (f"code version: was {recorded}, now {self.version}",)

    def _by_section(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Parameters by their names in the settings file; a former one counts as of the section of the first."""
        first = next(iter(self.sections.values()), "")
        return {f"{self.sections.get(name, first)}.{name}": value for name, value in values.items()}


def parameters(settings: Section) -> Parameters:
    """The settings of a section as scalars. A file is represented by its name and content, not by its folder.

    Raises SettingsError if a file that a setting names cannot be read.
    """
    plain: Parameters = {}
    for key, value in settings.model_dump(mode="json").items():
        extra = type(settings).model_fields[key].json_schema_extra
        names_a_file = isinstance(extra, dict) and extra.get("format") == "file"
        plain[key] = _file_content(key, value) if names_a_file and value is not None else value
    return plain


def short_digests(weights: Mapping[str, str]) -> dict[str, str]:
    """Eight hex digits for each network: the first of its file's SHA-256, or a hash over those of its files.

    >>> short_digests({"tractseg-masks/weights.npz": "1234abcd5678ef01", "hd-bet": "not installed"})
    {'tractseg-masks': '1234abcd', 'hd-bet': 'not installed'}
    """
    files: dict[str, dict[str, str]] = {}
    for label, digest in weights.items():
        network, _, file = label.partition("/")
        files.setdefault(network, {})[file] = digest
    return {network: found[""] if "" in found else _short_digest(found) for network, found in files.items()}


def _short_digest(files: Mapping[str, str]) -> str:
    digests = [digest for _, digest in sorted(files.items())]
    return (digests[0] if len(digests) == 1 else text_version(digests))[:8]


def library_versions(names: tuple[str, ...]) -> dict[str, str]:
    """The installed version of each distribution, or `absent`. Imports none of them."""
    return {name: _installed(name) for name in names}


def release(version: str) -> str:
    """The release of a version: 2.4 for 2.4.6. Numerics change between releases; patch versions only fix bugs."""
    return ".".join(version.split(".")[:2])


def changes(before: Mapping[str, Any], now: Mapping[str, Any], prefix: str = "") -> list[str]:
    """One line for each named value that changed: `dti.max_bvalue: was 1500, now 900`."""
    return [f"{prefix}{name}: was {old}, now {new}" for name, old, new in _differing(before, now)]


def differences(first: Mapping[str, Any], second: Mapping[str, Any], prefix: str = "") -> list[str]:
    """One line for each named value in which the two differ: `max_bvalue: 900 and 1500`."""
    return [f"{prefix}{name}: {one} and {other}" for name, one, other in _differing(first, second)]


def _differing(first: Mapping[str, Any], second: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    for name in sorted({*first, *second}):
        if name not in first or name not in second or first[name] != second[name]:
            one, other = (_shown(values[name]) if name in values else "absent" for values in (first, second))
            yield name, one, other


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
        return f"{file.name} sha256:{hashlib.sha256(file.read_bytes()).hexdigest()}"
    except OSError as error:
        raise SettingsError(f"{key}: the file {file} cannot be read: {error.strerror}") from None
