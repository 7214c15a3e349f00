"""A synthetic subject with known truth: a whole head, three shells, in BIDS layout."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kwneuro_assets.demo.anatomy import GREY, HEAD_SCALE, TISSUES, WHITE, Cortex, head
from kwneuro_assets.demo.biophysics import FREE_WATER, fibre_signal, isotropic_signal
from kwneuro_assets.demo.bundles import Fibres, fibres
from kwneuro_assets.derivations.directions import electrostatic_directions
from kwneuro_assets.imaging.gradients import GradientTable, format_bvals, format_bvecs

SHAPE = (50, 62, 54)
VOXEL = 3.2  # mm
CENTRE = (0.0, -6.0, 1.0)  # mm, of the grid: the head with a little air around it
SHELLS = {1000: 20, 2000: 30, 3000: 60}  # s/mm^2: directions; 45 are needed for harmonics up to order 8
B0_VOLUMES = 6  # spread over the scan
SNR = 30.0  # of white matter at b=0, in one volume
GREY_DENSITY = 0.4  # neurites of grey matter

# Brightness at b=0 of pure tissue, in the order of a T2-weighted echo-planar image with its fat suppressed.
BRIGHTNESS = {
    "white": 650.0,
    "grey": 950.0,
    "fluid": 1900.0,
    "scalp": 420.0,
    "muscle": 280.0,
    "marrow": 130.0,
    "bone": 40.0,
    "eye": 1700.0,
}
# Mean diffusivity in mm^2/s of what is not brain.
DIFFUSIVITY = {
    "fluid": FREE_WATER, "scalp": 0.9e-3, "muscle": 1.4e-3, "marrow": 0.4e-3, "bone": 0.4e-3, "eye": FREE_WATER
}  # fmt: skip

README = """\
A synthetic head, made by kwneuro-assets: formulas and a random generator, nobody's data.

Three shells (b = 1000, 2000, 3000 s/mm^2), Rician noise. White matter holds up to three crossing bundles of dispersed
neurites, grey matter neurites in every direction, and there is free water in ventricles, sulci and around the brain. A
lesion of free water lies in the LEFT frontal lobe: where it shows on the right, the image is flipped.

truth/<subject>/ holds what is known, on the grid of the image:
  mask             the brain, with its ventricles and sulci, down to the foramen magnum
  wm, gm           volume fractions of white and grey matter
  fwf              free water, as a share of the signal at b=0 (all that a diffusion model can know)
  ndi              neurite density of the rest, in NODDI's sense
  peaks_world      (x, y, z, 9): up to three fibre directions in the world frame, the longest first; length is the
                   volume fraction
  noise_free_dwi   the image before noise
  noise.json       the root mean square difference that noise made in the mask
