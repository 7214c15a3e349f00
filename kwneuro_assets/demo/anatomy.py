"""The synthetic head: tissues as formulas of position.

Positions are in mm in a frame like MNI's (x right, y anterior, z superior, the anterior commissure near the origin) and
of adult size; `HEAD_SCALE` makes the head smaller. A *depth* is an approximate signed distance in mm, positive
inside. Bilateral shapes are defined once, for the right side, and evaluated at |x|. Left and right differ in the random
pattern of the cortex and in one lesion of free water in the left frontal lobe.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike, NDArray

Points = NDArray[np.float32]  # (n, 3)
Depth = NDArray[np.float32]  # (n,)

HEAD_SCALE = 0.84  # relative to an adult: the size of a child's head, whose voxels are computed in minutes

CORTEX = 2.8  # mm, thickness of the cerebral cortex (2 to 4 in humans)
CEREBELLAR_CORTEX = 4.5  # mm, cortex and folia, which voxels of this size do not resolve
SULCUS_WIDTH = 1.6  # mm of CSF between two banks
SULCUS_DEPTH = 16.0  # mm
SULCUS_SPACING = 12.0  # mm between two sulci
FLUID_LAYER = 3.0  # mm of cerebrospinal fluid between brain and skull
SKULL_THICKNESS = 6.0  # mm
SCALP_THICKNESS = 6.0  # mm
FORAMEN_MAGNUM = -62.0  # mm, z below which the brainstem is spinal cord, not brain

LESION_CENTER = (-29.0, 36.0, 16.0)  # left frontal white matter
LESION_RADIUS = 8.5  # mm
LESION_FREE_WATER = 0.7  # fraction of the tissue that is free water in the lesion

TISSUES = ("white", "gray", "fluid", "scalp", "muscle", "marrow", "bone", "eye")
WHITE, GRAY, FLUID, SCALP, MUSCLE, MARROW, BONE, EYE = range(len(TISSUES))
NO_TISSUE = len(TISSUES)


@dataclass(frozen=True, eq=False)
class Cortex:
    """The pattern of the sulci of one head: the zeros of a sum of random plane waves on a sphere."""

    waves: NDArray[np.float32]  # (k, 3), radians per mm
    phases: NDArray[np.float32]  # (k,)

    @classmethod
    def random(cls, generator: np.random.Generator, count: int = 32) -> Cortex:
        waves = generator.standard_normal((count, 3))
        waves *= np.pi / SULCUS_SPACING / np.linalg.norm(waves, axis=1, keepdims=True)
        return cls(waves.astype(np.float32), generator.uniform(0, 2 * np.pi, count).astype(np.float32))

    def distance_to_sulcus(self, points: Points) -> Depth:
        """Approximate distance in mm to the middle of the nearest sulcus; sulci follow the radii of the brain."""
        radii: Points = np.array([68, 88, 62], np.float32)
        radial: Points = (points - np.asarray((0, -16, 10), np.float32)) / radii
        norm = _length(radial).clip(1e-3)
        sphere = 68 * radial / norm[:, None]
        field = np.zeros(len(points), np.float32)
        for wave, phase in zip(self.waves, self.phases, strict=True):
            field += np.cos(sphere @ wave + phase)
        field *= np.sqrt(2 / len(self.phases))
        # The mean slope of a field of unit variance along the sphere; closer to the center, sulci are closer together.
        return norm * np.abs(field) / np.float32(np.pi / SULCUS_SPACING * np.sqrt(2 / 3))


@dataclass(frozen=True, eq=False)
class Head:
    """The head at n points: whether in the brain (n,), and the fraction of each of TISSUES (n, 8), zero in air."""

    brain: NDArray[np.bool_]
    fractions: NDArray[np.float32]


def head(points: Points, cortex: Cortex) -> Head:
    """The tissues at `points` (n, 3) in mm of the adult frame: one tissue per point, except in the lesion."""
    cavity = _cavity(points)
    inside = cavity > 0
    tissue = np.full(len(points), NO_TISSUE, np.intp)
    tissue[~inside] = _around_the_cavity(points[~inside], cavity[~inside])
    brain = np.zeros(len(points), np.bool_)
    tissue[inside], brain[inside] = _in_the_cavity(points[inside], cortex)
    fractions = np.eye(len(TISSUES) + 1, len(TISSUES), dtype=np.float32)[tissue]
    _add_lesion(points, fractions)
    return Head(brain, fractions)


def ellipsoid(points: Points, center: ArrayLike, radii: ArrayLike) -> Depth:
    """Depth inside an ellipsoid, to first order: exact on its surface and for spheres."""
    axes: Points = np.asarray(radii, np.float32)
    scaled: Points = (points - np.asarray(center, np.float32)) / axes
    norm = _length(scaled).clip(1e-3)
    depth: Depth = norm * (1 - norm) / _length(scaled / axes).clip(1e-6)
    return depth


def tube(points: Points, start: ArrayLike, end: ArrayLike, radii: tuple[float, float]) -> Depth:
    """Depth inside a straight tube with round ends; its radius changes linearly from `radii[0]` to `radii[1]`."""
    origin = np.asarray(start, np.float32)
    axis = np.asarray(end, np.float32) - origin
    along: Depth = ((points - origin) @ axis / (axis @ axis)).clip(0, 1)
    depth: Depth = radii[0] + (radii[1] - radii[0]) * along - _length(points - origin - along[:, None] * axis)
    return depth


def join(first: Depth, second: Depth, blend: float) -> Depth:
    """Depth inside the union of two shapes, with the crease between them filled over `blend` mm."""
    overlap = (blend - np.abs(first - second)).clip(0) / blend
    depth: Depth = np.maximum(first, second) + overlap**2 * (blend / 4)
    return depth


def _in_the_cavity(points: Points, cortex: Cortex) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
    """The tissue at points in the skull and spinal canal, and whether they are brain."""
    side = _right(points)
    cerebrum, cerebellum, stem = _cerebrum(side), _cerebellum(side), _brainstem(points)
    # The creases between the parts count as brain, as in manual segmentations.
    brain = join(join(cerebrum, cerebellum, 6), np.minimum(stem, points[:, 2] - FORAMEN_MAGNUM), 6) > 0
    pia = np.minimum(cerebrum, _from_sulci(points, side, cerebrum, cortex))
    deep = _deep_gray(side) > 0
    gray = (pia > 0) | (cerebellum > 0)
    white = ((pia > CORTEX) | (cerebellum > CEREBELLAR_CORTEX) | (stem > 0)) & ~deep
    fluid = _ventricles(side) > 0
    return np.select([fluid, white, gray], [FLUID, WHITE, GRAY], FLUID), brain


def _around_the_cavity(points: Points, cavity: Depth) -> NDArray[np.intp]:
    """The tissue at points outside the cavity: skull, scalp, face, eyes and neck, surrounded by air."""
    side = _right(points)
    face = ellipsoid(side, (0, 40, -56), (58, 48, 62))
    neck = np.minimum(56 - np.hypot(points[:, 0], points[:, 1] + 26), -30 - points[:, 2])
    nose = tube(side, (0, 84, -22), (0, 96, -46), (8, 12))
    skin = join(join(join(cavity + SKULL_THICKNESS + SCALP_THICKNESS, face, 20), neck, 20), nose, 8)
    skull = cavity + SKULL_THICKNESS
    marrow = (np.abs(skull - SKULL_THICKNESS / 2) < 0.8) & (points[:, 2] > 0)
    spine = tube(points, (0, -40, -66), (0, -48, -130), (17, 17))
    orbit = (ellipsoid(side, (31, 56, -28), (17, 22, 16)) > 0) & (cavity < -1.5) & (skin > 2)
    eye = ellipsoid(side, (32, 66, -28), (12, 12, 12))
    return np.select(
        [eye > 0, orbit | marrow, (_airways(side) > 0) | (spine > 0) | (skull > 0), skin > 4, skin > 0],
        [EYE, MARROW, BONE, np.where(points[:, 2] < -10, MUSCLE, SCALP), SCALP],
        NO_TISSUE,
    )


def _cavity(points: Points) -> Depth:
    """Depth inside the skull and the spinal canal: the brain without its creases, and the CSF around it."""
    smooth = points.copy()
    smooth[:, 0] = np.hypot(points[:, 0], 12)  # no notch between the hemispheres
    vault = join(_cerebrum(smooth), _cerebellum(smooth), 22)
    stem = _brainstem(points)
    return np.maximum(join(vault, stem, 12) + FLUID_LAYER, stem + 2)


def _cerebrum(side: Points) -> Depth:
    # Flat below, on the skull base and the tentorium; the temporal lobe extends below that plane.
    floor = side[:, 2] + 17
    return join(-join(-_hemisphere(side), -floor, 12), _temporal_lobe(side), 10)


def _hemisphere(side: Points) -> Depth:
    return ellipsoid(side, (19, -16, 20), (49, 87, 54))


def _temporal_lobe(side: Points) -> Depth:
    return ellipsoid(side, (44, -12, -17), (20, 42, 21))


def _cerebellum(side: Points) -> Depth:
    return ellipsoid(side, (21, -62, -38), (30, 28, 22))


def _brainstem(points: Points) -> Depth:
    midbrain = tube(points, (0, -20, -2), (0, -24, -24), (15, 15))
    pons = ellipsoid(points, (0, -23, -31), (17, 14, 16))
    cord = tube(points, (0, -29, -42), (0, -42, -120), (10, 6))
    return join(join(midbrain, pons, 8), cord, 8)


def _from_sulci(points: Points, side: Points, cerebrum: Depth, cortex: Cortex) -> Depth:
    """Distance to the CSF of the sulci, of the longitudinal fissure and of the Sylvian fissure."""
    sulcus = np.full(len(points), np.inf, np.float32)
    # Sulci extend from the curved surface, not from the flat base, which is parallel to the radii.
    depth = np.maximum(_hemisphere(side), _temporal_lobe(side))
    near = (cerebrum > 0) & (depth < SULCUS_DEPTH + CORTEX)
    sulcus[near] = np.maximum(cortex.distance_to_sulcus(points[near]) - SULCUS_WIDTH / 2, depth[near] - SULCUS_DEPTH)
    commissures = ellipsoid(points * np.array([0, 1, 1], np.float32), (0, -8, 5), (1e3, 42, 26))
    between = np.maximum(side[:, 0] - SULCUS_WIDTH / 2, commissures)
    sylvian = -tube(side, (36, 18, -2), (44, -30, 12), (2.0, 1.2))
    outward = -tube(side, (44, 8, -1), (56, -12, 4), (1.5, 1.5))
    return np.minimum(np.minimum(sulcus, between), np.minimum(sylvian, outward))


def _deep_gray(side: Points) -> Depth:
    thalamus = ellipsoid(side, (10, -18, 8), (8, 15, 8))
    putamen = ellipsoid(side, (29, 2, 2), (5, 17, 10))
    caudate = ellipsoid(side, (14, 16, 8), (5, 11, 8))
    return np.maximum(np.maximum(thalamus, putamen), caudate)


def _ventricles(side: Points) -> Depth:
    lateral = [  # lateral ventricle: position and radius
        ((8, 30, 4), 4.0),
        ((8, 12, 16), 4.5),
        ((13, -20, 19), 5.0),
        ((24, -40, 13), 6.0),
        ((23, -64, 8), 2.5),
    ]
    temporal_horn = [((24, -40, 13), 5.0), ((35, -28, -9), 2.5), ((32, -8, -18), 2.0)]
    depth = tube(side, (0, -28, -3), (0, 2, 0), (2.0, 2.0))  # third ventricle
    depth = np.maximum(depth, tube(side, (0, -28, 6), (0, 2, 8), (1.8, 1.8)))
    depth = np.maximum(depth, ellipsoid(side, (0, -41, -33), (7, 5, 9)))  # fourth ventricle
    for horn in (lateral, temporal_horn):
        for (start, first), (end, last) in pairwise(horn):
            depth = np.maximum(depth, tube(side, start, end, (first, last)))
    return depth


def _add_lesion(points: Points, fractions: NDArray[np.float32]) -> None:
    """Replace most of the tissue inside the lesion by free water, less towards its edge."""
    water = LESION_FREE_WATER * (ellipsoid(points, LESION_CENTER, (LESION_RADIUS,) * 3) / 3).clip(0, 1)
    for tissue in (WHITE, GRAY):
        moved = fractions[:, tissue] * water
        fractions[:, tissue] -= moved
        fractions[:, FLUID] += moved


def _airways(side: Points) -> Depth:
    """Depth inside nose, throat, and maxillary, mastoid and frontal air cells, which are as dark as bone."""
    shapes = [
        ((0, 58, -42), (9, 26, 22)),
        ((24, 50, -52), (13, 14, 15)),
        ((0, 24, -62), (13, 12, 24)),
        ((54, -38, -36), (9, 14, 16)),
        ((10, 76, -2), (12, 5, 12)),
    ]
    depth = ellipsoid(side, *shapes[0])
    for center, radii in shapes[1:]:
        depth = np.maximum(depth, ellipsoid(side, center, radii))
    return depth


def _right(points: Points) -> Points:
    """The points, with points on the left mirrored to the right."""
    side = points.copy()
    side[:, 0] = np.abs(side[:, 0])
    return side


def _length(vectors: Points) -> Depth:
    length: Depth = np.sqrt(np.einsum("ij,ij->i", vectors, vectors))
    return length
