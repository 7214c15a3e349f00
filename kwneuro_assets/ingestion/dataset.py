"""A source dataset: the DWI series of each subject, found by their names.

Only names are read here; `read_source` opens the files. The dataset is raw BIDS, or derivatives of a preprocessing
(`*_desc-preproc_dwi.nii.gz`), which are preferred to the raw DWI, or has other names (`custom_layout`).
"""

from __future__ import annotations

import fnmatch
import functools
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

from upath import UPath

from kwneuro_assets.imaging import InvalidData
from kwneuro_assets.ingestion.bids_names import (
    IMAGE_SUFFIXES,
    MASK_SUFFIXES,
    PREPROCESSED,
    comparable,
    entities_of,
    name_without_extension,
    why_ignored,
)
from kwneuro_assets.ingestion.patterns import PathPattern, key_of
from kwneuro_assets.ingestion.qc_files import is_of_another_subject, qc_files
from kwneuro_assets.ingestion.series import Run, Series
from kwneuro_assets.ingestion.tree import SourceTree
from kwneuro_assets.settings import SourceSettings
from kwneuro_assets.storage.files import Fingerprint, Listing
from kwneuro_assets.storage.location import is_local
from kwneuro_assets.subjects import SubjectKey

_CHOICES = ("acq", "dir", "run", "part", "space", "desc")  # entities by which the settings choose images
_MAX_CANDIDATES = 20  # folders of a root without subjects in which subjects are searched for
_MAX_SHOWN = 5  # names in a message about a root without subjects


