"""Every value type is read from the store bit by bit as it was written, with the same data version."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from kwneuro_assets.imaging import (
    Dwi,
    GradientTable,
    MapSet,
    NotApplicable,
    ResponseFunction,
    RigidTransform,
    Segmentation,
    TissueResponses,
    Volume,
)
from kwneuro_assets.imaging.content_hash import Value, data_version
from kwneuro_assets.storage.sidecar import Provenance
from kwneuro_assets.storage.store import DerivativeStore
from kwneuro_assets.subjects import GROUP, SubjectKey
from kwneuro_assets_tests.storage.conftest import Place
from kwneuro_assets_tests.testkit.small_dataset import affine_of, rotation

SUBJECT = SubjectKey("01")
finite = st.floats(width=32, allow_nan=False, allow_infinity=False)
positive = st.floats(1e-3, 1e4)
angles = st.floats(-180, 180)
affines = st.builds(
    lambda x, y, z, flip, order, zooms: affine_of((rotation(x, y, z) * [flip, 1, 1])[:, order], zooms),
    angles,
    angles,
    angles,
    st.sampled_from([-1.0, 1.0]),
    st.permutations(range(3)),
    st.tuples(*[st.floats(0.1, 10)] * 3),
)


def shapes(minimum: int, maximum: int) -> st.SearchStrategy[tuple[int, ...]]:
    return st.lists(st.integers(1, 4), min_size=minimum, max_size=maximum).map(tuple)


@st.composite
def arrays(draw: st.DrawFn, shape: tuple[int, ...]) -> NDArray[np.generic]:
    """Random uint8, or voxels chosen from a few drawn float32 numbers."""
    numbers = draw(st.lists(finite, min_size=1, max_size=6))
    random = np.random.default_rng(draw(st.integers(0, 99)))
    if draw(st.booleans()):
        return random.integers(0, 256, shape).astype(np.uint8)
    return random.choice(np.array(numbers, np.float32), shape)


@st.composite
def volumes(draw: st.DrawFn) -> Volume:
    shape = draw(shapes(3, 5))
    named = len(shape) > 3 and draw(st.booleans())
    names = tuple(draw(st.text(max_size=5)) for _ in range(shape[3])) if named else ()
    return Volume(draw(arrays(shape)), draw(affines), names)


@st.composite
def segmentations(draw: st.DrawFn) -> Segmentation:
    shape = draw(shapes(4, 4))
    names = tuple(draw(st.text(max_size=5)) for _ in range(shape[3])) if draw(st.booleans()) else ()
    random = np.random.default_rng(draw(st.integers(0, 99)))
    affine = draw(affines)
    mask = Volume(random.integers(0, 2, shape).astype(np.uint8), affine, names)
    return Segmentation.of(mask, Volume(random.random(shape, np.float32), affine, names))


@st.composite
def transforms(draw: st.DrawFn) -> RigidTransform:
    matrix = np.eye(4)
    matrix[:3, :3] = rotation(draw(angles), draw(angles), draw(angles))
    matrix[:3, 3] = [draw(st.floats(-500, 500)) for _ in range(3)]
    return RigidTransform(matrix)


@st.composite
def dwis(draw: st.DrawFn) -> Dwi:
    count = draw(st.integers(1, 6))
    threshold = draw(st.floats(0, 200))
    bvals = [draw(st.floats(0, threshold)), *(draw(st.floats(0, 20000)) for _ in range(count - 1))]
    drawn = [draw(st.tuples(angles, angles)) for _ in range(count)]
    bvecs = np.array([rotation(x, y, 0) @ [0, 0, 1] for x, y in drawn]) * draw(st.sampled_from([1, 1.005]))
    array = np.abs(draw(arrays((*draw(shapes(3, 3)), count))).astype(np.float32))
    array.flat[0] = 1  # Dwi refuses an image of zeros
    table = GradientTable(np.array(bvals), bvecs, draw(st.sampled_from(["fsl", "world"])), threshold)
    return Dwi(Volume(array, draw(affines)), table, draw(st.booleans()))


@st.composite
def map_sets(draw: st.DrawFn) -> MapSet:
    grid, affine = draw(shapes(3, 3)), draw(affines)
    names = draw(st.lists(st.from_regex(r"[a-z][a-z0-9]{0,5}", fullmatch=True), min_size=1, max_size=3, unique=True))
    return MapSet({name: Volume(draw(arrays((*grid, *draw(shapes(0, 2))))), affine) for name in names})


@st.composite
def tissue_responses(draw: st.DrawFn) -> TissueResponses:
    steps = draw(st.lists(st.floats(1, 3000), min_size=1, max_size=3))
    shells = len(steps) + 1
    random = np.random.default_rng(draw(st.integers(0, 99)))
    white = random.normal(0, 1e3, (shells, draw(st.integers(2, 7))))
    white[:, 0] = np.abs(white[:, 0]) + 1e-3
    gray, water = random.random((2, shells)) + 1e-3
    counts = [draw(st.integers(0, 10**6)) for _ in range(3)]
    return TissueResponses(np.cumsum([0.0, *steps]), white, gray, water, *counts)


responses = st.builds(
    lambda first, rest, bvalue, voxels: ResponseFunction(np.array([first, *rest]), bvalue, voxels),
    positive,
    st.lists(st.floats(-1e4, 1e4), min_size=1, max_size=6),
    positive,
    st.integers(0, 10**6),
)
ASSET_OF: dict[str, tuple[str, st.SearchStrategy[Value]]] = {
    "Volume": ("tract_masks", volumes()),
    "Segmentation": ("tract_masks", segmentations()),
    "RigidTransform": ("mni_alignment", transforms()),
    "Dwi": ("denoised_dwi", dwis()),
    "MapSet": ("dti", map_sets()),
    "ResponseFunction": ("fiber_response", responses),
    "TissueResponses": ("fiber_response", tissue_responses()),
    "NotApplicable": ("noddi", st.builds(NotApplicable, st.text(max_size=40))),
}


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("kind", list(ASSET_OF))
def test_a_stored_value_loads_bit_by_bit_and_two_writes_give_the_same_files(
    tmp_path_factory: pytest.TempPathFactory, kind: str
) -> None:
    asset, values = ASSET_OF[kind]
    subject = SubjectKey("01", "02")

    @given(values)
    @settings(max_examples=30, deadline=None, derandomize=True)
    def round_trip(value: Value) -> None:
        first, second = (DerivativeStore(tmp_path_factory.mktemp("store")) for _ in range(2))
        provenance = Provenance("a value", "1-0123abcd", data_version(value), {"key": 0.1, "none": None})
        for store in (first, second):
            store.write(asset, subject, value, provenance)
        loaded, sidecar = first.read(asset, subject)
        assert type(loaded) is type(value)
        assert data_version(loaded) == data_version(value) == sidecar.data_version
        assert sidecar.provenance == provenance
        assert_same(loaded, value)
        assert contents(first.root) == contents(second.root)

    round_trip()


def assert_same(loaded: Value, value: Value) -> None:
    """Compare field by field and bit by bit, independent of the data version."""
    if isinstance(value, Segmentation) and isinstance(loaded, Segmentation):
        assert_same(loaded.probabilities, value.probabilities)
    if isinstance(value, Volume) and isinstance(loaded, Volume):
        assert (loaded.names, loaded.shape, loaded.array.dtype) == (value.names, value.shape, value.array.dtype)
        assert loaded.array.tobytes() == value.array.tobytes()
        assert loaded.affine.tobytes() == value.affine.tobytes()
    elif isinstance(value, Dwi) and isinstance(loaded, Dwi):
        assert_same(loaded.volume, value.volume)
        assert loaded.bvals.tobytes() == value.bvals.tobytes()
        assert loaded.gradients.bvecs.tobytes() == value.gradients.bvecs.tobytes()
        assert (loaded.interpolated, loaded.gradients.b0_threshold) == (
            value.interpolated, value.gradients.b0_threshold,
        )  # fmt: skip
    elif isinstance(value, MapSet) and isinstance(loaded, MapSet):
        assert list(loaded) == list(value)
        for name in value:
            assert_same(loaded[name], value[name])
    elif isinstance(value, ResponseFunction) and isinstance(loaded, ResponseFunction):
        assert loaded.coefficients.tobytes() == value.coefficients.tobytes()
        assert (loaded.bvalue, loaded.voxels) == (value.bvalue, value.voxels)
    elif isinstance(value, RigidTransform) and isinstance(loaded, RigidTransform):
        assert loaded.matrix.tobytes() == value.matrix.tobytes()
    elif isinstance(value, TissueResponses) and isinstance(loaded, TissueResponses):
        for name, expected in vars(value).items():
            found = getattr(loaded, name)
            assert found.tobytes() == expected.tobytes() if isinstance(expected, np.ndarray) else found == expected
    else:
        assert loaded == value


def test_group_derivatives_are_stored_at_the_root_and_removed_separately(place: Place) -> None:
    store, value = DerivativeStore(place.url), ResponseFunction(np.array([900.0, -300.0]), 3000, 12)
    version = data_version(value)
    store.write("fiber_response", SUBJECT, value, Provenance("one", "1-00000000", version))
    before = place.contents()
    for figure in (b"\x89PNG of one kind", b"\x89PNG of another"):
        store.write("group_response", GROUP, value, Provenance("of all", "1-00000000", version), figure)
    stem = "group_model-csd_desc-mean_response"
    assert place.names() - set(before) == {f"{stem}.json", f"{stem}_figure.png"}
    assert data_version(store.read("group_response", GROUP)[0]) == version
    assert store.keys() == [SUBJECT, GROUP]
    assert store.assets(SUBJECT) == ["fiber_response"]
    store.remove("group_response", GROUP)
    assert place.contents() == before
    assert store.keys() == [SUBJECT]
