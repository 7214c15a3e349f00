"""What a source dataset holds: the diffusion series of each subject, found by their BIDS names.

Only names and headers are looked at here; voxels are read when a step needs them. The dataset is raw BIDS, or
derivatives of a preprocessing (`*_desc-preproc_dwi.nii.gz`), which then take the place of raw series.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kwneuro_assets.errors import ActionableError
from kwneuro_assets.imaging import GradientTable, InvalidData, Volume
from kwneuro_assets.imaging.errors import located
from kwneuro_assets.imaging.gradients import parse_bvals, parse_bvecs
from kwneuro_assets.imaging.volume import require_same_grid
from kwneuro_assets.settings import SourceSettings
from kwneuro_assets.storage.nifti import read_grid
from kwneuro_assets.subjects import SubjectKey
from kwneuro_assets.versioning.content import file_sha256, text_version

IMAGE_SUFFIXES = ("_dwi.nii.gz", "_dwi.nii")
PREPROCESSED = "preproc"  # the `desc` of images that were interpolated


class SourceError(ActionableError):
    """The source dataset itself cannot be read; says what was expected and what was found."""


@dataclass(frozen=True)
class Run:
    """One image with the b-values and b-vectors that belong to it."""

    image: Path
    bval: Path
    bvec: Path


@dataclass(frozen=True)
class Series:
    """All runs of one subject's session, in the order in which they are joined."""

    subject: SubjectKey
    runs: tuple[Run, ...]
    interpolated: bool

    def files(self) -> list[Path]:
        return [path for run in self.runs for path in (run.image, run.bval, run.bvec)]


