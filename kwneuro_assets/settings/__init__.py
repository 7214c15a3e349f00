"""Every parameter of every derivation, with unit, default and source: one YAML file, or environment variables."""

from kwneuro_assets.settings.derivations import (
    BrainMaskSettings,
    CsdSettings,
    DeconvolutionSettings,
    DenoisingSettings,
    DtiSettings,
    GroupResponseSettings,
    NoddiSettings,
    PeakSettings,
    ResponseSettings,
    TractEndingSettings,
    TractMaskSettings,
    TractOrientationSettings,
    TractSettings,
)
from kwneuro_assets.settings.loading import SettingsError, load_settings
from kwneuro_assets.settings.networks import MirroringSettings, NetworkSettings
from kwneuro_assets.settings.pipeline import PipelineSettings
from kwneuro_assets.settings.platform import AutomationSettings, StoreSettings, WeightSettings
from kwneuro_assets.settings.quality import CheckSettings, QualityLimitSettings
from kwneuro_assets.settings.reports import CohortMemberSettings, CohortSettings, ReportSettings
from kwneuro_assets.settings.section import Section, SectionT
from kwneuro_assets.settings.source import (
    TRACE,
    DicomSettings,
    IngestionSettings,
    SourceSettings,
    parse_volumes,
)
from kwneuro_assets.settings.table import settings_table

__all__ = [
    "TRACE",
    "AutomationSettings",
    "BrainMaskSettings",
    "CheckSettings",
    "CohortMemberSettings",
    "CohortSettings",
    "CsdSettings",
    "DeconvolutionSettings",
    "DenoisingSettings",
    "DicomSettings",
    "DtiSettings",
    "GroupResponseSettings",
    "IngestionSettings",
    "MirroringSettings",
    "NetworkSettings",
    "NoddiSettings",
    "PeakSettings",
    "PipelineSettings",
    "QualityLimitSettings",
    "ReportSettings",
    "ResponseSettings",
    "Section",
    "SectionT",
    "SettingsError",
    "SourceSettings",
    "StoreSettings",
    "TractEndingSettings",
    "TractMaskSettings",
    "TractOrientationSettings",
    "TractSettings",
    "WeightSettings",
    "load_settings",
    "parse_volumes",
    "settings_table",
]
