"""Value types: immutable, validated on construction, independent of files and of Dagster."""

from kwneuro_assets.imaging.dwi import Dwi
from kwneuro_assets.imaging.errors import InvalidData
from kwneuro_assets.imaging.gradients import GradientTable, Shell
from kwneuro_assets.imaging.mapset import MapSet
from kwneuro_assets.imaging.not_applicable import NotApplicable
from kwneuro_assets.imaging.report import Report
from kwneuro_assets.imaging.response import ResponseFunction
from kwneuro_assets.imaging.rigid_transform import RigidTransform
from kwneuro_assets.imaging.segmentation import Segmentation
from kwneuro_assets.imaging.streamed import StreamedVolume
from kwneuro_assets.imaging.table import Table
from kwneuro_assets.imaging.tissue_responses import TissueResponses
from kwneuro_assets.imaging.volume import Volume

__all__ = [
    "Dwi",
    "GradientTable",
    "InvalidData",
    "MapSet",
    "NotApplicable",
    "Report",
    "ResponseFunction",
    "RigidTransform",
    "Segmentation",
    "Shell",
    "StreamedVolume",
    "Table",
    "TissueResponses",
    "Volume",
]
