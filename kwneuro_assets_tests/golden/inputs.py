"""The fixed inputs of the golden entries, the same on every machine.

The DWI series is the synthetic head of the demo at 9 mm, whose voxels are integers. Responses are constants; peaks and
tract masks come from NumPy's random generator, rounded far above the last bit.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from numpy.typing import NDArray

from kwneuro_assets.demo.phantom import centered_affine, write_phantom
from kwneuro_assets.imaging import Dwi, GradientTable, MapSet, ResponseFunction, RigidTransform, TissueResponses, Volume
from kwneuro_assets.imaging.gradients import parse_bvals, parse_bvecs
from kwneuro_assets.ingestion.dataset import SourceDataset
from kwneuro_assets.ingestion.read_mask import read_mask
from kwneuro_assets.ingestion.read_source import read_dwi
from kwneuro_assets.resources.step_networks import StepNetworks
from kwneuro_assets.settings import NetworkSettings, PipelineSettings, SourceSettings
from kwneuro_assets.settings.bundles import BUNDLES
from kwneuro_assets.subjects import SubjectKey
from kwneuro_assets_tests.testkit import small_dataset
from kwneuro_assets_tests.testkit.small_networks import shrink_tractseg, write_nnunet, write_tractseg

VOXEL = 9.0  # mm
SHAPE = (18, 22, 19)  # 3198 voxels in the foreground: Patch2Self needs 20 for each of the 110 volumes
SHELLS = (0.0, 1000.0, 2000.0, 3000.0)  # s/mm^2, of the synthetic head
SUBJECT = SubjectKey.parse("sub-01")
# Responses like those of the synthetic head: zonal coefficients of white matter on each shell, l = 0 of the others.
WHITE = np.array(
    [[2450.0, 0, 0, 0, 0], [1255, -380, 49, -4, 0.5], [803, -403, 98, -14.5, 1.5], [608, -363, 128.5, -25, 3.5]]
)
GRAY = np.array([3880.0, 1330, 738, 526])
CSF = np.array([5420.0, 760, 334, 239])


class Inputs:
    """Values by the name of the asset they stand in for; files are written to `folder` when they are first needed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def value(self, asset: str, variant: str = "") -> Any:
        """The input `asset`. `variant` is `single-tissue` for the response of one shell. For peaks and tract masks,
        it is `head` for those on the grid of the DWI.
        """
        if asset in ("fiber_response", "group_response"):
            contrast = 0.9 if asset == "group_response" else 1.0
            return fiber(contrast=contrast) if variant == "single-tissue" else tissues(contrast=contrast)
        return getattr(self, f"{asset}_on_head" if variant == "head" else asset)

    @functools.cached_property
    def dwi(self) -> Dwi:
        return self._series("sub-01/dwi/sub-01_dwi.nii.gz")

    @functools.cached_property
    def denoised_dwi(self) -> Dwi:
        """The mean of the noisy and the noise-free series: less noise, and other numbers than `dwi`."""
        clean = self._series("truth/sub-01/noise_free_dwi.nii.gz")
        return self.dwi.with_array((self.dwi.array + clean.array) / 2)

    @functools.cached_property
    def mean_b0(self) -> Volume:
        """Of integers, and rounded, so that it does not depend on the order of a sum."""
        array = self.dwi.array[..., self.dwi.b0_mask].mean(axis=3, dtype=np.float64)
        return Volume(array.round(2).astype(np.float32), self.dwi.affine)

    @functools.cached_property
    def brain_mask(self) -> Volume:
        image = self._image("truth/sub-01/mask.nii.gz")
        return Volume(np.asarray(image.dataobj, np.uint8), image.affine)

    @property
    def provided_mask(self) -> Volume:
        """The brain mask on a grid that differs by less than the tolerance for one grid."""
        affine = self.brain_mask.affine.copy()
        affine[:3, 3] += 0.125  # mm
        return Volume(self.brain_mask.array, affine)

    @functools.cached_property
    def csd_peaks(self) -> MapSet:
        """Random peaks in an ellipsoid, five in a voxel, at 2.5 mm."""
        random = np.random.default_rng(1)
        shape = (20, 26, 18)
        radius = sum(((i - n / 2 + 0.3) / (n / 2 - 2)) ** 2 for i, n in zip(np.indices(shape), shape, strict=True))
        peaks = random.normal(size=(*shape, 15)).round(3).astype(np.float32) * (radius < 1)[..., None]
        affine = np.diag([-2.5, 2.5, 2.5, 1])
        affine[:3, 3] = (24, -30, -20)
        return MapSet({"peaks": Volume(peaks, affine)})

    @functools.cached_property
    def dti(self) -> MapSet:
        """Random eigenvalues in the brain, some of them negative, and FA, some above 1."""
        random = np.random.default_rng(3)
        evals = -np.sort(-random.uniform(-0.05e-3, 1.7e-3, (*SHAPE, 3)).round(6), axis=3)
        fa = random.uniform(0, 1.05, SHAPE).round(3)
        return self._maps(evals=evals, fa=fa, md=evals.mean(axis=3).round(7))

    @functools.cached_property
    def noddi(self) -> MapSet:
        """Random maps in the brain, with the error of the fit."""
        random = np.random.default_rng(4)
        maps = {name: random.uniform(0, 1, SHAPE).round(3) for name in ("ndi", "odi", "fwf", "rmse")}
        return self._maps(**maps, direction=random.normal(size=(*SHAPE, 3)).round(3))

    @functools.cached_property
    def csd_peaks_on_head(self) -> MapSet:
        """Random peaks in the brain, up to three in a voxel, and fractions of white matter."""
        random = np.random.default_rng(5)
        values = random.uniform(0.1, 1, (*SHAPE, 3)).round(3) * (random.uniform(size=(*SHAPE, 3)) < 0.6)
        values = -np.sort(-values, axis=3)
        peaks = np.repeat(values, 3, axis=3) * np.tile([0.6, 0.0, 0.8], 3)
        return self._maps(peaks=peaks, peakvalues=values, wmfraction=random.uniform(size=SHAPE).round(3))

    @functools.cached_property
    def tract_masks_on_head(self) -> Volume:
        """Each bundle is a box; one is empty."""
        bundles = np.zeros((*SHAPE, len(BUNDLES)), np.uint8)
        for number in range(1, len(BUNDLES)):
            bundles[7 : 9 + number % 5, 9 : 11 + number % 4, 8 : 10 + number % 7, number] = 1
        return Volume(bundles, self.dwi.affine, BUNDLES)

    def _maps(self, **arrays: NDArray[np.float64]) -> MapSet:
        """Maps of zeros outside of the brain, on the grid of the DWI."""
        brain, affine = self.brain_mask.array > 0, self.dwi.affine
        inside = {name: array * brain.reshape(SHAPE + (1,) * (array.ndim - 3)) for name, array in arrays.items()}
        return MapSet({name: Volume(array.astype(np.float32), affine) for name, array in inside.items()})

    @property
    def mni_alignment(self) -> RigidTransform:
        """A tilt by 37 degrees about z and 16 degrees about x, and a shift."""
        about_z = np.array([[0.8, -0.6, 0], [0.6, 0.8, 0], [0, 0, 1]])
        about_x = np.array([[1, 0, 0], [0, 0.96, -0.28], [0, 0.28, 0.96]])
        matrix = np.eye(4)
        matrix[:3, :3], matrix[:3, 3] = about_z @ about_x, (4.0, -7.5, 11.25)
        return RigidTransform(matrix)

    @functools.cached_property
    def tract_masks(self) -> Volume:
        peaks = self.csd_peaks["peaks"]
        bundles = np.random.default_rng(2).integers(0, 4, (*peaks.grid, 72)) == 0
        return Volume(bundles.astype(np.uint8), peaks.affine)

    def responses(self, variant: str) -> dict[str, Any]:
        """Of three subjects, whose images differ in gain; of the third, the response of the other kind is excluded."""
        kinds = [fiber, fiber, tissues] if variant == "single-tissue" else [tissues, tissues, fiber]
        gains = (1.0, 1.7, 1.0)
        return {f"sub-{n:02}": kind(gain, n) for n, (kind, gain) in enumerate(zip(kinds, gains, strict=True), 1)}

    def response_file(self, name: str) -> str:
        """Writes `wm.txt`, `gm.txt`, `csf.txt` or `fiber.txt`, in MRtrix3's text form, and returns its path."""
        rows = {"wm.txt": WHITE, "gm.txt": GRAY[:, None], "csf.txt": CSF[:, None], "fiber.txt": WHITE[-1:]}[name]
        path = self.folder / name
        path.write_text("".join(" ".join(f"{value:g}" for value in row) + "\n" for row in rows))
        return str(path)

    def networks(self, settings: PipelineSettings) -> SmallNetworks:
        """The networks as an asset asks for them."""
        return SmallNetworks(self, settings)

    @functools.cached_property
    def hd_bet(self) -> Path:
        return write_nnunet(_new_folder(self.folder / "hd-bet"))

    @functools.cached_property
    def tractseg(self) -> Path:
        shrink_tractseg()
        return write_tractseg(_new_folder(self.folder / "tractseg"))

    @functools.cached_property
    def _head(self) -> Path:
        affine = centered_affine(SHAPE, voxel=VOXEL)
        return write_phantom(self.folder / "head", affine=affine, shape=SHAPE)

    def _image(self, file: str) -> Any:
        return nibabel.load(self._head / file)

    def _series(self, file: str) -> Dwi:
        image = self._image(file)
        stem = self._head / "sub-01" / "dwi" / "sub-01_dwi"
        bvals = parse_bvals(Path(f"{stem}.bval").read_text())
        gradients = GradientTable(bvals, parse_bvecs(Path(f"{stem}.bvec").read_text(), len(bvals)))
        return Dwi(Volume(np.asfortranarray(image.get_fdata(dtype=np.float32)), image.affine), gradients)


