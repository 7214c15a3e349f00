from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from kwneuro_assets.imaging import Dwi
from kwneuro_assets.qc.bad_slices import BadSlices
from kwneuro_assets_tests.qc import plywood


def counted(dwi: Dwi, inside: NDArray[np.bool_]) -> int:
    bad = BadSlices(dwi.gradients, dwi.volume.grid)
    for index, image in enumerate(dwi.images()):
        bad.add(index, bad.prepared(index, image))
    return bad.count(inside)


def by_definition(dwi: Dwi, inside: NDArray[np.bool_]) -> int:
    """DSI Studio's rule, one slice at a time."""
    order = [
        int(np.flatnonzero(dwi.b0_mask)[0]),
        *np.flatnonzero(~dwi.b0_mask)[np.argsort(dwi.bvals[~dwi.b0_mask], kind="stable")],
    ]
    planes = [[dwi.array[:, :, z, index].ravel() for z in range(dwi.volume.grid[2])] for index in order]
    n, slices = len(planes), len(planes[0])

    def around(i: int, z: int) -> list[tuple[int, int]]:
        return [(k, s) for k, s in ((i - 1, z), (i + 1, z), (i, z - 1), (i, z + 1)) if 0 <= k < n and 0 <= s < slices]

    best = {
        (i, z): max(0.0, *(np.corrcoef(planes[i][z], planes[k][s])[0, 1] for k, s in around(i, z)))
        for i in range(n)
        for z in range(slices)
    }
    judged = [z for z in range(1, slices - 2) if inside[:, :, z].sum() >= inside[:, :, z].size / 16]
    return sum(sum(best[one] - best[i, z] for one in around(i, z)) > 0.4 for i in range(n) for z in judged)


@pytest.mark.parametrize("interleaved", [False, True])
def test_the_count_is_that_of_the_definition(interleaved: bool) -> None:
    gradients = plywood.table([(1000, 6), (2000, 6)], b0=2)
    if interleaved:
        gradients = gradients.selected(np.arange(14).reshape(2, 7).T.ravel())
    dwi = plywood.block(gradients, sigma=5, grid=(14, 12, 8))
    array = np.array(dwi.array, order="F")
    for volume, z in ((4, 3), (9, 4), (12, 2)):
        array[:, :, z, volume] = np.random.default_rng(z).permutation(array[:, :, z, volume])
    wrong = dwi.with_array(array)
    inside = plywood.mask_of(dwi).array > 0
    inside[:, :, 2] = False  # a slice outside the mask is not judged
    assert counted(wrong, inside) == by_definition(wrong, inside) > 0


def test_volumes_are_released_as_soon_as_their_neighbors_are_read() -> None:
    dwi = plywood.block(plywood.table([(1000, 12), (2000, 12)], b0=1), grid=(8, 8, 4))
    bad = BadSlices(dwi.gradients, dwi.volume.grid)
    for index, image in enumerate(dwi.images()):
        bad.add(index, bad.prepared(index, image))
        assert len(bad._pending) <= 1
    assert not bad._pending


def test_a_slice_that_is_only_darker_is_not_found() -> None:
    dwi = plywood.block(plywood.table([(1000, 8)], b0=1), sigma=2)
    inside = plywood.mask_of(dwi).array > 0
    assert counted(plywood.changed(dwi, 4, slice(4, 5), 0.2), inside) == counted(dwi, inside)
