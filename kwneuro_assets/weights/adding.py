"""Installation of weights from files of the user, for machines without internet."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from kwneuro_assets.storage.files import file_sha256
from kwneuro_assets.weights.errors import WeightsError
from kwneuro_assets.weights.fetching import changing
from kwneuro_assets.weights.installed import Origin, folder_of, install
from kwneuro_assets.weights.networks import Network, network_of
from kwneuro_assets.weights.unzip import extract
from kwneuro_assets.weights.validation import named, require_weights_of


def add(name: str, files: Sequence[Path], folder: Path) -> Path:
    """Copy all files of a network into `<folder>/<name>/`, replacing those that are there; returns that folder.

    A file has the name under which its tool or this package stores it, or that of the download; a zip archive (of
    HD-BET) and a folder may stand for the files in it. The files are checked: weights of that network and nothing else.

    Raises WeightsError if a file is missing, unknown or cannot be copied; InvalidData if it has other content.
    """
    network = network_of(name)
    home = folder_of(network, folder)
    with changing(network, home) as scratch:
        sources: dict[str, Path] = {}
        for path in files:
            taken = _take(network, path, scratch)
            if repeated := sorted(taken.keys() & sources.keys()):
                raise _problem(network, f"{sources[repeated[0]]} and {path} are both {repeated[0]}")
            sources |= taken
        if missing := [file for file in network.installed_files if file not in sources]:
            raise _problem(network, f"expected {_names(network)}; without {', '.join(missing)}")
        with named({scratch / file: source for file, source in sources.items()}):
            require_weights_of(network, scratch)
        install(scratch, home, {file: _described(scratch / file, source) for file, source in sources.items()})
    return home


def _take(network: Network, path: Path, scratch: Path) -> dict[str, Path]:
    """Copy what `path` has to the folder `scratch`; returns the source of each file there."""
    try:
        path.stat()
        if path.is_dir():
            inside = [file for file in network.installed_files if (path / file).is_file()]
            if not inside:
                raise _problem(network, f"{path} has none of its files: {', '.join(network.installed_files)}")
            for file in inside:
                _copy(path / file, scratch / file)
            return {file: path / file for file in inside}
        archives = [file for file in network.files if file.unpacks_to]
        if archives and path.suffix == ".zip":
            extract(path, scratch, archives[0].unpacks_to)
            return dict.fromkeys(archives[0].unpacks_to, path)
        names = _accepted(network)
        if path.name not in names:
            raise _problem(network, f"expected {_names(network)}; found the name {path.name!r}")
        _copy(path, scratch / names[path.name])
        return {names[path.name]: path}
    except FileNotFoundError:
        raise _problem(network, f"{path} does not exist") from None
    except PermissionError:
        raise _problem(network, f"{path} cannot be read: permission denied") from None
    except WeightsError as error:
        raise error if str(error).startswith("weights of ") else _problem(network, f"{path}: {error}") from error


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)


def _accepted(network: Network) -> Mapping[str, str]:
    """The installed file by each name that is accepted for it."""
    names: dict[str, str] = {}
    for file in network.files:
        for installed in file.installed_files:
            names[Path(installed).name] = installed
        if not file.unpacks_to:
            names[file.key] = file.name
    return names


def _names(network: Network) -> str:
    """What to give, in words: `A (or B), ...`."""
    shown = []
    for file in network.files:
        if file.unpacks_to:
            shown.append(f"{file.name} (or {', '.join(Path(name).name for name in file.unpacks_to)})")
        else:
            shown.append(f"{file.name} (or {file.key})")
    return ", ".join(shown)


def _described(path: Path, source: Path) -> tuple[str, Origin]:
    return file_sha256(path), Origin(str(source.absolute()), "added manually", path.stat().st_size)


def _problem(network: Network, problem: str) -> WeightsError:
    return WeightsError(f"weights of {network.name}: {problem}")
