"""A synthetic subject with known ground truth: a head, three shells, in BIDS layout."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kwneuro_assets.demo.anatomy import GRAY, HEAD_SCALE, TISSUES, WHITE, Cortex, head
from kwneuro_assets.demo.biophysics import FREE_WATER, fiber_signal, isotropic_signal
from kwneuro_assets.demo.bundles import Fibers, fibers
from kwneuro_assets.demo.head_shape import HeadShape
from kwneuro_assets.demo.tract_truth import Named, tract_truth
from kwneuro_assets.derivations.directions import electrostatic_directions
from kwneuro_assets.imaging.gradients import GradientTable, format_bvals, format_bvecs
from kwneuro_assets.subjects import BIDS_VERSION

SHAPE = (50, 62, 54)
VOXEL = 3.2  # mm
CENTER = (0.0, -6.0, 1.0)  # mm, center of the grid: the head is surrounded by some air
SHELLS = {1000: 20, 2000: 30, 3000: 60}  # b-value in s/mm^2: number of directions; order 8 needs 45
B0_VOLUMES = 6  # evenly spaced over the acquisition
SNR = 30.0  # of white matter in one b=0 volume
GRAY_DENSITY = 0.4  # neurite density of gray matter

# Signal at b=0 of pure tissue, ordered as in a T2-weighted echo-planar image with fat suppression.
BRIGHTNESS = {
    "white": 650.0,
    "gray": 950.0,
    "fluid": 1900.0,
    "scalp": 420.0,
    "muscle": 280.0,
    "marrow": 130.0,
    "bone": 40.0,
    "eye": 1700.0,
}
# Mean diffusivity in mm^2/s of tissues outside the brain.
DIFFUSIVITY = {
    "fluid": FREE_WATER, "scalp": 0.9e-3, "muscle": 1.4e-3, "marrow": 0.4e-3, "bone": 0.4e-3, "eye": FREE_WATER
}  # fmt: skip

README = """\
A synthetic head, computed by kwneuro-assets from formulas and a random generator. It contains no data of a human.

Three shells (b = 1000, 2000, 3000 s/mm^2), Rician noise. White matter has up to three crossing populations of dispersed
neurites, gray matter has neurites in all directions, and ventricles, sulci and the space around the brain contain free
water. There is a lesion of free water in the LEFT frontal lobe: if it appears on the right, the image is flipped.

truth/<subject>/ contains the ground truth on the grid of the image:
  mask             the brain with its ventricles and sulci, down to the foramen magnum
  wm, gm           volume fractions of white and gray matter
  fwf              free water, as a fraction of the signal at b=0 (a diffusion model cannot determine volumes)
  ndi              neurite density of the other tissue, as defined by NODDI
  peaks_world      (x, y, z, 9): up to three fiber directions in the world frame, largest first; the length is the
                   volume fraction
  tract_masks      (x, y, z, 17): the bundles that TractSeg has names for; tract_masks.json has these names
  tract_endings    (x, y, z, 34): both ends of each of these bundles
  tract_orientations  (x, y, z, 51): the x, y and z of the direction of each bundle in the world frame
  noise_free_dwi   the image without noise
  noise.json       the root mean square of the noise in the mask
