"""Small networks in the file formats of HD-BET 2 (nnU-Net) and TractSeg, with random weights.

The weights come from NumPy's generator, whose stream does not depend on the release of PyTorch.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kwneuro_assets.derivations.tracts import ENDING_WEIGHTS, MASK_WEIGHTS, ORIENTATION_WEIGHTS
from kwneuro_assets.imaging import Volume

if TYPE_CHECKING:
    import pytest

TRACTSEG_CUBE = 32  # voxels along each edge; TractSeg's own has 144, and a full pass takes minutes
TRACTSEG_FILTERS = 4  # TractSeg's own network has 64
TRACTSEG_CLASSES = {MASK_WEIGHTS: 72, ENDING_WEIGHTS: 144, **dict.fromkeys(ORIENTATION_WEIGHTS, 54)}
# With PyTorch's initial scale all probabilities are near 0.5.
TRACTSEG_GAIN = 3.0

NNUNET_ARCHITECTURE: dict[str, Any] = {
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


def write_tractseg(folder: Path, seed: int = 0, filters: int = TRACTSEG_FILTERS) -> Path:
    """Writes weights of all of TractSeg's networks into `folder` and returns it.

    `shrink_tractseg` makes TractSeg expect networks of the default width, `filters`.
    """
    import torch
    from tractseg.models.unet_pytorch_deepsup import UNet_Pytorch_DeepSup

    random = np.random.default_rng(seed)
    for name, classes in TRACTSEG_CLASSES.items():
        network = UNet_Pytorch_DeepSup(9, classes, n_filt=filters, dropout=True)
        torch.save({"unet": _random_state(network, random, TRACTSEG_GAIN)}, folder / name)
    return folder


def shrink_tractseg(set_attribute: Callable[[Any, str, Any], None] = setattr) -> None:
    """Sets TractSeg's cube and number of filters: for the rest of the process, or by pytest's `monkeypatch.setattr`."""
    from tractseg.data import dataset_specific_utils
    from tractseg.experiments import base

    set_attribute(dataset_specific_utils, "get_correct_input_dim", lambda config: (TRACTSEG_CUBE, TRACTSEG_CUBE))
    set_attribute(base.Config, "UNET_NR_FILT", TRACTSEG_FILTERS)


def run_tractseg_by_hand(
    monkeypatch: pytest.MonkeyPatch,
    weights: Path,
    peaks: Volume,
    kind: str,
    *,
    filters: int = TRACTSEG_FILTERS,
    **options: Any,
) -> Any:
    """The result of `run_tractseg` with the options of TractSeg's command, in one thread."""
    import torch
    from tractseg.experiments import base
    from tractseg.libs import system_config

    for folder in ("WEIGHTS_DIR", "TRACT_SEG_HOME"):
        monkeypatch.setattr(system_config.SystemConfig, folder, str(weights))
    monkeypatch.setattr(base.Config, "UNET_NR_FILT", filters)
    from tractseg.python_api import run_tractseg

    threads = torch.get_num_threads()
    try:
        return run_tractseg(peaks.array[..., :9].copy(), output_type=kind, nr_cpus=1, **options)
    finally:
        torch.set_num_threads(threads)  # `run_tractseg` sets it for the process


def write_nnunet(folder: Path, seed: int = 0) -> Path:
    """Writes a trained-model folder of nnU-Net, such as HD-BET 2's, into `folder` and returns it."""
    import torch
    from dynamic_network_architectures.architectures.unet import PlainConvUNet  # type: ignore[import-untyped]

    modules = {
        "conv_op": torch.nn.Conv3d,
        "norm_op": torch.nn.InstanceNorm3d,
        "nonlin": torch.nn.LeakyReLU,
    }
    network = PlainConvUNet(input_channels=1, num_classes=2, deep_supervision=False, **(NNUNET_ARCHITECTURE | modules))
    state = _random_state(network, np.random.default_rng(seed), 1.0)
    for name, values in state.items():
        if name.startswith("decoder.seg_layers") and name.endswith("bias"):
            values.zero_()  # otherwise one class wins almost everywhere
    checkpoint = {
        "network_weights": state,
        "trainer_name": "nnUNetTrainer",
        "init_args": {"configuration": "3d_fullres"},
        "inference_allowed_mirroring_axes": (0, 1, 2),
    }
    (folder / "plans.json").write_text(json.dumps(_nnunet_plans()))
    dataset = {
        "channel_names": {"0": "MR"},
        "labels": {"background": 0, "brain": 1},
        "numTraining": 1,
        "file_ending": ".nii.gz",
    }
    (folder / "dataset.json").write_text(json.dumps(dataset))
    (folder / "fold_all").mkdir()
    torch.save(checkpoint, folder / "fold_all" / "checkpoint_final.pth")
    return folder


def _nnunet_plans() -> dict[str, Any]:
    resampling = {"is_seg": False, "order": 1, "order_z": 0, "force_separate_z": None}
    return {
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
                "spacing": [5.0, 4.0, 4.5],  # three different sizes, so that a permutation of axes shows
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
                    "arch_kwargs": NNUNET_ARCHITECTURE,
                    "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
                },
                "batch_dice": False,
            }
        },
    }


def _random_state(network: Any, random: np.random.Generator, gain: float) -> dict[str, Any]:
    """PyTorch's default initialization, times `gain` for the weights, drawn by `random`."""
    import torch

    state = {}
    fan_in = 1
    for name, values in network.state_dict().items():
        if values.ndim > 1:
            fan_in = int(np.prod(values.shape[1:]))
        scale = (gain if name.endswith("weight") else 1.0) / np.sqrt(fan_in)
        drawn = random.uniform(-scale, scale, tuple(values.shape)).astype(np.float32)
        is_norm = values.ndim == 1 and name.endswith("weight")
        state[name] = torch.ones_like(values) if is_norm else torch.from_numpy(drawn)
    return state
