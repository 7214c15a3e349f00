"""What a source dataset holds: the diffusion series of each subject, found by their BIDS names.

Only names are looked at here; `read` opens the files. The dataset is raw BIDS, or derivatives of a preprocessing
(`*_desc-preproc_dwi.nii.gz`), which then take the place of raw series.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from upath import UPath

from kwneuro_assets.errors import ActionableError
from kwneuro_assets.imaging import InvalidData
from kwneuro_assets.settings import SourceSettings
from kwneuro_assets.storage.files import Listing, listing
from kwneuro_assets.storage.location import is_local, location
from kwneuro_assets.subjects import SubjectKey

IMAGE_SUFFIXES = ("_dwi.nii.gz", "_dwi.nii")
PREPROCESSED = "preproc"  # the `desc` of images that were interpolated
_LISTED_AT_ONCE = 16  # folders; each is a request where the dataset is remote


class SourceError(ActionableError):
    """The source dataset itself cannot be read; says what was expected and what was found."""


@dataclass(frozen=True)
class Run:
    """One image with the b-values and b-vectors that belong to it."""

    image: UPath
    bval: UPath
    bvec: UPath


@dataclass(frozen=True)
class Series:
    """All runs of one subject's session, in the order in which they are joined."""

    subject: SubjectKey
    runs: tuple[Run, ...]
    interpolated: bool

    def files(self) -> list[UPath]:
        return [path for run in self.runs for path in (run.image, run.bval, run.bvec)]