"""


def write_phantom(
    folder: Path,
    subject: str = "sub-01",
    seed: int = 0,
    *,
    affine: ArrayLike | None = None,
    shape: tuple[int, int, int] | None = None,
    snr: float = SNR,
    shape_of_head: HeadShape | None = None,
) -> Path:
    """Write one synthetic subject into the BIDS dataset `folder`, created if necessary; returns `folder`.

    The files are `<subject>/dwi/<subject>_dwi.{nii.gz,bval,bvec,json}` and, in `truth/<subject>/`, the ground truth
    that the README describes; `is_complete` checks whether all are written. `seed` determines the folds of the cortex
    and the noise, `shape_of_head` size, proportions and pose (by default those of the standard head); the same
    arguments write the same bytes. `affine` (4, 4) and `shape` are those of the image: by default left-handed (L-A-S)
    voxels of 3.2 mm that cover the head. The bvec file is in the FSL frame of that affine. `snr` is that of white
    matter in one b=0 volume.
    """
    anatomy = shape_of_head or HeadShape.standard()
    default_affine, default_shape = grid_around(anatomy) if shape is None else (centered_affine(shape), shape)
    shape, grid_affine = default_shape, default_affine if affine is None else np.asarray(affine, np.float64)
    generator = np.random.default_rng(seed)
    truth = _truth(shape, grid_affine, anatomy, Cortex.random(generator))
    gradients = gradient_table()
    clean = _signal(truth, gradients)
    noisy = _with_noise(clean, np.float32(BRIGHTNESS["white"] / snr), generator)

    dwi = folder / subject / "dwi"
    ground_truth = folder / "truth" / subject
    for directory in (dwi, ground_truth):
        directory.mkdir(parents=True, exist_ok=True)
    _write_dataset_files(folder)
    stem = dwi / f"{subject}_dwi"
    _write_image(Path(f"{stem}.nii.gz"), noisy.reshape(*shape, -1), grid_affine)
    in_fsl_frame = gradients.to_frame("fsl", grid_affine)
    Path(f"{stem}.bval").write_text(format_bvals(in_fsl_frame), encoding="utf-8")
    Path(f"{stem}.bvec").write_text(format_bvecs(in_fsl_frame), encoding="utf-8")
    _write_json(Path(f"{stem}.json"), {"Manufacturer": "kwneuro-assets", "EchoTime": 0.09, "RepetitionTime": 8.0})

    inside = truth.mask > 0
    _write_json(ground_truth / "noise.json", {"rms_in_mask": _rms(noisy[inside] - clean[inside])})
    for name, values in truth.maps().items():
        _write_image(ground_truth / f"{name}.nii.gz", values.reshape(*shape, *values.shape[1:]), grid_affine)
    rounded = np.rint(clean).astype(np.int16).reshape(*shape, -1)
    _write_image(ground_truth / "noise_free_dwi.nii.gz", rounded, grid_affine)
    for name, (names, columns) in truth.tracts.items():
        _write_image(ground_truth / f"{name}.nii.gz", columns.reshape(*shape, -1), grid_affine)
        _write_json(ground_truth / f"{name}.json", names)
    return folder


def is_complete(folder: Path, subject: str) -> bool:
    """Whether `write_phantom` has written all files of this subject: it writes this one last."""
    return (folder / "truth" / subject / "tract_orientations.json").is_file()


def centered_affine(
    shape: tuple[int, int, int] = SHAPE, rotation: ArrayLike | None = None, voxel: float = VOXEL
) -> NDArray[np.float64]:
    """The affine (4, 4) that centers the head in a grid of `shape` with voxels of `voxel` mm.

    The columns of `rotation` (3, 3) are the directions of the voxel axes; by default left, anterior, superior.
    """
    axes = np.diag([-1.0, 1.0, 1.0]) if rotation is None else np.asarray(rotation, np.float64)
    affine = np.eye(4)
    affine[:3, :3] = axes * voxel
    affine[:3, 3] = CENTER - affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    return affine


def grid_around(anatomy: HeadShape, voxel: float = VOXEL) -> tuple[NDArray[np.float64], tuple[int, int, int]]:
    """Affine and shape of a grid of `voxel` mm that shows as much around the brain as that of the standard head."""
    size, shift = VOXEL * np.array(SHAPE), np.zeros(3)
    if not anatomy.is_standard:
        lowest, highest = _brain_box(anatomy)
        standard_lowest, standard_highest = _brain_box(HeadShape.standard())
        size += (highest - lowest) - (standard_highest - standard_lowest)
        shift = (lowest + highest - standard_lowest - standard_highest) / 2
    x, y, z = np.ceil((size / voxel).round(6)).astype(int).tolist()
    affine = centered_affine((x, y, z), voxel=voxel)
    affine[:3, 3] += shift
    return affine, (x, y, z)


def _brain_box(anatomy: HeadShape) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The lowest and the highest coordinates (3,) in mm of the brain in the world frame, to the nearest 6 mm."""
    axis = np.arange(-126.0, 127.0, 6)  # more than the largest head
    points = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), axis=-1).reshape(-1, 3)
    flat = Cortex(np.zeros((1, 3), np.float32), np.zeros(1, np.float32))  # the brain has the same box for any cortex
    brain = points[head(anatomy.adult(points), flat).brain]
    return brain.min(axis=0), brain.max(axis=0)


