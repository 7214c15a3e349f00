"""Reference implementation of the index of a BIDS dataset: slow, obvious, and written from the rules alone.

A dataset is a collection of file paths. Nothing is imported from the package; every question goes through all paths
again.

1. Subjects are folders `sub-<label>` at the root, sessions are folders `ses-<label>` below them; their images are in a
   folder `dwi/` of either. A subject or session is found if it has a file `*_dwi.nii.gz` or `*_dwi.nii`. Labels have 1
   to 64 ASCII letters, digits and +. Refused are other names, names that differ only in case, and two folders with the
   same key.
2. Images of `desc-preproc` replace those without `desc`; images with another `desc` are left out. Then the settings
   choose.
3. The name of each chosen image begins with its key, its run is an integer, and images differ only in their run, unless
   `select` chooses by a pattern. The same name as .nii and .nii.gz is refused.
4. Runs are in the order of their numbers; a missing run is 0.
5. bval and bvec are the nearest files that match an image, from its folder up to the root: all of their entities are
   those of the image. Of several in one folder, the one with the most entities applies; two with equally many are
   refused.
6. Hidden files and files that `.bidsignore` names, or whose folder it names, do not exist.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from pathspec import GitIgnoreSpec

EXTENSIONS = (".nii.gz", ".nii", ".bval", ".bvec")  # the longer one of two that fit comes first


@dataclass(frozen=True)
class Choice:
    """The choice of images by the settings; None is no restriction."""

    acq: str | None = None
    dir: str | None = None
    run: str | None = None
    select: str | None = None


@dataclass(frozen=True)
class Joined:
    """The runs of a subject, in order: the paths of image, bval and bvec of each."""

    runs: tuple[tuple[str, str, str], ...]
    interpolated: bool


@dataclass(frozen=True)
class Answer:
    """The runs by key, None if they are refused; and the names that are refused without regard to runs."""

    series: dict[str, Joined | None]
    refused: frozenset[str]


class Refused(Exception):
    """These files cannot be used."""


def index(files: Collection[str], patterns: Sequence[str] = (), choice: Choice | None = None) -> Answer:
    """The index of these files, given the lines of `.bidsignore`."""
    there = [file for file in files if not is_hidden(file) and not is_ignored(file, patterns)]
    folders = sorted({folder_of(file) for file in there if is_image(file) and spelled(folder_of(file))})
    names = [spelled(folder) for folder in folders]
    refused = set()
    for folder, name in zip(folders, names, strict=True):
        if not all(is_label(part) for part in folder.split("/")[:-1]) or names.count(name) > 1:
            refused.add(name)
    valid = [name for name in names if name not in refused]
    refused |= {name for name in valid if sum(name.lower() == other.lower() for other in valid) > 1}
    series: dict[str, Joined | None] = {}
    for folder, name in zip(folders, names, strict=True):
        if name not in refused:
            try:
                series[name] = join(there, folder, name, choice or Choice())
            except Refused:
                series[name] = None
    return Answer(series, frozenset(refused))


def spelled(folder: str) -> str:
    """The key that the path of a folder of images gives, valid or not; "" for any other folder."""
    levels = folder.split("/")
    begins = [name.startswith(start) for name, start in zip(levels, ("sub-", "ses-"), strict=False)]
    is_of_images = len(levels) in (2, 3) and levels[-1] == "dwi" and all(begins[: len(levels) - 1])
    return "_".join(levels[:-1]) if is_of_images else ""


def is_label(part: str) -> bool:
    return re.fullmatch("(sub|ses)-[a-zA-Z0-9+]{1,64}", part) is not None


def join(there: Sequence[str], folder: str, key: str, choice: Choice) -> Joined:
    images = [name_of(file) for file in there if folder_of(file) == folder and is_image(file)]
    preprocessed = [name for name in images if entities(name).get("desc") == "preproc"]
    counted = preprocessed or [name for name in images if "desc" not in entities(name)]
    counted = [name for name in counted if is_chosen(name, choice)]
    if not counted:
        raise Refused
    for name in counted:
        if not name.startswith(f"{key}_") or not is_number(entities(name).get("run", "0")):
            raise Refused
    stems = [stem(name) for name in counted]
    if len(set(stems)) < len(stems):
        raise Refused
    if choice.select is None and len({without_run(name) for name in counted}) > 1:
        raise Refused
    counted.sort(key=lambda name: (int(entities(name).get("run", "0")), name))
    runs = [
        (f"{folder}/{name}", inherited(there, folder, name, ".bval"), inherited(there, folder, name, ".bvec"))
        for name in counted
    ]
    return Joined(tuple(runs), bool(preprocessed))


def is_chosen(name: str, choice: Choice) -> bool:
    own = entities(name)
    for kind, wanted in (("acq", choice.acq), ("dir", choice.dir)):
        if wanted is not None and own.get(kind) not in labels(wanted):
            return False
    if choice.run is not None and ("run" not in own or number(own["run"]) not in map(number, labels(choice.run))):
        return False
    return choice.select is None or fnmatch.fnmatchcase(name, choice.select)


def labels(wanted: str) -> list[str]:
    """The labels of a comma-separated text, without empty ones."""
    return [label.strip() for label in wanted.split(",") if label.strip()]


def number(run: str) -> int | str:
    """Runs are compared as integers: run-01 is run-1."""
    return int(run) if is_number(run) else run


def is_number(run: str) -> bool:
    return re.fullmatch("[0-9]+", run) is not None


def inherited(there: Sequence[str], folder: str, image: str, extension: str) -> str:
    level = folder
    while True:
        fitting = [
            file
            for file in there
            if folder_of(file) == level
            and (name_of(file) == f"dwi{extension}" or name_of(file).endswith(f"_dwi{extension}"))
            and entities(name_of(file)).items() <= entities(image).items()
        ]
        if fitting:
            most = max(len(entities(name_of(file))) for file in fitting)
            nearest = [file for file in fitting if len(entities(name_of(file))) == most]
            if len(nearest) > 1:
                raise Refused
            return nearest[0]
        if not level:
            raise Refused
        level = folder_of(level)


def is_image(file: str) -> bool:
    return name_of(file).endswith(("_dwi.nii.gz", "_dwi.nii"))


def is_hidden(file: str) -> bool:
    return any(part.startswith(".") for part in file.split("/"))


def is_ignored(file: str, patterns: Sequence[str]) -> bool:
    """As in git: a pattern cannot include a file of an ignored folder again."""
    parts = file.split("/")
    above = ["/".join(parts[:depth]) + "/" for depth in range(1, len(parts))]
    return any(GitIgnoreSpec.from_lines(patterns).match_file(path) for path in [*above, file])


def entities(name: str) -> dict[str, str]:
    """`sub-01_acq-b_dwi.nii.gz` has sub and acq; parts that are not of the form `key-label` are left out."""
    return dict(part.split("-", 1) for part in stem(name).split("_")[:-1] if "-" in part)


def without_run(name: str) -> str:
    return "_".join(part for part in stem(name).split("_") if not part.startswith("run-"))


def stem(name: str) -> str:
    """The name without its extension; a dot in a label is invalid, but belongs to the label."""
    for extension in EXTENSIONS:
        if name.endswith(extension):
            return name[: -len(extension)]
    raise ValueError(name)


def folder_of(path: str) -> str:
    return path.rpartition("/")[0]


def name_of(path: str) -> str:
    return path.rpartition("/")[2]
