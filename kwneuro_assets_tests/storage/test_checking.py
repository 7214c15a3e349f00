"""Whole stores at once: what is counted, what is told of what is damaged or missing, and what a copy holds."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from kwneuro_assets.imaging import MapSet, NotApplicable, ResponseFunction, Volume
from kwneuro_assets.storage.checking import Found, export_subjects, verify_store
from kwneuro_assets.storage.location import location
from kwneuro_assets.storage.sidecar import Provenance
from kwneuro_assets.storage.store import DerivativeStore, StoreError
from kwneuro_assets.subjects import SubjectKey
from kwneuro_assets.versioning.content import Value, data_version
from kwneuro_assets_tests.small_dataset import AFFINES, write_dataset
from kwneuro_assets_tests.storage.conftest import Place

ONE, TWO = SubjectKey("01"), SubjectKey("02", "b")
FA = "sub-01/dwi/sub-01_model-tensor_param-fa_dwimap.nii.gz"
MASK = "sub-02/ses-b/dwi/sub-02_ses-b_desc-brain_mask.nii.gz"
RESPONSE = "sub-01/dwi/sub-01_model-csd_response.json"
FILES = 3 + 2 + 1 + 1  # of one subject: two maps, a mask, a response and a reason, each with its sidecar


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


def spoil(store: DerivativeStore, name: str) -> str:
    """Turn over one bit in the middle of a file; its whole name."""
    path = store.root / name
    content = bytearray(path.fs.cat_file(path.path))
    content[len(content) // 2] ^= 1
    path.fs.pipe_file(path.path, bytes(content))
    return str(path)


def quiet(done: int, total: int) -> None:
    """Nobody asks how far it is."""


def export(store: DerivativeStore, target: Path, subjects: list[SubjectKey], assets: list[str] | None = None) -> Found:
    return export_subjects(store, DerivativeStore(target, "s3://raw/study"), subjects, assets, quiet)


def test_everything_damaged_is_told_at_once_and_the_rest_is_counted(store: DerivativeStore) -> None:
    assert verify_store(store, [], quiet) == Found(2, 8, 8, 2 * FILES, [])
    names = [spoil(store, name) for name in (FA, RESPONSE, MASK)]
    found = verify_store(store, [], quiet)
    assert (found.subjects, found.derivatives, found.whole, found.files) == (2, 8, 5, 2 * FILES - 3 - 1 - 2)
    assert sorted(problem.split(": ")[0] for problem in found.problems) == sorted(names)
    assert all("Make it with: kwneuro-assets run --subject sub-0" in problem for problem in found.problems)
    assert verify_store(store, [TWO], quiet).derivatives == 4


def test_progress_goes_to_the_end(store: DerivativeStore) -> None:
    told: list[tuple[int, int]] = []
    verify_store(store, [ONE], lambda done, total: told.append((done, total)))
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_a_store_with_nothing_in_it_is_not_called_good(place: Place, tmp_path: Path) -> None:
    """A misspelt URL is the likely cause."""
    empty = DerivativeStore(place.url)
    with pytest.raises(StoreError, match=f"^there is no derivative in the store {place.url}$"):
        verify_store(empty, [], quiet)
    told = f"^nothing of sub-01 is in the store {place.url}$"
    with pytest.raises(StoreError, match=told):
        verify_store(empty, [ONE], quiet)
    with pytest.raises(StoreError, match=told):
        export(empty, tmp_path / "copy", [ONE])
    assert not (tmp_path / "copy").exists()


def test_a_copy_is_the_same_bytes_and_a_dataset_of_its_own(store: DerivativeStore, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    assert export(store, copy, [ONE]) == Found(1, 4, 4, FILES, [])
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


def test_a_damaged_file_leaves_the_copy_that_stood_before(store: DerivativeStore, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    export(store, copy, [ONE])
    before = {path: path.read_bytes() for path in copy.rglob("*.*")}
    spoil(store, FA)
    found = export(store, copy, [ONE])
    assert (found.derivatives, found.whole, len(found.problems)) == (4, 3, 1)
    assert {path: path.read_bytes() for path in copy.rglob("*.*")} == before


def test_what_is_asked_for_and_not_there_is_told(store: DerivativeStore, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    found = export(store, copy, [ONE], ["fiber_response", "csd_peaks"])
    assert found == Found(
        1, 1, 1, 1,
        [
            f"csd_peaks of sub-01 is not in the store {store.root}. "
            "Make it with: kwneuro-assets run --subject sub-01 --select csd_peaks"
        ],
    )  # fmt: skip
    assert DerivativeStore(copy).assets(ONE) == ["fiber_response"]


def test_a_copy_into_another_dataset_is_refused(store: DerivativeStore, tmp_path: Path) -> None:
    raw = write_dataset(tmp_path / "raw")
    before = sorted(raw.rglob("*"))
    told = f"^the store {raw} is another dataset, by its dataset_description.json: expected a folder of its own$"
    with pytest.raises(StoreError, match=told):
        export(store, raw, [ONE])
    assert sorted(raw.rglob("*")) == before
