"""Rigid alignment of a head with MNI space, for networks that expect heads there, and the way back.

TractSeg's networks were trained on heads in MNI space, and find little in a head that lies far from it. Its own remedy
(`--preprocess`) registers the FA with an FA template by FSL's FLIRT, six degrees of freedom and mutual information, and
resamples the DWI. Here DIPY registers the FA with the same template, and no image is resampled for it: a rigid
transform only gives the peaks another affine and rotates their vectors (`aligned`), and gives the result its own affine
back (`unaligned`, `vectors_unaligned`).

Mutual information: Mattes et al., IEEE Transactions on Medical Imaging 22 (2003), doi:10.1109/TMI.2003.809072.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from kwneuro_assets.derivations.networks import needs_extra, quiet
from kwneuro_assets.imaging import InvalidData, RigidTransform, Segmentation, Volume
from kwneuro_assets.imaging.volume import on_grid_of, require_same_grid
from kwneuro_assets.progress import Progress, silent
from kwneuro_assets.threads import one_blas_thread

MNI_SPACE = "MNI152NLin6Asym"  # TemplateFlow's name of FSL's template, in which the HCP's subjects, TractSeg's, are
TEMPLATE = "MNI_FA_template.nii.gz"  # in the package tractseg.resources; 1.25 mm

SPACING = 2  # voxels of the template along each axis that count as one: 2.5 mm, as fine as most DWI
_COARSE = 5  # the same for the search of the first rotation: 6.25 mm
_SEARCH = 60.0  # degrees around each axis at most: a patient's head is not upside down
_STEP = 20.0  # degrees between two rotations of the search; the registration finds the rest
_BINS = 32  # of the histograms for mutual information: DIPY's default
_TOLERANCE = 1e-6  # of mutual information, relative: less than what interpolation changes


def register_to_mni(fa: Volume, brain_mask: Volume, *, progress: Progress = silent) -> RigidTransform:
    """The rigid transform from the space of `fa` to MNI space (`MNI_SPACE`), by TractSeg's FA template.

    `fa` (x, y, z) is the fractional anisotropy, `brain_mask` (x, y, z) on the same grid, which may have any
    orientation. The centers of brain and template are brought together; of the rotations of a coarse grid (up to 60
    degrees), the one with the highest correlation starts DIPY's registration: first a translation, then a rotation and
    a translation, by mutual information over all voxels. The result depends neither on random numbers nor on the number
    of threads.

    Raises InvalidData if the FA is zero in the entire mask or the mask is on another grid; ModuleNotFoundError if
    TractSeg is not installed.
    """
    inside = _inside(fa, brain_mask)
    if not inside.any():
        raise InvalidData("FA", expected="values above 0 in the brain mask", found="0 in every voxel of it")
    progress(0.0)
    moving = Volume(inside, fa.affine)
    centers = _shift(center_of(brain_mask)), _shift(center_of(reduced_template(_COARSE)))
    with one_blas_thread():
        rotation = _coarse_rotation(moving, *centers)
        progress(0.2)
        matrix = _refined(moving, *centers, rotation)
    progress(1.0)
    return RigidTransform(_rigid(matrix))


def similarity(fa: Volume, brain_mask: Volume, transform: RigidTransform | None = None) -> float:
    """The correlation, from -1 to 1, of the FA in the brain mask with the template, before or after `transform`."""
    template = reduced_template(SPACING)
    moved = resampled(Volume(_inside(fa, brain_mask), fa.affine), template, transform)
    return _correlation(template.array.ravel(), moved.array.ravel())


def aligned(peaks: Volume, transform: RigidTransform | None) -> Volume:
    """Peaks (x, y, z, 3 * n) of the world frame, moved to MNI space: other affine, rotated vectors, the same voxels.

    Without a transform, they are returned as they are.
    """
    if transform is None:
        return peaks
    vectors = _rotated(peaks.array, transform.inverse[:3, :3])
    return Volume(vectors, transform.inverse @ peaks.affine, peaks.names)


def aligned_masks(masks: Volume, peaks: Volume, transform: RigidTransform | None) -> Volume:
    """Masks on the grid of `peaks`, moved as `aligned` moves these. Raises InvalidData if they are on another grid."""
    on_grid = on_grid_of(peaks, masks, "the tract masks", "the peaks")
    return on_grid if transform is None else Volume(masks.array, transform.inverse @ peaks.affine, masks.names)


def unaligned(result: Volume, grid: Volume) -> Volume:
    """An image or Segmentation that was computed from `aligned` peaks, back in the space of `grid`, on its voxels."""
    image = Volume(result.array, grid.affine, result.names)
    if isinstance(result, Segmentation):
        return Segmentation.of(image, unaligned(result.probabilities, grid))
    return image


def vectors_unaligned(result: Volume, grid: Volume, transform: RigidTransform | None) -> Volume:
    """As `unaligned`, for vectors (x, y, z, 3 * n), which are rotated back to the world frame of `grid`."""
    vectors = result.array if transform is None else _rotated(result.array, transform.matrix[:3, :3])
    return Volume(vectors, grid.affine, result.names)


def resampled(image: Volume, grid: Volume, transform: RigidTransform | None = None) -> Volume:
    """`image` (x, y, z) in the space of `grid`, before or after a transform to it: linear, zero outside."""
    from scipy.ndimage import map_coordinates

    matrix = np.eye(4) if transform is None else transform.matrix
    voxels = _positions(grid, np.linalg.inv(image.affine) @ matrix @ grid.affine)
    values = map_coordinates(image.array, voxels.T, order=1).reshape(grid.grid)
    return Volume(values.astype(np.float32), grid.affine)


def center_of(image: Volume) -> NDArray[np.float64]:
    """The mean position (3,) of the voxels above zero, in mm of the world frame."""
    return np.asarray(np.argwhere(image.array > 0).mean(axis=0) @ image.affine[:3, :3].T + image.affine[:3, 3])


@functools.cache
def reduced_template(voxels: int) -> Volume:
    """TractSeg's FA template, where `voxels` of its voxels (1.25 mm) along each axis are averaged to one."""
    template = _template()
    sizes = [size // voxels for size in template.grid]
    cut = template.array[tuple(slice(size * voxels) for size in sizes)]
    array = cut.reshape(sizes[0], voxels, sizes[1], voxels, sizes[2], voxels).mean(axis=(1, 3, 5), dtype=np.float64)
    affine = template.affine.copy()
    affine[:3, :3] *= voxels
    affine[:3, 3] += template.affine[:3, :3] @ np.full(3, (voxels - 1) / 2)
    return Volume(array.astype(np.float32), affine)


@functools.cache
def _template() -> Volume:
    import nibabel

    with needs_extra("tractseg"), quiet():
        import tractseg.resources
    from importlib.resources import as_file, files

    with as_file(files(tractseg.resources) / TEMPLATE) as file:
        image = nibabel.Nifti1Image.from_filename(file)
        return Volume(np.asarray(image.dataobj, np.float32), image.affine)


def _coarse_rotation(
    fa: Volume, to_brain: NDArray[np.float64], to_template: NDArray[np.float64]
) -> NDArray[np.float64]:
    """The rotation (4, 4) of a coarse grid after which the FA correlates best with the template.

    `to_brain` and `to_template` (4, 4) move the origin to the centers of both, which are brought together.
    """
    from scipy.ndimage import gaussian_filter

    template = reduced_template(_COARSE)
    width = np.array(template.voxel_size) / np.array(fa.voxel_size) / 2.355  # full width at half maximum: one voxel
    smooth = Volume(gaussian_filter(fa.array, width), fa.affine)
    wanted, rotations = template.array.ravel(), list(_rotations())

    def agreement(rotation: NDArray[np.float64]) -> float:
        transform = RigidTransform(to_brain @ rotation @ np.linalg.inv(to_template))
        return _correlation(wanted, resampled(smooth, template, transform).array.ravel())

    return rotations[int(np.argmax([agreement(rotation) for rotation in rotations]))]


def _rotations() -> Iterator[NDArray[np.float64]]:
    """The rotations (4, 4) of the search, the smallest first: a tie is decided for it."""
    from scipy.spatial.transform import Rotation

    steps = np.arange(-_SEARCH, _SEARCH + 1, _STEP)
    vectors = sorted(itertools.product(steps, repeat=3), key=lambda vector: (float(np.linalg.norm(vector)), vector))
    for vector in vectors:
        if np.linalg.norm(vector) <= _SEARCH:
            rotation = np.eye(4)
            rotation[:3, :3] = Rotation.from_rotvec(vector, degrees=True).as_matrix()
            yield rotation


def _refined(
    fa: Volume, to_brain: NDArray[np.float64], to_template: NDArray[np.float64], rotation: NDArray[np.float64]
) -> NDArray[np.float64]:
    """The registration (4, 4) of template to FA, from centers that are brought together and a rotation.

    Both centers are origins while it lasts: a rotation about a far point would also move the head.
    """
    from dipy.align.imaffine import AffineRegistration, MutualInformationMetric
    from dipy.align.transforms import RigidTransform3D, TranslationTransform3D

    template = reduced_template(SPACING)
    # From coarse to fine: by what the template is reduced (to 10 and 5 mm), the width of the smoothing in its voxels,
    # and the maximum number of evaluations. At 2.5 mm, it takes four times as long and moves no voxel of a DWI by one.
    levels = (
        (TranslationTransform3D(), [4], [3.0], [50]),
        (RigidTransform3D(), [4, 2], [3.0, 1.0], [100, 50]),
    )
    matrix = rotation
    for kind, factors, sigmas, evaluations in levels:
        registration = AffineRegistration(
            metric=MutualInformationMetric(nbins=_BINS, sampling_proportion=None),  # of all voxels: nothing is random
            level_iters=evaluations,
            sigmas=sigmas,
            factors=factors,
            options={"gtol": 1e-4, "ftol": _TOLERANCE},
            verbosity=0,
        )
        found = registration.optimize(
            template.array.astype(np.float64), fa.array.astype(np.float64), kind, None,
            static_grid2world=np.linalg.inv(to_template) @ template.affine,
            moving_grid2world=np.linalg.inv(to_brain) @ fa.affine,
            starting_affine=matrix,
        )  # fmt: skip
        matrix = np.asarray(found.affine, np.float64)
    return np.asarray(to_brain @ matrix @ np.linalg.inv(to_template))


def _rigid(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """The nearest rigid transform: the products of rotations that DIPY returns are rounded."""
    left, _, right = np.linalg.svd(matrix[:3, :3])
    rigid = matrix.copy()
    rigid[:3, :3] = left @ right
    return rigid


def _inside(fa: Volume, brain_mask: Volume) -> NDArray[np.float32]:
    require_same_grid(brain_mask, fa, "the brain mask", "the FA")
    # Beyond 1 the FA has no meaning, and single voxels at the edge would set the bins of the histogram.
    return np.asarray(np.where(brain_mask.array > 0, np.clip(fa.array, 0, 1), 0), np.float32)


def _shift(vector: NDArray[np.float64]) -> NDArray[np.float64]:
    """The translation (4, 4) by a vector in mm."""
    matrix = np.eye(4)
    matrix[:3, 3] = vector
    return matrix


def _positions(grid: Volume, matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """The voxels (n, 3) of a grid, mapped by `matrix` (4, 4)."""
    return np.asarray(np.indices(grid.grid).reshape(3, -1).T @ matrix[:3, :3].T + matrix[:3, 3])


def _correlation(first: NDArray[np.float32], second: NDArray[np.float32]) -> float:
    one, other = (values - values.mean(dtype=np.float64) for values in (first, second))
    length = float(np.sqrt(np.square(one).sum() * np.square(other).sum()))
    return float((one * other).sum() / length) if length else 0.0


def _rotated(vectors: NDArray[np.float32], rotation: NDArray[np.float64]) -> NDArray[np.float32]:
    """Vectors (x, y, z, 3 * n) after a rotation (3, 3), one at a time: few temporary arrays, and no BLAS."""
    result = np.empty(vectors.shape, np.float32, order="F")
    for first in range(0, vectors.shape[3], 3):
        x, y, z = (vectors[..., first + axis].astype(np.float64) for axis in range(3))
        for axis, (along_x, along_y, along_z) in enumerate(rotation):
            result[..., first + axis] = along_x * x + along_y * y + along_z * z
    return result
