"""The report of a subject: one page with its checks, figures, viewer, provenance and methods text."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import PurePosixPath

from kwneuro_assets.assets.derivative import Project, derivative
from kwneuro_assets.assets.dwi_qc import checks_of
from kwneuro_assets.assets.mni_alignment import aligns_to_mni
from kwneuro_assets.imaging import MapSet, NotApplicable, Report, Table, Volume
from kwneuro_assets.imaging.content_hash import text_version
from kwneuro_assets.qc.catalog import column_metric
from kwneuro_assets.reports.content import Step, SubjectContent
from kwneuro_assets.reports.methods import methods_text
from kwneuro_assets.reports.static_files import NIIVUE, static_text
from kwneuro_assets.reports.subject_page import subject_page
from kwneuro_assets.reports.viewer_volumes import viewer_volumes
from kwneuro_assets.settings import QualityLimitSettings, ReportSettings
from kwneuro_assets.storage.names import NAMES, PAGE
from kwneuro_assets.storage.store import SHARED
from kwneuro_assets.subjects import GROUP

OPTIONAL = (
    "denoised_dwi", "mean_b0", "brain_mask", "dti", "noddi", "mni_alignment", "fiber_response", "csd_peaks",
    "tract_masks", "tract_endings", "tract_orientations", "dwi_qc",
)  # fmt: skip


@derivative(
    group="quality",
    version=1,
    figure=None,
    summary=lambda report, inputs: {"size_mb": round(len(report.html) / 1e6, 3)},
    kinds={"html"},
    libraries=("jinja2",),
    may_be_missing=OPTIONAL,
    accepts_not_applicable=OPTIONAL,
    optional_inputs={"mni_alignment": aligns_to_mni},
)
def subject_report(
    dwi: Step,
    subject: str,
    settings: ReportSettings,
    limits: QualityLimitSettings,
    project: Project,
    steps: Mapping[str, Step],
    stored_file: Callable[[str], bytes],
    denoised_dwi: Step | None = None,
    mean_b0: Volume | NotApplicable | None = None,
    brain_mask: Volume | NotApplicable | None = None,
    dti: MapSet | NotApplicable | None = None,
    noddi: MapSet | NotApplicable | None = None,
    mni_alignment: Step | None = None,
    fiber_response: Step | None = None,
    csd_peaks: MapSet | NotApplicable | None = None,
    tract_masks: Volume | NotApplicable | None = None,
    tract_endings: Step | None = None,
    tract_orientations: Step | None = None,
    dwi_qc: Table | NotApplicable | None = None,
) -> Report:
    """Report of the subject: checks, figures, a viewer, parameters, versions, provenance and a methods text.

    It shows whatever exists, and names what is missing or not applicable, with the reason. The page opens from the
    file system without a network; figures and the viewer's program are files of the store that it links to, or part of
    the page with `report.embed`.

    | content | unit |
    |---|---|
    | HTML page at the root of the store | |
    """
    described = _described(steps)
    row = next(dwi_qc.rows()) if isinstance(dwi_qc, Table) else {}
    checks = checks_of(dwi_qc, limits) if isinstance(dwi_qc, Table) else ()
    volumes = viewer_volumes(
        mean_b0=mean_b0, brain_mask=brain_mask, dti=dti, noddi=noddi, csd_peaks=csd_peaks, tract_masks=tract_masks
    )
    derivatives = [step for name, step in described.items() if name in NAMES]
    shown = [_with_figure(step, stored_file) for step in derivatives] if settings.embed else derivatives
    subsample = project.settings.source.subsample
    source = {**dwi.summary, "files": dwi.files, "data_version": dwi.data_version, "subsample": subsample}
    content = SubjectContent(
        subject=subject,
        steps=shown,
        checks=checks,
        qc=row,
        metrics=[column_metric(column) for column in row],
        volumes=volumes,
        methods=methods_text(derivatives, source=source),
        sources=dwi.files,
        package_version=version("kwneuro-assets"),
        dataset=PurePosixPath(project.settings.source.url.rstrip("/")).name,
        cohort=NAMES["cohort_report"].file(GROUP, PAGE),
    )
    html = subject_page(content, niivue=f"{SHARED}/{NIIVUE}", embed=settings.embed)
    return Report(html, _identity(content), {} if settings.embed else {NIIVUE: static_text(NIIVUE).encode()})


def _described(steps: Mapping[str, Step]) -> dict[str, Step]:
    from kwneuro_assets.assets import ALL_DERIVATIVES

    descriptions = {derivative.name: derivative.description for derivative in ALL_DERIVATIVES}
    return {name: replace(step, description=descriptions.get(name, "")) for name, step in steps.items()}


def _with_figure(step: Step, stored_file: Callable[[str], bytes]) -> Step:
    """The step with its figure as a part of the page."""
    if step.figure is None:
        return step
    return replace(step, figure="data:image/png;base64," + base64.b64encode(stored_file(step.figure)).decode())


def _identity(content: SubjectContent) -> str:
    """What the data version of the report covers: everything but run times and memory."""
    steps = [asdict(replace(step, seconds=None, peak_memory_mb=None)) for step in content.steps]
    checks = [asdict(check) for check in content.checks]
    rest = [content.subject, list(content.sources), content.package_version, content.dataset, dict(content.qc)]
    return text_version([steps, checks, rest])  # the volumes are those of the steps
