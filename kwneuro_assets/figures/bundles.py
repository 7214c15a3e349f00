"""Rows that show many bundles at once, from a 4-D image with one bundle per volume."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kwneuro_assets.figures.colors import WARNING, WELL_KNOWN, Color, bundle_colors, side_free
from kwneuro_assets.figures.layout import Plot, Slices
from kwneuro_assets.figures.page import DIM, DPI, TEXT, Box, Page
from kwneuro_assets.figures.panels import Panel
from kwneuro_assets.figures.rows import bright, captioned, panel
from kwneuro_assets.figures.view import Cut, Plane, View
from kwneuro_assets.imaging import Volume

_FINER = 3  # pixels per voxel of a projection, along each axis
_TINT = 0.4  # opacity of a bundle's interior
_BARS = 330  # pixels of height of the plot of volumes
_BAR = 0.65  # width of a bar as a fraction of the distance between two
_NARROWEST_BAR, _WIDEST_BAR = 3.0, 24.0  # points
_LINE = 17  # pixels from one line of text to the next
_LETTERS = 165  # of small text in the width of a figure
_BACKGROUND_LIGHT = 0.45  # brightness of the anatomical background, so that colors stand out


def layer_names(stack: Volume) -> tuple[str, ...]:
    """The names of the volumes, or numbers if there are no names."""
    return stack.names or tuple(f"bundle {index + 1}" for index in range(stack.shape[3]))


def bundle_of(layer: str) -> str:
    """The bundle of a volume: TractSeg names the two endings of a bundle "<bundle>_b" and "<bundle>_e"."""
    return layer.removesuffix("_b").removesuffix("_e")


def slices_row(caption: str, view: View, stack: Volume, voxels: NDArray[Any], behind: Volume | None) -> Slices:
    """All bundles in the central slices, smaller over larger ones, over the image `behind`."""
    names = layer_names(stack)
    palette = bundle_colors(tuple(map(bundle_of, names)))
    by_size = np.argsort(voxels, kind="stable")
    colors = np.array([palette[bundle_of(names[index])] for index in by_size], np.float32)

    def colored(cut: Cut) -> Panel:
        masks = view.cut(stack.array, cut)[..., by_size] > 0
        image = anatomy(view, cut, masks.shape[:2], behind)
        covered = masks.any(axis=2)
        image[covered] = colors[masks.argmax(axis=2)[covered]]
        return panel(view, cut, image)

    return captioned(caption, [colored(cut) for cut in view.cuts()])


def anatomy(view: View, cut: Cut, shape: tuple[int, ...], behind: Volume | None) -> NDArray[np.float32]:
    """The image `behind` (x, y, z) in a slice of this shape, as dark gray (rows, columns, 3); black without it."""
    image = np.zeros((*shape, 3), np.float32)
    if behind:
        light = bright(view.cropped(behind.array))
        image += np.clip(view.cut(behind.array, cut) / light, 0, 1)[..., None] * _BACKGROUND_LIGHT
    return image


def outlines_row(caption: str, view: View, stack: Volume, voxels: NDArray[Any], behind: Volume | None) -> Slices:
    """Well-known bundles projected through the brain, over its projection; each is named in the legend.

    The largest of the other bundles take the place of those that are empty.
    """
    names = layer_names(stack)
    kinds = [side_free(bundle_of(name)) for name in names]
    chosen = _chosen_kinds(kinds, voxels)
    palette = bundle_colors(tuple(kinds))
    # Largest first, so that smaller bundles are drawn over larger ones.
    layers = [index for index in np.argsort(-voxels, kind="stable") if kinds[index] in chosen and voxels[index]]

    # One pass over the volumes for all planes: they may be interleaved in memory.
    masks = [(np.ascontiguousarray(stack.array[..., index]), palette[kinds[index]]) for index in layers]

    def projected(plane: Plane) -> Panel:
        silhouette = view.project(behind.array if behind else np.zeros(stack.grid, bool), plane)
        image = np.repeat(_finer(silhouette)[..., None] * np.float32(0.16), 3, axis=2)
        shapes = [(_finer(view.project(mask, plane)), color) for mask, color in masks]
        for shape, color in shapes:
            image[shape] = (1 - _TINT) * image[shape] + _TINT * np.array(color, np.float32)
        for shape, color in shapes:
            image[_border(shape)] = color
        return Panel(plane, image, view.extent(plane))

    found = {kinds[index] for index in layers}
    legend = [(kind, palette[kind]) if kind in found else (f"{kind}: none", (0.5, 0.5, 0.5)) for kind in chosen]
    return captioned(caption, [projected(plane) for plane in view.planes()], legend)


def volumes_plot(caption: str, stack: Volume, voxels: NDArray[Any]) -> Plot:
    """The volume of each bundle as a bar; for endings, one bar up and one down per bundle. Below, the empty bundles."""
    palette = bundle_colors(tuple(dict.fromkeys(map(bundle_of, layer_names(stack)))))
    volumes = dict(zip(layer_names(stack), (voxels * stack.voxel_volume_ml).tolist(), strict=True))
    found = {bundle_of(name) for name, ml in volumes.items() if ml}
    lines = _lines([bundle for bundle in palette if bundle not in found])

    def content(page: Page, box: Box) -> None:
        bars = Box(box.left, box.top, box.width, box.height - _LINE * len(lines))
        if found:
            _draw_bars(page, bars, {name: ml for name, ml in volumes.items() if bundle_of(name) in found}, palette)
        for number, line in enumerate(lines):
            page.text(box.left, bars.top + bars.height + _LINE * (number + 0.5), line, size=9, color=WARNING)

    return Plot(caption, (_BARS if found else 0) + _LINE * len(lines), content)


def _draw_bars(page: Page, box: Box, volumes: Mapping[str, float], palette: Mapping[str, Color]) -> None:
    """Bars of volumes (ml), with the names of their bundles; red if one of two endings is empty."""
    bundles = tuple(dict.fromkeys(map(bundle_of, volumes)))
    place = {bundle: index for index, bundle in enumerate(bundles)}
    axes = page.axes(Box(box.left + 44, box.top + 6, box.width - 46, box.height - 116))
    heights = np.array([-ml if name.endswith("_e") else ml for name, ml in volumes.items()])
    places = [place[bundle_of(name)] for name in volumes]
    width = min(_WIDEST_BAR, max(_NARROWEST_BAR, _BAR * (box.width - 46) / len(bundles) * 72 / DPI))
    axes.vlines(places, 0, heights, colors=[palette[bundle_of(name)] for name in volumes], linewidth=width)
    axes.axhline(0, color=DIM, linewidth=0.8)
    # Square-root scale: the smallest bundles remain visible beside the corpus callosum.
    axes.set_yscale("function", functions=(lambda y: np.sign(y) * np.sqrt(np.abs(y)), lambda y: y * np.abs(y)))
    axes.yaxis.set_major_formatter(lambda height, _: f"{abs(height):g}")
    axes.set(xlim=(-0.8, len(bundles) - 0.2), xticks=[])
    if (heights >= 0).all():
        axes.set_ylim(0, 1.1 * heights.max())
    for side in ("top", "right", "bottom"):
        axes.spines[side].set_visible(False)
    incomplete = {bundle_of(name) for name, ml in volumes.items() if not ml}
    for bundle, index in place.items():
        x = box.left + 44 + (box.width - 46) * (index + 0.8) / (len(bundles) + 0.6)
        color = WARNING if bundle in incomplete else TEXT
        page.text(x, box.top + box.height - 104, bundle, size=9, color=color, rotation=90, ha="center", va="top")


def _chosen_kinds(kinds: Sequence[str], voxels: NDArray[Any]) -> list[str]:
    """The kinds of bundles, without their sides, whose outlines are drawn; those that are empty last."""
    counts: dict[str, int] = {}
    for kind, count in zip(kinds, voxels.tolist(), strict=True):
        counts[kind] = counts.get(kind, 0) + count
    known = [kind for kind in WELL_KNOWN if kind in counts]
    found = [kind for kind in known if counts[kind]]
    others = sorted(
        (kind for kind in counts if kind not in known and not _is_part(kind)), key=lambda kind: -counts[kind]
    )
    found += [kind for kind in others if counts[kind]][: len(WELL_KNOWN) - len(found)]
    return found + [kind for kind in known if not counts[kind]]


def _is_part(kind: str) -> bool:
    """Whether it is a part of the corpus callosum, which is a bundle itself: CC_1 to CC_7."""
    return kind.startswith("CC_")


def _lines(empty: Sequence[str]) -> list[str]:
    """The names of empty bundles as lines of text; without a break inside a name."""
    text = f"Empty ({len(empty)}): {', '.join(empty)}"
    return textwrap.wrap(text, _LETTERS, break_on_hyphens=False) if empty else []


def _finer(shape: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Each pixel repeated, so that a border of one pixel is a fine line."""
    return shape.repeat(_FINER, axis=0).repeat(_FINER, axis=1)


def _border(shape: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The pixels of a shape that have a neighbor outside it."""
    padded = np.pad(shape, 1)
    inner = padded[2:, 1:-1] & padded[:-2, 1:-1] & padded[1:-1, 2:] & padded[1:-1, :-2]
    return shape & ~inner
