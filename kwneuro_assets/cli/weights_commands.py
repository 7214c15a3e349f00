"""Commands about network weights: weights list, fetch, verify, add, pack, unpack."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from kwneuro_assets.cli.project import errors_as_messages, project_settings

if TYPE_CHECKING:
    from kwneuro_assets.weights.inventory import Listed

_SHOWN = 12  # digits of a checksum


@click.group()
def weights() -> None:
    """List, fetch, verify or exchange the weights of the neural networks.

    The weights are stored in the folder of the setting weights.folder. The folders of TractSeg and HD-BET are used if
    they have them. Steps that need weights fetch them; `weights fetch` does so before, and `weights add` or `weights
    unpack` install them on machines without internet. No request is made if KWNEURO_OFFLINE=1 is set.
    """


@weights.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, with complete checksums.")
@click.pass_obj
def list_weights(home: Path | None, as_json: bool) -> None:
    """Print version, state, size, license, checksums and origin of the weights.

    States: installed; damaged, if a checksum is not the recorded one; incomplete, if files are missing; absent; demo,
    if the small networks of the demo are used instead (weights.demo_networks). A checksum was published by the archive
    or by the mirror, or was recorded at the first download or when the files were added.
    """
    import json
    from dataclasses import asdict

    from kwneuro_assets.weights.inventory import inventory

    settings = project_settings(home).weights
    with errors_as_messages():
        listed = inventory(Path(settings.folder), settings.demo_networks)
    if as_json:
        click.echo(json.dumps([asdict(one) for one in listed], indent=2))
    else:
        _print_inventory(listed)


def _print_inventory(listed: list[Listed]) -> None:
    from rich.table import Table
    from rich.text import Text

    from kwneuro_assets.cli.console import console

    columns = ("network", "version", "state", "MB", "license", "checksum", "checked with", "origin")
    table = Table(*columns, box=None, pad_edge=False)
    for one in listed:
        digests = "\n".join(digest[:_SHOWN] for digest in one.sha256.values())
        size = f"{one.size / 1e6:.1f}" if one.size else ""
        trust = one.trust if one.sha256 else ""
        cells = (one.network, one.version, one.state, size, one.license, digests, trust, "\n".join(_origin(one)))
        table.add_row(*(Text(cell, overflow="fold") for cell in cells))
    console.print(table)


def _origin(one: Listed) -> list[str]:
    """In short, as URLs and paths do not fit into the table: DOIs and file names."""
    from kwneuro_assets.weights import NETWORKS

    dois = {file.url: f"doi:{file.doi}" for file in NETWORKS[one.network].files}
    sources = [dois.get(source, source if "://" in source else Path(source).name) for source in one.origin]
    return [*(sources or dois.values()), *(f"by {Path(archive).name}" for archive in one.archives)]


@weights.command()
@click.argument("networks", nargs=-1)
@click.pass_obj
def fetch(home: Path | None, networks: tuple[str, ...]) -> None:
    """Download the weights of NETWORKS that are absent.

    Without NETWORKS, of all networks. Each file is compared with the checksum that the archive publishes; if there is
    none, the checksum of this first download is recorded. A broken download is continued. The environment variable
    KWNEURO_WEIGHTS_URL names a mirror: the URL of a folder with all files and, optionally, their checksums.json.
    """
    from kwneuro_assets.weights import NETWORKS, locate, origins
    from kwneuro_assets.weights import fetch as fetch_network

    folder = Path(project_settings(home).weights.folder)
    with errors_as_messages():
        for name in networks or NETWORKS:
            where = locate(name, folder)
            if where is None:
                with click.progressbar(length=1000, label=name) as bar:
                    where = fetch_network(name, folder, lambda done, bar=bar: bar.update(round(1000 * done) - bar.pos))
            trust = ", ".join(sorted({origin.trust for origin in origins(where).values()}))
            click.echo(f"{name}: {where}{f' ({trust})' if trust else ''}")


@weights.command("verify")
@click.pass_obj
def verify_weights(home: Path | None) -> None:
    """Compare the weights with their checksums and print these.

    The checksums are those that were published, or that were recorded at the first download or when the files were
    added. The exit code is 2 if a file is missing or changed.
    """
    from kwneuro_assets.weights import NETWORKS, locate, origins
    from kwneuro_assets.weights import verify as verify_network

    folder = Path(project_settings(home).weights.folder)
    with errors_as_messages():
        for name in NETWORKS:
            where = locate(name, folder)
            if where is None:
                click.echo(f"{name}: absent")
                continue
            found, known = verify_network(name, where), origins(where)
            for file, digest in found.items():
                trust = known[file].trust if file in known else "no recorded origin"
                click.echo(f"{name}: {where / file}: {digest} ({trust})")


@weights.command()
@click.argument("network")
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.pass_obj
def add(home: Path | None, network: str, files: tuple[Path, ...]) -> None:
    """Install the weights of NETWORK from FILES, which were downloaded elsewhere.

    FILES are all files of the network, by the names of the download or of the tool, a zip archive of HD-BET, or a
    folder with the files. They replace installed ones. Files with code, or of another network, are refused.
    """
    from kwneuro_assets.weights.adding import add as add_network

    folder = Path(project_settings(home).weights.folder)
    with errors_as_messages():
        click.echo(f"{network}: {add_network(network, files, folder)}")


@weights.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.pass_obj
def pack(home: Path | None, file: Path) -> None:
    """Write the installed weights of all networks to the new archive FILE.

    It also holds their checksums, origins and licenses. `weights unpack` installs it on another machine.
    """
    from kwneuro_assets.weights.packing import pack as pack_networks

    folder = Path(project_settings(home).weights.folder)
    with errors_as_messages():
        for name, where in pack_networks(file, folder).items():
            click.echo(f"{name}: {where}")
    click.echo(f"written: {file}")


@weights.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.pass_obj
def unpack(home: Path | None, file: Path) -> None:
    """Install the weights of all networks in FILE, an archive of `weights pack`.

    Checksums and contents are verified before. The weights replace installed ones. Nothing is installed if the archive
    is damaged or has other files.
    """
    from kwneuro_assets.weights.packing import unpack as unpack_networks

    folder = Path(project_settings(home).weights.folder)
    with errors_as_messages():
        for name, where in unpack_networks(file, folder).items():
            click.echo(f"{name}: {where}")
