"""Installed network weights: where they are, what is recorded about them, and their verification.

The weights of a network are stored in `<weights.folder>/<name>/` (`weights.folder` is a setting). If that does not have
them, the folders in which the tools store their own weights are used, so that no one downloads them twice.

Two files beside the weights describe them: `checksums.json` has the SHA-256 of each, `origins.json` its origin. Files
that the user copied there are in neither and are accepted as they are.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, astuple, dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args

from kwneuro_assets.storage.files import file_sha256
from kwneuro_assets.weights.errors import WeightsError
from kwneuro_assets.weights.json_files import read_json, write_json
from kwneuro_assets.weights.networks import Network, network_of

CHECKSUMS = "checksums.json"
ORIGINS = "origins.json"

Trust = Literal["published checksum", "checksum of the mirror", "first download", "added manually"]


@dataclass(frozen=True)
class Origin:
    """Where an installed file comes from.

    Attributes:
        source: The URL that it was downloaded from, or the path that it was added from.
        trust: What its recorded SHA-256 rests on.
        size: Its size in bytes.
        license: The license that the archive names; None if it is unknown.
        version: The version of the archive's record; None if it has none.
        doi: The DOI of the archive's record.
        published: The published checksum of the download, as `md5:<hex>`; None if there is none.
        archive: The archive of `weights pack` that brought it here; None if it came directly.
    """

    source: str
    trust: Trust
    size: int = 0
    license: str | None = None
    version: str | None = None
    doi: str | None = None
    published: str | None = None
    archive: str | None = None

    @classmethod
    def parse(cls, entry: Mapping[str, Any]) -> Origin:
        """The origin that `asdict` wrote, whatever else the entry has. Raises TypeError if it is none."""
        found = cls(**{field.name: entry[field.name] for field in fields(cls) if field.name in entry})
        texts = (found.source, *(text for text in astuple(found)[3:] if text is not None))
        if not all(isinstance(text, str) for text in texts) or not isinstance(found.size, int):
            raise TypeError(f"{dict(entry)}")
        if found.trust not in get_args(Trust):
            raise TypeError(f"the trust {found.trust!r}")
        return found


def folder_of(network: Network, folder: Path) -> Path:
    """The folder of a network in the folder of the weights."""
    return folder.expanduser() / network.name


def has_files(where: Path, files: tuple[str, ...]) -> bool:
    """Whether the folder has all these files, and may be searched."""
    return all(os.path.isfile(where / file) for file in files)  # Path.is_file raises an error if it may not


def locate(name: str, folder: Path) -> Path | None:
    """The folder that has all files of a network: `<folder>/<name>`, or that of its tool; None if there is none."""
    network = network_of(name)
    for candidate in (folder_of(network, folder), *network.tool_folders()):
        if has_files(candidate, network.installed_files):
            return candidate
    return None


def verify(name: str, where: Path) -> dict[str, str]:
    """The SHA-256 of each file of a network in the folder `where`.

    Raises WeightsError if a file is missing or its checksum is not the recorded one.
    """
    known = checksums(where)
    found: dict[str, str] = {}
    for file in network_of(name).installed_files:
        if not (where / file).is_file():
            raise WeightsError(f"weights of {name}: expected the file {where / file}, found none; fetch it again")
        found[file] = file_sha256(where / file)
        expected = known.get(file, found[file])
        if found[file] != expected:
            raise WeightsError(
                f"weights of {name}: {where / file}: expected the SHA-256 {expected[:12]}..., "
                f"found {found[file][:12]}...; remove the file and fetch it again"
            )
    return found


def checksums(where: Path) -> dict[str, str]:
    """The recorded SHA-256 of each file in the folder of a network. Raises WeightsError."""
    return {file: str(sha256) for file, sha256 in read_json(where / CHECKSUMS).items()}


def origins(where: Path) -> dict[str, Origin]:
    """The recorded origin of each file in the folder of a network. Raises WeightsError."""
    try:
        return {file: Origin.parse(entry) for file, entry in read_json(where / ORIGINS).items()}
    except (TypeError, AttributeError) as error:
        raise WeightsError(f"{where / ORIGINS}: expected the origins of files, found {error}; remove it") from error


def install(scratch: Path, home: Path, files: Mapping[str, tuple[str, Origin]]) -> None:
    """Move verified files, given with SHA-256 and origin, from `scratch` (same file system) to the folder `home`.

    The records come first, so that no file exists without one. Raises OSError, WeightsError.
    """
    write_json(home / CHECKSUMS, {**checksums(home), **{file: sha256 for file, (sha256, _) in files.items()}})
    known = {file: asdict(origin) for file, origin in origins(home).items()}
    write_json(home / ORIGINS, {**known, **{file: asdict(origin) for file, (_, origin) in files.items()}})
    for file in files:
        (home / file).parent.mkdir(parents=True, exist_ok=True)
        os.replace(scratch / file, home / file)
