"""One archive with the weights of all networks, their checksums, origins and licenses, for other machines.

It is an uncompressed tar archive, because weights barely compress. Its first member, `manifest.json`, names the others.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import tarfile
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import IO, Any

from kwneuro_assets.weights.errors import WeightsError, unwritable
from kwneuro_assets.weights.fetching import changing
from kwneuro_assets.weights.installed import Origin, folder_of, install, locate, origins, verify
from kwneuro_assets.weights.networks import NETWORKS, Network
from kwneuro_assets.weights.temporary import replacing, scratch_in
from kwneuro_assets.weights.validation import named, require_weights_of

FORMAT = 1
MANIFEST = "manifest.json"
_LARGEST_MANIFEST = 1 << 20  # bytes
_BLOCK = 1 << 20  # bytes

Files = Mapping[str, tuple[str, Origin]]  # SHA-256 and origin of each file of a network


def pack(target: Path, folder: Path) -> dict[str, Path]:
    """Write the weights of all installed networks to the archive `target`; returns the folder of each network.

    Raises WeightsError if no weights are installed, some have changed, or the archive exists or cannot be written.
    """
    if os.path.lexists(target):
        raise WeightsError(f"{target}: expected the name of a new file, found an existing one; remove it first")
    places = {name: where for name in NETWORKS if (where := locate(name, folder))}
    if not places:
        raise WeightsError(f"no weights are installed in {folder}; fetch them with: kwneuro-assets weights fetch")
    networks = {name: _described(name, where) for name, where in places.items()}
    try:
        with replacing(target) as temporary, tarfile.open(temporary, "w") as archive:
            manifest = json.dumps(_manifest(networks), indent=1, sort_keys=True).encode()
            archive.addfile(_member(MANIFEST, len(manifest)), io.BytesIO(manifest))
            for name, files in networks.items():
                for file, (_, origin) in files.items():
                    with (places[name] / file).open("rb") as content:
                        archive.addfile(_member(f"{name}/{file}", origin.size), content)
    except OSError as error:
        raise unwritable(target.parent, error) from error
    return places


def unpack(source: Path, folder: Path) -> dict[str, Path]:
    """Install all weights of the archive `source`, replacing those that are there; returns the folder of each network.

    Nothing is installed unless the archive is complete, each file has the checksum of the manifest and holds weights
    of its network and nothing else. Raises WeightsError or InvalidData if not, and WeightsError if the folder cannot be
    written.
    """
    folder = folder.expanduser()
    try:
        with scratch_in(folder) as scratch:
            networks = _extract_all(source, scratch)
            for network, files in networks.items():
                with named({scratch / network.name / file: source / network.name / file for file in files}):
                    require_weights_of(network, scratch / network.name)
            for network, files in networks.items():
                _install(network, files, scratch / network.name, folder)
    except OSError as error:
        raise unwritable(folder, error) from error
    return {network.name: folder_of(network, folder) for network in networks}


def _described(name: str, where: Path) -> Files:
    known = origins(where)
    described = {}
    for file, sha256 in verify(name, where).items():
        origin = known.get(file, Origin(str(where / file), "added manually"))
        described[file] = (sha256, replace(origin, size=(where / file).stat().st_size))
    return described


def _manifest(networks: Mapping[str, Files]) -> dict[str, Any]:
    def entry(sha256: str, origin: Origin) -> dict[str, Any]:
        return {"sha256": sha256, "origin": asdict(origin)}

    return {
        "format": FORMAT,
        "networks": {
            name: {"version": NETWORKS[name].version, "files": {file: entry(*known) for file, known in files.items()}}
            for name, files in networks.items()
        },
    }


def _member(name: str, size: int) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)  # owner, mode and time are the same everywhere: same weights, same archive
    member.size = size
    return member


def _extract_all(source: Path, scratch: Path) -> dict[Network, Files]:
    """Extract the members that the manifest names, and no others. Raises WeightsError, OSError."""
    try:
        archive = tarfile.open(source, "r:")  # noqa: SIM115
    except (tarfile.TarError, EOFError) as error:
        raise _other(source, f"{error}") from error
    except OSError as error:
        raise WeightsError(f"{source}: cannot be read: {error.strerror}") from error
    with archive:
        try:
            networks = _read_manifest(source, archive)
            expected = {f"{network.name}/{file}": files[file] for network, files in networks.items() for file in files}
            while member := archive.next():
                if member.name not in expected or not member.isreg():
                    raise _other(source, f"the member {member.name!r}")
                sha256, origin = expected.pop(member.name)
                if member.size != origin.size:
                    raise _other(source, f"{member.name} of {member.size} bytes instead of {origin.size}")
                _extract(source, archive, member, scratch, sha256)
        except (tarfile.TarError, EOFError) as error:
            raise _other(source, f"{error}") from error
    if expected:
        raise _other(source, f"no member {next(iter(expected))!r}")
    return networks


def _extract(source: Path, archive: tarfile.TarFile, member: tarfile.TarInfo, scratch: Path, expected: str) -> None:
    target = scratch / member.name
    target.parent.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256()
    with _content(archive, member) as content, target.open("wb") as file:
        while block := content.read(_BLOCK):
            digest.update(block)
            file.write(block)
    if digest.hexdigest() != expected:
        raise _other(source, f"{member.name} with the SHA-256 {digest.hexdigest()} instead of {expected}")


def _read_manifest(source: Path, archive: tarfile.TarFile) -> dict[Network, Files]:
    first = archive.next()
    if first is None or first.name != MANIFEST or not first.isreg() or first.size > _LARGEST_MANIFEST:
        raise _other(source, f"no {MANIFEST} at its start")
    try:
        with _content(archive, first) as file:
            manifest = json.loads(file.read())
        if manifest["format"] != FORMAT:
            raise _other(source, f"format {manifest['format']!r} instead of {FORMAT}")
        networks = {NETWORKS[name]: _files(entry["files"], source) for name, entry in manifest["networks"].items()}
        for network, files in networks.items():
            if set(files) != set(network.installed_files):
                raise ValueError(f"{network.name} with {', '.join(files)}")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _other(source, f"a {MANIFEST} that it did not write: {type(error).__name__}: {error}") from error
    return networks


def _files(entries: Mapping[str, Any], source: Path) -> Files:
    return {
        file: (str(entry["sha256"]), replace(Origin.parse(entry["origin"]), archive=str(source.absolute())))
        for file, entry in entries.items()
    }


def _content(archive: tarfile.TarFile, member: tarfile.TarInfo) -> IO[bytes]:
    content = archive.extractfile(member)
    if content is None:
        raise tarfile.TarError(f"{member.name} is no file")
    return content


def _install(network: Network, files: Files, scratch: Path, folder: Path) -> None:
    home = folder_of(network, folder)
    with changing(network, home) as inside:
        moved = inside / network.name
        shutil.move(scratch, moved)
        install(moved, home, files)


def _other(source: Path, found: str) -> WeightsError:
    return WeightsError(
        f"{source}: expected a complete archive of `kwneuro-assets weights pack`, found {found}; nothing was installed"
    )
