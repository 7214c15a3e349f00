"""Which weight files each network needs and where they come from."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from kwneuro_assets.derivations.brain import HD_BET_FILES
from kwneuro_assets.derivations.tracts import ENDING_WEIGHTS, MASK_WEIGHTS, ORIENTATION_WEIGHTS


@dataclass(frozen=True)
class WeightFile:
    """One file to fetch: its name, its address and, where known, its SHA-256.

    Where `unpacks_to` names files it is a zip archive, of which these are kept.
    """

    name: str
    url: str
    sha256: str | None = None
    unpacks_to: tuple[str, ...] = ()

    @property
    def kept(self) -> tuple[str, ...]:
        """The files that are on disk after it was fetched, relative to the network's folder."""
        return self.unpacks_to or (self.name,)


@dataclass(frozen=True)
class Network:
    """A network by its name here, its files, and the folders where its own tool keeps them."""

    name: str
    files: tuple[WeightFile, ...]
    tool_folders: Callable[[], list[Path]]

    @property
    def kept(self) -> tuple[str, ...]:
        """All files that must be in its folder."""
        return tuple(name for file in self.files for name in file.kept)


def _tractseg_folders() -> list[Path]:
    """TractSeg's `TRACTSEG_WEIGHTS_DIR` where it is set, then its folder in the home."""
    chosen = os.environ.get("TRACTSEG_WEIGHTS_DIR")
    return [*([Path(chosen).expanduser()] if chosen else []), Path.home() / ".tractseg"]


def _hd_bet_folders() -> list[Path]:
    return [Path.home() / "hd-bet_params" / "release_2.0.0"]


def _zenodo(record: int, file: str) -> str:
    return f"https://zenodo.org/records/{record}/files/{file}?download=1"


# Addresses as in HD-BET 2.0.1 and TractSeg 2.10. Neither publishes checksums, so these are recorded on first fetch.
NETWORKS: dict[str, Network] = {
    network.name: network
    for network in (
        Network(
            "hd-bet",
            (WeightFile("release_v1.5.0.zip", _zenodo(14445620, "release_v1.5.0.zip"), unpacks_to=HD_BET_FILES),),
            _hd_bet_folders,
        ),
        Network(
            "tractseg-masks",
            (WeightFile(MASK_WEIGHTS, _zenodo(3518348, "best_weights_ep220.npz")),),
            _tractseg_folders,
        ),
        Network(
            "tractseg-endings",
            (WeightFile(ENDING_WEIGHTS, _zenodo(3518331, "best_weights_ep143.npz")),),
            _tractseg_folders,
        ),
        Network(
            "tractseg-orientations",
            tuple(
                WeightFile(name, _zenodo(record, file))
                for name, record, file in zip(
                    ORIENTATION_WEIGHTS,
                    (3239216, 3239220, 3239221, 3239222),
                    (f"best_weights_ep{epoch}.npz" for epoch in (62, 130, 91, 148)),
                    strict=True,
                )
            ),
            _tractseg_folders,
        ),
    )
}