def gradient_table() -> GradientTable:
    """The gradient table in the world frame: shells one after the other, with evenly spaced b=0 volumes."""
    bvals = np.concatenate([np.full(count, float(bvalue)) for bvalue, count in SHELLS.items()])
    # Rounded well above the differences between processors, so that the bvec file is identical.
    bvecs = np.concatenate([electrostatic_directions(count) for count in SHELLS.values()]).round(9)
    before = np.linspace(0, len(bvals), B0_VOLUMES, endpoint=False).astype(int)
    return GradientTable(np.insert(bvals, before, 0.0), np.insert(bvecs, before, 0.0, axis=0), frame="world")


@dataclass(frozen=True, eq=False)
class _Truth:
    """The ground truth for all voxels of the grid in C order (n, ...)."""

    mask: NDArray[np.uint8]
    fractions: NDArray[np.float32]  # of TISSUES
    fibers: Fibers
    coil: NDArray[np.float32]  # relative sensitivity of the receive coil, about 1
    tracts: dict[str, Named]

    def maps(self) -> dict[str, NDArray[np.generic]]:
        white, gray = self.fractions[:, WHITE], self.fractions[:, GRAY]
        light = {tissue: self.fractions[:, TISSUES.index(tissue)] * BRIGHTNESS[tissue] for tissue in TISSUES[:3]}
        solid = light["white"] + light["gray"]
        neurites = light["white"] * self.fibers.neurite_density + light["gray"] * GRAY_DENSITY
        inside = self.mask.astype(np.float32)
        peaks = self.fibers.directions * (self.fibers.fractions * (white * inside)[:, None])[..., None]
        return {
            "mask": self.mask,
            "wm": white * inside,
            "gm": gray * inside,
            "fwf": light["fluid"] / np.maximum(solid + light["fluid"], 1e-6) * inside,
            "ndi": neurites / np.maximum(solid, 1e-6) * inside,
            "peaks_world": peaks.reshape(-1, 9),
        }


def _truth(shape: tuple[int, int, int], affine: NDArray[np.float64], anatomy: HeadShape, cortex: Cortex) -> _Truth:
    voxels = np.indices(shape).reshape(3, -1).T

    def world(offset: ArrayLike) -> NDArray[np.float64]:
        """Positions of the voxels, moved by `offset` voxels, in mm of the world frame."""
        positions: NDArray[np.float64] = (voxels + np.asarray(offset)) @ affine[:3, :3].T + affine[:3, 3]
        return positions

    # Eight samples per voxel give the partial volumes.
    corners = np.stack(np.meshgrid(*[[-0.25, 0.25]] * 3), axis=-1).reshape(-1, 3)
    fractions = np.zeros((len(voxels), len(TISSUES)), np.float32)
    brain = np.zeros(len(voxels), np.float32)
    for corner in corners:
        sample = head(anatomy.adult(world(corner)), cortex)
        fractions += sample.fractions / len(corners)
        brain += sample.brain / np.float32(len(corners))
    mask = (brain >= 0.5).astype(np.uint8)
    centers = world(0)
    bundles = fibers(anatomy.adult(centers))
    bundles = replace(bundles, directions=anatomy.world_directions(centers, bundles.directions))
    # The signal is higher near the elements of the receive coil: posterior and, less so, superior and right.
    place = (centers / HEAD_SCALE).astype(np.float32)
    coil = 1 + place @ np.array([3e-4, -1e-3, 6e-4], np.float32) + (place**2).sum(axis=1) * np.float32(8e-6)
    tracts = tract_truth(anatomy, centers, fractions[:, WHITE] * mask)
    return _Truth(mask, fractions, bundles, coil.astype(np.float32), tracts)


