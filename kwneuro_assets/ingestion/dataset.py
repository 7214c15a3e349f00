"""What a source dataset holds: the diffusion series of each subject, found by their names.

Only names are looked at here; `read` opens the files. The dataset is raw BIDS, or derivatives of a preprocessing
(`*_desc-preproc_dwi.nii.gz`), which then take the place of raw series, or one of other names, by a pattern (`plain`).
"""

from __future__ import annotations

import fnmatch
import functools
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from upath import UPath

from kwneuro_assets.imaging import InvalidData
from kwneuro_assets.ingestion.tree import SourceTree
from kwneuro_assets.settings import SourceSettings
from kwneuro_assets.storage.files import Listing, Stamp
from kwneuro_assets.storage.location import is_local
from kwneuro_assets.subjects import SubjectKey

IMAGE_SUFFIXES = ("_dwi.nii.gz", "_dwi.nii")
PREPROCESSED = "preproc"  # the `desc` of images that were interpolated


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

    # An index of our own, after bids2table 2.3.1 and ancpbids 0.4.10 were tried on 10,000 subjects of 3 files: 4.9 s
    # and 546 MB, 6.3 s and 94 MB; this one 2.2 s and 146 MB. Neither tells size, date or ETag of a file, applies a bval
    # or bvec that lies above, or looks incrementally. On S3 bids2table asks once a subject (103 LISTs for 300 objects).
    # It drops bad names and folders that cannot be listed silently, and knows no .bidsignore; ancpbids stops wholly at
    # such a folder, takes "sub-a\nb", and reads .bidsignore as plain patterns.

    def __init__(self, settings: SourceSettings) -> None:
        self.settings = settings
        self.tree = SourceTree(settings)
        self.root = self.tree.root

    def subjects(
        self, only: Collection[str] | None = None, *, masks: bool = False
    ) -> tuple[list[SubjectKey], dict[str, InvalidData]]:
        """The keys of all that have diffusion data, sorted, and the folders that are not to be used, each with why.

        Names that are no BIDS labels are refused, as are names that differ only in case, which many disks do not
        tell apart, and folders that may not be listed. With `only`, no other subjects than those of these keys are
        looked for. `masks` tells that those under derivatives/ will be asked for, too.
        """
        if only is None:
            self.tree.list_all(lambda top: top.startswith("sub-") or (masks and top == "derivatives"))
        self.tree.require_root()
        refused: dict[str, InvalidData] = {}
        tops = {name: name for name in self.tree.listing("").folders if name.startswith("sub-")}
        if only is not None:
            wanted = {key.partition("_")[0].lower() for key in only}  # with those that differ only in case
            tops = {name: name for name in tops if name.partition("_")[0].lower() in wanted}
        listed = self.tree.listings(tops, refused)
        sessions = {
            f"{key}_{name}": f"{key}/{name}"
            for key, inside in listed.items()
            for name in inside.folders
            if name.startswith("ses-")
        }
        # A folder sub-01_ses-a at the top is spelt like the key of a session, and is none.
        misnamed = {name: name for name in tops if "_ses-" in name and name in listed and _has_dwi(listed.pop(name))}
        listed |= self.tree.listings(sessions, refused)
        folders = {**tops, **sessions}
        found = self._with_images({key: folders[key] for key, inside in listed.items() if _has_dwi(inside)}, refused)
        for name in self._with_images(misnamed, refused):
            found.pop(name, None)
            refused[name] = InvalidData("subject", expected="a folder sub-LABEL", found=repr(name)).at(
                self.tree.path(name)
            )
        return self._parsed(found, refused), refused

    def _with_images(self, folders: Mapping[str, str], refused: dict[str, InvalidData]) -> dict[str, str]:
        """Of each of these that has an image, the folder in which it lies."""
        series = {key: f"{folder}/dwi" for key, folder in folders.items()}
        return {
            key: series[key]
            for key, inside in self.tree.listings(series, refused).items()
            if any(name.endswith(IMAGE_SUFFIXES) for name in inside.files)
        }

    def series(self, subject: SubjectKey) -> Series:
        """The runs of a subject. Raises InvalidData for files that are missing or do not belong together."""
        folder = self.folder(subject)
        inside = self.tree.listing(folder).files
        if not inside:
            self.tree.require_root()
        names = [name for name in inside if name.endswith(IMAGE_SUFFIXES)]
        preprocessed = [name for name in names if _entities(name).get("desc") == PREPROCESSED]
        names = preprocessed or [name for name in names if "desc" not in _entities(name)]
        names = self._selected(names)
        if not names:
            chosen = "".join(f" of {kind} {wanted}" for kind, wanted in self._choices() if kind != "select")
            chosen += f" that matches {self.settings.select!r}" if self.settings.select else ""
            raise InvalidData("diffusion series", expected=f"an image *_dwi.nii.gz{chosen}", found="none").at(
                self.tree.path(folder)
            )
        self._require_own(names, subject, folder)
        self._require_one_kind(names, folder)
        names.sort(key=lambda name: (int(_entities(name).get("run", "0")), name))
        runs = tuple(self._run(subject, folder, name) for name in names)
        return Series(subject, runs, interpolated=bool(preprocessed))

    def mask(self, subject: SubjectKey) -> UPath:
        """The brain mask that comes with the data. Raises InvalidData where there is none, or more than one."""
        name = f"{subject}_desc-brain_mask.nii.gz"
        places = ["", *(f"derivatives/{folder}/" for folder in self.tree.listing("derivatives").folders)]
        folders = [f"{place}{self.folder(subject)}" for place in places]
        found = [self.tree.path(f"{folder}/{name}") for folder in folders if name in self.tree.listing(folder).files]
        return one_mask(
            [path for path in found if not _leads_nowhere(path)], self.root,
            f"{self.folder(subject)}/{name} in the dataset or in one under its derivatives/",
        )  # fmt: skip

    def folder(self, subject: SubjectKey) -> str:
        """The folder of a subject's images, relative to the root."""
        return subject.folder

    def relative(self, path: UPath) -> str:
        return path.relative_to(self.root).as_posix()

    def stamps(self, subject: SubjectKey, files: Iterable[UPath]) -> tuple[dict[str, Stamp], float]:
        """The stamps of these files, by their path below the root, and when any of them, or any other in the
        subject's folder, was last written."""
        stamps = {name: self.tree.stamp(name) for name in map(self.relative, files)}
        newest = max((stamp.changed for stamp in stamps.values()), default=0)
        return stamps, max(newest, self.changed(subject))

    def changed(self, subject: SubjectKey) -> float:
        """When any file in the subject's folder was last written, seconds since 1970; 0 where it may not be listed."""
        try:
            return self.tree.changed(self.folder(subject))
        except InvalidData:
            return 0

    def _parsed(self, found: Mapping[str, str], refused: dict[str, InvalidData]) -> list[SubjectKey]:
        """The keys of these folders by name, without those that are added to `refused`."""
        keys: list[SubjectKey] = []
        alike: dict[str, list[str]] = {}
        for name, folder in found.items():
            try:
                keys.append(SubjectKey.parse(name))
                alike.setdefault(name.lower(), []).append(name)
            except InvalidData as error:
                refused[name] = error.at(self.tree.path(folder))
        for names in alike.values():
            for name in names if len(names) > 1 else []:
                others = ", ".join(other for other in names if other != name)
                refused[name] = InvalidData(
                    "subject",
                    expected="a name that differs from all others by more than case",
                    found=f"{others}, too",
                    remedy="Rename all but one of them.",
                ).at(self.tree.path(found[name]))
        return sorted((key for key in keys if str(key) not in refused), key=str)

    def _choices(self) -> list[tuple[str, str]]:
        choices = [(kind, getattr(self.settings, kind)) for kind in ("acq", "dir", "run", "select")]
        return [(kind, wanted) for kind, wanted in choices if wanted]

    def _selected(self, names: list[str]) -> list[str]:
        """Those of the images that the settings choose."""
        for kind, wanted in self._choices():
            if kind == "select":
                names = [name for name in names if fnmatch.fnmatchcase(name, wanted)]
            else:
                labels = {_label(kind, part.strip()) for part in wanted.split(",") if part.strip()}
                names = [name for name in names if _label(kind, _entities(name).get(kind, "")) in labels]
        return names

    def _require_own(self, names: list[str], subject: SubjectKey, folder: str) -> None:
        """A file that strayed into another subject's folder must not become that subject's data."""
        for name in names:
            if not name.startswith(f"{subject}_"):
                raise InvalidData("diffusion series", expected=f"names that begin with {subject}_", found=name).at(
                    self.tree.path(folder)
                )
            run = _entities(name).get("run", "0")
            if not (run.isascii() and run.isdigit()):
                raise InvalidData("run of an image", expected="a whole number", found=repr(run)).at(
                    self.tree.path(f"{folder}/{name}")
                )

    def _require_one_kind(self, names: list[str], folder: str) -> None:
        """Runs may be joined; series that differ in anything else only where the settings choose them by a pattern."""
        stems = [_stem(name) for name in names]
        if len(set(stems)) < len(stems):
            twice = next(stem for stem in stems if stems.count(stem) > 1)
            raise InvalidData("diffusion series", expected=f"{twice} once", found="it as .nii and as .nii.gz").at(
                self.tree.path(folder)
            )
        kinds = {re.sub(r"_run-[^_]*", "", stem) for stem in stems}
        if len(kinds) > 1 and not self.settings.select:
            raise InvalidData(
                "diffusion series",
                expected="runs of one kind",
                found=f"{len(kinds)} kinds: {', '.join(names)}",
                remedy="Choose with source.acq, source.dir or source.select, a pattern such as '*dir-AP*' "
                "('*' joins them all).",
            ).at(self.tree.path(folder))

    def _run(self, subject: SubjectKey, folder: str, image: str) -> Run:
        bval, bvec = (self._inherited(subject, folder, image, end) for end in (".bval", ".bvec"))
        return Run(self.tree.path(f"{folder}/{image}"), self.tree.path(bval), self.tree.path(bvec))

    def _inherited(self, subject: SubjectKey, folder: str, image: str, extension: str) -> str:
        """The file that applies to `image` by BIDS's inheritance principle: the nearest level above that has one."""
        wanted = _entities(image)
        levels = folder.split("/")
        for depth in range(len(levels), -1, -1):
            level = "/".join(levels[:depth])
            fitting = [name for name in self._tables(level, extension) if _entities(name).items() <= wanted.items()]
            if fitting:
                most = max(len(_entities(name)) for name in fitting)
                nearest = [name for name in fitting if len(_entities(name)) == most]
                if len(nearest) > 1:
                    raise InvalidData(f"{extension} file", expected="one that applies", found=", ".join(nearest)).at(
                        self.tree.path(f"{folder}/{image}")
                    )
                return f"{level}/{nearest[0]}" if level else nearest[0]
        raise InvalidData(
            f"{extension} file",
            expected=f"{_stem(image)}{extension} beside the image, or one above that applies to it",
            found="none",
            remedy="Export it with the image.",
        ).at(self.tree.path(f"{folder}/{image}"))

    def _tables(self, folder: str, extension: str) -> list[str]:
        own = f"dwi{extension}"
        return [name for name in self.tree.listing(folder).files if name == own or name.endswith(f"_{own}")]


