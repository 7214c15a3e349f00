"""What is known about the weights of each network, for `weights list`; hashes only files that changed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from kwneuro_assets.demo.networks import DEMO_NOTE
from kwneuro_assets.demo.networks import FOLDER as DEMO
from kwneuro_assets.weights.digest_cache import CACHE, digests_of
from kwneuro_assets.weights.installed import checksums, folder_of, has_files, locate, origins
from kwneuro_assets.weights.networks import NETWORKS, Network

State = Literal["installed", "damaged", "incomplete", "absent", "demo"]
UNKNOWN = "unknown"
LICENSE = "Apache-2.0"  # of the demo's networks, as of this package


@dataclass(frozen=True)
class Listed:
    """The weights of one network.

    Attributes:
        network: Its name.
        version: The version of the weights that this package uses.
        state: `installed`; `damaged` if a checksum is not the recorded one; `incomplete` if files are missing;
            `absent`; `demo` if they are absent and the demo's are used in their place.
        folder: Where they are; None if they are absent.
        size: The size of all files in bytes.
        license: The license that the archive's record names; `unknown` before a download from there.
        origin: Where they come from: URLs, files of the user, the folder of a tool.
        archives: The archives of `weights pack` that brought them here.
        doi: The DOIs of their records.
        trust: What the recorded checksums rest on; `none` if none are recorded.
        sha256: The SHA-256 of each file.
    """

    network: str
    version: str
    state: State
    folder: str | None
    size: int
    license: str
    origin: tuple[str, ...]
    archives: tuple[str, ...]
    doi: tuple[str, ...]
    trust: str
    sha256: Mapping[str, str]


def inventory(folder: Path, with_demo: bool = False) -> list[Listed]:
    """The weights of all networks; `with_demo`: the demo's replace absent ones. Raises WeightsError."""
    return [_listed(network, folder.expanduser(), with_demo) for network in NETWORKS.values()]


def _listed(network: Network, folder: Path, with_demo: bool) -> Listed:
    where = locate(network.name, folder)
    if where is None:
        return _absent(network, folder, with_demo)
    recorded, known = checksums(where), origins(where)
    found = digests_of(network.name, where, folder / CACHE) or {}
    intact = all(found.get(file) == recorded.get(file, found.get(file)) for file in network.installed_files)
    described = [known[file] for file in network.installed_files if file in known]
    own = where == folder_of(network, folder)
    return Listed(
        network.name,
        network.version,
        "installed" if intact and found else "damaged",
        str(where),
        sum((where / file).stat().st_size for file in network.installed_files),
        _joined(one.license for one in described),
        _distinct(one.source for one in described) or (UNKNOWN if own else f"folder of {network.tool}",),
        _distinct(one.archive for one in described),
        tuple(file.doi for file in network.files),
        _joined(one.trust for one in described) if described else "recorded" if recorded else "none",
        found,
    )


def _absent(network: Network, folder: Path, with_demo: bool) -> Listed:
    home = folder_of(network, folder)
    demo = with_demo and has_files(DEMO, network.installed_files)
    partly = any((home / file).is_file() for file in network.installed_files)
    state: State = "demo" if demo else "incomplete" if partly else "absent"
    return Listed(
        network.name,
        network.version,
        state,
        str(DEMO) if demo else None,
        sum((DEMO / file).stat().st_size for file in network.installed_files) if demo else 0,
        LICENSE if demo else UNKNOWN,
        (DEMO_NOTE,) if demo else (),
        (),
        () if demo else tuple(file.doi for file in network.files),
        "none",
        {},
    )


def _joined(values: Iterable[str | None]) -> str:
    return ", ".join(_distinct(values)) or UNKNOWN


def _distinct(values: Iterable[str | None]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(value for value in values if value))