def _signal(truth: _Truth, gradients: GradientTable) -> NDArray[np.float32]:
    """The image (voxels, volumes) without noise."""
    brightness = truth.fractions * np.array([BRIGHTNESS[name] for name in TISSUES], np.float32) * truth.coil[:, None]
    of_bundles = brightness[:, WHITE, None] * truth.fibers.fractions
    voxels, which = np.nonzero(of_bundles)
    amounts, directions = of_bundles[voxels, which], truth.fibers.directions[voxels, which]
    density = truth.fibers.neurite_density[voxels]
    image = np.empty((len(brightness), len(gradients)), np.float32, order="F")
    for volume, (bvalue, gradient) in enumerate(zip(gradients.bvals, gradients.bvecs, strict=True)):
        attenuation = fiber_signal(bvalue, directions @ gradient.astype(np.float32), density)
        bundles = np.bincount(voxels, amounts * attenuation, minlength=len(image))
        image[:, volume] = brightness @ np.array([_attenuation(name, bvalue) for name in TISSUES], np.float32) + bundles
    return image


def _attenuation(tissue: str, bvalue: float) -> float:
    """The attenuation of an isotropic tissue; 0 for white matter, which the caller adds by direction."""
    if tissue == "white":
        return 0.0
    if tissue == "gray":
        return isotropic_signal(bvalue, GRAY_DENSITY)
    return float(np.exp(-bvalue * DIFFUSIVITY[tissue]))


def _with_noise(clean: NDArray[np.float32], sigma: np.float32, generator: np.random.Generator) -> NDArray[np.int16]:
    """The magnitude of the signal with Gaussian noise in both channels, which is Rician."""
    noisy = np.empty(clean.shape, np.int16)
    for start in range(0, len(clean), 20000):
        part = clean[start : start + 20000]
        real = part + sigma * generator.standard_normal(part.shape, np.float32)
        noisy[start : start + 20000] = np.rint(
            np.hypot(real, sigma * generator.standard_normal(part.shape, np.float32))
        )
    return noisy


def _rms(error: NDArray[np.float32]) -> float:
    return round(float(np.sqrt(np.mean(error**2, dtype=np.float64))), 3)


def _write_dataset_files(folder: Path) -> None:
    _write_json(
        folder / "dataset_description.json",
        {
            "Name": "Synthetic head",
            "BIDSVersion": BIDS_VERSION,
            "DatasetType": "raw",
            "License": "CC0",
            "GeneratedBy": [{"Name": "kwneuro-assets"}],
        },
    )
    (folder / "README").write_text(README, encoding="utf-8")
    (folder / ".bidsignore").write_text("truth/\n", encoding="utf-8")


def _write_json(file: Path, content: object) -> None:
    file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _write_image(file: Path, array: NDArray[np.generic], affine: NDArray[np.float64]) -> None:
    """Write NIfTI, compressed without name and time, so that equal content gives equal bytes."""
    import nibabel
    from isal import igzip

    image = nibabel.Nifti1Image(array, affine)
    image.header.set_xyzt_units("mm", "sec")
    image.set_sform(affine, code="scanner")
    image.set_qform(affine, code="scanner")
    with file.open("wb") as raw, igzip.IGzipFile(filename="", fileobj=raw, mode="wb", mtime=0) as packed:
        packed.write(image.to_bytes())