class SourceDataset:
    """A BIDS dataset in a folder or at a URL, read in place: one look at it.

    A folder is listed once at most in the life of this object; a new object sees what has come since.
    Raises SourceError where there is no such folder: a local one at once, a remote one when nothing is found in
    it. All methods raise StorageError for a place that cannot be reached or may not be listed.
    """

    def __init__(self, settings: SourceSettings) -> None:
        self.settings = settings
        self.root = location(settings.url, anonymous=settings.anonymous)
        self._listings: dict[UPath, Listing] = {}
        if is_local(self.root):
            self._require_root()

    def subjects(self, only: Collection[str] | None = None) -> tuple[list[SubjectKey], dict[str, InvalidData]]:
        """The keys of all that have diffusion data, sorted, and the folders that are not to be used, each with why.

        Names that are no BIDS labels are refused, as are folders that may not be listed. With `only`, no other
        subjects than those of these keys are looked for.
        """
        self._require_root()
        refused: dict[str, InvalidData] = {}
        wanted = None if only is None else {*only, *(key.partition("_")[0] for key in only)}
        tops = {
            name: self.root / name
            for name in self._listing(self.root).folders
            if name.startswith("sub-") and (wanted is None or name in wanted)
        }
        listed = self._listed(tops, refused)
        sessions = {
            f"{key}_{name}": tops[key] / name
            for key, inside in listed.items()
            for name in inside.folders
            if name.startswith("ses-")
        }
        listed |= self._listed(sessions, refused)
        folders = {**tops, **sessions}
        series = {key: folders[key] / "dwi" for key, inside in listed.items() if "dwi" in inside.folders}
        found: list[SubjectKey] = []
        for key, inside in self._listed(series, refused).items():
            if any(name.endswith(IMAGE_SUFFIXES) for name in inside.files):
                try:
                    found.append(SubjectKey.parse(key))
                except InvalidData as error:
                    refused[key] = error.at(series[key])
        return sorted(found, key=str), refused

    def series(self, subject: SubjectKey) -> Series:
        """The runs of a subject. Raises InvalidData for files that are missing or do not belong together."""
        folder = self.root / subject.folder
        inside = self._listing(folder)
        if inside == Listing():
            self._require_root()
        names = [name for name in inside.files if name.endswith(IMAGE_SUFFIXES)]
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
        runs = tuple(self._run(subject, folder / name) for name in names)
        return Series(subject, runs, interpolated=bool(preprocessed))

    def mask(self, subject: SubjectKey) -> UPath:
        """The brain mask that comes with the data. Raises InvalidData where there is none, or more than one."""
        name = f"{subject}_desc-brain_mask.nii.gz"
        derivatives = self.root / "derivatives"
        roots = [self.root, *(derivatives / folder for folder in self._listing(derivatives).folders)]
        folders = [root / subject.folder for root in roots]
        found = [folder / name for folder in folders if name in self._listing(folder).files]
        found = [path for path in found if not _leads_nowhere(path)]
        if len(found) != 1:
            raise InvalidData(
                "brain mask",
                expected=f"one file {subject.folder}/{name} in the dataset or in one under its derivatives/",
                found=", ".join(map(str, found)) or "none",
                remedy="Or set brain_mask.method to hd-bet.",
            ).at(self.root)
        return found[0]

    def relative(self, path: UPath) -> str:
        return path.relative_to(self.root).as_posix()

    def _listing(self, folder: UPath) -> Listing:
        if folder not in self._listings:
            try:
                self._listings[folder] = listing(folder)
            except OSError as error:
                raise InvalidData("folder", expected="one that can be listed", found=str(error.strerror)).at(
                    folder
                ) from None
        return self._listings[folder]

    def _listed(self, folders: Mapping[str, UPath], refused: dict[str, InvalidData]) -> dict[str, Listing]:
        """What lies in each of the folders, several at once; those that cannot be listed are added to `refused`."""

        def look(folder: UPath) -> Listing | InvalidData:
            try:
                return self._listing(folder)
            except InvalidData as error:
                return error

        with ThreadPoolExecutor(_LISTED_AT_ONCE, thread_name_prefix="list") as pool:
            looked = dict(zip(folders, pool.map(look, folders.values()), strict=True))
        refused |= {key: found for key, found in looked.items() if isinstance(found, InvalidData)}
        return {key: found for key, found in looked.items() if isinstance(found, Listing)}

    def _require_root(self) -> None:
        if is_local(self.root):
            there, found = self.root.is_dir(), "a file" if self.root.exists() else "nothing there"
        else:  # in an object store a folder is no more than what lies in it
            there, found = self._listing(self.root) != Listing(), "nothing below it"
        if not there:
            raise SourceError(
                f"the source {self.root}: expected the folder of a BIDS dataset, found {found}. "
                "Set source.url, KWNEURO_SOURCE or --source."
            )

    def _require_own(self, names: list[str], subject: SubjectKey, folder: UPath) -> None:
        """A file that strayed into another subject's folder must not become that subject's data."""
        for name in names:
            if not name.startswith(f"{subject}_"):
                raise InvalidData("diffusion series", expected=f"names that begin with {subject}_", found=name).at(
                    folder
                )
            run = _entities(name).get("run", "0")
            if not (run.isascii() and run.isdigit()):
                raise InvalidData("run of an image", expected="a whole number", found=repr(run)).at(folder / name)

    def _require_one_kind(self, names: list[str], folder: UPath) -> None:
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

    def _run(self, subject: SubjectKey, image: UPath) -> Run:
        return Run(image, self._inherited(subject, image, ".bval"), self._inherited(subject, image, ".bvec"))

    def _inherited(self, subject: SubjectKey, image: UPath, extension: str) -> UPath:
        """The file that applies to `image` by BIDS's inheritance principle: the nearest level above that has one."""
        wanted = _entities(image.name)
        levels = subject.folder.split("/")
        for depth in range(len(levels), -1, -1):
            folder = self.root.joinpath(*levels[:depth])
            fitting = [
                name
                for name in self._listing(folder).files
                if re.fullmatch(rf"(.*_)?dwi{re.escape(extension)}", name) and _entities(name).items() <= wanted.items()
            ]
            if fitting:
                most = max(len(_entities(name)) for name in fitting)
                nearest = [name for name in fitting if len(_entities(name)) == most]
                if len(nearest) > 1:
                    raise InvalidData(f"{extension} file", expected="one that applies", found=", ".join(nearest)).at(
                        image
                    )
                return folder / nearest[0]
        raise InvalidData(
            f"{extension} file",
            expected=f"{image.name.split('.')[0]}{extension} beside the image, or one above that applies to it",
            found="none",
            remedy="Export it with the image.",
        ).at(image)


def _leads_nowhere(path: UPath) -> bool:
    """Whether a path that was listed is a link to what is not there, as git-annex leaves before it fetches."""
    return is_local(path) and not path.exists()


def _entities(name: str) -> dict[str, str]:
    """The BIDS entities of a file name, in its order: `sub-01_run-2_dwi.nii.gz` has sub and run."""
    pairs = (part.split("-", 1) for part in name.split(".")[0].split("_")[:-1] if "-" in part)
    return {pair[0]: pair[1] for pair in pairs}
