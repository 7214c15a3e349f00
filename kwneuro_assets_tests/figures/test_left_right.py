"""A marker in the left, anterior and superior part of a head is near the letters L, A and S in every figure."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from kwneuro_assets.figures import alignment, quality, render
from kwneuro_assets.figures import subject as figures
from kwneuro_assets_tests.figures.marked_heads import marked_values

# The function, its inputs, and the number of panels that the marker must be visible in.
FIGURES = {
    "denoised_dwi": (figures.denoised_figure, ("dwi",), 9),
    "mean_b0": (figures.mean_b0_figure, (), 3),
    "brain_mask": (figures.brain_mask_figure, ("mean_b0",), 3 + 3 * 3),
    "dti": (figures.tensor_figure, (), 9 + 3),
    "noddi": (figures.noddi_figure, (), 9),
    "csd_peaks": (figures.peaks_figure, (), 11),  # peaks through the slice of a close-up are dots
    "tract_masks": (figures.tracts_figure, ("csd_peaks",), 6),
    "tract_endings": (figures.endings_figure, ("csd_peaks",), 6),
    "tract_orientations": (figures.orientations_figure, ("csd_peaks",), 6),
    "mni_alignment": (alignment.alignment_figure, ("dti", "brain_mask"), 4),
    "dwi_qc": (quality.quality_figure, ("mean_b0", "brain_mask", "dti"), 2 * 3),
}
ORIENTATIONS = (
    "oblique-permuted",  # 20 degrees around two axes, permuted and flipped: all that can go wrong, at once
    *(pytest.param(name, marks=pytest.mark.slow) for name in ("ras", "las", "oblique-20", "sagittal", "coronal")),
)
PAIRS = (("L", "R"), ("A", "P"), ("S", "I"))  # the marker is nearer to the first of each
VISIBLE = 40  # difference of a color from 0 to 255; that between the colors of a palette is smaller
PIXELS = 30
NEARER = 0.95  # the marker is 6 mm or more from the middle of a slice of 70 mm: 0.84 there, and more in the template's
# Planes whose slices cut the marker, by the letters near it; others: all three.
PLANES = {"dwi_qc": ("LA",), "mni_alignment": ("LA", "AS")}  # the template's coronal slice is posterior of it


class Drawn:
    """The pixels of a figure, and the letters of its panels with their places."""

    def __init__(self, png, figure):
        self.pixels = np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)
        height = self.pixels.shape[0]
        self.panels = []
        for axes in figure.axes:
            letters = {}
            for text in axes.texts:
                box = text.get_window_extent()
                letters[text.get_text()] = (height - (box.y0 + box.y1) / 2, (box.x0 + box.x1) / 2)
            if axes.images and len(letters.keys() & set("LRPAIS")) == 4:
                box = axes.get_window_extent()
                self.panels.append(((height - box.y1, height - box.y0, box.x0, box.x1), letters))


def drawn(monkeypatch, name, orientation, marked):
    draw, inputs, _ = FIGURES[name]
    values = marked_values(orientation, marked)
    found = []
    encode = render.to_png
    monkeypatch.setattr(render, "to_png", lambda figure, *options: found.append(figure) or encode(figure, *options))
    png = draw(values[name], {one: values[one] for one in inputs}, name)
    monkeypatch.undo()
    return Drawn(png, *found)


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize("name", FIGURES)
def test_a_marker_appears_on_its_side_by_the_letters_of_each_panel(monkeypatch, name, orientation):
    if name == "mni_alignment":
        pytest.importorskip("tractseg")
    before, after = (drawn(monkeypatch, name, orientation, marked) for marked in (False, True))
    changed = np.abs(after.pixels - before.pixels).max(axis=2) > VISIBLE
    seen = []
    for box, letters in after.panels:
        top, bottom, left, right = np.round(box).astype(int)
        rows, columns = np.nonzero(changed[top:bottom, left:right])
        if rows.size < PIXELS:
            continue
        middle = np.array([rows.mean() + top, columns.mean() + left])
        seen.append({near for near, far in PAIRS if near in letters})
        for near, far in PAIRS:
            if near in letters:
                distances = [np.linalg.norm(middle - letters[letter]) for letter in (near, far)]
                assert distances[0] < NEARER * distances[1], (near, distances)
        if "L" in letters:
            # Neurological convention: the left of the subject is at the left.
            assert letters["L"][1] < letters["R"][1]
    assert len(seen) >= FIGURES[name][2]
    assert {frozenset(one) for one in seen} == set(map(frozenset, PLANES.get(name, ("LA", "LS", "AS"))))
