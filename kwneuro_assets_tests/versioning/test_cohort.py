"""States of derivatives, with real runs of the cheap ones on a tiny dataset."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import nibabel
import numpy as np
import pytest
from dagster import DagsterInstance

from kwneuro_assets.assets import DERIVATIVES
from kwneuro_assets.assets.derivative import Derivative
from kwneuro_assets.imaging import NotApplicable
from kwneuro_assets.ingestion.ingest import PARTITIONS, ingest
from kwneuro_assets.ingestion.source import source_names
from kwneuro_assets.running import Result, run_subject
from kwneuro_assets.settings import PipelineSettings
from kwneuro_assets.storage.store import DerivativeStore
from kwneuro_assets.subjects import SubjectKey
from kwneuro_assets.versioning.cohort import Status, cohort_status
from kwneuro_assets_tests.small_dataset import AFFINES, head, small_settings, table, write_dataset, write_series

CHEAP = ("denoised_dwi", "mean_b0", "brain_mask", "dti")
MADE, NEVER_MADE = "sub-made", "sub-new"
SPARE = [f"sub-{number:02d}" for number in range(10)]  # one for each test that changes its subject


@dataclass
class Lab:
    """One subject of a dataset, the store, the instance, and what a person does with them."""

    root: Path
    instance: DagsterInstance
    key: str = MADE
    sections: dict[str, dict[str, object]] = field(default_factory=dict)

    @property
    def settings(self) -> PipelineSettings:
        return small_settings(self.root / "source", self.root / "store", **self.sections)

    @property
    def store(self) -> DerivativeStore:
        return DerivativeStore(self.settings.store.url)

    @property
    def folder(self) -> Path:
        return self.root / "source" / self.key / "dwi"

    def look(self) -> None:
        ingest(self.instance, self.settings, only=[self.key])

    def run(self, assets: tuple[str, ...] = CHEAP) -> dict[str, Result]:
        self.look()
        return {result.asset: result for result in run_subject(self.instance, self.settings, self.key, assets)}

    def status(self) -> dict[str, Status]:
        sources = source_names(self.settings)
        return cohort_status(self.instance, self.settings, DERIVATIVES, sources, [self.key])[self.key]

    def states(self) -> dict[str, str]:
        return {name: status.state for name, status in self.status().items() if name in CHEAP}

    def files(self) -> dict[str, bytes]:
        """All that the store holds of the subject, temporary files included."""
        below = sorted((self.store.root / self.key).rglob("*"))
        return {path.name: path.read_bytes() for path in below if path.is_file()}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A subject that is made, pictures and all."""
    root = tmp_path_factory.mktemp("lab")
    write_dataset(root / "source", [MADE, NEVER_MADE, *SPARE])
    with DagsterInstance.ephemeral() as instance:
        lab = Lab(root, instance)
        assert {result.outcome for result in lab.run().values()} == {"made"}
        yield lab


@pytest.fixture
def lab(made: Lab, monkeypatch: pytest.MonkeyPatch) -> Lab:
    """A subject of the test's own, made without pictures: they take most of a run's time on so few voxels."""
    monkeypatch.setattr(Derivative, "_figure", lambda *_: None)
    known = made.instance.get_dynamic_partitions(PARTITIONS)
    own = Lab(made.root, made.instance, next(key for key in SPARE if key not in known))
    assert {result.outcome for result in own.run().values()} == {"made"}
    return own


def states(*four: str) -> dict[str, str]:
    return dict(zip(CHEAP, four, strict=True))


def test_what_was_made_is_fresh_and_what_was_not_is_missing(made: Lab) -> None:
    assert made.states() == states("fresh", "fresh", "fresh", "fresh")
    assert made.status()["noddi"] == Status("missing", ("it has never been made",))
    assert Lab(made.root, made.instance, NEVER_MADE).states() == states("missing", "missing", "missing", "missing")


def test_versions_in_the_status_are_those_in_the_store(made: Lab) -> None:
    for name in CHEAP:
        sidecar = made.store.sidecar(name, SubjectKey.parse(MADE))
        status = made.status()[name]
        assert sidecar is not None
        assert (status.data_version, status.code_version) == (sidecar.data_version, sidecar.provenance.code_version)


def test_a_changed_setting_makes_only_its_users_stale(made: Lab) -> None:
    changed = Lab(made.root, made.instance, MADE, {"dti": {"max_bvalue": 900}})
    assert changed.states() == states("fresh", "fresh", "fresh", "stale")
    [why] = changed.status()["dti"].why
    assert why.startswith("its settings or code changed: version 1-")
    above = Lab(made.root, made.instance, MADE, {"denoising": {"method": "auto"}})
    assert above.states() == states("stale", "stale-upstream", "stale-upstream", "stale-upstream")
    assert above.status()["mean_b0"].why == ("denoised_dwi is stale",)


def test_an_input_that_settings_add_or_drop_makes_its_user_stale(made: Lab) -> None:
    changed = Lab(made.root, made.instance, MADE, {"brain_mask": {"method": "median-otsu"}})
    assert changed.states() == states("fresh", "fresh", "stale", "stale-upstream")
    assert "provided_mask is no longer among its inputs" in changed.status()["brain_mask"].why


