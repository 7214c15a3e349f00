"""The report of a subject as one HTML page.

It opens from a folder, offline: figures are those of the store, the volumes of the viewer and all scripts are in the
page, except NiiVue, of which all reports of a store share one copy unless it is embedded. A content security policy
allows these scripts and no others, and no request to a network. The same content gives the same page.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable
from typing import Any
from urllib.parse import quote

from kwneuro_assets.reports.content import Step, SubjectContent
from kwneuro_assets.reports.embedding import checked_script, checked_style, json_block, security_policy
from kwneuro_assets.reports.lineage import BOX_HEIGHT, BOX_WIDTH, lineage_of
from kwneuro_assets.reports.references import bibtex
from kwneuro_assets.reports.rendering import render
from kwneuro_assets.reports.static_files import NIIVUE, static_text
from kwneuro_assets.reports.subject_qc import check_tables, qc_rows, verdict
from kwneuro_assets.reports.viewer_volumes import ViewerVolumes

# Chromium takes files beside a page for 'self', other browsers do not. Pages from a server cannot load `file:`.
_BESIDE_THE_PAGE = ("'self'", "file:")


def subject_page(content: SubjectContent, *, niivue: str = f".assets/{NIIVUE}", embed: bool = False) -> str:
    """The page of a subject.

    `niivue` is the URL of the copy of NiiVue that the store's reports share, relative to the page. With `embed`, NiiVue
    is in the page, 2.3 MB, and nothing else is needed for the viewer.
    """
    volumes = content.volumes if content.volumes and content.volumes.backgrounds else None
    style = checked_style(static_text("common.css") + static_text("subject.css"))
    scripts = {"subject": checked_script(static_text("subject.js"))}
    if volumes:
        scripts["viewer"] = checked_script(static_text("viewer.js"))
        if embed:
            # Its only "<script" is in the text of a page that NiiVue can export.
            scripts["niivue"] = checked_script(static_text(NIIVUE).replace("<script", "\\x3cscript"))
    sources = {"img-src": [*_BESIDE_THE_PAGE, "data:"]}
    if volumes and not embed:
        sources["script-src"] = [*_BESIDE_THE_PAGE]
    return render(
        "subject.html",
        content=content,
        policy=security_policy(scripts=scripts.values(), styles=[style], sources=sources),
        style=style,
        scripts=scripts,
        niivue=niivue,
        verdict=verdict(content.checks),
        checks=check_tables(content),
        qc=qc_rows(content),
        stored=[step for step in content.steps if step.state == "stored"],
        absent=[step for step in content.steps if step.state != "stored"],
        volumes=volumes,
        viewer_data=json_block(_viewer_data(volumes)) if volumes else "",
        lineage=lineage_of(content.steps),
        box=(BOX_WIDTH, BOX_HEIGHT),
        known={step.name: step for step in content.steps},
        slowest=max((step.seconds or 0 for step in content.steps), default=0),
        total=sum(step.seconds or 0 for step in content.steps),
        libraries=_libraries(content.steps),
        bib=_bib_url(content),
    )


def _viewer_data(volumes: ViewerVolumes) -> dict[str, Any]:
    """What `viewer.js` reads."""
    grid, bundles = volumes.grid, volumes.bundles
    assert grid is not None
    return {
        "shape": list(grid.shape),
        "affine": grid.affine.tolist(),
        "to_source": grid.to_source.tolist(),
        "center": [size // 2 for size in grid.shape],
        "backgrounds": [
            {
                "name": one.name,
                "unit": one.unit,
                "nifti": _base64(one.nifti),
                "slope": one.slope,
                "intercept": one.intercept,
                "steps": one.steps,
                "window": list(one.window),
                "colors": one.colors,
                "clipped": list(one.clipped),
            }
            for one in volumes.backgrounds
        ],
        "mask": {"nifti": _base64(volumes.mask.nifti)} if volumes.mask else None,
        "bundles": {
            "names": list(bundles.names),
            "colors": [list(color) for color in bundles.colors],
            "volumes_ml": list(bundles.volumes_ml),
            "nifti": _base64(bundles.nifti),
        }
        if bundles
        else None,
    }


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode("ascii")


def _libraries(steps: Iterable[Step]) -> dict[str, dict[str, list[str]]]:
    """The versions of each library, and the steps that each of them computed."""
    found: dict[str, dict[str, list[str]]] = {}
    for step in steps:
        for library, version in step.libraries.items():
            found.setdefault(library, {}).setdefault(version, []).append(step.name)
    return dict(sorted(found.items()))


def _bib_url(content: SubjectContent) -> str:
    """The references in BibTeX, as a URL that contains them."""
    if not content.methods or not content.methods.references:
        return ""
    return "data:application/x-bibtex;charset=utf-8," + quote(bibtex(content.methods.references), safe="")
