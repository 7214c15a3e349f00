"""Updates the outputs and figures of the tutorial: `python -m kwneuro_assets_tests.docs.refresh [FOLDER]`.

The run uses the settings that the page names, not the fast ones of the test, and takes some minutes. FOLDER, which is
empty or absent at first, keeps the project, for screenshots of the UI; by default it is a temporary one.
"""

from __future__ import annotations

import re
import shutil
import sys
import tempfile
from pathlib import Path

from kwneuro_assets.storage.names import NAMES
from kwneuro_assets.subjects import SubjectKey
from kwneuro_assets_tests.docs.pages import ROOT, blocks

SETTINGS = {"KWNEURO_INGESTION__SETTLE_SECONDS": "0"}
FIGURES = ("denoised_dwi", "dti", "noddi", "csd_peaks", "tract_masks")
_OUTPUT = re.compile(r"\n```text\n(.*?)```\n", re.S)


def refresh(page: Path, images: Path, folder: Path) -> None:
    """Run the blocks of `page` in `folder`; each `text` block after one gets its output, and `images` the figures."""
    text, position = page.read_text(encoding="utf-8"), 0
    for block in blocks(page, "bash", "python"):
        position = text.index(block.code, position) + len(block.code)
        output = block.run(folder, SETTINGS).replace(f"{folder}/", "")
        print(output)
        following = _OUTPUT.match(text, position + len("```\n"))
        if following:
            text = f"{text[: following.start(1)]}{_trimmed(output)}{text[following.end(1) :]}"
    for asset in FIGURES:
        stored = folder / "study" / "store" / "sub-01" / "dwi" / NAMES[asset].figure(SubjectKey.parse("sub-01"))
        shutil.copyfile(stored, images / f"{asset}.png")
    page.write_text(text, encoding="utf-8")


def _trimmed(output: str) -> str:
    return "".join(f"{line.rstrip()}\n" for line in output.rstrip().splitlines())


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        project = Path(sys.argv[1]).resolve() if len(sys.argv) > 1 else Path(temporary)
        project.mkdir(parents=True, exist_ok=True)
        refresh(ROOT / "docs" / "tutorial.md", ROOT / "docs" / "images", project)
