"""QC metrics of the shape of the brain mask."""

from __future__ import annotations

from kwneuro_assets.imaging import NotApplicable, Volume
from kwneuro_assets.qc.cells import number
from kwneuro_assets.qc.inputs import volume_on
from kwneuro_assets.qc.mask_shape import edge_faces, flattest_face, hole_voxels, piece_sizes
from kwneuro_assets.qc.metrics import Better, Metric
from kwneuro_assets.qc.summary import Row, fraction
from kwneuro_assets.qc.symmetry import Mirror

NONE = "none"


def _shape(name: str, label: str, description: str, unit: str, better: Better = "lower") -> Metric:
    counted = unit in ("voxels", "pieces", "faces")
    return Metric(name, label, description, unit, better, check="mask", kind="integer" if counted else "number")


def _names(name: str, label: str, description: str) -> Metric:
    return Metric(name, label, description, unit="", better="neither", kind="text")


MASK_METRICS = (
    _shape("mask_volume_ml", "Volume of the brain mask", "Voxels of the mask times their volume.", "ml", "neither"),
    _shape(
        "mask_pieces",
        "Pieces of the brain mask",
        "Connected components of the mask; neighbors share a face, edge or corner. A brain is one piece.",
        "pieces",
    ),
    _shape(
        "mask_largest_piece_fraction",
        "Largest piece of the brain mask",
        "Voxels of the largest piece divided by those of the mask.",
        "1",
        "higher",
    ),
    _shape(
        "mask_hole_voxels",
        "Holes of the brain mask",
        "Voxels outside the mask from which no path across faces of voxels leads to the edge of the grid without "
        "crossing the mask.",
        "voxels",
    ),
    _shape(
        "mask_edge_faces",
        "Sides of the field of view that the brain touches",
        "Number of the six sides of the grid that have a voxel of the mask in their outermost layer.",
        "faces",
    ),
    _names(
        "mask_edge_face_names",
        "Sides of the field of view that the brain touches, by name",
        "Names of these sides in the subject's anatomy, such as `inferior`, or `none`.",
    ),
    _shape(
        "mask_edge_area_fraction",
        "Area of the brain at the edge of the field of view",
        "Largest area of the mask in an outermost layer of the grid, divided by that of its largest cross section "
        "parallel to this layer. It is near 1 if the field of view ends in the middle of the head.",
        "1",
    ),
    _shape(
        "mask_flat_face_fraction",
        "Largest flat face of the brain mask",
        "Largest number of voxels in one layer of the grid in which the mask ends in the same direction, inside the "
        "field of view, divided by its largest cross section parallel to this layer. A brain is round; the fraction is "
        "near 1 where a mask was cut.",
        "1",
    ),
    _names(
        "mask_flat_face_name",
        "Side of the largest flat face of the brain mask",
        "Name of this side in the subject's anatomy, such as `superior`, or `none`.",
    ),
    _shape(
        "mask_symmetry",
        "Left-right symmetry of the brain mask",
        "Dice coefficient of the mask and its mirror image at the midsagittal plane, which is the plane within some "
        "degrees of the sagittal one that makes it largest.",
        "1",
        "higher",
    ),
)


def mask_metrics(brain_mask: Volume | NotApplicable | None, mirror: Mirror | None) -> Row:
    """The columns of `MASK_METRICS` from a mask (x, y, z) and its reflection by `symmetry.reflected`.

    All are None without a mask. An empty mask has no volume, pieces, holes and faces; its fractions are None.
    """
    mask = volume_on(None, brain_mask)
    if mask is None:
        return dict.fromkeys((metric.name for metric in MASK_METRICS), None)
    inside = mask.array > 0
    pieces, edges, flat = piece_sizes(inside), edge_faces(mask), flattest_face(mask)
    voxels = int(pieces.sum())
    return {
        "mask_volume_ml": number(voxels * mask.voxel_volume_ml),
        "mask_pieces": len(pieces),
        "mask_largest_piece_fraction": fraction(pieces[0], voxels) if voxels else None,
        "mask_hole_voxels": hole_voxels(inside),
        "mask_edge_faces": len(edges),
        "mask_edge_face_names": ", ".join(edges) or NONE,
        "mask_edge_area_fraction": number(max(edges.values(), default=0.0)) if voxels else None,
        "mask_flat_face_fraction": number(flat.area if flat else 0.0) if voxels else None,
        "mask_flat_face_name": flat.side if flat else NONE,
        "mask_symmetry": number(mirror.symmetry) if mirror else None,
    }