def gone_from(known: Iterable[str], subjects: Iterable[SubjectKey], refused: Iterable[str]) -> list[str]:
    """Those of the keys that are no longer there, sorted; a folder that cannot be listed hides its sessions."""
    found, hidden = {str(subject) for subject in subjects}, tuple(f"{key}_" for key in refused)
    return sorted(key for key in known if key not in found and not f"{key}_".startswith(hidden))


def one_mask(found: list[UPath], root: UPath, expected: str) -> UPath:
    """The only one of the masks that were found. Raises InvalidData where there is none or more than one."""
    if len(found) != 1:
        raise InvalidData(
            "brain mask",
            expected=f"one file {expected}",
            found=", ".join(map(str, found)) or "none",
            remedy="Or set brain_mask.method to hd-bet.",
        ).at(root)
    return found[0]


def _leads_nowhere(path: UPath) -> bool:
    """Whether a path that was listed is a link to what is not there, as git-annex leaves before it fetches."""
    return is_local(path) and not path.exists()


def _label(kind: str, label: str) -> str:
    """A label as it is compared: run-01 is run-1."""
    return str(int(label)) if kind == "run" and label.isascii() and label.isdigit() else label


def _has_dwi(inside: Listing) -> bool:
    return "dwi" in inside.folders


def _stem(name: str) -> str:
    """A file's name without its extension; a label may have a dot."""
    return name.removesuffix(".gz").rpartition(".")[0]


@functools.lru_cache(maxsize=1 << 16)
def _entities(name: str) -> Mapping[str, str]:
    """The BIDS entities of a file name, in its order: `sub-01_run-2_dwi.nii.gz` has sub and run."""
    pairs = (part.split("-", 1) for part in _stem(name).split("_")[:-1] if "-" in part)
    return {pair[0]: pair[1] for pair in pairs}
