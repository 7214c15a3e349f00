"""Files of the user are installed if they are weights of the network, and nothing else."""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kwneuro_assets.derivations.network_files import NNUNET_FILES, load_weights, safe_nnunet_folder
from kwneuro_assets.errors import ActionableError
from kwneuro_assets.imaging import InvalidData
from kwneuro_assets.weights import NETWORKS, WeightsError, locate, origins, verify
from kwneuro_assets.weights.adding import add
from kwneuro_assets.weights.networks import WeightFile
from kwneuro_assets_tests.testkit.small_disk import small_disk
from kwneuro_assets_tests.weights.conftest import MASKS, files_under

ENDINGS = NETWORKS["tractseg-endings"].files[0]
PARTS = NETWORKS["tractseg-orientations"].files


class Payload:
    """An object whose pickle creates a file when it is read."""

    def __init__(self, marker: Path) -> None:
        self._marker = marker

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return open, (str(self._marker), "w")


def own_name(file: WeightFile) -> str:
    return file.name


def name_of_the_download(file: WeightFile) -> str:
    return file.key


@pytest.mark.parametrize("name", [own_name, name_of_the_download])
def test_files_are_accepted_by_both_names(
    real_networks: Path, tmp_path: Path, name: Callable[[WeightFile], str]
) -> None:
    for file in PARTS:
        shutil.copy(real_networks / "tractseg" / file.name, tmp_path / name(file))
    where = add("tractseg-orientations", [tmp_path / name(file) for file in PARTS], tmp_path / "own")
    assert where == locate("tractseg-orientations", tmp_path / "own") == tmp_path / "own" / "tractseg-orientations"
    for file in PARTS:
        assert (where / file.name).read_bytes() == (real_networks / "tractseg" / file.name).read_bytes()
        assert origins(where)[file.name].source == str(tmp_path / name(file))
        assert origins(where)[file.name].trust == "added manually"
    assert files_under(where) == {*(file.name for file in PARTS), "checksums.json", "origins.json"}


def test_a_folder_stands_for_its_files(real_networks: Path, tmp_path: Path) -> None:
    where = add("tractseg-endings", [real_networks / "tractseg"], tmp_path)
    assert files_under(where) == {ENDINGS.name, "checksums.json", "origins.json"}


@pytest.mark.parametrize("form", ["zip", "folder", "files"])
def test_hd_bet_is_accepted_as_archive_folder_or_files(real_networks: Path, tmp_path: Path, form: str) -> None:
    folder = real_networks / "hd-bet"
    if form == "zip":
        with zipfile.ZipFile(tmp_path / "release_v1.5.0.zip", "w") as archive:
            for name in NNUNET_FILES:
                archive.write(folder / name, name)
            archive.writestr("../outside", "")
    files = {
        "zip": [tmp_path / "release_v1.5.0.zip"],
        "folder": [folder],
        "files": [folder / name for name in NNUNET_FILES],
    }[form]
    where = add("hd-bet", files, tmp_path / "own")
    assert files_under(tmp_path / "own") == {f"hd-bet/{n}" for n in (*NNUNET_FILES, "checksums.json", "origins.json")}
    for name in NNUNET_FILES:
        assert (where / name).read_bytes() == (folder / name).read_bytes()


def test_the_changed_file_is_noticed_later(real_networks: Path, tmp_path: Path) -> None:
    where = add("tractseg-endings", [real_networks / "tractseg" / ENDINGS.name], tmp_path)
    verify("tractseg-endings", where)
    with (where / ENDINGS.name).open("ab") as file:
        file.write(b"!")
    with pytest.raises(WeightsError, match="expected the SHA-256"):
        verify("tractseg-endings", where)


def test_added_files_replace_installed_ones(real_networks: Path, tmp_path: Path) -> None:
    where = tmp_path / "tractseg-endings"
    where.mkdir()
    (where / ENDINGS.name).write_bytes(b"old")
    add("tractseg-endings", [real_networks / "tractseg"], tmp_path)
    assert (where / ENDINGS.name).read_bytes() == (real_networks / "tractseg" / ENDINGS.name).read_bytes()


@pytest.mark.parametrize("kind", ["zip", "legacy"])
def test_a_file_with_a_payload_is_refused_when_added_and_when_used_and_the_payload_does_not_run(
    tmp_path: Path, kind: str
) -> None:
    torch = pytest.importorskip("torch")
    marker = tmp_path / "marker"
    payload = tmp_path / ENDINGS.name
    torch.save({"unet": {"a": Payload(marker)}}, payload, _use_new_zipfile_serialization=kind == "zip")
    with pytest.raises(InvalidData, match=rf"{payload}: network weights: expected .* found a file that calls .*open"):
        add("tractseg-endings", [payload], tmp_path / "own")
    assert files_under(tmp_path / "own") == set()
    with pytest.raises(InvalidData, match="a file that calls"):
        load_weights(payload, "TractSeg's")
    assert not marker.exists()
    torch.load(payload, weights_only=False)
    assert marker.exists(), "otherwise this test could not fail"


