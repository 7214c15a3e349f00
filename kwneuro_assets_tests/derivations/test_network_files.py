"""Network files that could run code raise an error before they run; files written by the tools are read."""

from __future__ import annotations

import json
import os
import pickle
import re
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kwneuro_assets.derivations.network_files import NNUNET_FILES, load_weights, safe_nnunet_folder
from kwneuro_assets.imaging import InvalidData

torch = pytest.importorskip("torch")


class Call:
    """An object whose pickle calls a function when it is read."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self._call = (function, arguments)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self._call


def calls(marker: Path) -> dict[str, Call]:
    """Several ways for a pickle to create a file."""
    return {
        "open": Call(open, str(marker), "w"),
        "os.system": Call(os.system, f"touch {marker}"),
        "subprocess": Call(subprocess.check_call, ["touch", str(marker)]),
        "eval": Call(eval, f"open({str(marker)!r}, 'w')"),
        "numpy": Call(np.memmap, str(marker), "uint8", "w+", 0, (1,)),
    }


def as_zip(content: Any, path: Path) -> None:
    torch.save(content, path)


def as_legacy(content: Any, path: Path) -> None:
    torch.save(content, path, _use_new_zipfile_serialization=False)


def as_pickle(content: Any, path: Path) -> None:
    path.write_bytes(pickle.dumps(content))


@pytest.mark.parametrize("save", [as_zip, as_legacy, as_pickle])
@pytest.mark.parametrize("name", calls(Path()))
def test_a_file_with_code_raises_an_error_and_does_not_run_it(
    tmp_path: Path, save: Callable[[Any, Path], None], name: str
) -> None:
    marker, path = tmp_path / "marker", tmp_path / "weights.pth"
    save({"network_weights": {"a": torch.ones(3)}, "logging": calls(marker)[name]}, path)
    with pytest.raises(InvalidData, match=re.escape(f"{path}: network weights: expected numbers, found")) as caught:
        load_weights(path, "numbers")
    assert not marker.exists()
    assert "fetch it again from a trusted source" in str(caught.value)
    assert "weights_only" not in str(caught.value), "torch advises to load the file unsafely"
    assert "\n" not in str(caught.value)
    if save is as_pickle:
        pickle.loads(path.read_bytes())
    else:
        torch.load(path, weights_only=False)
    assert marker.exists(), "otherwise this test could not fail"


def test_the_error_names_the_function_that_the_file_calls(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    torch.save(Call(os.system, "true"), path)
    with pytest.raises(InvalidData, match=r"found a file that calls (posix|nt)\.system, which weights do not need"):
        load_weights(path, "numbers")


@pytest.mark.parametrize(
    "content", [b"", b"<html>404 not found</html>" * 40, b"PK\x03\x04" + bytes(100), b"\x80\x02}q\x00."]
)
def test_any_other_file_raises_an_error_in_one_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "weights.pth"
    path.write_bytes(content)
    with pytest.raises(InvalidData, match=r"weights\.pth: network weights: expected numbers, found \w+: .+ Remove"):
        load_weights(path, "numbers")


def checkpoint() -> dict[str, Any]:
    """A complete checkpoint of nnU-Net's trainer, with the same types."""
    network = torch.nn.Conv3d(1, 2, 3)
    optimizer = torch.optim.SGD(network.parameters(), 0.01, momentum=0.99)
    network(torch.ones(1, 1, 4, 4, 4)).sum().backward()
    optimizer.step()
    numbers = [np.float64(0.5), np.float32(0.25), np.int64(3), np.bool_(True)]
    return {
        "network_weights": network.state_dict(),
        "optimizer_state": optimizer.state_dict(),
        "grad_scaler_state": {"scale": 65536.0, "growth_factor": 2.0},
        "logging": {"mean_fg_dice": numbers, "dice_per_class_or_region": [numbers], "lrs": [0.01], "epochs": [1.5]},
        "_best_ema": np.float64(0.9),
        "current_epoch": 1000,
        "init_args": {"configuration": "3d_fullres", "fold": "all", "plans": {}, "device": torch.device("cuda")},
        "trainer_name": "nnUNetTrainer",
        "inference_allowed_mirroring_axes": (0, 1, 2),
    }


