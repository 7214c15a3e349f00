"""Which weights of a network a step uses: those that are installed, the demo's, or those that are downloaded."""

from __future__ import annotations

import functools
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from kwneuro_assets.demo.networks import DEMO_NOTE
from kwneuro_assets.demo.networks import FOLDER as DEMO_FOLDER
from kwneuro_assets.settings import PipelineSettings
from kwneuro_assets.storage.files import read_bytes
from kwneuro_assets.storage.location import location
from kwneuro_assets.weights import NETWORKS, WeightsError, digests, locate, verify
from kwneuro_assets.weights.fetching import require_verified
from kwneuro_assets.weights.installed import has_files

NOT_INSTALLED = "not installed"  # in place of a digest
DEMO_DATASET = {"Name": "Synthetic head", "GeneratedBy": [{"Name": "kwneuro-assets"}]}


@dataclass(frozen=True)
class UsedWeights:
    """The folder of a network's weights, the SHA-256 of each file, and what the user must know about them, if so."""

    folder: Path
    digests: Mapping[str, str]
    note: str = ""


def digests_in_use(names: Collection[str], settings: PipelineSettings) -> dict[str, str]:
    """The SHA-256 of each weights file of the named networks that a step would use now, by `<network>/<file>`.

    A network whose weights a step would download has the entry `<network>: not installed`. Downloads nothing, and reads
    only files that changed since the last call.
    """
    found: dict[str, str] = {}
    folder = Path(settings.weights.folder).expanduser()
    for name in names:
        known = digests(name, folder)
        if known is None and settings.weights.demo_networks and has_demo_network(name):
            known = _demo_digests(name)
        found |= {name: NOT_INSTALLED} if known is None else labeled(name, known)
    return found


def require_weights(name: str, settings: PipelineSettings) -> UsedWeights:
    """The weights that a step uses, verified; downloaded if they are not installed and the demo's are not to be used.

    Raises WeightsError if they cannot be fetched or are damaged, and if the demo's were to be used for another source
    than its synthetic heads; StorageError if that source cannot be read.
    """
    folder = Path(settings.weights.folder).expanduser()
    if settings.weights.demo_networks and has_demo_network(name) and locate(name, folder) is None:
        _require_demo_source(name, settings)
        return UsedWeights(DEMO_FOLDER, labeled(name, _demo_digests(name)), DEMO_NOTE)
    where, found = require_verified(name, folder)
    return UsedWeights(where, labeled(name, found))


def labeled(name: str, files: Mapping[str, str]) -> dict[str, str]:
    """The digests of a network's files by `<network>/<file>`."""
    return {f"{name}/{file}": digest for file, digest in files.items()}


def has_demo_network(name: str) -> bool:
    """Whether the demo has a small network in place of this one."""
    return has_files(DEMO_FOLDER, NETWORKS[name].installed_files)


@functools.cache
def _demo_digests(name: str) -> Mapping[str, str]:
    """Computed once per process: the files are part of this package."""
    return verify(name, DEMO_FOLDER)


def _require_demo_source(name: str, settings: PipelineSettings) -> None:
    """Raises WeightsError if the source is not the demo's synthetic dataset, by its dataset_description.json."""
    source = settings.source
    file = location(source.url, anonymous=source.anonymous) / "dataset_description.json"
    try:
        description = json.loads(read_bytes(file))
    except (FileNotFoundError, ValueError):
        description = {}
    if not isinstance(description, dict) or any(description.get(key) != value for key, value in DEMO_DATASET.items()):
        raise WeightsError(
            f"weights of {name}: the demo's networks (weights.demo_networks) know synthetic heads only, and "
            f"{source.url} is not the demo's dataset; remove that setting and run: kwneuro-assets weights fetch {name}"
        )
