"""Runs the program dcm2niix on one DICOM series in a folder of its own."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
from contextlib import suppress
from pathlib import Path

from isal import igzip

from kwneuro_assets.ingestion.dicom_series import DicomSeries
from kwneuro_assets.storage.files import fingerprint_of

EXTENSIONS = (".json", ".bval", ".bvec", ".nii.gz")  # in the order in which the files are renamed
# Exit codes (nii_dicom.h): 0 success, 2 no DICOM found, 5 no usable folder.
_SUCCESS, _NOTHING_FOUND = 0, (0, 2, 5)
# Its messages, some with exit code 0, about an image whose slices or volumes are not those of the scan.
_BROKEN = re.compile(
    r"^\s*error\b|missing images|not divisible|incomplete|interslice distance varies|not large enough", re.I
)
_BOILERPLATE = re.compile(
    r"^(Chris Rorden|Found \d+ DICOM|Convert \d+ DICOM|Conversion required|::autoBids|Defaults ignored)"
)
# Time limit: it takes about 0.02 s per MB, so a program that exceeds this hangs, even on a slow network.
MIN_SECONDS, SECONDS_PER_MB = 600.0, 1.0
_MAX_OUTPUT = 200  # characters of its output in a message
_PIECE = 1 << 20


class CannotConvert(Exception):
    """One series cannot be converted; the message says why.

    `clash` means that its labels conflict with those of another series, and that a change of that series may resolve
    it. `blocked_by` is the path (without extension) of files that prevent the conversion.
    """

    def __init__(self, why: str, *, clash: bool = False, blocked_by: str = "") -> None:
        super().__init__(why)
        self.clash = clash
        self.blocked_by = blocked_by


def run_dcm2niix(series: DicomSeries, scratch: Path, program: str) -> Path | None:
    """The path of the converted files without their extension (one of each of EXTENSIONS); None without gradients.

    The same DICOM files give the same bytes. Raises CannotConvert if the series is broken, if it gives more than one
    image, or if the program does not end within 10 minutes or 1 s per MB of the series, whichever is longer.
    """
    inside, out = scratch / "in", scratch / "out"
    inside.mkdir()
    out.mkdir()
    for number, path in enumerate(series.files):
        (inside / f"{number:06d}.dcm").symlink_to(path)
    # -g i: ignore the user's defaults (~/.dcm2nii.ini), which can change voxels. Compressed below, not by dcm2niix.
    command = [program, "-g", "i", "-b", "y", "-ba", "y", "-z", "n", "-f", "image", "-o", str(out), str(inside)]
    done = _finished(command, _limit(series))
    output = [
        line for line in (done.stdout + done.stderr).splitlines() if line.strip() and not _BOILERPLATE.match(line)
    ]
    broken = [line for line in output if _BROKEN.search(line)]
    images = sorted(out.glob("*.nii"))
    weighted = [image for image in images if _is_weighted(image)]
    if not weighted and (done.returncode in _NOTHING_FOUND or not series.has_diffusion()):
        return None
    if done.returncode != _SUCCESS or broken:
        words = " ".join(" ".join(broken or output).split())
        words = re.sub(rf"{re.escape(str(inside))}/(\d+)\.dcm", lambda match: series.files[int(match[1])].name, words)
        raise CannotConvert(
            f"dcm2niix reports an error (exit code {done.returncode}): {words[:_MAX_OUTPUT] or 'no message'}"
        )
    if len(images) > 1:
        raise CannotConvert(f"expected one image, found {len(images)}: {', '.join(p.name for p in images)}")
    return _complete(images[0])


def _limit(series: DicomSeries) -> float:
    """The time limit for a series, in seconds."""
    return max(MIN_SECONDS, SECONDS_PER_MB * sum(fingerprint_of(path).size for path in series.files) / 1e6)


def _finished(command: list[str], limit: float) -> subprocess.CompletedProcess[str]:
    """Run a command to its end. An exception during the wait kills it and the processes that it started."""
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, errors="replace", start_new_session=True
    ) as process:
        try:
            out, errors = process.communicate(timeout=limit)
        except BaseException as error:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            if isinstance(error, subprocess.TimeoutExpired):
                raise CannotConvert(
                    f"dcm2niix did not end within {limit:.0f} s and was stopped; it is retried when a file of the "
                    "series changes"
                ) from None
            raise
    return subprocess.CompletedProcess(command, process.returncode, out, errors)


def version_of(program: str) -> str:
    """The version that dcm2niix reports; empty if it reports none."""
    words = _finished([program, "--version"], MIN_SECONDS).stdout.split()
    return words[-1] if words else ""


def _is_weighted(image: Path) -> bool:
    """Whether dcm2niix found diffusion gradients: a b-value other than zero."""
    tables = [image.with_suffix(extension) for extension in (".bval", ".bvec")]
    return all(path.exists() for path in tables) and any(float(b) > 0 for b in tables[0].read_text().split())


def _complete(image: Path) -> Path:
    """Compress the image, and sync all files to the disk."""
    stem = image.with_suffix("")
    # mtime=0: the same series gives the same bytes.
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
