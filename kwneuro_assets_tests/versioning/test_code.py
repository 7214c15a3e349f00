"""The code version: it moves with a derivative's own parameters, and with no others."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import pytest

from kwneuro_assets.assets import DERIVATIVES, GROUP_DERIVATIVE
from kwneuro_assets.settings import PipelineSettings, ResponseSettings, SettingsError
from kwneuro_assets.versioning import code
from kwneuro_assets.versioning.code import Code, parameters

# Every setting of a derivation, another value for it, and who uses it.
USERS: dict[str, tuple[object, set[str]]] = {
    "denoising.method": ("none", {"denoised_dwi"}),
    "denoising.minimum_ratio": (5, {"denoised_dwi"}),
    "brain_mask.method": ("median-otsu", {"brain_mask"}),
    "dti.max_bvalue": (1200, {"dti"}),
    "noddi.dpar": (1.5e-3, {"noddi"}),
    "noddi.diso": (2.9e-3, {"noddi"}),
    "noddi.directions": (1000, {"noddi"}),
    "noddi.rmse": (True, {"noddi"}),
    "noddi.tissue_weighted": (True, {"noddi"}),
    "csd.method": ("single-tissue", {"fiber_response"}),
    "csd.shell": (3000, {"fiber_response"}),
    "csd.series": ("denoised", {"fiber_response", "csd_peaks"}),
    "csd.max_order": (6, {"fiber_response", "csd_peaks"}),
    "csd.response": (__file__, {"fiber_response"}),
    "csd.grey_response": (__file__, {"fiber_response"}),
    "csd.water_response": (__file__, {"fiber_response"}),
    "csd.group_response": (True, {"csd_peaks"}),
    "csd.group_subjects": ("sub-01", {"group_response"}),
    "csd.fa_threshold": (0.6, {"fiber_response"}),
    "csd.minimum_voxels": (200, {"fiber_response"}),
    "csd.peaks": (3, {"csd_peaks"}),
    "csd.relative_threshold": (0.2, {"csd_peaks"}),
    "csd.minimum_angle": (30, {"csd_peaks"}),
    "csd.fod": (True, {"csd_peaks"}),
    "tracts.mask_threshold": (0.4, {"tract_masks"}),
    "tracts.ending_threshold": (0.4, {"tract_endings"}),
    "tracts.dilation": (2, {"tract_orientations"}),
    "source.url": ("elsewhere", set()),
    "source.select": ("*AP*", set()),
    "source.anonymous": (True, set()),
    "source.subsample": (2, set()),  # in the data version of dwi
    "source.b0_threshold": (20, set()),  # so too
    "store.url": ("elsewhere", set()),
    "store.verify": ("first", set()),
    "store.cache_gb": (1, set()),
    "weights.folder": ("elsewhere", set()),
    "source.layout": ("{subject}/dwi.nii.gz", set()),
    "source.acq": ("98dir", set()),
    "source.dir": ("AP", set()),
    "source.run": ("1", set()),
    "checks.minimum_directions": (12, set()),
    "checks.minimum_b0": (2, set()),
    "checks.minimum_voxel_mm": (0.5, set()),
    "checks.maximum_voxel_mm": (5, set()),
    "checks.gradients": (False, set()),
    "ingestion.interval_seconds": (60, set()),
    "ingestion.settle_seconds": (5, set()),
    "ingestion.tick_seconds": (10, set()),
    "ingestion.reconcile_cron": ("0 4 * * *", set()),
    "ingestion.reconcile_timezone": ("Europe/Berlin", set()),
    "ingestion.reconcile_contents": (False, set()),
    "dicom.folder": ("/scanner", set()),
    "dicom.subject": ("{PatientName}", set()),
    "dicom.session": ("{StudyDate}", set()),
    "dicom.series": ({"*dti*": "dir-AP"}, set()),
    "automation.mode": ("off", set()),
    "automation.select": ("dti", set()),
    "automation.max_runs": (3, set()),
    "automation.attempts": (5, set()),
    "automation.retry_minutes": (1, set()),
    "automation.interval_seconds": (60, set()),
}
# Settings that are valid with others only.
ALONG_WITH = {
    "csd.grey_response": {"response": __file__, "water_response": __file__},
    "csd.water_response": {"response": __file__, "grey_response": __file__},
}


def versions(settings: PipelineSettings) -> dict[str, str]:
    return {derivative.name: derivative.code_version(settings) for derivative in (*DERIVATIVES, GROUP_DERIVATIVE)}


def changed(key: str, value: object) -> PipelineSettings:
    section, _, name = key.partition(".")
    return PipelineSettings.model_validate({section: {**ALONG_WITH.get(key, {}), name: value}})


@pytest.mark.parametrize("key", USERS)
def test_a_changed_setting_changes_the_version_of_its_users_and_of_no_other(key: str) -> None:
    value, users = USERS[key]
    before, after = versions(PipelineSettings()), versions(changed(key, value))
    assert {name for name in before if before[name] != after[name]} == users


def test_every_setting_is_in_the_table_above() -> None:
    present = {
        f"{section}.{key}"
        for section, field in PipelineSettings.model_fields.items()
        for key in getattr(field.annotation, "model_fields", {})
    }
    assert present == set(USERS)


def test_a_version_is_the_algorithms_number_and_eight_digits() -> None:
    for name, version in versions(PipelineSettings()).items():
        assert re.fullmatch(r"[1-9]\d*-[0-9a-f]{8}", version), name
    assert Code(2).version.split("-") == ["2", Code(1).version.split("-")[1]]


def test_numbers_that_are_equal_give_one_version() -> None:
    assert versions(changed("dti.max_bvalue", 1500)) == versions(changed("dti.max_bvalue", 1500.0))
    assert versions(changed("dti.max_bvalue", "1500")) == versions(PipelineSettings())


def test_a_file_counts_by_its_content_and_name_and_not_by_where_it_lies(tmp_path: Path) -> None:
    found = []
    for folder, content in (("a", "1 2\n"), ("b", "1 2\n"), ("c", "1 3\n")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "response.txt").write_text(content)
        found.append(versions(changed("csd.response", str(tmp_path / folder / "response.txt"))))
    assert found[0] == found[1]
    assert found[0] != found[2]
    told = parameters(ResponseSettings(response=str(tmp_path / "a" / "response.txt")))["response"]
    assert told == f"response.txt sha256:{hashlib.sha256(b'1 2' + bytes([10])).hexdigest()}"


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=f"response: the file {tmp_path}/gone.txt cannot be read: No such file"):
        versions(changed("csd.response", str(tmp_path / "gone.txt")))


def test_another_release_of_a_decisive_library_makes_stale_what_it_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which these are was measured (docs/versions.md); a mended bug, the third number, changes nothing."""
    before = versions(PipelineSettings())
    told = dict(code.library_versions(("numpy", "torch")))
    monkeypatch.setattr(code, "_installed", lambda name: {**told, "numpy": "9.1.2"}.get(name, "1.0"))
    users = {"denoised_dwi", "dti", "noddi", "tract_orientations"}
    after = versions(PipelineSettings())
    assert {name for name in before if before[name] != after[name]} == users
    monkeypatch.setattr(code, "_installed", lambda name: {**told, "numpy": "9.1.3"}.get(name, "1.0"))
    assert versions(PipelineSettings()) == after


def test_what_changed_is_told_by_setting_number_and_library() -> None:
    now = Code(2, {"peaks": 3, "response": None}, {"numpy": "2.4"}, "csd")
    metadata = {"parameters": {"peaks": 5, "response": "a.txt"}, "libraries": {"numpy": "2.3.1", "python": "3.11.7"}}
    assert now.changes_since(now.version, metadata) == ()
    assert now.changes_since("1-abcdef01", metadata) == (
        "its algorithm changed: number 1, now 2",
        "csd.peaks: was 5, now 3",
        "csd.response: was a.txt, now not set",
        "library numpy: was 2.3, now 2.4",
    )
    assert now.changes_since(None, {}) == ("its algorithm changed: number unknown, now 2",)
    assert now.changes_since("2-abcdef01", {}) == (f"its code version changed: 2-abcdef01, now {now.version}",)