def test_a_corrected_bvec_makes_stale_what_is_made_from_the_series(lab: Lab) -> None:
    path = lab.folder / f"{lab.key}_dwi.bvec"
    original = path.read_text()
    np.savetxt(path, np.loadtxt(path) * [[-1], [1], [1]])
    assert lab.states() == states("fresh", "fresh", "fresh", "fresh"), "nobody has looked yet"
    lab.look()
    assert lab.states() == states("stale", "stale-upstream", "stale-upstream", "stale-upstream")
    assert "dwi changed: version " in lab.status()["denoised_dwi"].why[0]
    path.write_text(original)
    lab.look()
    assert lab.states() == states("fresh", "fresh", "fresh", "fresh")


def test_a_step_that_gives_the_same_again_leaves_what_follows_fresh(lab: Lab) -> None:
    """Turned b-vectors change the series and the tensor, and leave the mean b=0 as it was."""
    path = lab.folder / f"{lab.key}_dwi.bvec"
    np.savetxt(path, np.loadtxt(path) * [[-1], [1], [1]])
    lab.run(("denoised_dwi",))
    assert lab.states() == states("fresh", "stale", "stale-upstream", "stale")
    lab.run(("mean_b0",))
    assert lab.states() == states("fresh", "fresh", "fresh", "stale")
    lab.run(("dti",))
    assert lab.states() == states("fresh", "fresh", "fresh", "fresh")


def test_a_corrected_mask_makes_stale_the_mask_and_what_is_made_within_it(lab: Lab) -> None:
    path = lab.folder / f"{lab.key}_desc-brain_mask.nii.gz"
    smaller = head()
    smaller[:4] = False
    nibabel.save(nibabel.Nifti1Image(smaller.astype(np.uint8), AFFINES["right-handed"]), path)
    lab.look()
    assert lab.states() == states("fresh", "fresh", "stale", "stale-upstream")
    assert "provided_mask changed" in lab.status()["brain_mask"].why[0]


def test_a_failed_attempt_is_told_until_one_succeeds_and_what_stood_before_loads(lab: Lab) -> None:
    path = lab.folder / f"{lab.key}_desc-brain_mask.nii.gz"
    whole = path.read_bytes()
    nibabel.save(nibabel.Nifti1Image(np.zeros(head().shape, np.uint8), AFFINES["right-handed"]), path)
    before = lab.files()
    results = lab.run(("brain_mask", "dti"))
    assert (results["brain_mask"].outcome, results["dti"].outcome) == ("failed", "skipped")
    assert "an empty mask" in results["brain_mask"].reason
    assert lab.files() == before
    assert lab.states()["brain_mask"] == "failed"
    assert lab.states()["mean_b0"] == "fresh"
    path.write_bytes(whole)
    assert {result.outcome for result in lab.run(("brain_mask", "dti")).values()} == {"made"}
    assert lab.states() == states("fresh", "fresh", "fresh", "fresh")


def test_running_again_gives_the_same_versions_and_byte_identical_files(lab: Lab) -> None:
    before = lab.files()
    first = {name: status.data_version for name, status in lab.status().items()}
    again = lab.run()
    assert {name: result.data_version for name, result in again.items()} == {name: first[name] for name in CHEAP}
    assert lab.files() == before
    assert lab.states() == states("fresh", "fresh", "fresh", "fresh")


def test_another_instance_and_store_give_the_same_files_pictures_and_all(made: Lab, tmp_path: Path) -> None:
    with DagsterInstance.ephemeral() as instance:
        other = Lab(made.root, instance, MADE, {"store": {"url": str(tmp_path)}})
        other.run()
    assert other.files() == made.files()
    assert any(name.endswith("_figure.png") for name in made.files())


def test_a_store_that_is_ahead_of_the_log_is_told_and_never_mixed_in(lab: Lab) -> None:
    """The store of a run whose events were lost: here, of another instance."""
    with DagsterInstance.ephemeral() as instance:
        Lab(lab.root, instance, lab.key, {"source": {"subsample": 2}}).run(("denoised_dwi",))
    result = lab.run(("mean_b0",))["mean_b0"]
    assert result.outcome == "failed"
    assert "the event log says" in result.reason
    assert f"kwneuro-assets run --subject {lab.key} --select denoised_dwi" in result.reason


def test_a_store_that_cannot_be_written_is_told_in_its_own_sentence(lab: Lab, tmp_path: Path) -> None:
    store = tmp_path / "store"
    store.write_text("notes")
    results = Lab(lab.root, lab.instance, lab.key, {"store": {"url": str(store)}}).run()
    assert [result.outcome for result in results.values()] == ["failed", "skipped", "skipped", "skipped"]
    assert results["denoised_dwi"].reason.startswith(f"the store {store} is a file, or lies below one")
    assert store.read_text() == "notes"


def test_a_single_shell_has_no_noddi_and_that_is_no_failure(lab: Lab) -> None:
    write_series(lab.root / "source", lab.key, directions=table((1000.0,)))
    results = lab.run((*CHEAP, "noddi"))
    assert results["noddi"].outcome == "not-applicable"
    assert "shell" in results["noddi"].reason
    assert lab.status()["noddi"].state == "not-applicable"
    assert lab.status()["noddi"].why == (results["noddi"].reason,)
    assert lab.states() == states("fresh", "fresh", "fresh", "fresh")
    value, _ = lab.store.read("noddi", SubjectKey.parse(lab.key))
    assert value == NotApplicable(results["noddi"].reason)
