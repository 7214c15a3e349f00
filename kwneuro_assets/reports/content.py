"""What the report of a subject shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from kwneuro_assets.imaging.table import Cell
from kwneuro_assets.qc.checks import Check
from kwneuro_assets.qc.metrics import Metric

if TYPE_CHECKING:  # both import steps from here
    from kwneuro_assets.reports.methods import Methods
    from kwneuro_assets.reports.viewer_volumes import ViewerVolumes

StepState = Literal["stored", "not applicable", "missing"]


@dataclass(frozen=True)
class Step:
    """One derivative of the subject, as its newest materialization records it.

    Attributes:
        name: The asset.
        description: What it is, in one line of plain text.
        state: Whether the store has it.
        reason: Why it is not applicable, or missing.
        figure: The URL of its figure, relative to the page, or a `data:` URL; None if it has none.
        parameters: The settings that it was computed with.
        code_version: `<algorithm version>-<hash>`.
        data_version: The SHA-256 of its content.
        inputs: The data versions of its inputs, by name.
        libraries: The versions of the libraries that computed it.
        weights: The SHA-256 of each file of its network weights.
        networks: Device and precision of its networks, and a `Note` on the weights.
        seconds: The time of the computation.
        peak_memory_mb: The peak memory of the process meanwhile.
        summary: Its summary numbers, by name.
        files: The URLs of its files, relative to the page.
    """

    name: str
    description: str = ""
    state: StepState = "stored"
    reason: str = ""
    figure: str | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)
    code_version: str = ""
    data_version: str = ""
    inputs: Mapping[str, str] = field(default_factory=dict)
    libraries: Mapping[str, str] = field(default_factory=dict)
    weights: Mapping[str, str] = field(default_factory=dict)
    networks: Mapping[str, Any] = field(default_factory=dict)
    seconds: float | None = None
    peak_memory_mb: int | None = None
    summary: Mapping[str, Any] = field(default_factory=dict)
    files: Sequence[str] = ()


@dataclass(frozen=True, eq=False)
class SubjectContent:
    """The report of a subject, before it is a page. All texts may contain anything: the page shows them as text.

    Attributes:
        subject: Its key, `sub-01` or `sub-01_ses-02`.
        steps: The derivatives in the order of the pipeline.
        checks: The results of its checks.
        qc: Its QC metrics by column; None for a missing value.
        metrics: The metric of each column of `qc` and of the checks; a column without one is shown by its name.
        volumes: What the viewer shows.
        methods: The methods text and its references.
        sources: The files of the source dataset, as text.
        package_version: The version of this package.
        dataset: The name of the dataset.
        cohort: The URL of the cohort page, relative to this page; None if there is none.
    """

    subject: str
    steps: Sequence[Step] = ()
    checks: Sequence[Check] = ()
    qc: Mapping[str, Cell] = field(default_factory=dict)
    metrics: Sequence[Metric] = ()
    volumes: ViewerVolumes | None = None
    methods: Methods | None = None
    sources: Sequence[str] = ()
    package_version: str = ""
    dataset: str = ""
    cohort: str | None = None
