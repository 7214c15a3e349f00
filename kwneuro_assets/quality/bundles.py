"""Rows that show many bundles at once, from a mask of each stacked along a fourth axis."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from kwneuro_assets.imaging import Volume
from kwneuro_assets.quality.colours import bundle_colours, side_free
from kwneuro_assets.quality.rows import bright, captioned, panel
from kwneuro_assets.quality.sheet import DIM, TEXT, Box, Page, Panel, Plot, Slices
from kwneuro_assets.quality.view import Cut, Plane, View

WELL_KNOWN = ("CST", "AF", "CG", "UF", "OR", "MCP")  # shapes that everybody knows, and that hide one another little
_EMPTY = "#ff5a36"
_FINER = 3  # pixels of a silhouette per voxel, along each axis
_TINT = 0.4  # share of a bundle's colour where one sees through it
_BACKGROUND_LIGHT = 0.45  # brightness of the anatomy behind, so that colours stand out


def layer_names(stack: Volume) -> tuple[str, ...]:
    """The names along the fourth axis, or numbers where it has none."""
    return stack.names or tuple(f"bundle {index + 1}" for index in range(stack.shape[3]))


def bundle_of(layer: str) -> str:
    """The bundle that a layer belongs to: TractSeg names its two endings "<bundle>_b" and "<bundle>_e"."""
    return layer.removesuffix("_b").removesuffix("_e")


def slices_row(caption: str, view: View, stack: Volume, voxels: NDArray[Any], behind: Volume | None) -> Slices:
    """All layers in the central slices, the smaller over the larger, over the image `behind`."""
    names = layer_names(stack)
    palette = bundle_colours(tuple(map(bundle_of, names)))
    by_size = np.argsort(voxels, kind="stable")
    colours = np.array([palette[bundle_of(names[index])] for index in by_size], np.float32)
    light = bright(view.cropped(behind.array)) if behind else 1.0

    def coloured(cut: Cut) -> Panel:
        masks = view.cut(stack.array, cut)[..., by_size] > 0
        image = np.zeros((*masks.shape[:2], 3), np.float32)
        if behind:
            image += np.clip(view.cut(behind.array, cut) / light, 0, 1)[..., None] * _BACKGROUND_LIGHT
        covered = masks.any(axis=2)
        image[covered] = colours[masks.argmax(axis=2)[covered]]
        return panel(view, cut, image)

    return captioned(caption, [coloured(cut) for cut in view.cuts()])


def outlines_row(caption: str, view: View, stack: Volume, voxels: NDArray[Any], behind: Volume | None) -> Slices:
    """Well-known bundles as seen through the whole brain, over its silhouette; each has a line in the legend."""
    names = layer_names(stack)
    kinds = [side_free(bundle_of(name)) for name in names]
    chosen = [kind for kind in WELL_KNOWN if kind in kinds] or list(dict.fromkeys(kinds))[: len(WELL_KNOWN)]
    palette = bundle_colours(tuple(chosen))
    # The larger first, so that the smaller lie over them.
    layers = [index for index in np.argsort(-voxels, kind="stable") if kinds[index] in chosen and voxels[index]]

    # One pass through the stack for all planes: its layers may be interleaved in memory.
    masks = [(np.ascontiguousarray(stack.array[..., index]), palette[kinds[index]]) for index in layers]

    def projected(plane: Plane) -> Panel:
        silhouette = view.project(behind.array if behind else np.zeros(stack.grid, bool), plane)
        image = np.repeat(_finer(silhouette)[..., None] * np.float32(0.16), 3, axis=2)
        shapes = [(_finer(view.project(mask, plane)), colour) for mask, colour in masks]
        for shape, colour in shapes:
            image[shape] = (1 - _TINT) * image[shape] + _TINT * np.array(colour, np.float32)
        for shape, colour in shapes:
            image[_border(shape)] = colour
        return Panel(plane, image, view.extent(plane))

    found = {kinds[index] for index in layers}
    legend = [(kind, palette[kind]) if kind in found else (f"{kind}: none", (0.5, 0.5, 0.5)) for kind in chosen]
    return captioned(caption, [projected(plane) for plane in view.planes()], legend)


def volumes_plot(caption: str, stack: Volume, voxels: NDArray[Any]) -> Plot:
    """The volume of each bundle as a bar; of a bundle's two endings, one upwards and one downwards."""
    names = layer_names(stack)
    bundles = tuple(dict.fromkeys(map(bundle_of, names)))
    place = {bundle: index for index, bundle in enumerate(bundles)}
    palette = bundle_colours(bundles)
    ml = voxels * stack.voxel_volume_ml

    def bars(page: Page, box: Box) -> None:
        axes = page.axes(Box(box.left + 44, box.top + 6, box.width - 46, box.height - 116))
        heights = np.array([-1 if name.endswith("_e") else 1 for name in names]) * ml
        places = [place[bundle_of(name)] for name in names]
        axes.vlines(places, 0, heights, colors=[palette[bundle_of(name)] for name in names], linewidth=8)
        axes.axhline(0, color=DIM, linewidth=0.8)
        # Heights by square root: a small bundle that is nearly gone shows beside the corpus callosum.
        axes.set_yscale("function", functions=(lambda y: np.sign(y) * np.sqrt(np.abs(y)), lambda y: y * np.abs(y)))
        axes.yaxis.set_major_formatter(lambda height, _: f"{abs(height):g}")
        axes.set(xlim=(-0.8, len(bundles) - 0.2), xticks=[])
        if (heights >= 0).all():
            axes.set_ylim(0, 1.1 * heights.max() or 1)
        for side in ("top", "right", "bottom"):
            axes.spines[side].set_visible(False)
        empty = {bundle_of(name) for name, volume in zip(names, ml, strict=True) if not volume}
        for bundle, index in place.items():
            x = box.left + 44 + (box.width - 46) * (index + 0.8) / (len(bundles) + 0.6)
            colour = _EMPTY if bundle in empty else TEXT
            page.text(x, box.top + box.height - 104, bundle, size=9, colour=colour, rotation=90, ha="center", va="top")

    return Plot(caption, 330, bars)


def _finer(shape: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Each pixel as several, so that a border one pixel wide is a fine line."""
    return shape.repeat(_FINER, axis=0).repeat(_FINER, axis=1)


def _border(shape: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The pixels of a shape that have a neighbour outside it."""
    padded = np.pad(shape, 1)
    inner = padded[2:, 1:-1] & padded[:-2, 1:-1] & padded[1:-1, 2:] & padded[1:-1, :-2]
    return shape & ~inner
