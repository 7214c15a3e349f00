"""The Sherbrooke 3-shell dataset, a real scan of one subject, downloaded by DIPY."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

from kwneuro_assets.errors import ActionableError
from kwneuro_assets.subjects import BIDS_VERSION

SUBJECT = "sub-01"
PROBE = "https://dipy.org"  # any response means that the internet is reachable
CONNECT_TIMEOUT = 10.0  # seconds; DIPY's fetcher itself takes half a minute

README = """\
One subject, three shells (b = 1000, 2000, 3500 s/mm^2, 64 directions each), from the Sherbrooke Connectivity Imaging
Laboratory; downloaded by DIPY (fetch_sherbrooke_3shell) and converted to BIDS by kwneuro-assets.
"""


class DatasetUnavailable(ActionableError):
    """A public dataset is neither on this machine nor can it be downloaded; the message names reason and remedy."""


def write_sherbrooke(folder: Path) -> Path:
    """Write the Sherbrooke 3-shell dataset into the BIDS dataset `folder`, created if necessary; returns `folder`.

    DIPY's fetcher downloads it once into `DIPY_HOME`, by default `~/.dipy`, and verifies its checksums. The files are
    hard links to the download, or copies on file systems without hard links.

    Raises DatasetUnavailable if the dataset is neither downloaded nor reachable.
    """
    return write_as_bids(_fetched(), folder)


def write_as_bids(fetched: Path, folder: Path) -> Path:
    """Write the three files of `fetched` (HARDI193.nii.gz, .bval, .bvec) as subject `sub-01` of `folder`."""
    dwi = folder / SUBJECT / "dwi"
    dwi.mkdir(parents=True, exist_ok=True)
    for suffix in ("nii.gz", "bval", "bvec"):
        _link_or_copy(fetched / f"HARDI193.{suffix}", dwi / f"{SUBJECT}_dwi.{suffix}")
    description = {"Name": "Sherbrooke 3-shell", "BIDSVersion": BIDS_VERSION, "DatasetType": "raw"}
    (folder / "dataset_description.json").write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")
    (folder / "README").write_text(README, encoding="utf-8")
    return folder


def _fetched() -> Path:
    """DIPY's folder of the dataset, downloaded if necessary."""
    from dipy.data import fetcher

    place = Path(fetcher.dipy_home) / "sherbrooke_3shell"
    try:
        if not all((place / f"HARDI193.{suffix}").is_file() for suffix in ("nii.gz", "bval", "bvec")):
            _require_internet(PROBE)
        _, fetched = fetcher.fetch_sherbrooke_3shell()
    # FetcherError derives from Exception, the other errors from OSError.
    except (fetcher.FetcherError, OSError) as error:
        raise DatasetUnavailable(
            f"Sherbrooke 3-shell dataset: incomplete in {place}, and the download failed ({error})."
            " Connect to the internet (HTTPS_PROXY is respected), or download it on another machine with"
            " `python -c 'from dipy.data import fetch_sherbrooke_3shell as f; f()'` and copy its folder"
            f" ~/.dipy/sherbrooke_3shell to {place}. The synthetic subject (`kwneuro-assets demo`) needs no internet."
        ) from error
    return Path(fetched)


def _require_internet(url: str) -> None:
    """Raises URLError if the host of `url` is not reachable."""
    from urllib.error import HTTPError
    from urllib.request import Request, urlopen

    try:
        with urlopen(Request(url, method="HEAD"), timeout=CONNECT_TIMEOUT):
            pass
    except HTTPError:
        pass


def _link_or_copy(source: Path, target: Path) -> None:
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
