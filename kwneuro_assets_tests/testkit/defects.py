"""Defects of a scan, made on purpose: a head with known signal and noise, and what can go wrong with it.

Each function takes a Scan and returns another one with the defect.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from kwneuro_assets.demo.head_shape import HeadShape
from kwneuro_assets.demo.phantom import BRIGHTNESS, SNR, grid_around, write_phantom
from kwneuro_assets.derivations.denoise import patch2self
from kwneuro_assets.derivations.tensor import fit_tensor
from kwneuro_assets.imaging import Dwi, GradientTable, Volume
from kwneuro_assets.imaging.table import Cell
from kwneuro_assets.qc.row import qc_row
from kwneuro_assets_tests.testkit.small_dataset import load, rotation

ROTATED = rotation(0, 0, 10)  # degrees, about the third voxel axis
MOVED_MM = 6.0
PIECE_MM = 9.0  # radius of the second piece of the mask
DIM_SLICES = {0.2: 3, 0.9: 1}  # by factor: the number of slices
SPIKED_SLICES = 4
PHANTOM_SIGMA = 700 / 30  # of realistic_phantom.py: white matter at b=0, and its SNR


@dataclass(frozen=True, eq=False)
class Scan:
    """A DWI series with its brain mask, and the noise-free signal (x, y, z, n) that it was simulated from.

    `sigma` is the standard deviation of the noise in each channel of the complex signal.
    """

    raw: Dwi
    mask: Volume
    clean: NDArray[np.float32]
    sigma: float

    def measured(self, clean: NDArray[np.float32], noise: float = 1.0) -> Scan:
        """A scan of another noise-free signal, with `noise` times the noise of this one."""
        sigma = noise * self.sigma
        return replace(self, raw=self.raw.with_array(rician(clean, sigma)), clean=clean, sigma=sigma)

    def with_image(self, index: int, image: NDArray[np.float32]) -> Scan:
        """The scan with other voxels (x, y, z) in one volume."""
        array = np.array(self.raw.array, order="F")
        array[..., index] = image
        return replace(self, raw=self.raw.with_array(array))

    def with_gradients(self, bvals: NDArray[np.float64], bvecs: NDArray[np.float64]) -> Scan:
        """The scan with another gradient table, in the FSL frame: that of a bvec file."""
        table = GradientTable(bvals, bvecs, "fsl", self.raw.gradients.b0_threshold)
        return replace(self, raw=Dwi(self.raw.volume, table))

    def with_mask(self, inside: NDArray[np.bool_]) -> Scan:
        return replace(self, mask=Volume(inside, self.mask.affine))

    def weighted(self, bvalue: float) -> NDArray[np.intp]:
        """The volumes of the shell nearest to `bvalue`."""
        shell = min(self.raw.gradients.shells(), key=lambda one: abs(one.bvalue - bvalue))
        return np.array(shell.indices)

    def slices_of_brain(self) -> NDArray[np.intp]:
        """The axial slices that have brain, from inferior to superior."""
        return np.flatnonzero(self.mask.array.any(axis=(0, 1)))


def quality_of(scan: Scan) -> dict[str, Cell]:
    """The QC row of a scan: its derivatives are computed with its own mask, by the functions of the pipeline."""
    denoised = patch2self(scan.raw)
    dti = fit_tensor(denoised, scan.mask, 1500)
    table = qc_row(raw=scan.raw, denoised=denoised, mean_b0=denoised.mean_b0(), brain_mask=scan.mask, dti=dti)
    return next(table.rows())


def demo_scan(folder: Path, voxel: float, *, head: HeadShape | None = None, seed: int = 0, snr: float = SNR) -> Scan:
    """One head of the demo in voxels of `voxel` mm, written to `folder`; the standard head by default."""
    anatomy = head or HeadShape.standard()
    affine, shape = grid_around(anatomy, voxel)
    write_phantom(folder, "sub-01", seed, affine=affine, shape=shape, snr=snr, shape_of_head=anatomy)
    return read_scan(folder, BRIGHTNESS["white"] / snr)


def read_scan(folder: Path, sigma: float = PHANTOM_SIGMA, subject: str = "sub-01") -> Scan:
    """The scan in a dataset with `truth`, as the demo and `realistic_phantom.py` write it."""
    stem = folder / subject / "dwi" / f"{subject}_dwi"
    image = load(Path(f"{stem}.nii.gz"))
    table = GradientTable(np.loadtxt(f"{stem}.bval"), np.loadtxt(f"{stem}.bvec").T)
    truth = folder / "truth" / subject
    clean = np.asfortranarray(load(truth / "noise_free_dwi.nii.gz").dataobj, np.float32)
    mask = np.asarray(load(truth / "mask.nii.gz").dataobj) > 0
    raw = Dwi(Volume(np.asfortranarray(image.dataobj, np.float32), image.affine), table)
    return Scan(raw, Volume(mask, image.affine), clean, sigma)


def rician(clean: NDArray[np.float32], sigma: float, seed: int = 11) -> NDArray[np.float32]:
    """The magnitude of `clean` with Gaussian noise of standard deviation `sigma` in both channels."""
    generator = np.random.default_rng(seed)
    noisy = np.empty_like(clean, order="F")
    for index in range(clean.shape[3]):
        real, imaginary = generator.standard_normal((2, *clean.shape[:3]), np.float32) * np.float32(sigma)
        noisy[..., index] = np.hypot(clean[..., index] + real, imaginary)
    return noisy


# -- Gradient table --------------------------------------------------------------------------------------------------


def rotated_bvecs(scan: Scan) -> Scan:
    """All b-vectors are rotated by 10 degrees, as when the rotation of an oblique grid is not applied."""
    return scan.with_gradients(scan.raw.bvals, scan.raw.gradients.bvecs @ ROTATED.T)


def permuted_bvecs(scan: Scan) -> Scan:
    """The b-vectors of each shell are in another order than its volumes."""
    vectors = scan.raw.gradients.bvecs.copy()
    generator = np.random.default_rng(12)
    for shell in scan.raw.gradients.shells():
        indices = np.array(shell.indices)
        vectors[indices] = vectors[generator.permutation(indices)]
    return scan.with_gradients(scan.raw.bvals, vectors)


def flipped_axis(scan: Scan) -> Scan:
    """The first row of the bvec file has the wrong sign."""
    return scan.with_gradients(scan.raw.bvals, scan.raw.gradients.bvecs * np.array([-1.0, 1, 1]))


def swapped_axes(scan: Scan) -> Scan:
    """The first and the second row of the bvec file are exchanged."""
    return scan.with_gradients(scan.raw.bvals, scan.raw.gradients.bvecs[:, [1, 0, 2]])


def high_bvalues(scan: Scan) -> Scan:
    """The b-values of the lowest shell are 20 % too high in the gradient table."""
    return with_bvalues(scan, 1000, 1.2)


def low_bvalues(scan: Scan) -> Scan:
    """The b-values of the lowest shell are 20 % too low in the gradient table."""
    return with_bvalues(scan, 1000, 0.8)


def with_bvalues(scan: Scan, bvalue: float, factor: float) -> Scan:
    """The b-values of the shell nearest to `bvalue` are multiplied by `factor`; the image remains."""
    bvals = scan.raw.bvals.copy()
    bvals[scan.weighted(bvalue)] *= factor
    return scan.with_gradients(bvals, scan.raw.gradients.bvecs)


# -- Image -----------------------------------------------------------------------------------------------------------


def dim_slices(scan: Scan) -> Scan:
    """Three slices of different volumes have a fifth of their signal, and one has nine tenths."""
    array = np.array(scan.raw.array, order="F")
    for factor, volume, z in dimmed(scan):
        array[:, :, z, volume] *= np.float32(factor)
    return replace(scan, raw=scan.raw.with_array(array))


def dimmed(scan: Scan) -> list[tuple[float, int, int]]:
    """The factor, volume and slice of each slice that `dim_slices` dims: one in each of four volumes."""
    factors = [factor for factor, count in DIM_SLICES.items() for _ in range(count)]
    volumes = scan.weighted(1000)[[3, 7, 11, 15]]
    slices = scan.slices_of_brain()
    middle = slices[[len(slices) * part // 10 for part in (4, 5, 6, 7)]]
    return list(zip(factors, volumes.tolist(), middle.tolist(), strict=True))


def moved_volume(scan: Scan) -> Scan:
    """The head is 6 mm to the side in one volume."""
    index = int(scan.weighted(2000)[5])
    clean = np.array(scan.clean, order="F")
    shift = np.array([MOVED_MM / scan.raw.volume.voxel_size[0], 0, 0])
    clean[..., index] = ndimage.shift(scan.clean[..., index], shift, order=1)
    return scan.with_image(index, rician(clean[..., [index]], scan.sigma)[..., 0])


def spikes(scan: Scan) -> Scan:
    """Four slices have stripes: one point of their k-space has too much signal."""
    array = np.array(scan.raw.array, order="F")
    x, y = np.meshgrid(*map(np.arange, array.shape[:2]), indexing="ij")
    amplitude = np.float32(0.3 * np.median(scan.raw.mean_b0().array[scan.mask.array > 0]))
    slices = scan.slices_of_brain()
    for number, volume in enumerate(scan.weighted(3000)[2 : 2 + SPIKED_SLICES]):
        z = slices[len(slices) * (3 + number) // 10]
        stripes = np.cos(2 * np.pi * (x * (5 + number) / x.shape[0] + y * 7 / y.shape[1])).astype(np.float32)
        array[:, :, z, volume] = np.abs(array[:, :, z, volume] + amplitude * stripes)
    return replace(scan, raw=scan.raw.with_array(array))


def doubled_noise(scan: Scan) -> Scan:
    """The noise is twice as large."""
    return scan.measured(scan.clean, noise=2)


def dark_region(scan: Scan) -> Scan:
    """The anterior half of the left hemisphere has no signal, only noise."""
    grid = np.indices(scan.mask.grid).reshape(3, -1).T
    affine, inside = scan.raw.affine, scan.mask.array > 0
    place = (grid @ affine[:3, :3].T + affine[:3, 3]).reshape(*scan.mask.grid, 3)
    center = place[inside].mean(axis=0)
    dark = (place[..., 0] < center[0]) & (place[..., 1] > center[1])
    return scan.measured(np.where(dark[..., None], np.float32(0), scan.clean))


# -- Mask ------------------------------------------------------------------------------------------------------------


def half_mask(scan: Scan) -> Scan:
    """The mask ends in the middle of the head: its inferior half is absent."""
    inside = scan.mask.array > 0
    slices = scan.slices_of_brain()
    inside[:, :, : slices[len(slices) // 2]] = False
    return scan.with_mask(inside)


def second_piece(scan: Scan) -> Scan:
    """The mask has a second piece, a ball outside the brain."""
    inside, edges = scan.mask.array > 0, np.array(scan.mask.voxel_size)
    distance = ndimage.distance_transform_edt(~inside, sampling=edges)
    radius = np.ceil(PIECE_MM / edges).astype(int)
    candidates = distance > PIECE_MM + 2 * edges.max()  # a gap of a voxel or more
    for axis, margin in enumerate(radius):  # the ball is inside the grid
        np.moveaxis(candidates, axis, 0)[[*range(margin), *range(-margin, 0)]] = False
    assert candidates.any(), "the grid has no space for a second piece"
    voxels = np.indices(inside.shape).reshape(3, -1).T
    center = voxels[np.where(candidates, distance, np.inf).argmin()]
    where = (voxels - center).reshape(*inside.shape, 3)
    return scan.with_mask(inside | (np.linalg.norm(where * edges, axis=-1) <= PIECE_MM))


@dataclass(frozen=True)
class Defect:
    """A defect, and the metrics of which at least one names it, each with the check that it belongs to.

    `beyond` are metrics with a limit that are beyond it on the full-size phantom; none, if only a comparison with other
    subjects shows the defect.
    """

    name: str
    make: Callable[[Scan], Scan]
    beyond: tuple[str, ...]


DEFECTS: tuple[Defect, ...] = (
    Defect("b-vectors rotated by 10 degrees", rotated_bvecs, ("gradient_rotation_deg",)),
    Defect("b-vectors in another order", permuted_bvecs, ("ndc", "residual_to_noise_b1000", "residual_to_noise_b2000")),
    Defect("one axis of the b-vectors flipped", flipped_axis, ("gradient_correction", "gradient_rotation_deg")),
    Defect("two axes of the b-vectors swapped", swapped_axes, ("gradient_correction", "gradient_rotation_deg")),
    Defect("3 slices x 0.2 and 1 slice x 0.9", dim_slices, ("dropout_slices",)),
    Defect("a volume moved by 6 mm", moved_volume, ("outlier_volumes",)),
    Defect("spikes in 4 slices", spikes, ("outlier_slices",)),
    Defect("mask cut at half", half_mask, ("mask_flat_face_fraction",)),
    Defect("mask with a second piece", second_piece, ("mask_pieces",)),
    Defect("noise doubled", doubled_noise, ()),
    Defect("no signal in half of a hemisphere", dark_region, ("mask_b0_dark_fraction", "b0_one_sided_fraction")),
    Defect("b-values of one shell 20 % too high", high_bvalues, ("diffusivity_ratio_b2000_wm",)),
    Defect("b-values of one shell 20 % too low", low_bvalues, ("diffusivity_ratio_b2000_wm", "csf_diffusivity")),
)
