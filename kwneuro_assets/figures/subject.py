"""The figure of each derivative, for visual quality control.

Every function takes the value, the inputs that it was computed from (by asset name; each is optional) and a title, and
returns a PNG about 1200 pixels wide: the same bytes for the same values. Of a DWI, only the displayed slices are read.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import numpy as np
from numpy.typing import NDArray

from kwneuro_assets.derivations.group_response import Response
from kwneuro_assets.figures.bundles import anatomy, outlines_row, slices_row, volumes_plot
from kwneuro_assets.figures.close_up import close_up
from kwneuro_assets.figures.colors import direction_colors
from kwneuro_assets.figures.group import members_of
from kwneuro_assets.figures.layout import Slices
from kwneuro_assets.figures.panels import Panel, Scale
from kwneuro_assets.figures.render import png
from kwneuro_assets.figures.response_plot import response_plot
from kwneuro_assets.figures.rows import (
    BRIGHTEST_FA,
    SIGNAL_UNIT,
    bright,
    captioned,
    direction_panel,
    inside_brain,
    map_panel,
    mosaic,
    on_grid,
    outlined_panel,
    panel,
    signal_scale,
    table,
    with_directions,
)
from kwneuro_assets.figures.tissues import fitted, tissue_fractions, tissue_panel
from kwneuro_assets.figures.view import AXIAL, CORONAL, PLANES, SAGITTAL, Cut, View, foreground
from kwneuro_assets.imaging import Dwi, MapSet, Volume
from kwneuro_assets.qc.bundle_checks import voxel_counts
from kwneuro_assets.qc.peaks import COUNTED_PEAK, count_peaks

_DIFFUSIVITY = "(10⁻³ mm²/s)"
_COUNTS = Scale(
    ((0.0, 0.0, 0.0), (0.16, 0.31, 0.55), (0.93, 0.58, 0.16), (0.99, 0.95, 0.65)), 0, 4, "peaks", ("0", "1", "2", "3+")
)
_MANY = 7  # slices of each plane in which the brain mask is shown
_ORDERS = {
    AXIAL: "Axial slices, from inferior to superior",
    CORONAL: "Coronal slices, from posterior to anterior",
    SAGITTAL: "Sagittal slices, from left to right",
}


def denoised_figure(value: Dwi, inputs: Mapping[str, object], title: str) -> bytes:
    """One volume of the highest b-value before and after denoising, and the residual."""
    view = View.of(value.volume, foreground(value.image(int(np.flatnonzero(value.b0_mask)[0]))))
    shells = value.gradients.shells()
    volume = shells[-1].indices[0] if shells else 0
    bvalue = f"b = {value.bvals[volume]:.0f} s/mm²"
    after = value.image(volume)
    noisy = inputs.get("dwi")
    if not isinstance(noisy, Dwi) or noisy.volume.shape != value.volume.shape:
        return png(title, _planes(f"Denoised, {bvalue} (volume {volume})", view, after, signal_scale(view, after)))
    before = noisy.image(volume)
    signal = signal_scale(view, before)
    residual = before - after
    bound = bright(np.abs(view.cropped(residual)))
    columns = {
        f"Before, {bvalue}": partial(map_panel, view, image=before, scale=signal, bar=False),
        f"After (volume {volume})": partial(map_panel, view, image=after, scale=signal),
        "Residual" if residual.any() else "Residual: zero": partial(
            map_panel, view, image=residual, scale=Scale("RdBu_r", -bound, bound, SIGNAL_UNIT)
        ),
    }
    return png(title, *table(view, columns))


def mean_b0_figure(value: Volume, inputs: Mapping[str, object], title: str) -> bytes:
    """The mean of the b=0 volumes in three planes."""
    view = View.of(value, foreground(value.array))
    return png(title, _planes("Mean of the b = 0 volumes", view, value.array, signal_scale(view, value.array)))


def brain_mask_figure(value: Volume, inputs: Mapping[str, object], title: str) -> bytes:
    """The outline of the brain mask on the mean b=0: central slices, and seven slices of each plane for review."""
    mask = value.array
    mean_b0 = on_grid(inputs.get("mean_b0"), value)
    image = mask if mean_b0 is None else mean_b0.array
    # Show the head around the brain, too, to see what the mask excludes.
    view = View.of(value, mask if mean_b0 is None else (mask > 0) | foreground(image))
    scale = Scale("gray", 0, 2, "mask") if mean_b0 is None else signal_scale(view, image)
    outlined = partial(outlined_panel, view, image=image, mask=mask, scale=scale)
    caption = "Outline of the brain mask" + ("" if mask.any() else ": empty")
    rows = [captioned(caption, [outlined(cut) for cut in view.cuts()])]
    for plane in view.planes():
        if view.shape[plane.through] > len(PLANES):
            panels = [outlined(cut, note=view.label(cut)) for cut in view.stack(plane, _MANY)]
            rows.append(mosaic(f"{_ORDERS[plane]}, with the voxel index from 0", panels))
    return png(title, *rows)


def tensor_figure(value: MapSet, inputs: Mapping[str, object], title: str) -> bytes:
    """Direction-encoded FA, FA and MD, and the three eigenvalues."""
    fa, md, evals = (value[name].array for name in ("fa", "md", "evals"))
    first = value["evecs"].array[..., :3]
    view = View.of(value["fa"], inside_brain(inputs, value["fa"], md))
    columns = {
        "First eigenvector and FA": partial(direction_panel, view, vectors=first, strength=fa, brightest=BRIGHTEST_FA),
        "Fractional anisotropy": partial(map_panel, view, image=fa, scale=Scale("gray", 0, 1, "FA (no unit)")),
        "Mean diffusivity": partial(map_panel, view, image=1000 * md, scale=Scale("magma", 0, 3, f"MD {_DIFFUSIVITY}")),
    }
    scale = Scale("magma", 0, 3, f"eigenvalue {_DIFFUSIVITY}")
    central = view.cuts()[0]
    panels = [map_panel(view, central, 1000 * evals[..., index], scale) for index in range(evals.shape[3])]
    caption = f"Eigenvalues, from the largest to the smallest ({central.plane.name}, {view.label(central)})"
    return png(title, *table(view, columns), captioned(caption, panels))


def noddi_figure(value: MapSet, inputs: Mapping[str, object], title: str) -> bytes:
    """Neurite density, orientation dispersion and free water fraction."""
    ndi, odi, fwf = (value[name].array for name in ("ndi", "odi", "fwf"))
    view = View.of(value["ndi"], inside_brain(inputs, value["ndi"], ndi + fwf))
    columns = {
        "Neurite density": partial(map_panel, view, image=ndi, scale=Scale("inferno", 0, 1, "NDI (no unit)")),
        "Orientation dispersion": partial(map_panel, view, image=odi, scale=Scale("magma", 0, 1, "ODI (no unit)")),
        "Free water fraction": partial(map_panel, view, image=fwf, scale=Scale("bone", 0, 1, "FWF (no unit)")),
    }
    return png(title, *table(view, columns))


def response_figure(value: Response, inputs: Mapping[str, object], title: str) -> bytes:
    """The signal against the angle to the fiber, and the zonal coefficients or the mean signals of the tissues."""
    return png(title, response_plot(value))


def group_response_figure(value: Response, inputs: Mapping[str, object], title: str) -> bytes:
    """The mean response on top of the responses of the subjects, each scaled to the mean."""
    return png(title, response_plot(value, members_of(value, inputs)))


def peaks_figure(value: MapSet, inputs: Mapping[str, object], title: str) -> bytes:
    """The direction of the first peak, the tissue fractions if known, the number of peaks in each voxel, and a close-up
    of crossing peaks.
    """
    peaks, amplitudes = value["peaks"].array, value["peakvalues"].array
    largest = amplitudes[..., 0]
    view = View.of(value["peakvalues"], inside_brain(inputs, value["peakvalues"], fitted(value)))
    brightest = bright(view.cropped(largest))
    fractions = tissue_fractions(value)

    def counts(cut: Cut) -> Panel:
        return panel(view, cut, np.minimum(count_peaks(view.cut(amplitudes, cut)), 3), scale=_COUNTS)

    columns: dict[str, Callable[[Cut], Panel]] = {
        "First peak": partial(direction_panel, view, vectors=peaks[..., :3], strength=largest, brightest=brightest),
        **({"Tissues": partial(tissue_panel, view, fractions=fractions)} if fractions else {}),
        f"Peaks above {COUNTED_PEAK:g} of largest": counts,
        "Crossing fibers": partial(close_up, view, peaks=peaks, amplitudes=amplitudes),
    }
    return png(title, *table(view, columns))


def tracts_figure(value: Volume, inputs: Mapping[str, object], title: str) -> bytes:
    """All bundles in slices, well-known ones projected through the brain, and the volume of each."""
    return _bundle_figure(value, inputs, title, "bundles", "Volume of each bundle")


def endings_figure(value: Volume, inputs: Mapping[str, object], title: str) -> bytes:
    """All endings in slices, those of well-known bundles projected through the brain, and the volume of each."""
    return _bundle_figure(value, inputs, title, "endings", "Volume of each bundle's two endings, one up, one down")


def orientations_figure(value: Volume, inputs: Mapping[str, object], title: str) -> bytes:
    """The direction of the strongest bundle in each voxel, and the number of bundles with a direction."""
    view, behind = _bundle_view(value, inputs), _largest_peak(value, inputs)
    strongest, counts = [], []
    for cut in view.cuts():
        vectors = view.cut(value.array, cut)
        vectors = vectors.reshape(*vectors.shape[:2], -1, 3)
        lengths = np.linalg.norm(vectors, axis=-1)
        direction = np.take_along_axis(vectors, lengths.argmax(axis=-1)[..., None, None], axis=2)[:, :, 0]
        strength = lengths.max(axis=-1)
        colors = anatomy(view, cut, strength.shape, behind)
        colors[strength > 0] = direction_colors(direction, strength / bright(strength))[strength > 0]
        strongest.append(with_directions(view, panel(view, cut, colors)))
        counts.append(np.count_nonzero(lengths, axis=-1))
    scale = Scale("magma", 0, max(1, *(int(count.max()) for count in counts)), "bundles")
    counted = [panel(view, cut, count, scale=scale) for cut, count in zip(view.cuts(), counts, strict=True)]
    return png(
        title,
        captioned("Direction of the strongest bundle", strongest),
        captioned("Bundles with a direction in the voxel", counted),
    )


def _planes(caption: str, view: View, image: NDArray[np.float32], scale: Scale) -> Slices:
    return captioned(caption, [map_panel(view, cut, image, scale) for cut in view.cuts()])


def _bundle_figure(stack: Volume, inputs: Mapping[str, object], title: str, what: str, volumes: str) -> bytes:
    view = _bundle_view(stack, inputs)
    behind = _largest_peak(stack, inputs)
    voxels = voxel_counts(stack.array)
    found = int(np.count_nonzero(voxels))
    caption = f"All {what}: " + (f"{found} of {len(voxels)} found" if found else "all empty")
    return png(
        title,
        slices_row(caption, view, stack, voxels, behind),
        outlines_row(f"Well-known {what}, projected through the brain", view, stack, voxels, behind),
        volumes_plot(f"{volumes} (ml)", stack, voxels),
    )


def _bundle_view(stack: Volume, inputs: Mapping[str, object]) -> View:
    largest = _largest_peak(stack, inputs)
    return View.of(stack, np.any(stack.array, axis=3) if largest is None else largest.array > 0)


def _largest_peak(grid: Volume, inputs: Mapping[str, object]) -> Volume | None:
    """The amplitude of the largest CSD peak in each voxel, the anatomical background of bundles."""
    peaks = inputs.get("csd_peaks")
    amplitudes = on_grid(peaks.get("peakvalues"), grid) if isinstance(peaks, MapSet) else None
    return Volume(amplitudes.array[..., 0], grid.affine) if amplitudes else None
