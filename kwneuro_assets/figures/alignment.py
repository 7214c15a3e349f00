"""The figure and the summary numbers of the alignment with MNI space."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from kwneuro_assets.derivations.alignment import SPACING, center_of, reduced_template, resampled, similarity
from kwneuro_assets.figures.layout import Slices
from kwneuro_assets.figures.panels import Scale
from kwneuro_assets.figures.render import png
from kwneuro_assets.figures.rows import captioned, on_grid, outlined_panel
from kwneuro_assets.figures.summaries import Summary, rounded
from kwneuro_assets.figures.view import View
from kwneuro_assets.imaging import MapSet, RigidTransform, Volume

_OUTLINED = 0.25  # FA: the core of white matter
_TEMPLATE = Scale("gray", 0, 0.8, "FA of the template")


def alignment_figure(value: RigidTransform, inputs: Mapping[str, object], title: str) -> bytes:
    """The template with the outline of the subject's white matter, before and after the alignment."""
    template = reduced_template(SPACING)
    view = View.of(template, template.array > 0)
    fa = _inputs(inputs)
    rows = [_row("Before alignment", view, template, fa, None)] if fa else []
    rows.append(_row(f"Aligned: rotated by {value.degrees:.1f} degrees", view, template, fa, value))
    return png(title, *rows)


def alignment_summary(value: RigidTransform, inputs: Mapping[str, object]) -> Summary:
    """The angle of the rotation, how far the center of the brain moves, and the correlation of the FA with the template
    before and after.
    """
    numbers: Summary = {"rotation_degrees": rounded(value.degrees)}
    fa = _inputs(inputs)
    if fa is None:
        return numbers
    center = center_of(fa[1])
    shift = value.inverse[:3, :3] @ center + value.inverse[:3, 3] - center
    return {
        **numbers,
        "shift_of_brain_mm": rounded(np.linalg.norm(shift)),
        "correlation_before": rounded(similarity(*fa)),
        "correlation_after": rounded(similarity(*fa, value)),
    }


def _inputs(inputs: Mapping[str, object]) -> tuple[Volume, Volume] | None:
    """FA and brain mask, if both are known."""
    maps = inputs.get("dti")
    fa = maps.get("fa") if isinstance(maps, MapSet) else None
    mask = on_grid(inputs.get("brain_mask"), fa) if fa else None
    return (fa, mask) if fa and mask else None


def _row(
    caption: str, view: View, template: Volume, fa: tuple[Volume, Volume] | None, transform: RigidTransform | None
) -> Slices:
    if fa is None:
        inside = np.zeros(template.grid, bool)
    else:
        inside = resampled(_smooth(*fa), template, transform).array > _OUTLINED
        caption += f" (correlation {similarity(*fa, transform):.2f}). Gray: template; outline: FA above {_OUTLINED}"
    return captioned(caption, [outlined_panel(view, cut, template.array, inside, _TEMPLATE) for cut in view.cuts()])


def _smooth(fa: Volume, mask: Volume) -> Volume:
    """The FA in the mask without single voxels of noise, whose outlines would hide the white matter."""
    from scipy.ndimage import gaussian_filter

    return Volume(gaussian_filter(np.where(mask.array > 0, fa.array, 0), 1.5 / np.array(fa.voxel_size)), fa.affine)