class SourceDataset:
    """A BIDS dataset in a local folder, read in place.

    Raises SourceError where there is no such folder.
    """

    def __init__(self, settings: SourceSettings) -> None:
        self.settings = settings
        self.root = Path(settings.url).expanduser().absolute()
        if not self.root.is_dir():
            found = "a file" if self.root.exists() else "nothing there"
            raise SourceError(
                f"the source {self.root}: expected the folder of a BIDS dataset, found {found}. "
                "Set source.url, KWNEURO_SOURCE or --source."
            )

    def subjects(self) -> tuple[list[SubjectKey], dict[str, InvalidData]]:
        """The keys of all that have diffusion data, sorted, and the folders whose names are no BIDS labels."""
        found: list[SubjectKey] = []
        refused: dict[str, InvalidData] = {}
        for folder in self._dwi_folders():
            key = "_".join(part.name for part in reversed(list(folder.parents)[: _depth(folder, self.root)]))
            try:
                found.append(SubjectKey.parse(key))
            except InvalidData as error:
                refused[key] = error.at(folder)
        return sorted(found, key=str), refused

    def series(self, subject: SubjectKey) -> Series:
        """The runs of a subject. Raises InvalidData for files that are missing or do not belong together."""
        folder = self.root / subject.folder
        names = sorted(path.name for path in folder.glob("*") if path.name.endswith(IMAGE_SUFFIXES))
        preprocessed = [name for name in names if _entities(name).get("desc") == PREPROCESSED]
        names = preprocessed or [name for name in names if "desc" not in _entities(name)]
        if self.settings.select:
            names = fnmatch.filter(names, self.settings.select)
        if not names:
            wanted = f" that matches {self.settings.select!r}" if self.settings.select else ""
            raise InvalidData("diffusion series", expected=f"an image *_dwi.nii.gz{wanted}", found="none").at(folder)
        self._require_own(names, subject, folder)
        self._require_one_kind(names, folder)
        names.sort(key=lambda name: (int(_entities(name).get("run", "0")), name))
        runs = tuple(self._run(folder / name) for name in names)
        return Series(subject, runs, interpolated=bool(preprocessed))

    def mask(self, subject: SubjectKey) -> Path:
        """The brain mask that comes with the data. Raises InvalidData where there is none, or more than one."""
        name = f"{subject}_desc-brain_mask.nii.gz"
        roots = [self.root, *sorted((self.root / "derivatives").glob("*/"))]
        found = [path for path in (root / subject.folder / name for root in roots) if path.is_file()]
        if len(found) != 1:
            raise InvalidData(
                "brain mask",
                expected=f"one file {subject.folder}/{name} in the dataset or in one under its derivatives/",
                found=", ".join(map(str, found)) or "none",
                remedy="Or set brain_mask.method to hd-bet.",
            ).at(self.root)
        return found[0]

    def gradients(self, series: Series) -> GradientTable:
        """The b-values and b-vectors of all runs, joined; FSL frame. Raises InvalidData."""
        tables = [self._table(run) for run in series.runs]
        bvals = [value for table in tables for value in table.bvals]
        bvecs = [vector for table in tables for vector in table.bvecs]
        return GradientTable(bvals, bvecs, b0_threshold=self.settings.b0_threshold)  # type: ignore[arg-type]

    def check_headers(self, series: Series) -> None:
        """Compare each image's header with its gradient table and with the first run's grid. Raises InvalidData."""
        first = series.runs[0].image
        for run in series.runs:
            shape, _ = read_grid(run.image)
            _require_grid_of(first, run.image, "this run")
            if len(shape) != 4:
                raise InvalidData("diffusion series", expected="4 dimensions", found=f"shape {shape}").at(run.image)
            with located(run.bval):
                count = len(parse_bvals(_text(run.bval)))
            if shape[3] != count:
                raise InvalidData(
                    "gradient table",
                    expected=f"{shape[3]} b-values, one for each volume of {run.image.name}",
                    found=f"{count}",
                    remedy="Image and bval do not belong together.",
                ).at(run.bval)

    def check_mask(self, mask: Path, series: Series) -> None:
        """Compare the mask's grid with that of the series, by their headers. Raises InvalidData."""
        _require_grid_of(series.runs[0].image, mask, "the brain mask")

    def dwi_version(self, series: Series) -> str:
        """The data version of `dwi`: all files' bytes in order, and what else decides what is read."""
        return text_version(
            {
                "files": [_file_version(path) for path in series.files()],
                "interpolated": series.interpolated,
                "subsample": self.settings.subsample,
                "b0_threshold": self.settings.b0_threshold,
            }
        )

    def mask_version(self, mask: Path) -> str:
        """The data version of `provided_mask`."""
        return text_version({"file": _file_version(mask), "subsample": self.settings.subsample})

    def relative(self, path: Path) -> str:
        return path.relative_to(self.root).as_posix()

    def _dwi_folders(self) -> Iterator[Path]:
        for pattern in ("sub-*/dwi", "sub-*/ses-*/dwi"):
            for folder in self.root.glob(pattern):
                if any(path.name.endswith(IMAGE_SUFFIXES) for path in folder.iterdir()):
                    yield folder

    def _require_own(self, names: list[str], subject: SubjectKey, folder: Path) -> None:
        """A file that strayed into another subject's folder must not become that subject's data."""
        for name in names:
            if not name.startswith(f"{subject}_"):
                raise InvalidData("diffusion series", expected=f"names that begin with {subject}_", found=name).at(
                    folder
                )
            run = _entities(name).get("run", "0")
            if not (run.isascii() and run.isdigit()):
                raise InvalidData("run of an image", expected="a whole number", found=repr(run)).at(folder / name)

    def _require_one_kind(self, names: list[str], folder: Path) -> None:
        """Runs may be joined; series that differ in anything else only where the settings choose them."""
        kinds = {tuple((key, label) for key, label in _entities(name).items() if key != "run") for name in names}
        stems = [name.split(".")[0] for name in names]
        if len(set(stems)) < len(stems):
            twice = next(stem for stem in stems if stems.count(stem) > 1)
            raise InvalidData("diffusion series", expected=f"{twice} once", found="it as .nii and as .nii.gz").at(
                folder
            )
        if len(kinds) > 1 and not self.settings.select:
            raise InvalidData(
                "diffusion series",
                expected="runs of one kind",
                found=f"{len(kinds)} kinds: {', '.join(names)}",
                remedy="Choose with source.select, a pattern such as '*dir-AP*' ('*' joins them all).",
            ).at(folder)

    def _run(self, image: Path) -> Run:
        return Run(image, self._inherited(image, ".bval"), self._inherited(image, ".bvec"))

    def _inherited(self, image: Path, extension: str) -> Path:
        """The file that applies to `image` by BIDS's inheritance principle: the nearest level above that has one."""
        wanted = _entities(image.name)
        folder = image.parent
        while True:
            fitting = [
                path
                for path in folder.glob(f"*dwi{extension}")
                if re.fullmatch(r"(.*_)?dwi", path.stem) and _entities(path.name).items() <= wanted.items()
            ]
            if fitting:
                most = max(len(_entities(path.name)) for path in fitting)
                nearest = [path for path in fitting if len(_entities(path.name)) == most]
                if len(nearest) > 1:
                    found = ", ".join(path.name for path in nearest)
                    raise InvalidData(f"{extension} file", expected="one that applies", found=found).at(image)
                return nearest[0]
            if folder == self.root:
                raise InvalidData(
                    f"{extension} file",
                    expected=f"{image.name.split('.')[0]}{extension} beside the image, or one above that applies to it",
                    found="none",
                    remedy="Export it with the image.",
                ).at(image)
            folder = folder.parent

    def _table(self, run: Run) -> GradientTable:
        with located(run.bval):
            bvals = parse_bvals(_text(run.bval))
        with located(run.bvec):
            bvecs = parse_bvecs(_text(run.bvec), len(bvals))
        try:
            return GradientTable(bvals, bvecs, b0_threshold=self.settings.b0_threshold)
        except InvalidData as error:
            raise error.at(run.bval if error.problem == "b-values" else run.bvec) from None


def _require_grid_of(reference: Path, path: Path, what: str) -> None:
    wanted, found = _grid(reference), _grid(path)
    with located(path):
        require_same_grid(found, wanted, what, reference.name)


def _grid(image: Path) -> Volume:
    """The grid of an image, with no memory for its voxels, whatever size its header tells."""
    shape, affine = read_grid(image)
    with located(image):
        return Volume(np.broadcast_to(np.uint8(0), shape[:3]), affine)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii")
    except UnicodeDecodeError:
        raise InvalidData("text file", expected="numbers in ASCII", found="other bytes").at(path) from None
    except OSError as error:
        raise _unreadable(path, error) from None


def _entities(name: str) -> dict[str, str]:
    """The BIDS entities of a file name, in its order: `sub-01_run-2_dwi.nii.gz` has sub and run."""
    pairs = (part.split("-", 1) for part in name.split(".")[0].split("_")[:-1] if "-" in part)
    return {pair[0]: pair[1] for pair in pairs}


def _depth(folder: Path, root: Path) -> int:
    """How many folders lie between `root` and a dwi folder: the subject's and perhaps the session's."""
    return len(folder.relative_to(root).parts) - 1


def _file_version(path: Path) -> str:
    try:
        return file_sha256(path)
    except OSError as error:
        raise _unreadable(path, error) from None


def _unreadable(path: Path, error: OSError) -> InvalidData:
    """Of one file, such as a link whose target was not fetched: no reason to stop at the other subjects."""
    return InvalidData("file", expected="one that can be read", found=str(error.strerror)).at(path)
