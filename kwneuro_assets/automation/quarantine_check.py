"""The asset check of `dwi` that shows the quarantined subjects in the UI."""

# No postponed annotations here: Dagster reads the type of `context` when the check is defined.

from dagster import AssetCheckExecutionContext, AssetCheckResult, AssetChecksDefinition, AssetCheckSeverity, asset_check

from kwneuro_assets.ingestion.ingest_index import IngestIndex
from kwneuro_assets.ingestion.quarantine import CHECK, quarantine_state
from kwneuro_assets.settings import load_settings
from kwneuro_assets.versioning.source_names import SCAN


def quarantine_check() -> AssetChecksDefinition:
    """A check that passes if no subject is quarantined, according to the last scan of the source.

    Each ingest that changes the list records a result, too (see `ingestion.quarantine`).
    """

    @asset_check(
        asset=SCAN,
        name=CHECK,
        description="Subjects whose files cannot be used, with the reasons, according to the last scan of the source. "
        "They block no other subjects, and are read again when their files change.",
    )
    def quarantine(context: AssetCheckExecutionContext) -> AssetCheckResult:
        passed, metadata = quarantine_state(IngestIndex(context.instance, load_settings()))
        return AssetCheckResult(passed=passed, severity=AssetCheckSeverity.WARN, metadata=metadata)

    return quarantine
