"""Brain extraction: real networks where their weights are at hand, nnU-Net with random weights where they are not."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from kwneuro_assets.derivations.brain import extract_brain
from kwneuro_assets.derivations.orientation import reoriented
from kwneuro_assets.imaging import InvalidData, Volume


def dice(first: NDArray[Any], second: NDArray[Any]) -> float:
    return float(2 * (first & second).sum() / (first.sum() + second.sum()))


def head(shape: tuple[int, int, int] = (26, 30, 24)) -> tuple[Volume, NDArray[np.bool_]]:
    """A brain of 4 mm voxels inside a dim skull and a dark gap, with noise, and where the brain is."""
    radius = np.sqrt(sum(((i - s / 2) / (s / 2 - 3)) ** 2 for i, s in zip(np.indices(shape), shape, strict=True)))
    brain = radius < 0.8
    image = np.where(brain, 300.0, 0) + np.where((radius > 0.95) & (radius < 1.05), 60.0, 0)
    noise = np.random.default_rng(0).normal(size=shape)
    affine = np.diag([-4.0, 4, 4, 1])
    affine[:3, 3] = (60, -70, -50)
    return Volume((gaussian_filter(image, 0.5) + np.abs(5 * noise)).astype(np.float32), affine), brain


@pytest.fixture(scope="module")
def nnunet_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder such as HD-BET 2's: nnU-Net's own network class, small, with random weights, saved as nnU-Net does."""
    pytest.importorskip("nnunetv2")
    import torch
    from dynamic_network_architectures.architectures.unet import (  # type: ignore[import-untyped]
        PlainConvUNet,
    )

    folder = tmp_path_factory.mktemp("hd-bet")
    architecture: dict[str, Any] = {
        "n_stages": 3,
        "conv_op": "torch.nn.modules.conv.Conv3d",
        "features_per_stage": [4, 8, 8],
        "kernel_sizes": [[3, 3, 3]] * 3,
        "strides": [[1, 1, 1], [2, 2, 2], [2, 2, 2]],
        "n_conv_per_stage": [1, 1, 1],
        "n_conv_per_stage_decoder": [1, 1],
        "conv_bias": True,
        "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
        "norm_op_kwargs": {"eps": 1e-5, "affine": True},
        "dropout_op": None,
        "dropout_op_kwargs": None,
        "nonlin": "torch.nn.LeakyReLU",
        "nonlin_kwargs": {"inplace": True},
    }
    resampling = {"is_seg": False, "order": 1, "order_z": 0, "force_separate_z": None}
    plans = {
        "dataset_name": "Dataset001_Brain",
        "plans_name": "nnUNetPlans",
        "original_median_spacing_after_transp": [4.0, 4.0, 4.0],
        "original_median_shape_after_transp": [28, 36, 30],
        "image_reader_writer": "SimpleITKIO",
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "experiment_planner_used": "ExperimentPlanner",
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {"0": {}},
        "configurations": {
            "3d_fullres": {
                "data_identifier": "nnUNetPlans_3d_fullres",
                "preprocessor_name": "DefaultPreprocessor",
                "batch_size": 2,
                "patch_size": [24, 24, 24],
                "median_image_size_in_voxels": [28, 36, 30],
                "spacing": [5.0, 4.0, 4.5],  # other than the image's and of three sizes, so that axes are told apart
                "normalization_schemes": ["ZScoreNormalization"],
                "use_mask_for_norm": [False],
                "resampling_fn_data": "resample_data_or_seg_to_shape",
                "resampling_fn_seg": "resample_data_or_seg_to_shape",
                "resampling_fn_data_kwargs": resampling,
                "resampling_fn_seg_kwargs": resampling | {"is_seg": True},
                "resampling_fn_probabilities": "resample_data_or_seg_to_shape",
                "resampling_fn_probabilities_kwargs": resampling,
                "architecture": {
                    "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
                    "arch_kwargs": architecture,
                    "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
                },
                "batch_dice": False,
            }
        },
    }
    dataset = {
        "channel_names": {"0": "MR"},
        "labels": {"background": 0, "brain": 1},
        "numTraining": 1,
        "file_ending": ".nii.gz",
    }
    torch.manual_seed(2)  # of a few, one whose answer is neither empty nor full
    built = architecture | {
        "conv_op": torch.nn.Conv3d,
        "norm_op": torch.nn.InstanceNorm3d,
        "nonlin": torch.nn.LeakyReLU,
    }
    network = PlainConvUNet(input_channels=1, num_classes=2, deep_supervision=False, **built)
    for name, parameter in network.named_parameters():
        if name.startswith("decoder.seg_layers") and name.endswith("bias"):
            parameter.data.zero_()  # else one class wins nearly everywhere
    checkpoint = {
        "network_weights": network.state_dict(),
        "trainer_name": "nnUNetTrainer",
        "init_args": {"configuration": "3d_fullres"},
        "inference_allowed_mirroring_axes": (0, 1, 2),
    }
    (folder / "plans.json").write_text(json.dumps(plans))
    (folder / "dataset.json").write_text(json.dumps(dataset))
    (folder / "fold_all").mkdir()
    torch.save(checkpoint, folder / "fold_all" / "checkpoint_final.pth")
    return folder