def test_a_checkpoint_of_hd_bet_with_a_payload_is_refused_when_added_and_when_used(
    real_networks: Path, tmp_path: Path
) -> None:
    torch = pytest.importorskip("torch")
    folder = tmp_path / "hd-bet"
    shutil.copytree(real_networks / "hd-bet", folder)
    checkpoint = torch.load(folder / NNUNET_FILES[2], weights_only=True)
    torch.save({**checkpoint, "logging": Payload(tmp_path / "marker")}, folder / NNUNET_FILES[2])
    with pytest.raises(InvalidData, match=rf"{folder / NNUNET_FILES[2]}: .* a file that calls"):
        add("hd-bet", [folder], tmp_path / "own")
    with pytest.raises(InvalidData, match="a file that calls"), safe_nnunet_folder(folder):
        pass
    assert not (tmp_path / "marker").exists()


def test_weights_of_another_network_are_refused_with_the_number_of_classes(real_networks: Path, tmp_path: Path) -> None:
    shutil.copy(real_networks / "tractseg" / MASKS, tmp_path / ENDINGS.name)
    with pytest.raises(InvalidData, match="expected TractSeg's, for 144 classes, found 72 classes"):
        add("tractseg-endings", [tmp_path / ENDINGS.name], tmp_path / "own")


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ({"other": 1}, "no entry 'unet' (entries other)"),
        ([1], "no entry 'unet' (list)"),
        ({"unet": {"conv_5.weight": 1}}, "another network: 49 tensors are missing or unknown"),
    ],
)
def test_other_content_is_refused(tmp_path: Path, content: Any, found: str) -> None:
    torch = pytest.importorskip("torch")
    torch.save(content, tmp_path / ENDINGS.name)
    with pytest.raises(InvalidData) as caught:
        add("tractseg-endings", [tmp_path / ENDINGS.name], tmp_path / "own")
    assert found in str(caught.value)
    assert files_under(tmp_path / "own") == set()


def test_a_model_of_nnunet_with_other_labels_is_refused(real_networks: Path, tmp_path: Path) -> None:
    folder = tmp_path / "hd-bet"
    shutil.copytree(real_networks / "hd-bet", folder)
    text = (folder / "dataset.json").read_text()
    (folder / "dataset.json").write_text(text.replace('"brain": 1', '"gray": 1, "white": 2'))
    with pytest.raises(InvalidData, match=rf"{folder / 'dataset.json'}: .* one channel and two labels, found 3 labels"):
        add("hd-bet", [folder], tmp_path / "own")


def test_the_networks_of_the_demo_are_refused(tmp_path: Path) -> None:
    from kwneuro_assets.demo.networks import FOLDER

    if not (FOLDER / MASKS).is_file():
        pytest.skip("the demo's network for tract masks is absent")
    with pytest.raises(WeightsError, match="those of the demo, which know synthetic heads only"):
        add("tractseg-masks", [FOLDER / MASKS], tmp_path)


@pytest.mark.parametrize(
    ("network", "files", "reason"),
    [
        ("tractseg-endings", ["weights.npz"], "expected pretrained_weights_endings_segmentation_v4.npz (or best_weig"),
        ("tractseg-endings", ["absent.npz"], "absent.npz does not exist"),
        ("tractseg-endings", ["empty"], "empty has none of its files"),
        ("tractseg-endings", [ENDINGS.name, ENDINGS.key], f"are both {ENDINGS.name}"),
        ("tractseg-orientations", [PARTS[0].name, PARTS[2].key], f"without {PARTS[1].name}, {PARTS[3].name}"),
        ("hd-bet", ["broken.zip"], "broken.zip: it is not a complete zip archive"),
        ("hd-bet", ["plans.json"], "without dataset.json, fold_all/checkpoint_final.pth"),
        ("hdbet", ["plans.json"], "expected one of hd-bet, tractseg-masks"),
    ],
)
def test_unsuitable_files_are_refused_with_the_names_that_are_expected(
    tmp_path: Path, network: str, files: list[str], reason: str
) -> None:
    (tmp_path / "empty").mkdir()
    for name in {"weights.npz", "broken.zip", *files} - {"absent.npz", "empty"}:
        (tmp_path / name).write_bytes(b"content")
    with pytest.raises(WeightsError) as caught:
        add(network, [tmp_path / name for name in files], tmp_path / "own")
    assert reason in str(caught.value)
    assert files_under(tmp_path / "own") == set()


def test_a_full_disk_is_reported_and_nothing_is_installed(real_networks: Path, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "64k") as disk:
        with pytest.raises(ActionableError, match=r"weights of tractseg-endings: the disk of .* is full"):
            add("tractseg-endings", [real_networks / "tractseg" / ENDINGS.name], disk)
        assert files_under(disk) == set()
