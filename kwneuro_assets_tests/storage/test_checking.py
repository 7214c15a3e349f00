"""Verify and export many subjects: counts, reports of damaged or missing derivatives, and the content of a copy."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from kwneuro_assets.imaging import MapSet, NotApplicable, ResponseFunction, Segmentation, Volume
from kwneuro_assets.imaging.content_hash import Value, data_version
from kwneuro_assets.storage.checking import CheckResult, export_subjects, verify_store
from kwneuro_assets.storage.location import location
from kwneuro_assets.storage.names import NAMES
from kwneuro_assets.storage.nifti import read_nifti
from kwneuro_assets.storage.sidecar import Provenance
from kwneuro_assets.storage.store import DerivativeStore, StoreError
from kwneuro_assets.subjects import SubjectKey
from kwneuro_assets_tests.storage.conftest import Place
from kwneuro_assets_tests.testkit.small_dataset import AFFINES, write_dataset

ONE, TWO = SubjectKey("01"), SubjectKey("02", "b")
FA = "sub-01/dwi/sub-01_model-tensor_param-fa_dwimap.nii.gz"
MASK = "sub-02/ses-b/dwi/sub-02_ses-b_desc-brain_mask.nii.gz"
RESPONSE = "sub-01/dwi/sub-01_model-csd_response.json"
FILES = 3 + 2 + 1 + 1  # per subject: two maps, a mask, a response function and a reason, each with its sidecar


def values(subject: SubjectKey) -> dict[str, Value]:
    random = np.random.default_rng(len(str(subject)))
    maps = {name: Volume(random.random((4, 5, 6), np.float32), AFFINES["oblique"]) for name in ("fa", "md")}
    return {
        "brain_mask": Volume(random.integers(0, 2, (4, 5, 6)).astype(np.uint8), AFFINES["oblique"]),
        "dti": MapSet(maps),
        "fiber_response": ResponseFunction(random.random(5) + 1, 3000.0, 12),
        "noddi": NotApplicable("one shell"),
    }


@pytest.fixture
def store(place: Place) -> DerivativeStore:
    """Four derivatives of each of two subjects, one of which has a session."""
    store = DerivativeStore(place.url, "s3://raw/study")
    for subject in (ONE, TWO):
        for asset, value in values(subject).items():
            store.write(asset, subject, value, Provenance("a test's", "1-00000000", data_version(value)))
    return store


def flip_bit(store: DerivativeStore, name: str) -> str:
    """The full path of a file, after one bit in its middle was flipped."""
    path = store.root / name
    content = bytearray(path.fs.cat_file(path.path))
    content[len(content) // 2] ^= 1
    path.fs.pipe_file(path.path, bytes(content))
    return str(path)


def quiet(done: int, total: int) -> None:
    """Progress that is not shown."""


def export(
    store: DerivativeStore, target: Path, subjects: list[SubjectKey], assets: list[str] | None = None
) -> CheckResult:
    return export_subjects(store, DerivativeStore(target, "s3://raw/study"), subjects, assets, quiet)


def test_all_damaged_files_are_reported_and_the_others_are_counted(store: DerivativeStore) -> None:
    assert verify_store(store, [], quiet) == CheckResult(2, 8, 8, 2 * FILES, [])
    names = [flip_bit(store, name) for name in (FA, RESPONSE, MASK)]
    found = verify_store(store, [], quiet)
    assert (found.subjects, found.derivatives, found.intact, found.files) == (2, 8, 5, 2 * FILES - 3 - 1 - 2)
    assert sorted(problem.split(": ")[0] for problem in found.problems) == sorted(names)
    assert all("Materialize it with: kwneuro-assets run --subject sub-0" in problem for problem in found.problems)
    assert verify_store(store, [TWO], quiet).derivatives == 4


def test_progress_reaches_the_total(store: DerivativeStore) -> None:
    reported: list[tuple[int, int]] = []
    verify_store(store, [ONE], lambda done, total: reported.append((done, total)))
    assert reported == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_an_empty_store_is_an_error(place: Place, tmp_path: Path) -> None:
    """A misspelled URL is the likely cause."""
    empty = DerivativeStore(place.url)
    with pytest.raises(StoreError, match=f"^the store {place.url} has no derivative$"):
        verify_store(empty, [], quiet)
    message = f"^the store {place.url} has no derivative of sub-01$"
    with pytest.raises(StoreError, match=message):
        verify_store(empty, [ONE], quiet)
    with pytest.raises(StoreError, match=message):
        export(empty, tmp_path / "copy", [ONE])
    assert not (tmp_path / "copy").exists()


def test_a_copy_is_the_same_bytes_and_a_dataset_of_its_own(store: DerivativeStore, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    assert export(store, copy, [ONE]) == CheckResult(1, 4, 4, FILES, [])
    assert sorted(path.name for path in copy.iterdir()) == [
        ".bidsignore", "README.md", "dataset_description.json", "sub-01",
    ]  # fmt: skip
    description = json.loads((copy / "dataset_description.json").read_text())
    assert description["SourceDatasets"] == [{"URL": "s3://raw/study"}]
    for path in (copy / "sub-01/dwi").iterdir():
        stored = location(str(store.root)) / "sub-01/dwi" / path.name
        assert path.read_bytes() == stored.fs.cat_file(stored.path)
    for asset, value in values(ONE).items():
        assert data_version(DerivativeStore(copy).read(asset, ONE)[0]) == data_version(value)


def test_a_damaged_file_leaves_the_previous_copy_unchanged(store: DerivativeStore, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    export(store, copy, [ONE])
    before = {path: path.read_bytes() for path in copy.rglob("*.*")}
    flip_bit(store, FA)
    found = export(store, copy, [ONE])
    assert (found.derivatives, found.intact, len(found.problems)) == (4, 3, 1)
    assert {path: path.read_bytes() for path in copy.rglob("*.*")} == before


def test_a_requested_derivative_that_is_missing_is_reported(store: DerivativeStore, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    found = export(store, copy, [ONE], ["fiber_response", "csd_peaks"])
    assert found == CheckResult(
        1, 1, 1, 1,
        [
            f"csd_peaks of sub-01 is not in the store {store.root}. "
            "Materialize it with: kwneuro-assets run --subject sub-01 --select csd_peaks"
        ],
    )  # fmt: skip
    assert DerivativeStore(copy).assets(ONE) == ["fiber_response"]


BUNDLES = ("CC_1", "CST_left", "T_PREF_right")


def store_with_bundles(root: Path) -> DerivativeStore:
    store, random = DerivativeStore(root), np.random.default_rng(0)
    affine = AFFINES["oblique"]
    probabilities = Volume(random.random((4, 5, 6, 3), np.float32), affine, BUNDLES)
    mask = Volume((probabilities.array > 0.5).astype(np.uint8), affine, BUNDLES)
    vectors = Volume(
        random.random((4, 5, 6, 9), np.float32), affine, tuple(f"{name}_{axis}" for name in BUNDLES for axis in "xyz")
    )
    for asset, value in {
        "tract_masks": Segmentation.of(mask, probabilities),
        "tract_orientations": vectors,
        **values(ONE),
    }.items():
        provenance = Provenance(f"a {asset}", "1-0", data_version(value), bids={"Type": "ROI"})
        store.write(asset, ONE, value, provenance)
    return store


def test_a_copy_may_have_one_file_for_each_bundle_with_the_voxels_and_data_type_of_the_4d_file(tmp_path: Path) -> None:
    store, copy = store_with_bundles(tmp_path / "store"), tmp_path / "copy"
    export_subjects(store, DerivativeStore(copy), [ONE], None, quiet, split=True)
    folder = copy / "sub-01/dwi"
    segmentation, orientations = (store.read(asset, ONE)[0] for asset in ("tract_masks", "tract_orientations"))
    assert isinstance(segmentation, Segmentation)
    assert isinstance(orientations, Volume)
    for index, (name, label) in enumerate(zip(BUNDLES, ("CC1", "CSTleft", "TPREFright"), strict=True)):
        for kind, expected, labels in (
            ("desc-tracts_mask", segmentation.array[..., index], [name]),
            ("desc-tracts_probseg", segmentation.probabilities.array[..., index], [name]),
            (
                "desc-tractorientations_dwimap",
                orientations.array[..., 3 * index : 3 * index + 3],
                [f"{name}_{axis}" for axis in "xyz"],
            ),
        ):
            found = read_nifti(folder / f"sub-01_label-{label}_{kind}.nii.gz")
            assert (found.array.dtype, found.shape) == (expected.dtype, expected.shape)
            assert np.array_equal(found.array, expected)
            assert np.array_equal(found.affine, segmentation.affine)
            described = json.loads((folder / f"sub-01_label-{label}_{kind}.json").read_text())
            assert described["LabelMap"] == labels
            assert described["Sources"] == [f"bids::sub-01/dwi/sub-01_{kind}.nii.gz"]
            assert described["Description"].startswith(f"{name}: ")
    assert not list(folder.glob("*label-*model*")), "only images of bundles are split"


def test_the_files_of_single_bundles_are_verified_and_belong_to_their_derivative(tmp_path: Path) -> None:
    store, copy = store_with_bundles(tmp_path / "store"), DerivativeStore(tmp_path / "copy")
    found = export_subjects(store, copy, [ONE], ["tract_masks"], quiet, split=True)
    assert found.files == 1 + 3 + 2 * 3 * 2
    assert data_version(copy.read("tract_masks", ONE)[0]) == data_version(store.read("tract_masks", ONE)[0])
    again = DerivativeStore(tmp_path / "again")
    assert export_subjects(copy, again, [ONE], None, quiet).files == found.files
    damaged = flip_bit(copy, "sub-01/dwi/sub-01_label-CC1_desc-tracts_mask.nii.gz")
    assert [problem.split(": ")[0] for problem in verify_store(copy, [], quiet).problems] == [damaged]
    export_subjects(store, copy, [ONE], ["tract_masks"], quiet)
    assert not list((tmp_path / "copy").rglob("*label-*")), "a copy without them replaces one with them"
    assert verify_store(copy, [], quiet).problems == []
    again.remove("tract_masks", ONE)
    assert not list((tmp_path / "again").rglob("sub-*"))


def test_the_labels_of_tractseg_are_different_as_file_names() -> None:
    pytest.importorskip("tractseg")
    from tractseg.data.dataset_specific_utils import get_bundle_names

    for classes, asset in (("All", "tract_masks"), ("All_endpoints", "tract_endings")):
        labels = get_bundle_names(classes)[1:]
        files = {NAMES[asset].label_file(ONE, label, ".nii.gz") for label in labels}
        assert len(files) == len(labels)
        assert all(NAMES[asset].owns(ONE, file) for file in files)


def test_a_copy_into_another_dataset_is_refused(store: DerivativeStore, tmp_path: Path) -> None:
    raw = write_dataset(tmp_path / "raw")
    before = sorted(raw.rglob("*"))
    message = f"^the store {raw} is another dataset, according to its dataset_description.json: expected a folder of"
    with pytest.raises(StoreError, match=message):
        export(store, raw, [ONE])
    assert sorted(raw.rglob("*")) == before
