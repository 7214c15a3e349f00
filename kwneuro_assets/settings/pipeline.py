"""All sections together."""

from __future__ import annotations

from kwneuro_assets.settings.derivations import (
    BrainMaskSettings,
    CsdSettings,
    DenoisingSettings,
    DtiSettings,
    NoddiSettings,
    TractSettings,
)
from kwneuro_assets.settings.networks import NetworkSettings
from kwneuro_assets.settings.platform import AutomationSettings, StoreSettings, WeightSettings
from kwneuro_assets.settings.quality import CheckSettings
from kwneuro_assets.settings.reports import CohortSettings, ReportSettings
from kwneuro_assets.settings.section import Section, SectionT
from kwneuro_assets.settings.source import DicomSettings, IngestionSettings, SourceSettings


class PipelineSettings(Section):
    """All sections; each is optional in the file.

    >>> PipelineSettings.model_validate({"dti": {"max_bvalue": 1000}}).dti
    DtiSettings(max_bvalue=1000.0)
    """

    source: SourceSettings = SourceSettings()
    store: StoreSettings = StoreSettings()
    denoising: DenoisingSettings = DenoisingSettings()
    brain_mask: BrainMaskSettings = BrainMaskSettings()
    dti: DtiSettings = DtiSettings()
    noddi: NoddiSettings = NoddiSettings()
    csd: CsdSettings = CsdSettings()
    tracts: TractSettings = TractSettings()
    checks: CheckSettings = CheckSettings()
    report: ReportSettings = ReportSettings()
    cohort: CohortSettings = CohortSettings()
    ingestion: IngestionSettings = IngestionSettings()
    dicom: DicomSettings = DicomSettings()
    automation: AutomationSettings = AutomationSettings()
    networks: NetworkSettings = NetworkSettings()
    weights: WeightSettings = WeightSettings()

    def view(self, kind: type[SectionT]) -> SectionT:
        """The parameters of one derivation: the fields of `kind`, from the section that has them.

        >>> from kwneuro_assets.settings import TractOrientationSettings
        >>> PipelineSettings.model_validate({"tracts": {"dilation": 2}}).view(TractOrientationSettings)
        TractOrientationSettings(dilation=2)
        """
        section = getattr(self, self.section_of(kind))
        return kind(**{field: getattr(section, field) for field in kind.model_fields})

    def section_of(self, kind: type[Section]) -> str:
        """The name of the section that has the fields of `kind`. Raises TypeError if there is none."""
        for name in type(self).model_fields:
            if isinstance(getattr(self, name), kind):
                return name
        raise TypeError(f"no section of the settings is a {kind.__name__}")