class SmallNetworks(StepNetworks):
    """Small networks with random weights, on the CPU."""

    def __init__(self, inputs: Inputs, settings: PipelineSettings) -> None:
        super().__init__(settings.model_copy(update={"networks": NetworkSettings(device="cpu")}), ())
        self._inputs = inputs

    def folder(self, name: str) -> Path:
        return self._inputs.hd_bet if name == "hd-bet" else self._inputs.tractseg


def read_from_source(asset: str, changes: dict[str, Any], folder: Path) -> Dwi | Volume:
    """`dwi` or `provided_mask` as ingestion reads it from a small dataset of two runs, the second of another scale."""
    source = folder / "source"
    if not source.exists():
        _write_source(source)
    options = {key.partition(".")[2]: value for key, value in changes.items()}
    dataset = SourceDataset(SourceSettings(url=str(source), **({"mask_threshold": 0.3} | options)))
    series = dataset.series(SUBJECT)
    if asset == "dwi":
        return read_dwi(dataset, series)[0]
    return read_mask(dataset, dataset.mask(SUBJECT, series))[0]


def _write_source(source: Path) -> None:
    small_dataset.write_dataset(source, [])
    directions = small_dataset.table()
    # Counts as b=0 or not, depending on source.b0_threshold.
    directions.bvals[0], directions.world[0] = 5.0, (1.0, 0.0, 0.0)
    for run, brightness in enumerate((1.0, 1.5), start=1):
        small_dataset.write_series(source, entities=f"run-{run}", directions=directions, brightness=brightness)
    path = small_dataset.write_mask(source)
    image: Any = nibabel.load(path)
    probability = image.get_fdata() * np.linspace(0.2, 1, image.shape[1])[:, None]
    nibabel.save(nibabel.Nifti1Image(probability.round(3).astype(np.float32), image.affine), path)


def _new_folder(path: Path) -> Path:
    path.mkdir()
    return path


def fiber(gain: float = 1.0, voxels: int = 0, contrast: float = 1.0) -> ResponseFunction:
    """The response of one shell, b=3000; `contrast` multiplies its coefficients above l = 0."""
    return ResponseFunction(gain * _white(contrast)[-1], SHELLS[-1], voxels)


def tissues(gain: float = 1.0, voxels: int = 0, contrast: float = 1.0) -> TissueResponses:
    """The responses of white matter, gray matter and CSF on all shells."""
    white, gray, csf = (gain * values for values in (_white(contrast), GRAY, CSF))
    return TissueResponses(np.array(SHELLS), white, gray, csf, voxels, voxels, voxels)


def _white(contrast: float) -> NDArray[np.float64]:
    return WHITE * [1, *[contrast] * (WHITE.shape[1] - 1)]
