"""Network weights on disk: found, fetched, verified.

A network's weights live in `<folder>/<name>/`, `<folder>` being the setting `weights.folder`. Where they are not
there, the folders in which the tools keep their own are looked at, so that nobody who has them fetches them again.

Trust on first use: where a checksum is not known in advance, the one of the first fetch is written beside the
files, and what is there must have it ever after. Files put there by hand have none, and are taken as they are.
"""

from __future__ import annotations

import json
import os
import tempfile
import zipfile
from pathlib import Path

from kwneuro_assets.progress import Progress, silent
from kwneuro_assets.storage.files import file_sha256
from kwneuro_assets.weights.download import download
from kwneuro_assets.weights.errors import WeightsError
from kwneuro_assets.weights.networks import NETWORKS, Network, WeightFile

CHECKSUMS = "checksums.json"
MIRROR_VARIABLE = "KWNEURO_WEIGHTS_URL"  # an address under which all files lie by their names, in place of Zenodo


def network_of(name: str) -> Network:
    """The network of that name. Raises WeightsError for an unknown one, naming all."""
    try:
        return NETWORKS[name]
    except KeyError:
        raise WeightsError(f"no network is called {name!r}; there are {', '.join(NETWORKS)}") from None


def locate(name: str, folder: Path) -> Path | None:
    """The folder that holds all of a network's files: its own under `folder`, or its tool's; None where none does."""
    network = network_of(name)
    for candidate in (_home_of(network, folder), *network.tool_folders()):
        if all((candidate / file).is_file() for file in network.kept):
            return candidate
    return None


def fetch(name: str, folder: Path, progress: Progress = silent, base_url: str | None = None) -> Path:
    """Fetches what is missing of a network into `<folder>/<name>/` and returns that.

    `base_url` (or the environment's `KWNEURO_WEIGHTS_URL`) is a mirror. A file appears there only whole and
    checked. Raises WeightsError with the address, the reason and what to do by hand.
    """
    network = network_of(name)
    base_url = base_url or os.environ.get(MIRROR_VARIABLE)
    home = _home_of(network, folder)
    for index, file in enumerate(network.files):

        def overall(fraction: float, index: int = index) -> None:
            progress((index + fraction) / len(network.files))

        if not all((home / kept).is_file() for kept in file.kept):
            url = f"{base_url.rstrip('/')}/{file.name}" if base_url else file.url
            try:
                _fetch_file(file, url, home, overall)
            except (WeightsError, OSError) as error:
                raise WeightsError(_sentence(network, file, url, home, str(error))) from error
        overall(1.0)
    return home


def require(name: str, folder: Path, progress: Progress = silent, base_url: str | None = None) -> Path:
    """The folder of a network's weights, verified; fetched first where they are nowhere. Raises WeightsError."""
    return require_verified(name, folder, progress, base_url)[0]


def require_verified(
    name: str, folder: Path, progress: Progress = silent, base_url: str | None = None
) -> tuple[Path, dict[str, str]]:
    """As `require`, with the SHA-256 of each file."""
    where = locate(name, folder) or fetch(name, folder, progress, base_url)
    return where, verify(name, where)


def verify(name: str, where: Path) -> dict[str, str]:
    """The SHA-256 of each of a network's files in the folder `where`, compared with those known or recorded.

    Raises WeightsError for a file that is missing or is not what it was.
    """
    network = network_of(name)
    published = {file.name: file.sha256 for file in network.files if file.sha256 and not file.unpacks_to}
    known = _recorded(where) | published
    found: dict[str, str] = {}
    for file in network.kept:
        if not (where / file).is_file():
            raise WeightsError(f"weights of {name}: {where / file} is missing")
        found[file] = file_sha256(where / file)
        expected = known.get(file, found[file])
        if found[file] != expected:
            raise WeightsError(
                f"weights of {name}: {where / file} is not what was fetched "
                f"(SHA-256 {found[file][:12]}..., not {expected[:12]}...); remove it and fetch it again"
            )
    return found


def _home_of(network: Network, folder: Path) -> Path:
    return folder.expanduser() / network.name


def _fetch_file(file: WeightFile, url: str, home: Path, progress: Progress) -> None:
    home.mkdir(parents=True, exist_ok=True)
    # In the same file system, so that moving into place is a rename.
    with tempfile.TemporaryDirectory(dir=home, prefix=".fetch-") as scratch:
        arrived = Path(scratch) / file.name
        digest = download(url, arrived, progress)
        if file.sha256 and digest != file.sha256:
            raise WeightsError(f"its SHA-256 is {digest[:12]}..., not {file.sha256[:12]}...")
        if file.unpacks_to:
            _unpack(arrived, Path(scratch), file.unpacks_to)
        _record(home, {kept: file_sha256(Path(scratch) / kept) for kept in file.kept})
        for kept in file.kept:
            (home / kept).parent.mkdir(parents=True, exist_ok=True)
            os.replace(Path(scratch) / kept, home / kept)


def _unpack(archive: Path, into: Path, names: tuple[str, ...]) -> None:
    try:
        with zipfile.ZipFile(archive) as opened:
            for name in names:
                opened.extract(name, into)
    except zipfile.BadZipFile as error:
        raise WeightsError(f"it is not a whole zip archive: {error}") from error
    except KeyError as error:
        raise WeightsError(f"the archive lacks a file: {error.args[0]}") from error


def _record(home: Path, checksums: dict[str, str]) -> None:
    """Adds to the recorded checksums: before the files they speak of, so that no file is there unrecorded."""
    merged = {**_recorded(home), **checksums}
    with tempfile.NamedTemporaryFile("w", dir=home, prefix=".fetch-", delete=False, encoding="utf-8") as file:
        json.dump(merged, file, indent=1, sort_keys=True)
    os.replace(file.name, home / CHECKSUMS)


def _recorded(home: Path) -> dict[str, str]:
    try:
        text = (home / CHECKSUMS).read_text(encoding="utf-8")
    except FileNotFoundError:
        return {}
    try:
        return dict(json.loads(text))
    except ValueError as error:
        raise WeightsError(f"{home / CHECKSUMS} is not readable: {error}; remove it") from error


def _sentence(network: Network, file: WeightFile, url: str, home: Path, reason: str) -> str:
    by_hand = f"unpack it into {home}" if file.unpacks_to else f"save it as {home / file.name}"
    return f"weights of {network.name}: could not fetch {url}: {reason}. Fetch it by other means and {by_hand}"