"""


def write_phantom(
    folder: Path,
    subject: str = "sub-01",
    seed: int = 0,
    *,
    affine: ArrayLike | None = None,
    shape: tuple[int, int, int] = SHAPE,
    snr: float = SNR,
) -> Path:
    """Writes one synthetic subject into the BIDS dataset `folder` (made if need be) and returns `folder`.

    These are `<subject>/dwi/<subject>_dwi.{nii.gz,bval,bvec,json}` and, under `truth/<subject>/`, what the README
    describes. `seed` gives the folds of the cortex and the noise; the same arguments write the same bytes.
    `affine` (4, 4) and `shape` are those of the image: by default left-handed (L-A-S) voxels of 3.2 mm around
    the whole head. The bvec file is in the FSL frame of that affine. `snr` is that of white matter in one b=0 volume.
    """
    grid_affine = centred_affine(shape) if affine is None else np.asarray(affine, np.float64)
    generator = np.random.default_rng(seed)
    truth = _truth(shape, grid_affine, Cortex.random(generator))
    gradients = gradient_table()
    clean = _signal(truth, gradients)
    noisy = _with_noise(clean, np.float32(BRIGHTNESS["white"] / snr), generator)

    dwi = folder / subject / "dwi"
    answers = folder / "truth" / subject
    for place in (dwi, answers):
        place.mkdir(parents=True, exist_ok=True)
    _write_dataset_files(folder)
    stem = dwi / f"{subject}_dwi"
    _write_image(Path(f"{stem}.nii.gz"), noisy.reshape(*shape, -1), grid_affine)
    in_fsl_frame = gradients.to_frame("fsl", grid_affine)
    Path(f"{stem}.bval").write_text(format_bvals(in_fsl_frame), encoding="utf-8")
    Path(f"{stem}.bvec").write_text(format_bvecs(in_fsl_frame), encoding="utf-8")
    _write_json(Path(f"{stem}.json"), {"Manufacturer": "kwneuro-assets", "EchoTime": 0.09, "RepetitionTime": 8.0})

    inside = truth.mask > 0
    _write_json(answers / "noise.json", {"rms_in_mask": _rms(noisy[inside] - clean[inside])})
    for name, values in truth.maps().items():
        _write_image(answers / f"{name}.nii.gz", values.reshape(*shape, *values.shape[1:]), grid_affine)
    rounded = np.rint(clean).astype(np.int16).reshape(*shape, -1)
    _write_image(answers / "noise_free_dwi.nii.gz", rounded, grid_affine)
    return folder


def centred_affine(
    shape: tuple[int, int, int] = SHAPE, rotation: ArrayLike | None = None, voxel: float = VOXEL
) -> NDArray[np.float64]:
    """The affine (4, 4) that puts the head in the middle of a grid of `shape` with voxels of `voxel` mm.

    `rotation` (3, 3) holds the directions of the voxel axes as columns; left, front, up by default.
    """
    axes = np.diag([-1.0, 1.0, 1.0]) if rotation is None else np.asarray(rotation, np.float64)
    affine = np.eye(4)
    affine[:3, :3] = axes * voxel
    affine[:3, 3] = CENTRE - affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    return affine


def gradient_table() -> GradientTable:
    """The acquisition: shells one after the other, b=0 volumes spread between; world frame."""
    bvals = np.concatenate([np.full(count, float(bvalue)) for bvalue, count in SHELLS.items()])
    # Rounded far above what differs between processors, so that the bvec file does not.
    bvecs = np.concatenate([electrostatic_directions(count) for count in SHELLS.values()]).round(9)
    before = np.linspace(0, len(bvals), B0_VOLUMES, endpoint=False).astype(int)
    return GradientTable(np.insert(bvals, before, 0.0), np.insert(bvecs, before, 0.0, axis=0), frame="world")


@dataclass(frozen=True, eq=False)
class _Truth:
    """What is where, for all voxels of the grid in C order (n, ...)."""

    mask: NDArray[np.uint8]
    shares: NDArray[np.float32]  # of TISSUES
    fibres: Fibres
    coil: NDArray[np.float32]  # brightness of the receive coil, around 1

    def maps(self) -> dict[str, NDArray[np.generic]]:
        white, grey = self.shares[:, WHITE], self.shares[:, GREY]
        light = {tissue: self.shares[:, TISSUES.index(tissue)] * BRIGHTNESS[tissue] for tissue in TISSUES[:3]}
        solid = light["white"] + light["grey"]
        neurites = light["white"] * self.fibres.neurite_density + light["grey"] * GREY_DENSITY
        inside = self.mask.astype(np.float32)
        peaks = self.fibres.directions * (self.fibres.shares * (white * inside)[:, None])[..., None]
        return {
            "mask": self.mask,
            "wm": white * inside,
            "gm": grey * inside,
            "fwf": light["fluid"] / np.maximum(solid + light["fluid"], 1e-6) * inside,
            "ndi": neurites / np.maximum(solid, 1e-6) * inside,
            "peaks_world": peaks.reshape(-1, 9),
        }


def _truth(shape: tuple[int, int, int], affine: NDArray[np.float64], cortex: Cortex) -> _Truth:
    voxels = np.indices(shape).reshape(3, -1).T

    def adult(offset: ArrayLike) -> NDArray[np.float32]:
        """Positions of the voxels, moved by a part of a voxel, in the frame of the anatomy."""
        world = (voxels + np.asarray(offset)) @ affine[:3, :3].T + affine[:3, 3]
        return (world / HEAD_SCALE).astype(np.float32)

    # Eight samples in each voxel give the partial volumes.
    corners = np.stack(np.meshgrid(*[[-0.25, 0.25]] * 3), axis=-1).reshape(-1, 3)
    shares = np.zeros((len(voxels), len(TISSUES)), np.float32)
    brain = np.zeros(len(voxels), np.float32)
    for corner in corners:
        sample = head(adult(corner), cortex)
        shares += sample.shares / len(corners)
        brain += sample.brain / np.float32(len(corners))
    centres = adult(0)
    # A receive coil is brighter near its elements: here at the back and, a little, on top and to the right.
    coil = 1 + centres @ np.array([3e-4, -1e-3, 6e-4], np.float32) + (centres**2).sum(axis=1) * np.float32(8e-6)
    return _Truth((brain >= 0.5).astype(np.uint8), shares, fibres(centres), coil.astype(np.float32))


def _signal(truth: _Truth, gradients: GradientTable) -> NDArray[np.float32]:
    """The image without noise, (voxels, volumes)."""
    brightness = truth.shares * np.array([BRIGHTNESS[name] for name in TISSUES], np.float32) * truth.coil[:, None]
    of_bundles = brightness[:, WHITE, None] * truth.fibres.shares
    voxels, which = np.nonzero(of_bundles)
    amounts, directions = of_bundles[voxels, which], truth.fibres.directions[voxels, which]
    density = truth.fibres.neurite_density[voxels]
    image = np.empty((len(brightness), len(gradients)), np.float32, order="F")
    for volume, (bvalue, gradient) in enumerate(zip(gradients.bvals, gradients.bvecs, strict=True)):
        attenuation = fibre_signal(bvalue, directions @ gradient.astype(np.float32), density)
        bundles = np.bincount(voxels, amounts * attenuation, minlength=len(image))
        image[:, volume] = brightness @ np.array([_attenuation(name, bvalue) for name in TISSUES], np.float32) + bundles
    return image


def _attenuation(tissue: str, bvalue: float) -> float:
    """That of a tissue without direction; white matter, which has one, is added apart."""
    if tissue == "white":
        return 0.0
    if tissue == "grey":
        return isotropic_signal(bvalue, GREY_DENSITY)
    return float(np.exp(-bvalue * DIFFUSIVITY[tissue]))


def _with_noise(clean: NDArray[np.float32], sigma: np.float32, generator: np.random.Generator) -> NDArray[np.int16]:
    """The magnitude of the signal with Gaussian noise in both channels: Rician."""
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
            "BIDSVersion": "1.10.0",
            "DatasetType": "raw",
            "License": "CC0",
            "GeneratedBy": [{"Name": "kwneuro-assets"}],
        },
    )
    (folder / "README").write_text(README, encoding="utf-8")
    (folder / ".bidsignore").write_text("truth/\n", encoding="utf-8")


def _write_json(file: Path, content: dict[str, object]) -> None:
    file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _write_image(file: Path, array: NDArray[np.generic], affine: NDArray[np.float64]) -> None:
    """As NIfTI, compressed without name and time, so that equal content is equal bytes."""
    import nibabel
    from isal import igzip

    image = nibabel.Nifti1Image(array, affine)
    image.header.set_xyzt_units("mm", "sec")
    image.set_sform(affine, code="scanner")
    image.set_qform(affine, code="scanner")
    with file.open("wb") as raw, igzip.IGzipFile(filename="", fileobj=raw, mode="wb", mtime=0) as packed:
        packed.write(image.to_bytes())
