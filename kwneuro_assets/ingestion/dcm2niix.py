"""The program dcm2niix, run on one series in a folder of its own."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

from isal import igzip

from kwneuro_assets.ingestion.dicom_series import DicomSeries

EXTENSIONS = (".json", ".bval", ".bvec", ".nii.gz")  # in the order in which they get their names
# Exit codes of its nii_dicom.h: success, no DICOM in it, no folder that it can use.
_NOTHING_WRONG, _NOTHING_IN_IT = 0, (0, 2, 5)
# What it says, at times with exit code 0, of an image whose slices or volumes are not those of the scan.
_BROKEN = re.compile(
    r"^\s*error\b|missing images|not divisible|incomplete|interslice distance varies|not large enough", re.I
)
_BOILERPLATE = re.compile(
    r"^(Chris Rorden|Found \d+ DICOM|Convert \d+ DICOM|Conversion required|::autoBids|Defaults ignored)"
)
_MOST_WORDS = 200  # characters of what it said
_PIECE = 1 << 20


class CannotConvert(Exception):
    """One series cannot be converted: why, in a sentence.

    A `clash` is with labels of other series, and may be resolved by them; `blocked_by` are files (a path without
    extension) that are in the way.
    """

    def __init__(self, why: str, *, clash: bool = False, blocked_by: str = "") -> None:
        super().__init__(why)
        self.clash = clash
        self.blocked_by = blocked_by


def run_dcm2niix(series: DicomSeries, scratch: Path, program: str) -> Path | None:
    """The path of the image without its extension, with a file of each of EXTENSIONS; None without gradients.

    The same files give the same bytes. Raises CannotConvert for a series that is broken, or more than one image.
    """
    inside, out = scratch / "in", scratch / "out"
    inside.mkdir()
    out.mkdir()
    for number, path in enumerate(series.files):
        (inside / f"{number:06d}.dcm").symlink_to(path)
    # First of all, no defaults of the person's own (~/.dcm2nii.ini), which would change voxels. Compressed below.
    command = [program, "-g", "i", "-b", "y", "-ba", "y", "-z", "n", "-f", "image", "-o", str(out), str(inside)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, errors="replace")
    told = [line for line in (done.stdout + done.stderr).splitlines() if line.strip() and not _BOILERPLATE.match(line)]
    broken = [line for line in told if _BROKEN.search(line)]
    images = sorted(out.glob("*.nii"))
    weighted = [image for image in images if _is_weighted(image)]
    if not weighted and (done.returncode in _NOTHING_IN_IT or not series.tells_of_diffusion()):
        return None
    if done.returncode != _NOTHING_WRONG or broken:
        words = " ".join(" ".join(broken or told).split())
        words = re.sub(rf"{re.escape(str(inside))}/(\d+)\.dcm", lambda match: series.files[int(match[1])].name, words)
        raise CannotConvert(
            f"dcm2niix finds it broken (exit code {done.returncode}): {words[:_MOST_WORDS] or 'it did not say why'}"
        )
    if len(images) > 1:
        raise CannotConvert(
            f"expected one image, dcm2niix made {len(images)} of it: {', '.join(p.name for p in images)}"
        )
    return _complete(images[0])


def version_of(program: str) -> str:
    told = subprocess.run([program, "--version"], capture_output=True, text=True, check=False).stdout.split()
    return told[-1] if told else ""


def _is_weighted(image: Path) -> bool:
    """Whether dcm2niix found diffusion gradients: a b-value other than zero."""
    tables = [image.with_suffix(extension) for extension in (".bval", ".bvec")]
    return all(path.exists() for path in tables) and any(float(b) > 0 for b in tables[0].read_text().split())


def _complete(image: Path) -> Path:
    """Compress the image, and make all files safe on the disk."""
    stem = image.with_suffix("")
    # No time in it: the same series gives the same bytes.
    with (
        image.open("rb") as raw,
        Path(f"{stem}.nii.gz").open("wb") as file,
        igzip.IGzipFile(filename="", fileobj=file, mode="wb", compresslevel=1, mtime=0) as stream,
    ):
        shutil.copyfileobj(raw, stream, _PIECE)
    for extension in EXTENSIONS:
        descriptor = os.open(f"{stem}{extension}", os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    return stem
