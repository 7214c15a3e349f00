"""Pages at the root of the store: the report of a subject, and the files that all reports share."""

from __future__ import annotations

from pathlib import Path

import pytest

from kwneuro_assets.imaging import NotApplicable, Report, Table
from kwneuro_assets.storage.names import NAMES
from kwneuro_assets.storage.pages import local_page
from kwneuro_assets.storage.sidecar import Provenance
from kwneuro_assets.storage.store import DerivativeStore, StoreError
from kwneuro_assets.subjects import GROUP, SubjectKey
from kwneuro_assets_tests.testkit.s3_server import S3Bucket

KEY = SubjectKey.parse("sub-01_ses-02")
VIEWER = b"the program of the viewer"


def provenance(version: str = "0" * 64) -> Provenance:
    return Provenance("a report", "1-0", version)


def written(root: Path | str, text: str = "<p>report</p>", key: SubjectKey = KEY) -> DerivativeStore:
    store = DerivativeStore(root)
    report = Report(text, "identity", {"viewer-1.js": VIEWER})
    store.write("subject_report", key, report, provenance())
    return store


def test_a_page_is_at_the_root_and_read_back(tmp_path: Path) -> None:
    store = written(tmp_path)
    assert (tmp_path / "sub-01_ses-02.html").read_text() == "<p>report</p>"
    assert (tmp_path / ".assets" / "viewer-1.js").read_bytes() == VIEWER
    assert store.read("subject_report", KEY)[0] == Report("<p>report</p>", "identity")
    assert store.assets(KEY) == ["subject_report"]
    assert store.held(KEY, {"subject_report": "0" * 64}) == {"subject_report"}
    assert store.held(KEY, {"subject_report": "1" * 64}) == set()


def test_pages_of_subjects_whose_names_begin_alike_are_separate(tmp_path: Path) -> None:
    store = written(tmp_path, "<p>first</p>", SubjectKey("01"))
    written(tmp_path, "<p>second</p>", SubjectKey("01", "02"))
    store.remove("subject_report", SubjectKey("01"))
    assert sorted(path.name for path in tmp_path.glob("sub-*")) == ["sub-01_ses-02.html", "sub-01_ses-02_report.json"]
    assert tmp_path.is_dir()


def test_a_page_that_became_not_applicable_leaves_no_file(tmp_path: Path) -> None:
    store = written(tmp_path)
    store.write("subject_report", KEY, NotApplicable("no image"), provenance())
    assert [path.name for path in tmp_path.glob("sub-*")] == ["sub-01_ses-02_report.json"]


def test_a_page_that_was_deleted_is_not_held(tmp_path: Path) -> None:
    store = written(tmp_path)
    (tmp_path / "sub-01_ses-02.html").unlink()
    assert store.held(KEY, {"subject_report": "0" * 64}) == set()


def test_a_shared_file_is_written_once_and_again_if_it_is_incomplete(tmp_path: Path) -> None:
    written(tmp_path)
    shared = tmp_path / ".assets" / "viewer-1.js"
    before = shared.stat().st_mtime_ns
    written(tmp_path, "<p>another</p>")
    assert shared.stat().st_mtime_ns == before
    shared.write_bytes(b"cut")
    written(tmp_path, "<p>third</p>")
    assert shared.read_bytes() == VIEWER


def test_an_exported_page_has_its_shared_files(tmp_path: Path) -> None:
    target = DerivativeStore(tmp_path / "copy")
    written(tmp_path / "store").export("subject_report", KEY, target)
    assert (tmp_path / "copy" / ".assets" / "viewer-1.js").read_bytes() == VIEWER
    assert target.check("subject_report", KEY).data_version == "0" * 64


def test_a_table_of_the_group_is_also_stored_as_parquet(tmp_path: Path) -> None:
    from pyarrow import parquet

    kinds = {"participant_id": "text", "ndc": "number", "pieces": "integer"}
    table = Table({"participant_id": ["sub-01", "sub-02"], "ndc": [0.5, None], "pieces": [1, 2]}, kinds)  # type: ignore[arg-type]
    store = DerivativeStore(tmp_path)
    store.write("cohort_qc", GROUP, table, provenance())
    assert store.read("cohort_qc", GROUP)[0] == table
    read = parquet.read_table(tmp_path / "group_desc-image_qc.parquet")
    assert read.to_pydict() == {name: list(cells) for name, cells in table.columns.items()}
    assert [str(kind) for kind in read.schema.types] == ["string", "double", "int64"]
    first = (tmp_path / "group_desc-image_qc.parquet").read_bytes()
    store.write("cohort_qc", GROUP, table, provenance())
    assert (tmp_path / "group_desc-image_qc.parquet").read_bytes() == first


def test_the_page_of_a_remote_store_is_copied_with_what_it_shows(s3_bucket: S3Bucket) -> None:
    store = written(s3_bucket.url)
    store.write("dwi_qc", KEY, Table({"ndc": [0.5]}, {"ndc": "number"}), provenance(), b"a figure")
    page = local_page(store, "subject_report", KEY)
    assert page.read_text() == "<p>report</p>"
    assert (page.parent / ".assets" / "viewer-1.js").read_bytes() == VIEWER
    assert (page.parent / KEY.folder / NAMES["dwi_qc"].figure(KEY)).read_bytes() == b"a figure"
    assert store.assets(KEY) == ["dwi_qc", "subject_report"]
    assert store.held(KEY, dict.fromkeys(("dwi_qc", "subject_report"), "0" * 64)) == {"dwi_qc", "subject_report"}


def test_a_page_that_does_not_exist_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"cohort_report of group is not in the store"):
        local_page(DerivativeStore(tmp_path), "cohort_report", GROUP)
