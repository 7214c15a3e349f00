"""The picture of each derivative, for the eye of a person who judges whether it came out right.

Every function takes the value, the inputs it was computed from (by asset name; where one is missing, the picture
does without) and a title, and returns a PNG about 1200 pixels wide: the same bytes for the same values. Of a
whole series only the slices that are shown are touched.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import numpy as np
from numpy.typing import NDArray

from kwneuro_assets.derivations.group_response import Response
from kwneuro_assets.imaging import Dwi, MapSet, Volume
from kwneuro_assets.quality.bundles import outlines_row, slices_row, volumes_plot
from kwneuro_assets.quality.close_up import close_up
from kwneuro_assets.quality.colours import direction_colours
from kwneuro_assets.quality.group import members_of
from kwneuro_assets.quality.render import to_png
from kwneuro_assets.quality.response_plot import response_plot
from kwneuro_assets.quality.rows import (
    DIRECTIONS,
    SIGNAL_UNIT,
    bright,
    captioned,
    direction_panel,
    inside_brain,
    map_panel,
    on_grid,
    outlined_panel,
    panel,
    signal_scale,
    table,
)
from kwneuro_assets.quality.sheet import Panel, Row, Scale, Slices, draw_sheet
from kwneuro_assets.quality.summaries import COUNTED_PEAK, count_peaks, voxel_counts
from kwneuro_assets.quality.tissues import fitted, tissue_panel, tissue_shares
from kwneuro_assets.quality.view import AXIAL, Cut, View, foreground

_COUNTS = Scale(
    ((0.0, 0.0, 0.0), (0.16, 0.31, 0.55), (0.93, 0.58, 0.16), (0.99, 0.95, 0.65)), 0, 4, "peaks", ("0", "1", "2", "3+")
)
_BRIGHTEST_FA = 0.8  # above it a voxel of the direction map is as bright as can be


def denoised_figure(value: Dwi, inputs: Mapping[str, object], title: str) -> bytes:
    """One volume of the highest b-value before and after denoising, and what was taken out."""
    view = View.of(value.volume, foreground(value.image(int(np.flatnonzero(value.b0_mask)[0]))))
    shells = value.gradients.shells()
    volume = shells[-1].indices[0] if shells else 0
    bvalue = f"b = {value.bvals[volume]:.0f} s/mm²"
    after = value.image(volume)
    noisy = inputs.get("dwi")
    if not isinstance(noisy, Dwi) or noisy.volume.shape != value.volume.shape:
        return _sheet(title, _planes(f"Denoised, {bvalue} (volume {volume})", view, after, signal_scale(view, after)))
    before = noisy.image(volume)
    signal = signal_scale(view, before)
    residual = before - after
    bound = bright(np.abs(view.cropped(residual)))
    columns = {
        f"Before, {bvalue}": partial(map_panel, view, image=before, scale=signal, bar=False),
        f"After (volume {volume})": partial(map_panel, view, image=after, scale=signal),
        "Taken out" if residual.any() else "Taken out: nothing": partial(
            map_panel, view, image=residual, scale=Scale("RdBu_r", -bound, bound, SIGNAL_UNIT)
        ),
    }
    return _sheet(title, *table(view, columns))


def mean_b0_figure(value: Volume, inputs: Mapping[str, object], title: str) -> bytes:
    """The mean of the b=0 volumes in three planes."""
    view = View.of(value, foreground(value.array))
    return _sheet(title, _planes("Mean of the b = 0 volumes", view, value.array, signal_scale(view, value.array)))


def brain_mask_figure(value: Volume, inputs: Mapping[str, object], title: str) -> bytes:
    """The mask's outline over the mean b0: three planes, and a stack of axial slices."""
    mask = value.array
    mean_b0 = on_grid(inputs.get("mean_b0"), value)
    image = mask if mean_b0 is None else mean_b0.array
    # The head around the brain stays in sight: what the mask leaves out is half of the question.
    view = View.of(value, mask if mean_b0 is None else (mask > 0) | foreground(image))
    scale = Scale("gray", 0, 2, "mask") if mean_b0 is None else signal_scale(view, image)
    outlined = partial(outlined_panel, view, image=image, mask=mask, scale=scale)
    caption = "Outline of the brain mask" + ("" if mask.any() else ": no voxel in it")
    rows = [captioned(caption, [outlined(cut) for cut in view.cuts()])]
    if AXIAL in view.planes() and view.shape[AXIAL.through] > 3:
        rows.append(captioned("Axial, low to high", [outlined(cut) for cut in view.stack(AXIAL, 6)]))
    return _sheet(title, *rows)


def tensor_figure(value: MapSet, inputs: Mapping[str, object], title: str) -> bytes:
    """Direction-encoded colour FA, FA and MD."""
    fa, md = value["fa"].array, value["md"].array
    first = value["evecs"].array[..., :3]
    view = View.of(value["fa"], inside_brain(inputs, value["fa"], md))
    columns = {
        "First eigenvector and FA": partial(direction_panel, view, vectors=first, strength=fa, brightest=_BRIGHTEST_FA),
        "Fractional anisotropy": partial(map_panel, view, image=fa, scale=Scale("gray", 0, 1, "FA (no unit)")),
        "Mean diffusivity": partial(map_panel, view, image=1000 * md, scale=Scale("magma", 0, 3, "MD (10⁻³ mm²/s)")),
    }
    return _sheet(title, *table(view, columns))