@pytest.mark.parametrize("save", [as_zip, as_legacy])
def test_checkpoints_of_the_trainer_are_read(tmp_path: Path, save: Callable[[Any, Path], None]) -> None:
    expected, path = checkpoint(), tmp_path / "weights.pth"
    save(expected, path)
    found = load_weights(path, "numbers")
    assert found.keys() == expected.keys()
    assert found["logging"] == expected["logging"]
    assert [type(one) for one in found["logging"]["mean_fg_dice"]] == [np.float64, np.float32, np.int64, np.bool_]
    for name, tensor in expected["network_weights"].items():
        assert torch.equal(found["network_weights"][name], tensor)


def test_numbers_written_by_another_numpy_version_are_read(tmp_path: Path) -> None:
    """The function that creates a number has different names in NumPy 1 and 2."""
    path, other = tmp_path / "weights.pth", tmp_path / "other.pth"
    torch.save(checkpoint(), path)
    here, there = b"numpy._core.multiarray", b"numpy.core.multiarray"
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(other, "w", zipfile.ZIP_STORED) as target:
        for name in source.namelist():
            content = source.read(name)
            if name.endswith("data.pkl"):
                assert here in content or there in content
                content = content.replace(here, there) if here in content else content.replace(there, here)
            target.writestr(name, content)
    assert load_weights(other, "numbers")["logging"] == checkpoint()["logging"]


def nnunet_folder(folder: Path, stored: Any, plans: Any) -> Path:
    (folder / "fold_all").mkdir(parents=True)
    torch.save(stored, folder / "fold_all" / "checkpoint_final.pth")
    (folder / "plans.json").write_text(json.dumps(plans))
    (folder / "dataset.json").write_text(json.dumps({"labels": {"background": 0}}))
    return folder


def plans(network: str, layer: str | None = "torch.nn.modules.conv.Conv3d") -> dict[str, Any]:
    architecture = {
        "network_class_name": network,
        "arch_kwargs": {"conv_op": layer, "dropout_op": None},
        "_kw_requires_import": ["conv_op", "dropout_op"],
    }
    return {"plans_name": "Plans", "configurations": {"3d_fullres": {"architecture": architecture}}}


UNET = "dynamic_network_architectures.architectures.unet.ResidualEncoderUNet"


def test_nnunet_gets_a_temporary_copy_with_the_necessary_parts(tmp_path: Path) -> None:
    folder = nnunet_folder(tmp_path / "model", checkpoint(), plans(UNET))
    with safe_nnunet_folder(folder) as copy:
        assert copy != folder
        assert sorted(p.relative_to(copy).as_posix() for p in copy.rglob("*.*")) == sorted(NNUNET_FILES)
        found = torch.load(copy / "fold_all" / "checkpoint_final.pth", weights_only=True)
        assert sorted(found) == ["inference_allowed_mirroring_axes", "init_args", "network_weights", "trainer_name"]
        assert found["init_args"] == checkpoint()["init_args"]
        for name in ("plans.json", "dataset.json"):
            assert json.loads((copy / name).read_text()) == json.loads((folder / name).read_text())
    assert not copy.exists()


@pytest.mark.parametrize(
    ("network", "layer"),
    [
        ("os.system", None),
        ("logging.basicConfig", None),
        ("dynamic_network_architectures.architectures.unet.torch.hub.load", None),
        ("dynamic_network_architectures.architectures.unet", None),
        (UNET, "subprocess.Popen"),
        (UNET, "torch.hub.load"),
        (UNET, "torch.nn.functional.torch.hub.load"),
        (UNET, "antigravity"),
    ],
)
def test_plans_that_name_other_classes_than_networks_raise_an_error(
    tmp_path: Path, network: str, layer: str | None
) -> None:
    folder = nnunet_folder(tmp_path / "model", checkpoint(), plans(network, layer))
    with pytest.raises(InvalidData, match=r"plans\.json: network files: expected networks of dynamic_") as caught:
        safe_nnunet_folder(folder).__enter__()
    assert caught.value.found == layer or caught.value.found == network


def test_the_error_of_an_invalid_checkpoint_or_json_names_the_file(tmp_path: Path) -> None:
    folder = nnunet_folder(tmp_path / "other", {"unet": {}}, plans(UNET))
    with pytest.raises(InvalidData, match=r"checkpoint_final\.pth: .* with init_args, .*, found unet\. "):
        safe_nnunet_folder(folder).__enter__()
    folder = nnunet_folder(tmp_path / "model", checkpoint(), plans(UNET))
    (folder / "dataset.json").write_text("<html>")
    with pytest.raises(InvalidData, match=r"dataset\.json: network files: expected JSON"):
        safe_nnunet_folder(folder).__enter__()