class SourceDataset:
    """A BIDS dataset in a folder or at a URL, read in place.

    Each folder is listed at most once; a new object sees what changed since. `ignored` gives the files that look like
    DWI series and are none, with the reason, by their path relative to the root; `subjects` fills it.

    Raises SourceError if there is no such folder: for a local one in the constructor, for a remote one when nothing is
    found in it. All methods raise StorageError if a folder cannot be reached or listed.
    """

    # An index of our own: bids2table 2.3.1 and ancpbids 0.4.10 were tried on 10,000 subjects of 3 files: 4.9 s and
    # 546 MB, 6.3 s and 94 MB; this one 2.2 s and 146 MB. Neither gives size, date or ETag of a file, applies a bval or
    # bvec of a parent folder, or rescans incrementally. On S3 bids2table sends one request per subject (103 LISTs for
    # 300 objects). It drops invalid names and folders that cannot be listed without a message, and does not read
    # .bidsignore; ancpbids fails at such a folder, accepts "sub-a\nb", and reads .bidsignore as plain patterns.

    def __init__(self, settings: SourceSettings) -> None:
        self.settings = settings
        self.tree = SourceTree(settings)
        self.root = self.tree.root
        self.ignored: dict[str, str] = {}

    def subjects(
        self, only: Collection[str] | None = None, *, masks: bool = False
    ) -> tuple[list[SubjectKey], dict[str, InvalidData]]:
        """The keys of all subjects with DWI, sorted, and the folders that cannot be used, each with its error.

        Refused are names that are no BIDS labels, names that differ only in case, which many file systems do not
        distinguish, and folders that cannot be listed. `only` limits the search to the subjects of these keys. `masks`
        says that masks under derivatives/ will be needed, too.
        """
        if only is None:
            self.tree.list_all(lambda top: top.startswith("sub-") or (masks and self._may_hold_masks(top)))
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
        # A folder sub-01_ses-a at the root has the form of a session's key, and is no subject.
        misnamed = {name: name for name in tops if "_ses-" in name and name in listed and _has_dwi(listed.pop(name))}
        listed |= self.tree.listings(sessions, refused)
        folders = {**tops, **sessions}
        for key, inside in listed.items():
            self._note_misplaced(folders[key], inside)
        found = self._with_images({key: folders[key] for key, inside in listed.items() if _has_dwi(inside)}, refused)
        for name in self._with_images(misnamed, refused):
            found.pop(name, None)
            refused[name] = InvalidData("subject", expected="a folder sub-LABEL", found=repr(name)).at(
                self.tree.path(name)
            )
        return self._parsed(found, refused), refused

    def _with_images(self, folders: Mapping[str, str], refused: dict[str, InvalidData]) -> dict[str, str]:
        """The folder dwi of each of these that has an image."""
        series = {key: f"{folder}/dwi" for key, folder in folders.items()}
        found: dict[str, str] = {}
        for key, inside in self.tree.listings(series, refused).items():
            if any(name.endswith(IMAGE_SUFFIXES) for name in inside.files):
                found[key] = series[key]
            self._note_ignored(series[key], inside)
        return found

    def series(self, subject: SubjectKey) -> Series:
        """The DWI series of a subject. Raises InvalidData if files are missing or do not belong together."""
        folder = self.folder(subject)
        inside = self.tree.listing(folder).files
        if not inside:
            self.tree.require_root()
        images = [name for name in inside if name.endswith(IMAGE_SUFFIXES)]
        names = self._selected(self._of_kind(images))
        if not names:
            chosen = "".join(f" of {kind} {wanted}" for kind, wanted in self._choices() if kind != "select")
            chosen += f" that matches {self.settings.select!r}" if self.settings.select else ""
            raise InvalidData(
                "DWI series", expected=f"an image *_dwi.nii.gz{chosen}", found=", ".join(images) or "none"
            ).at(self.tree.path(folder))
        self._require_own(names, subject, folder)
        self._require_one_kind(names, folder)
        names.sort(key=lambda name: (int(entities_of(name).get("run", "0")), name))
        runs = tuple(self._run(subject, folder, name) for name in names)
        return Series(subject, runs, self._qc_files(subject, folder, names))

    def _qc_files(self, subject: SubjectKey, folder: str, images: Sequence[str]) -> tuple[UPath, ...]:
        """The QC files of these images of a folder."""
        return tuple(self.tree.path(below(folder, path)) for path in qc_files(self.tree, folder, subject, images))

    def _of_kind(self, images: list[str]) -> list[str]:
        """The preprocessed images, or else those without a desc, unless the settings choose a desc."""
        if self.settings.desc:
            return images
        preprocessed = [name for name in images if entities_of(name).get("desc") == PREPROCESSED]
        return preprocessed or [name for name in images if "desc" not in entities_of(name)]

    def mask(self, subject: SubjectKey, series: Series | None = None) -> UPath:
        """The file of the brain mask that is provided with a subject, whose DWI series may be passed if it is known.

        Raises InvalidData if there is none or more than one, and as `series` does.
        """
        if self.settings.mask:
            found, expected = self._masks_by_pattern.get(str(subject), []), self.settings.mask
        else:
            found, expected = self._found_masks(subject, series or self.series(subject))
        found = [path for path in found if not _is_broken_link(path)]
        if len(found) != 1:
            raise InvalidData(
                "brain mask",
                expected=f"one file {expected}",
                found=", ".join(map(str, found)) or "none",
                remedy="Name it by a pattern (source.mask), or set brain_mask.method to hd-bet.",
            ).at(self.tree.path(self.folder(subject)))
        return found[0]

    def _found_masks(self, subject: SubjectKey, series: Series) -> tuple[list[UPath], str]:
        """The masks of a subject that match its first run best, and the expected name of such a mask."""
        folder = self.folder(subject)
        own = entities_of(series.runs[0].image.name)
        places = ["", *(f"derivatives/{name}/" for name in self.tree.listing("derivatives").folders)]
        fitting: dict[UPath, int] = {}  # with the number of entities that it shares with the run
        for place in places:
            for name in self.tree.listing(f"{place}{folder}").files:
                entities = entities_of(name)
                is_brain = "brain" in (entities.get("desc"), entities.get("label"))
                if not (name.startswith(f"{subject}_") and name.endswith(MASK_SUFFIXES) and is_brain):
                    continue
                shared = {key: label for key, label in entities.items() if key in own and key != "desc"}
                if all(comparable(key, own[key]) == comparable(key, label) for key, label in shared.items()):
                    fitting[self.tree.path(f"{place}{folder}/{name}")] = len(shared)
        best = [path for path, count in fitting.items() if count == max(fitting.values())]
        return best, f"{folder}/{subject}_desc-brain_mask.nii.gz in the dataset or in one under its derivatives/"

    @functools.cached_property
    def _mask_pattern(self) -> PathPattern:
        return PathPattern(self.settings.mask or "")

    @functools.cached_property
    def _masks_by_pattern(self) -> dict[str, list[UPath]]:
        """The files that match `source.mask`, by subject key."""
        found: dict[str, list[UPath]] = {}
        for folder, labels in self._mask_pattern.folders(self.tree, {}).items():
            for name, one in self._mask_pattern.files(self.tree, folder, labels).items():
                found.setdefault(key_of(one), []).append(self.tree.path(below(folder, name)))
        return found

    def _may_hold_masks(self, top: str) -> bool:
        return self._mask_pattern.has_top(top) if self.settings.mask else top == "derivatives"

    def expected_files(self) -> str:
        """The expected names of a subject's images, for messages."""
        return "folders sub-*/[ses-*/]dwi with images *_dwi.nii.gz"

    def found_instead(self) -> str:
        """The contents of a root without subjects, for messages, with a hint where the dataset may be."""
        inside = self.tree.listing("")
        seen = [_counted("folder", inside.folders), _counted("file", tuple(inside.files))]
        hints = [
            f"In {self.root}/{name} are folders sub-*: is that the dataset?"
            for name in inside.folders[:_MAX_CANDIDATES]
            if any(one.startswith("sub-") for one in self._folders_in(name))
        ]
        if "dwi" in inside.folders or (self.root.name.startswith(("sub-", "ses-")) and not hints):
            hints.append("This is the folder of one subject: the dataset is the folder above those of its subjects")
        return ". ".join([" and ".join(one for one in seen if one) or "nothing", *hints])

    def _folders_in(self, name: str) -> tuple[str, ...]:
        try:
            return self.tree.listing(name).folders
        except InvalidData:
            return ()

    def _note_misplaced(self, folder: str, inside: Listing) -> None:
        """Add images outside a folder dwi, and folders whose name differs from dwi in case, to `ignored`."""
        for name in inside.folders:
            if name != "dwi" and name.lower() == "dwi":
                self.ignored[f"{folder}/{name}"] = "the folder of DWI series is called dwi"
        for name in inside.files:
            if name.lower().endswith(IMAGE_SUFFIXES):
                self.ignored[f"{folder}/{name}"] = "expected the images of DWI series in a folder dwi"

    def _note_ignored(self, folder: str, inside: Listing) -> None:
        """Add misnamed images of a folder dwi, gradient tables without an image, and QC files of another subject to
        `ignored`.
        """
        images = [name for name in inside.files if name.endswith(IMAGE_SUFFIXES)]
        key = "_".join(folder.split("/")[:-1])
        for name in inside.files:
            why = None if name in images else why_ignored(name, images)
            if why is None and is_of_another_subject(name, key):
                why = f"its name is not that of a QC file of {key}"
            if why:
                self.ignored[f"{folder}/{name}"] = why

    def folder(self, subject: SubjectKey) -> str:
        """The folder of a subject's images, relative to the root."""
        return subject.folder

    def relative(self, path: UPath) -> str:
        return path.relative_to(self.root).as_posix()

    def fingerprints(self, subject: SubjectKey, names: Iterable[str]) -> tuple[dict[str, Fingerprint], float]:
        """The fingerprints of these files, by their path relative to the root, and when any of them or of the subject's
        folder was last written, seconds since 1970.
        """
        fingerprints = {name: self.tree.fingerprint(name) for name in names}
        newest = max((fingerprint.changed for fingerprint in fingerprints.values()), default=0)
        return fingerprints, max(newest, self.changed(subject))

    def changed(self, subject: SubjectKey) -> float:
        """When any file in the subject's folder was last written, seconds since 1970; 0 if it cannot be listed."""
        try:
            return self.tree.changed(self.folder(subject))
        except InvalidData:
            return 0

    def _parsed(self, found: Mapping[str, str], refused: dict[str, InvalidData]) -> list[SubjectKey]:
        """The keys of these folders by name, without those that it adds to `refused`."""
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
        choices = [(kind, getattr(self.settings, kind)) for kind in (*_CHOICES, "select")]
        return [(kind, wanted) for kind, wanted in choices if wanted]

    def _selected(self, names: list[str]) -> list[str]:
        """The images that the settings choose."""
        for kind, wanted in self._choices():
            if kind == "select":
                names = [name for name in names if fnmatch.fnmatchcase(name, wanted)]
            else:
                labels = {comparable(kind, part.strip()) for part in wanted.split(",") if part.strip()}
                names = [name for name in names if comparable(kind, entities_of(name).get(kind, "")) in labels]
        return names

    def _require_own(self, names: list[str], subject: SubjectKey, folder: str) -> None:
        """Raises InvalidData for a file of another subject: it must not become this subject's data."""
        for name in names:
            if not name.startswith(f"{subject}_"):
                raise InvalidData("DWI series", expected=f"names that begin with {subject}_", found=name).at(
                    self.tree.path(folder)
                )
            run = entities_of(name).get("run", "0")
            if not (run.isascii() and run.isdigit()):
                raise InvalidData("run of an image", expected="an integer", found=repr(run)).at(
                    self.tree.path(f"{folder}/{name}")
                )

    def _require_one_kind(self, names: list[str], folder: str) -> None:
        """Raises InvalidData if images differ in more than their run, unless the settings choose them by a pattern."""
        stems = [name_without_extension(name) for name in names]
        if len(set(stems)) < len(stems):
            twice = next(stem for stem in stems if stems.count(stem) > 1)
            raise InvalidData("DWI series", expected=f"{twice} once", found="it as .nii and as .nii.gz").at(
                self.tree.path(folder)
            )
        kinds = {re.sub(r"_run-[^_]*", "", stem) for stem in stems}
        if len(kinds) > 1 and not self.settings.select:
            each = [entities_of(name) for name in names]
            differing = [kind for kind in _CHOICES if kind != "run" and len({one.get(kind) for one in each}) > 1]
            settings = [f"source.{kind}" for kind in differing]
            raise InvalidData(
                "DWI series",
                expected="runs of one kind",
                found=f"{len(kinds)} kinds: {', '.join(names)}",
                remedy=f"Choose with {' or '.join([*settings, 'source.select'])}, a pattern of names such as "
                "'*dir-AP*'; '*' joins them all, as for files of one shell each.",
            ).at(self.tree.path(folder))

    def _run(self, subject: SubjectKey, folder: str, image: str) -> Run:
        bval, bvec = (self._inherited(subject, folder, image, end) for end in (".bval", ".bvec"))
        sidecars = tuple(self.tree.path(name) for name in self._inherited_json(folder, image))
        return Run(self.tree.path(f"{folder}/{image}"), self.tree.path(bval), self.tree.path(bvec), sidecars)

    def _inherited_json(self, folder: str, image: str) -> list[str]:
        """The JSON files that apply to `image`, the most general first: a later one overrides an earlier one."""
        found: list[str] = []
        for level, fitting in self._fitting(folder, image, ".json"):
            found[:0] = [
                below(level, name) for name in sorted(fitting, key=lambda name: (len(entities_of(name)), name))
            ]
        return found

    def _fitting(self, folder: str, image: str, extension: str) -> Iterator[tuple[str, list[str]]]:
        """The files of this extension that apply to `image`, by folder, from its own up to the root."""
        wanted = entities_of(image)
        levels = folder.split("/")
        for depth in range(len(levels), -1, -1):
            level = "/".join(levels[:depth])
            yield (
                level,
                [name for name in self._tables(level, extension) if entities_of(name).items() <= wanted.items()],
            )

    def _inherited(self, subject: SubjectKey, folder: str, image: str, extension: str) -> str:
        """The file that applies to `image` by BIDS's inheritance principle: in the nearest folder that has one."""
        for level, fitting in self._fitting(folder, image, extension):
            if fitting:
                most = max(len(entities_of(name)) for name in fitting)
                nearest = [name for name in fitting if len(entities_of(name)) == most]
                if len(nearest) > 1:
                    raise InvalidData(f"{extension} file", expected="one that applies", found=", ".join(nearest)).at(
                        self.tree.path(f"{folder}/{image}")
                    )
                return below(level, nearest[0])
        raise InvalidData(
            f"{extension} file",
            expected=f"{name_without_extension(image)}{extension} beside the image, or one in a parent folder that "
            "applies to it",
            found="none",
            remedy="Export it with the image.",
        ).at(self.tree.path(f"{folder}/{image}"))

    def _tables(self, folder: str, extension: str) -> list[str]:
        own = f"dwi{extension}"
        return [name for name in self.tree.listing(folder).files if name == own or name.endswith(f"_{own}")]


def orphaned_subjects(known: Iterable[str], subjects: Iterable[SubjectKey], refused: Iterable[str]) -> list[str]:
    """The known keys that are no longer in the source, sorted.

    Sessions of a refused folder, which cannot be listed, are not among them.
    """
    found, hidden = {str(subject) for subject in subjects}, tuple(f"{key}_" for key in refused)
    return sorted(key for key in known if key not in found and not f"{key}_".startswith(hidden))


def below(folder: str, name: str) -> str:
    """The path of a file in a folder, both relative to the root."""
    return f"{folder}/{name}" if folder else name


def _is_broken_link(path: UPath) -> bool:
    """Whether a listed path is a link to a missing file, as git-annex has before it fetches the content."""
    return is_local(path) and not path.exists()


def _has_dwi(inside: Listing) -> bool:
    return "dwi" in inside.folders


def _counted(what: str, names: tuple[str, ...]) -> str:
    if not names:
        return ""
    shown = ", ".join(names[:_MAX_SHOWN]) + (", ..." if len(names) > _MAX_SHOWN else "")
    return f"{len(names)} {what}{'s' if len(names) > 1 else ''} ({shown})"
