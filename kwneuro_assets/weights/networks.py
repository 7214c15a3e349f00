"""The weight files of each network, and the records of the archive that publishes them."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from kwneuro_assets.derivations.brain import HD_BET_FILES
from kwneuro_assets.derivations.tracts import ENDING_WEIGHTS, MASK_WEIGHTS, ORIENTATION_WEIGHTS
from kwneuro_assets.weights.errors import WeightsError

ZENODO = "https://zenodo.org"


@dataclass(frozen=True)
class WeightFile:
    """One file to download.

    Attributes:
        name: The file name, as its tool and this package store it.
        record: The number of its record at Zenodo.
        key: Its name in that record.
        unpacks_to: The files to extract, if it is a zip archive.
        classes: The number of classes of the network that it holds.
    """

    name: str
    record: int
    key: str
    unpacks_to: tuple[str, ...] = ()
    classes: int = 2

    @property
    def installed_files(self) -> tuple[str, ...]:
        """The files that exist after the download, relative to the folder of the network."""
        return self.unpacks_to or (self.name,)

    @property
    def url(self) -> str:
        """Its URL at Zenodo."""
        return self.url_at(ZENODO)

    @property
    def doi(self) -> str:
        """The DOI of its record; Zenodo forms it from the number."""
        return f"10.5281/zenodo.{self.record}"

    def url_at(self, archive: str) -> str:
        """Its URL at the archive with that base URL."""
        return f"{archive}/records/{self.record}/files/{self.key}?download=1"


@dataclass(frozen=True)
class Network:
    """A network.

    Attributes:
        name: Its name in this package.
        version: The version of its weights, as its tool names them.
        files: Its files.
        tool: The tool that it comes from.
        tool_folders: The folders in which that tool stores the files, under the same names.
    """

    name: str
    version: str
    files: tuple[WeightFile, ...]
    tool: str
    tool_folders: Callable[[], list[Path]]

    @property
    def installed_files(self) -> tuple[str, ...]:
        """All files that must exist in its folder."""
        return tuple(name for file in self.files for name in file.installed_files)


def network_of(name: str) -> Network:
    """The network of that name. Raises WeightsError if there is none."""
    try:
        return NETWORKS[name]
    except KeyError:
        raise WeightsError(f"network: expected one of {', '.join(NETWORKS)}, found {name!r}") from None


def _tractseg_folders() -> list[Path]:
    """TractSeg's `TRACTSEG_WEIGHTS_DIR` if it is set, then TractSeg's folder in the home directory."""
    configured = os.environ.get("TRACTSEG_WEIGHTS_DIR")
    return [*([Path(configured).expanduser()] if configured else []), Path.home() / ".tractseg"]


def _hd_bet_folders() -> list[Path]:
    return [Path.home() / "hd-bet_params" / "release_2.0.0"]


# Records and files as in HD-BET 2.0.1 and TractSeg 2.10. Versions are those in the names of the files.
NETWORKS: dict[str, Network] = {
    network.name: network
    for network in (
        Network(
            "hd-bet",
            "1.5.0",
            (WeightFile("release_v1.5.0.zip", 14445620, "release_v1.5.0.zip", unpacks_to=HD_BET_FILES),),
            "HD-BET",
            _hd_bet_folders,
        ),
        Network(
            "tractseg-masks",
            "3",
            (WeightFile(MASK_WEIGHTS, 3518348, "best_weights_ep220.npz", classes=72),),
            "TractSeg",
            _tractseg_folders,
        ),
        Network(
            "tractseg-endings",
            "4",
            (WeightFile(ENDING_WEIGHTS, 3518331, "best_weights_ep143.npz", classes=144),),
            "TractSeg",
            _tractseg_folders,
        ),
        Network(
            "tractseg-orientations",
            "2",
            tuple(
                WeightFile(name, record, f"best_weights_ep{epoch}.npz", classes=54)
                for name, record, epoch in zip(
                    ORIENTATION_WEIGHTS, (3239216, 3239220, 3239221, 3239222), (62, 130, 91, 148), strict=True
                )
            ),
            "TractSeg",
            _tractseg_folders,
        ),
    )
}
