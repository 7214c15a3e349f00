"""One subject of a tiny dataset, with real runs of the cheap derivatives."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from dagster import DagsterInstance

from kwneuro_assets.cohort.result import Result
from kwneuro_assets.cohort.run import run_subject, subject_status, update_subject
from kwneuro_assets.ingestion.ingest import ingest
from kwneuro_assets.settings import PipelineSettings
from kwneuro_assets.storage.store import DerivativeStore
from kwneuro_assets.versioning.staleness import Status
from kwneuro_assets_tests.testkit.small_dataset import small_settings

CHEAP = ("denoised_dwi", "mean_b0", "brain_mask", "dti")
COMPUTED, NEW = "sub-computed", "sub-new"
SPARE = [f"sub-{number:02d}" for number in range(20)]  # one for each test that changes its subject


@dataclass
class Lab:
    """One subject of a dataset, the store, the instance, and the commands of a user."""

    root: Path
    instance: DagsterInstance
    key: str = COMPUTED
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

    def ingest(self) -> None:
        ingest(self.instance, self.settings, subjects=[self.key])

    def run(self, assets: tuple[str, ...] = CHEAP, *, force: bool = False) -> dict[str, Result]:
        """Ingest, then run these derivatives whatever their state."""
        self.ingest()
        results = run_subject(self.instance, self.settings, self.key, assets, force=force)
        return {result.asset: result for result in results}

    def update(
        self, assets: tuple[str, ...] = CHEAP, *, force: bool = False, trust_log: bool = False
    ) -> dict[str, str]:
        """As the command `run`; returns the outcome of each derivative."""
        self.ingest()
        results = update_subject(self.instance, self.settings, self.key, assets, force=force, trust_log=trust_log)
        return {result.asset: result.outcome for result in results}

    def under(self, **sections: dict[str, object]) -> Lab:
        """The same subject under other settings."""
        return Lab(self.root, self.instance, self.key, sections)

    def status(self) -> dict[str, Status]:
        return subject_status(self.instance, self.settings, self.key)

    def states(self) -> dict[str, str]:
        return {name: status.state for name, status in self.status().items() if name in CHEAP}

    def files(self) -> dict[str, bytes]:
        """All files of the subject in the store, including temporary ones."""
        below = sorted((self.store.root / self.key).rglob("*"))
        return {path.name: path.read_bytes() for path in below if path.is_file()}
