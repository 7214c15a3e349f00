"""One subject of a tiny dataset, made by real runs of the cheap derivatives, and what a person does with it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from dagster import DagsterInstance

from kwneuro_assets.ingestion.ingest import ingest
from kwneuro_assets.running import Result, run_subject, subject_status, update_subject
from kwneuro_assets.settings import PipelineSettings
from kwneuro_assets.storage.store import DerivativeStore
from kwneuro_assets.versioning.cohort import Status
from kwneuro_assets_tests.small_dataset import small_settings

CHEAP = ("denoised_dwi", "mean_b0", "brain_mask", "dti")
MADE, NEVER_MADE = "sub-made", "sub-new"
SPARE = [f"sub-{number:02d}" for number in range(20)]  # one for each test that changes its subject


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

    def run(self, assets: tuple[str, ...] = CHEAP, *, force: bool = False) -> dict[str, Result]:
        """One run of these, whatever their state."""
        self.look()
        results = run_subject(self.instance, self.settings, self.key, assets, force=force)
        return {result.asset: result for result in results}

    def update(
        self, assets: tuple[str, ...] = CHEAP, *, force: bool = False, trust_log: bool = False
    ) -> dict[str, str]:
        """What the command `run` does; the outcome of each derivative."""
        self.look()
        results = update_subject(self.instance, self.settings, self.key, assets, force=force, trust_log=trust_log)
        return {result.asset: result.outcome for result in results}

    def under(self, **sections: dict[str, object]) -> Lab:
        """The same under other settings."""
        return Lab(self.root, self.instance, self.key, sections)

    def status(self) -> dict[str, Status]:
        return subject_status(self.instance, self.settings, self.key)

    def states(self) -> dict[str, str]:
        return {name: status.state for name, status in self.status().items() if name in CHEAP}

    def files(self) -> dict[str, bytes]:
        """All that the store holds of the subject, temporary files included."""
        below = sorted((self.store.root / self.key).rglob("*"))
        return {path.name: path.read_bytes() for path in below if path.is_file()}
