"""The Sherbrooke 3-shell dataset, one person's real scan, as DIPY fetches it."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

from kwneuro_assets.errors import ActionableError

SUBJECT = "sub-01"
PROBE = "https://dipy.org"  # any answer of it means that there is an internet
REACHABLE_WITHIN = 10.0  # seconds; DIPY's fetcher itself tries for half a minute

README = """\
One person, three shells (b = 1000, 2000, 3500 s/mm^2, 64 directions each), from the Sherbrooke Connectivity Imaging
Laboratory; fetched by DIPY (fetch_sherbrooke_3shell) and laid out by kwneuro-assets.
"""


class DatasetUnavailable(ActionableError):
    """A public dataset that can be neither found here nor fetched: says why and what to do."""


def write_sherbrooke(folder: Path) -> Path:
    """Writes the Sherbrooke 3-shell dataset into the BIDS dataset `folder` (made if need be) and returns `folder`.

    DIPY's fetcher downloads it once into `DIPY_HOME`, by default `~/.dipy`, and checks its checksums. The
    files are hard links to those, or copies where the file system needs it.

    Raises DatasetUnavailable where it has not been fetched and cannot be.
    """
    return lay_out(_fetched(), folder)


def lay_out(fetched: Path, folder: Path) -> Path:
    """Lays the three files of `fetched` (HARDI193.nii.gz, .bval, .bvec) out as subject `sub-01` of `folder`."""
    dwi = folder / SUBJECT / "dwi"
    dwi.mkdir(parents=True, exist_ok=True)
    for suffix in ("nii.gz", "bval", "bvec"):
        _link_or_copy(fetched / f"HARDI193.{suffix}", dwi / f"{SUBJECT}_dwi.{suffix}")
    description = {"Name": "Sherbrooke 3-shell", "BIDSVersion": "1.10.0", "DatasetType": "raw"}
    (folder / "dataset_description.json").write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")
    (folder / "README").write_text(README, encoding="utf-8")
    return folder


def _fetched() -> Path:
    """The folder in which DIPY keeps the dataset, fetched if need be."""
    from dipy.data import fetcher

    place = Path(fetcher.dipy_home) / "sherbrooke_3shell"
    try:
        if not all((place / f"HARDI193.{suffix}").is_file() for suffix in ("nii.gz", "bval", "bvec")):
            _require_internet(PROBE)
        _, fetched = fetcher.fetch_sherbrooke_3shell()
    # FetcherError is an Exception of DIPY's own, the others are OSErrors.
    except (fetcher.FetcherError, OSError) as error:
        raise DatasetUnavailable(
            f"Sherbrooke 3-shell dataset: not complete in {place} and not to be had from the internet ({error})."
            " Connect to the internet (HTTPS_PROXY is respected), or fetch it on a machine that is connected with"
            " `python -c 'from dipy.data import fetch_sherbrooke_3shell as f; f()'` and copy its folder"
            f" ~/.dipy/sherbrooke_3shell to {place}. The synthetic subject (`kwneuro-assets demo`) needs no internet."
        ) from error
    return Path(fetched)


def _require_internet(url: str) -> None:
    """Raises URLError where the host of `url` cannot be reached."""
    from urllib.error import HTTPError
    from urllib.request import Request, urlopen

    try:
        with urlopen(Request(url, method="HEAD"), timeout=REACHABLE_WITHIN):
            pass
    except HTTPError:
        pass


def _link_or_copy(source: Path, target: Path) -> None:
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