def noddi_figure(value: MapSet, inputs: Mapping[str, object], title: str) -> bytes:
    """Neurite density, orientation dispersion and free water fraction."""
    ndi, odi, fwf = (value[name].array for name in ("ndi", "odi", "fwf"))
    view = View.of(value["ndi"], inside_brain(inputs, value["ndi"], ndi + fwf))
    columns = {
        "Neurite density": partial(map_panel, view, image=ndi, scale=Scale("inferno", 0, 1, "NDI (no unit)")),
        "Orientation dispersion": partial(map_panel, view, image=odi, scale=Scale("magma", 0, 1, "ODI (no unit)")),
        "Free water fraction": partial(map_panel, view, image=fwf, scale=Scale("bone", 0, 1, "FWF (no unit)")),
    }
    return _sheet(title, *table(view, columns))


def response_figure(value: Response, inputs: Mapping[str, object], title: str) -> bytes:
    """The signal over the angle to the fibre beside the coefficients it is made of, or the signals of the tissues."""
    return _sheet(title, response_plot(value))


def group_response_figure(value: Response, inputs: Mapping[str, object], title: str) -> bytes:
    """The mean response over those of the subjects, each scaled to the mean's signal."""
    return _sheet(title, response_plot(value, members_of(value, inputs)))


def peaks_figure(value: MapSet, inputs: Mapping[str, object], title: str) -> bytes:
    """The first peak's direction, the tissues' shares where they are known, how many peaks count in each voxel, and the
    peaks themselves where they cross."""
    peaks, amplitudes = value["peaks"].array, value["peakvalues"].array
    largest = amplitudes[..., 0]
    view = View.of(value["peakvalues"], inside_brain(inputs, value["peakvalues"], fitted(value)))
    brightest = bright(view.cropped(largest))
    shares = tissue_shares(value)

    def counts(cut: Cut) -> Panel:
        return panel(view, cut, np.minimum(count_peaks(view.cut(amplitudes, cut)), 3), scale=_COUNTS)

    columns: dict[str, Callable[[Cut], Panel]] = {
        "First peak": partial(direction_panel, view, vectors=peaks[..., :3], strength=largest, brightest=brightest),
        **({"Tissues": partial(tissue_panel, view, shares=shares)} if shares else {}),
        f"Peaks above {COUNTED_PEAK:g} of largest": counts,
        "Where fibres cross most": partial(close_up, view, peaks=peaks, amplitudes=amplitudes),
    }
    return _sheet(title, *table(view, columns))


def tracts_figure(value: Volume, inputs: Mapping[str, object], title: str) -> bytes:
    """All bundles in slices, well-known ones seen through the brain, and the volume of each."""
    return _bundle_sheet(value, inputs, title, "bundles", "Volume of each bundle")


def endings_figure(value: Volume, inputs: Mapping[str, object], title: str) -> bytes:
    """All endings in slices, those of well-known bundles seen through the brain, and the volume of each."""
    return _bundle_sheet(value, inputs, title, "endings", "Volume of each bundle's two endings, one up, one down")


def orientations_figure(value: Volume, inputs: Mapping[str, object], title: str) -> bytes:
    """The direction of the strongest bundle in each voxel, and how many bundles have a direction there."""
    view = _bundle_view(value, inputs)
    strongest, counts = [], []
    for cut in view.cuts():
        vectors = view.cut(value.array, cut)
        vectors = vectors.reshape(*vectors.shape[:2], -1, 3)
        lengths = np.linalg.norm(vectors, axis=-1)
        direction = np.take_along_axis(vectors, lengths.argmax(axis=-1)[..., None, None], axis=2)[:, :, 0]
        strength = lengths.max(axis=-1)
        colours = direction_colours(direction, strength / bright(strength))
        strongest.append(panel(view, cut, colours, legend=DIRECTIONS))
        counts.append(np.count_nonzero(lengths, axis=-1))
    scale = Scale("magma", 0, max(1, *(int(count.max()) for count in counts)), "bundles")
    counted = [panel(view, cut, count, scale=scale) for cut, count in zip(view.cuts(), counts, strict=True)]
    return _sheet(
        title,
        captioned("Direction of the strongest bundle", strongest),
        captioned("Bundles with a direction in the voxel", counted),
    )


def _sheet(title: str, *rows: Row) -> bytes:
    sheet = draw_sheet(title, rows)
    return to_png(sheet.figure, thumbnail_height=sheet.first_row)


def _planes(caption: str, view: View, image: NDArray[np.float32], scale: Scale) -> Slices:
    return captioned(caption, [map_panel(view, cut, image, scale) for cut in view.cuts()])


def _bundle_sheet(stack: Volume, inputs: Mapping[str, object], title: str, what: str, volumes: str) -> bytes:
    view = _bundle_view(stack, inputs)
    behind = _largest_peak(stack, inputs)
    voxels = voxel_counts(stack.array)
    found = int(np.count_nonzero(voxels))
    all_of_them = f"All {what}: " + (f"{found} of {len(voxels)} found" if found else "no voxel in any")
    return _sheet(
        title,
        slices_row(all_of_them, view, stack, voxels, behind),
        outlines_row(f"Well-known {what}, seen through the brain", view, stack, voxels, behind),
        volumes_plot(f"{volumes} (ml); red: empty", stack, voxels),
    )


def _bundle_view(stack: Volume, inputs: Mapping[str, object]) -> View:
    largest = _largest_peak(stack, inputs)
    return View.of(stack, np.any(stack.array, axis=3) if largest is None else largest.array > 0)


def _largest_peak(grid: Volume, inputs: Mapping[str, object]) -> Volume | None:
    """The amplitude of each voxel's largest CSD peak: the anatomy behind the bundles."""
    peaks = inputs.get("csd_peaks")
    amplitudes = on_grid(peaks.get("peakvalues"), grid) if isinstance(peaks, MapSet) else None
    return Volume(amplitudes.array[..., 0], grid.affine) if amplitudes else None
