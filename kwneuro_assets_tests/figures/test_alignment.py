"""The figure and the summary of the alignment with MNI space."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image
from scipy.spatial.transform import Rotation

from kwneuro_assets.derivations.alignment import reduced_template
from kwneuro_assets.figures.alignment import alignment_figure, alignment_summary
from kwneuro_assets.figures.render import THUMBNAIL_BYTES, thumbnail
from kwneuro_assets.imaging import MapSet, RigidTransform, Volume

pytest.importorskip("tractseg")


@pytest.fixture(scope="module")
def subject():
    """The template at 5 mm as the FA of a subject that lies rotated by 25 degrees, and the transform to MNI space."""
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_rotvec([0, 0, 25], degrees=True).as_matrix()
    matrix[:3, 3] = 0, 30, 0
    template = reduced_template(4)
    affine = matrix @ template.affine
    inputs = {
        "dti": MapSet({"fa": Volume(template.array, affine)}),
        "brain_mask": Volume(template.array > 0.02, affine),
    }
    return RigidTransform(matrix), inputs


def pixels_of(png):
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)


def test_the_summary_has_the_movement_and_the_correlation_before_and_after(subject):
    transform, inputs = subject
    found = alignment_summary(transform, inputs)
    assert found["rotation_degrees"] == pytest.approx(25)
    center = np.argwhere(inputs["brain_mask"].array > 0).mean(axis=0) @ inputs["dti"].affine[:3, :3].T
    center += inputs["dti"].affine[:3, 3]
    moved = np.linalg.inv(transform.matrix)[:3] @ [*center, 1]
    assert found["shift_of_brain_mm"] == pytest.approx(np.linalg.norm(moved - center), rel=1e-4)
    assert found["correlation_before"] < 0.6
    assert found["correlation_after"] > 0.95
    assert alignment_summary(transform, {}) == {"rotation_degrees": pytest.approx(25)}


def test_the_figure_has_the_same_bytes_each_time_and_a_small_thumbnail(subject):
    png = alignment_figure(*subject, "mni_alignment")
    assert png == alignment_figure(*subject, "mni_alignment")
    assert len(thumbnail(png)) <= THUMBNAIL_BYTES
    without = alignment_figure(subject[0], {}, "mni_alignment")
    assert pixels_of(without).shape[0] < pixels_of(png).shape[0]


def test_the_outline_lies_on_the_white_matter_of_the_template_after_the_alignment_only(subject):
    image = pixels_of(alignment_figure(*subject, "mni_alignment"))
    top = int(Image.open(io.BytesIO(alignment_figure(*subject, ""))).info["Thumbnail-Height"])

    def dark_beside_the_outline(part):
        orange = (part[..., 0] > 230) & (part[..., 1] < 120) & (part[..., 2] < 90)
        near = np.zeros_like(orange)
        for step in (-4, 4):
            near |= np.roll(orange, step, axis=0) | np.roll(orange, step, axis=1)
        gray = (part.max(axis=2) == part.min(axis=2)) & near & ~orange
        return np.mean(part[gray][:, 0] < 25)

    # The template is black outside the brain only, where no white matter is.
    before, after = dark_beside_the_outline(image[:top]), dark_beside_the_outline(image[top:])
    assert after < before / 2
