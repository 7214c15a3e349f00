"""A web server with weights, an empty home directory, and no weights elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from kwneuro_assets.storage import retries
from kwneuro_assets_tests.testkit.weight_server import WeightServer

MASKS = "pretrained_weights_tract_segmentation_v3.npz"
CONTENT = bytes(range(256)) * 8192  # 2 MB: 32 blocks


@pytest.fixture(autouse=True)
def _without_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for variable in ("TRACTSEG_WEIGHTS_DIR", "KWNEURO_WEIGHTS_URL", "KWNEURO_ARCHIVE_URL", "KWNEURO_OFFLINE"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(retries, "FIRST_DELAY", 0.005)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[WeightServer]:
    """A server that takes the place of Zenodo, with the weights for tract masks."""
    with WeightServer() as server:
        server.files[MASKS] = CONTENT
        monkeypatch.setenv("KWNEURO_ARCHIVE_URL", server.url)
        yield server


@pytest.fixture(scope="session")
def real_networks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with small networks of all kinds, in the subfolders `tractseg` and `hd-bet`."""
    for package in ("torch", "tractseg", "dynamic_network_architectures"):
        pytest.importorskip(package)
    from kwneuro_assets_tests.testkit.small_networks import write_nnunet, write_tractseg

    folder = tmp_path_factory.mktemp("networks")
    for name, write in (("tractseg", write_tractseg), ("hd-bet", write_nnunet)):
        (folder / name).mkdir()
        write(folder / name)
    return folder


def files_under(folder: Path) -> set[str]:
    """All files below the folder, hidden ones included."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
