"""One look at the source dataset: new subjects become partitions, what they hold is observed."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass, field

from dagster import AssetObservation, DagsterInstance, MetadataValue

from kwneuro_assets.imaging import InvalidData
from kwneuro_assets.imaging.errors import located
from kwneuro_assets.imaging.volume import require_same_grid
from kwneuro_assets.ingestion.dataset import SourceDataset
from kwneuro_assets.ingestion.read import look_at_dwi, look_at_mask
from kwneuro_assets.settings import PipelineSettings
from kwneuro_assets.storage.files import read_bytes
from kwneuro_assets.storage.patience import AccessDenied, StorageError
from kwneuro_assets.subjects import PARTITIONS, SubjectKey
from kwneuro_assets.versioning.records import DATA_VERSION_TAG, FIRST_LOOK, SCAN, recorded


@dataclass
class IngestReport:
    """What one look found, by subject key; `quarantined` gives the reason of each that cannot be used."""

    added: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    unchanged: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    quarantined: dict[str, str] = field(default_factory=dict)

    @property
    def usable(self) -> list[str]:
        return sorted([*self.added, *self.changed, *self.unchanged])


@dataclass(frozen=True)
class Observation:
    """What a source asset of one subject holds now."""

    asset: str
    data_version: str
    files: tuple[str, ...]


def ingest(instance: DagsterInstance, settings: PipelineSettings, only: Collection[str] | None = None) -> IngestReport:
    """Add partitions for new subjects and observe the source assets of all, or of those in `only`.

    An observation is recorded only where the content is new, so that looking again changes nothing. A subject
    whose files cannot be used is reported and stops no other. Raises SourceError where there is no dataset, and
    StorageError where it cannot be read.
    """
    dataset = SourceDataset(settings.source)
    subjects, refused = dataset.subjects(only)
    known = set(instance.get_dynamic_partitions(PARTITIONS))
    report = IngestReport(quarantined={key: str(error) for key, error in refused.items()})
    denied: dict[str, StorageError] = {}
    for subject in subjects:
        if only is not None and str(subject) not in only:
            continue
        try:
            observations = observe(dataset, subject, settings)
        except InvalidData as error:
            report.quarantined[str(subject)] = str(error)
        except AccessDenied as error:
            denied[str(subject)] = error
        else:
            _take_in(instance, subject, observations, known, report)
    if denied:
        _require_own_fault(dataset, report.usable, next(iter(denied.values())))
        report.quarantined |= {key: str(error) for key, error in denied.items()}
    if only is None:
        unseen = tuple(f"{key}_" for key in refused)  # a folder that cannot be listed hides its sessions
        gone = known - {str(subject) for subject in subjects}
        report.removed = sorted(key for key in gone if not f"{key}_".startswith(unseen))
    return report


def observe(dataset: SourceDataset, subject: SubjectKey, settings: PipelineSettings) -> list[Observation]:
    """The present content of a subject's source assets. Raises InvalidData for files that cannot be used."""
    series = dataset.series(subject)
    # By its name, before anything large is read.
    mask = dataset.mask(subject) if settings.brain_mask.method == "provided" else None
    grid, version = look_at_dwi(dataset, series)
    found = [Observation("dwi", version, tuple(dataset.relative(path) for path in series.files()))]
    if mask is not None:
        mask_grid, version = look_at_mask(dataset, mask)
        with located(mask):
            require_same_grid(mask_grid, grid, "the brain mask", series.runs[0].image.name)
        found.append(Observation("provided_mask", version, (dataset.relative(mask),)))
    return found


def _require_own_fault(dataset: SourceDataset, usable: list[str], denied: StorageError) -> None:
    """Files that are denied are closed themselves only where the same credentials still read another's."""
    if not usable:
        raise denied
    witness = dataset.series(SubjectKey.parse(usable[0]))
    with suppress(FileNotFoundError):
        read_bytes(witness.runs[0].bval)


def _take_in(
    instance: DagsterInstance,
    subject: SubjectKey,
    observations: list[Observation],
    known: set[str],
    report: IngestReport,
) -> None:
    key = str(subject)
    is_new = key not in known
    if is_new:
        instance.add_dynamic_partitions(PARTITIONS, [key])
        report.added.append(key)
    moved = False
    for observation in observations:
        before = recorded(instance, observation.asset, key, observed=True)
        # A subject that was there before begins anew: Dagster has kept its events, the store need not have its files.
        begins = is_new and observation.asset == SCAN
        if begins or before is None or before.data_version != observation.data_version:
            moved = True
            instance.report_runless_asset_event(
                AssetObservation(
                    observation.asset,
                    partition=key,
                    tags={DATA_VERSION_TAG: observation.data_version},
                    metadata={
                        "files": MetadataValue.json(list(observation.files)),
                        **({FIRST_LOOK: True} if begins else {}),
                    },
                )
            )
    if key in known:
        (report.changed if moved else report.unchanged).append(key)