def test_hd_bet_2_gives_the_mask_that_nnunet_gives_for_the_file(nnunet_weights: Path, tmp_path: Path) -> None:
    """The oracle is the route of HD-BET itself: a NIfTI file read by SimpleITK, predicted, written, read again."""
    import nibabel as nib
    import torch
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    image, _ = head()
    upright = reoriented(image, "LPS")  # SimpleITK's identity
    nib.save(nib.Nifti1Image(upright.array, upright.affine), tmp_path / "in.nii.gz")
    predictor = nnUNetPredictor(use_mirroring=False, device=torch.device("cpu"), allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(str(nnunet_weights), "all")
    predictor.predict_from_files_sequential([[str(tmp_path / "in.nii.gz")]], [str(tmp_path / "out")])
    written: Any = nib.load(tmp_path / "out.nii.gz")
    expected = reoriented(Volume(np.asarray(written.dataobj, np.uint8), written.affine), "LAS")

    from kwneuro_assets.derivations.brain import _largest_piece

    found = extract_brain(image, "hd-bet", weights=nnunet_weights)
    assert found.array.dtype == np.uint8
    assert found.same_grid(image)
    assert 0.02 < found.array.mean() < 0.98  # otherwise the comparison would mean little
    assert np.array_equal(found.array > 0, _largest_piece(expected.array > 0))


@pytest.mark.parametrize(
    ("method", "axes"),
    [("hd-bet", "RAS"), ("hd-bet", "LPI"), ("hd-bet", "PSR"), ("hd-bet", "SLA"), ("median-otsu", "SLA")],
)
def test_the_same_head_stored_along_other_voxel_axes_has_the_same_mask_in_the_world(
    method: Any, axes: str, nnunet_weights: Path
) -> None:
    image, _ = head()
    found = extract_brain(image, method, weights=nnunet_weights)
    turned = extract_brain(reoriented(image, axes), method, weights=nnunet_weights)
    assert turned.same_grid(reoriented(image, axes))
    assert np.array_equal(reoriented(turned, "LAS").array, found.array)


def test_an_oblique_affine_changes_nothing_but_the_affine(nnunet_weights: Path) -> None:
    image, _ = head()
    cosine, sine = np.cos(np.radians(15)), np.sin(np.radians(15))
    affine = image.affine.copy()
    affine[:3, :3] = np.array([[1, 0, 0], [0, cosine, -sine], [0, sine, cosine]]) @ affine[:3, :3]
    tilted = extract_brain(Volume(image.array, affine), "hd-bet", weights=nnunet_weights)
    assert np.array_equal(tilted.array, extract_brain(image, "hd-bet", weights=nnunet_weights).array)
    assert np.allclose(tilted.affine, affine, atol=1e-5)


@pytest.mark.slow
def test_nnunet_prints_nothing_and_starts_no_process(nnunet_weights: Path, tmp_path: Path) -> None:
    """In a fresh interpreter, where its import speaks; worker processes would be children at the end."""
    script = tmp_path / "run.py"
    script.write_text(
        "import multiprocessing, pathlib, sys\n"
        "from kwneuro_assets.derivations.brain import extract_brain\n"
        "from kwneuro_assets_tests.derivations.test_brain import head\n"
        "assert 'torch' not in sys.modules and 'nnunetv2' not in sys.modules\n"
        "def refuse(*given, **named): raise AssertionError('a worker process')\n"
        "multiprocessing.process.BaseProcess.start = refuse\n"
        "extract_brain(head()[0], 'hd-bet', weights=pathlib.Path(sys.argv[1]))\n"
    )
    top = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, str(script), str(nnunet_weights)],
        capture_output=True,
        text=True,
        env={"PYTHONPATH": str(top), "PATH": "", "HOME": str(tmp_path)},
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_median_otsu_is_that_of_dipy_with_the_largest_piece_kept_and_its_holes_filled() -> None:
    from dipy.segment.mask import median_otsu
    from scipy.ndimage import label

    array = np.zeros((54, 30, 30), np.float32)
    array[1:29, 1:29, 1:29] = 100
    array[7:23, 7:23, 7:23] = 0  # a hole and
    array[36:52, 7:23, 7:23] = 100  # a piece apart, both too large for the median filter to take away
    _, raw = median_otsu(array, median_radius=4, numpass=4)
    pieces, count = label(raw)
    assert count == 2
    hole = np.zeros_like(raw)
    hole[5:25, 5:25, 5:25] = ~raw[5:25, 5:25, 5:25]
    assert hole.any()
    found = extract_brain(Volume(array, np.eye(4)), "median-otsu").array > 0
    assert np.array_equal(found, (pieces == pieces[3, 15, 15]) | hole)


