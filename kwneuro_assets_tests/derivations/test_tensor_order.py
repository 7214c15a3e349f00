"""The order of a tensor's six elements, against DIPY's functions and MRtrix3's documentation."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from dipy.reconst.dti import from_lower_triangular, lower_triangular

import kwneuro_assets
from kwneuro_assets.derivations.tensor import fit_tensor
from kwneuro_assets.derivations.tensor_order import Order, tensor_in
from kwneuro_assets.imaging import Dwi, GradientTable, InvalidData, MapSet, Volume
from kwneuro_assets.imaging.gradients import fsl_to_world

# Row and column of each volume, from the documentation of the tools.
MRTRIX = ((0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2))  # dwi2tensor: D11, D22, D33, D12, D13, D23
FSL = ((0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2))  # dtifit --save_tensor: xx, xy, xz, yy, yz, zz
MATRICES = np.arange(27.0).reshape(3, 3, 3)
MATRICES = MATRICES + MATRICES.swapaxes(1, 2)
STORED = np.stack([MATRICES[:, row, column] for row, column in FSL], axis=-1)


def test_dipy_reads_its_own_order() -> None:
    in_dipy = tensor_in("dipy", STORED)
    np.testing.assert_array_equal(in_dipy, lower_triangular(MATRICES))
    np.testing.assert_array_equal(from_lower_triangular(in_dipy), MATRICES)


@pytest.mark.parametrize(("order", "elements"), [("mrtrix", MRTRIX), ("fsl", FSL), ("bids", FSL)])
def test_each_order_is_that_of_the_tools_documentation(order: Order, elements: tuple[tuple[int, int], ...]) -> None:
    expected = np.stack([MATRICES[:, row, column] for row, column in elements], axis=-1)
    np.testing.assert_array_equal(tensor_in(order, STORED), expected)


def test_a_volume_keeps_its_grid_its_dtype_and_the_names_of_its_volumes() -> None:
    array = np.arange(24, dtype=np.float32).reshape(2, 2, 1, 6)
    names = ("Dxx", "Dxy", "Dxz", "Dyy", "Dyz", "Dzz")
    volume = Volume(array, np.diag([2.0, 2, 3, 1]), names)
    reordered = tensor_in("mrtrix", volume)
    assert reordered.names == ("Dxx", "Dyy", "Dzz", "Dxy", "Dxz", "Dyz")
    assert reordered.array.dtype == np.float32
    assert reordered.same_grid(volume)
    np.testing.assert_array_equal(reordered.array, array[..., [0, 3, 5, 1, 2, 4]])


def test_the_fitted_tensor_is_in_the_order_that_tensor_in_expects() -> None:
    tensor = np.array([[1.4, 0.2, 0.1], [0.2, 0.8, -0.15], [0.1, -0.15, 0.5]]) * 1e-3
    directions = np.random.default_rng(0).normal(size=(20, 3))
    bvecs = np.vstack([np.zeros(3), directions / np.linalg.norm(directions, axis=1, keepdims=True)])
    bvals = np.array([0.0] + [1000.0] * 20)
    signal = 1000 * np.exp(-bvals * np.einsum("ni,ij,nj->n", bvecs, tensor, bvecs))
    affine = np.diag([-2.0, 2, 2, 1])  # in which the FSL frame is the voxel frame, flipped in x from the world's
    gradients = GradientTable(bvals, bvecs, "world").to_frame("fsl", affine)
    dwi = Dwi(Volume(signal.astype(np.float32)[None, None, None], affine), gradients)
    maps = fit_tensor(dwi, Volume(np.ones((1, 1, 1), np.uint8), affine), 1500)
    assert isinstance(maps, MapSet)
    found = from_lower_triangular(tensor_in("dipy", maps["tensor"].array)[0, 0, 0])
    np.testing.assert_allclose(found, tensor, atol=1e-8)


@pytest.mark.parametrize("axes", [np.eye(3), np.diag([-1.0, 1, 1]), np.linalg.qr(MATRICES[0] + 9 * np.eye(3))[0]])
def test_the_documented_rotation_gives_the_tensor_in_fsls_frame(axes: np.ndarray) -> None:
    affine = np.eye(4)
    affine[:3, :3] = 2 * axes
    bvec = np.array([0.36, 0.48, 0.8])
    rotation = fsl_to_world(affine)
    in_fsl = rotation.T @ MATRICES[1] @ rotation
    in_world = GradientTable(np.array([1000.0]), bvec[None], "fsl").to_frame("world", affine).bvecs[0]
    assert bvec @ in_fsl @ bvec == pytest.approx(in_world @ MATRICES[1] @ in_world)


@pytest.mark.parametrize("shape", [(), (5,), (2, 6, 3)])
def test_another_number_of_elements_raises_an_error(shape: tuple[int, ...]) -> None:
    with pytest.raises(InvalidData, match=r"diffusion tensor: expected shape \(\.\.\., 6\), found"):
        tensor_in("dipy", np.zeros(shape))
    with pytest.raises(InvalidData, match=r"expected shape \(x, y, z, 6\)"):
        tensor_in("dipy", Volume(np.zeros((2, 2, 6)), np.eye(4)))


def test_an_unknown_order_raises_an_error() -> None:
    with pytest.raises(ValueError, match="expected one of bids, fsl, mrtrix, dipy, found 'ants'"):
        tensor_in("ants", STORED)


def test_the_package_exports_tensor_in_without_importing_numpy() -> None:
    assert kwneuro_assets.tensor_in is tensor_in
    code = "import sys, kwneuro_assets; sys.exit('numpy' in sys.modules or hasattr(kwneuro_assets, 'tensor_out'))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
