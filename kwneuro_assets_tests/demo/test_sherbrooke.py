"""The Sherbrooke 3-shell dataset as BIDS."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from kwneuro_assets.demo.sherbrooke import write_as_bids

NAMES = {"HARDI193.nii.gz": b"image", "HARDI193.bval": b"0 1000\n", "HARDI193.bvec": b"0 1\n0 0\n0 0\n"}
WRITE = "import sys, pathlib; from kwneuro_assets.demo.sherbrooke import *; write_sherbrooke(pathlib.Path(sys.argv[1]))"


def fetched(folder: Path) -> Path:
    folder.mkdir(parents=True)
    for name, content in NAMES.items():
        (folder / name).write_bytes(content)
    return folder


def test_the_three_files_become_a_bids_subject(tmp_path: Path) -> None:
    source = fetched(tmp_path / "dipy")
    dataset = write_as_bids(source, tmp_path / "bids")
    for name, content in NAMES.items():
        suffix = name.split(".", 1)[1]
        assert (dataset / f"sub-01/dwi/sub-01_dwi.{suffix}").read_bytes() == content
    assert json.loads((dataset / "dataset_description.json").read_text())["DatasetType"] == "raw"
    assert (dataset / "README").is_file()


def test_writing_again_replaces_the_files_and_not_the_download(tmp_path: Path) -> None:
    source = fetched(tmp_path / "dipy")
    write_as_bids(source, tmp_path / "bids")
    target = tmp_path / "bids/sub-01/dwi/sub-01_dwi.bval"
    target.unlink()
    target.write_bytes(b"something else")
    write_as_bids(source, tmp_path / "bids")
    assert target.read_bytes() == NAMES["HARDI193.bval"]
    assert (source / "HARDI193.bval").read_bytes() == NAMES["HARDI193.bval"]


def test_without_internet_the_error_names_the_remedy_and_nothing_is_written(tmp_path: Path) -> None:
    # A proxy that refuses every connection simulates a machine without internet.
    refused = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9")
    environment = {**os.environ, **refused, "DIPY_HOME": str(tmp_path / "dipy"), "no_proxy": "", "NO_PROXY": ""}
    run = subprocess.run(
        [sys.executable, "-c", WRITE, str(tmp_path / "bids")],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert run.returncode == 1
    last = run.stderr.strip().splitlines()[-1]
    assert "DatasetUnavailable" in last
    assert f"to {tmp_path / 'dipy' / 'sherbrooke_3shell'}" in last
    assert "fetch_sherbrooke_3shell" in last
    assert not (tmp_path / "bids").exists()