def test_an_image_without_a_brain_is_told_with_what_to_do(nnunet_weights: Path) -> None:
    with pytest.raises(InvalidData, match="contrast"):
        extract_brain(Volume(np.full((8, 8, 8), 7, np.float32), np.eye(4)), "median-otsu")
    with pytest.raises(InvalidData, match="three dimensions"):
        extract_brain(Volume(np.ones((4, 4, 4, 2), np.float32), np.eye(4)), "median-otsu")
    with pytest.raises(ValueError, match="weights"):
        extract_brain(head()[0], "hd-bet")
    speck = np.zeros((20, 20, 20), np.float32)
    speck[10, 10, 10] = 1  # the median filter removes it
    with pytest.raises(InvalidData, match=r"median-otsu, found none\. .*brain_mask\.method"):
        extract_brain(Volume(speck, np.eye(4)), "median-otsu")


@pytest.mark.slow
def test_hd_bet_1_finds_the_brain_of_a_phantom_whose_axes_are_permuted(phantom_tool: Path, tmp_path: Path) -> None:
    """Against the phantom's true mask: 0.974 was measured where the voxel axes are L-A-S, 0.95 leaves some room."""
    import nibabel as nib

    subprocess.run([sys.executable, str(phantom_tool), str(tmp_path), "--affine", "permuted"], check=True)
    stem = tmp_path / "sub-01" / "dwi" / "sub-01_dwi"
    series: Any = nib.load(f"{stem}.nii.gz")
    first_b0 = int(np.argmin(np.loadtxt(f"{stem}.bval")))
    b0 = Volume(np.asarray(series.dataobj[..., first_b0], np.float32), series.affine)
    truth: Any = nib.load(tmp_path / "truth" / "sub-01" / "mask.nii.gz")
    found = extract_brain(b0, "hd-bet-v1")
    assert found.same_grid(b0)
    assert dice(found.array > 0, np.asarray(truth.dataobj) > 0) > 0.95
