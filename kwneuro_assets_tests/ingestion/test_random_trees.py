"""For random file trees, the index of a dataset finds, joins and refuses the same as the reference implementation.

The trees have complete DWI series, DWI series with typical mistakes (gradient tables in parent folders or missing, two
kinds in one folder, a copy, incomplete transfers), invalid names, `.bidsignore`, and settings that choose. The files
are empty: only names count here.

    KWNEURO_TREES=20000 python -m pytest -s kwneuro_assets_tests/ingestion/test_random_trees.py -k on_disk
"""

from __future__ import annotations

import os
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from upath import UPath

from kwneuro_assets.imaging import InvalidData
from kwneuro_assets.ingestion.dataset import SourceDataset
from kwneuro_assets.settings import SourceSettings
from kwneuro_assets.storage import listing_s3
from kwneuro_assets_tests.ingestion.reference_index import Answer, Choice, Joined, index, is_ignored
from kwneuro_assets_tests.testkit.s3_server import S3Bucket

TREES = int(os.environ.get("KWNEURO_TREES", "150"))
LONGEST_NAME = 255  # bytes, on most file systems
HOSTILE = (
    "", "0 1", "01 ", "a\nb", "é", "\N{FULLWIDTH DIGIT ONE}", "..", "x_y", "0/1", "0\\1", "01+", "a#b", "%41", "a?b",
    "[ab]", "*", "~", "x" * 65, "x" * 240, "x" * 300, *["01_ses-a", "02_ses-b"] * 4,
)  # fmt: skip
OTHER_FOLDERS = ("sourcedata", "derivatives/preproc", "derivatives/other pipeline", "code", ".git/annex", "group-01")


@dataclass(frozen=True)
class Tree:
    """The paths of all files below a root, and the lines of its `.bidsignore`, if it has one."""

    files: tuple[str, ...]
    ignore: tuple[str, ...] | None

    def contents(self) -> dict[str, bytes]:
        found = dict.fromkeys(self.files, b"")
        if self.ignore is not None:
            found[".bidsignore"] = "\n".join(self.ignore).encode()
        return found


def _mostly(usual: Sequence[Any], rare: Sequence[Any], odds: int = 8) -> st.SearchStrategy[Any]:
    """One of the usual values, and once in `odds` draws one of the rare ones."""
    return st.integers(1, odds).flatmap(lambda drawn: st.sampled_from(rare if drawn == odds else usual))


def _once_in(odds: int) -> st.SearchStrategy[bool]:
    return st.integers(1, odds).map(lambda drawn: drawn == odds)


SUBJECTS = _mostly(("sub-01", "sub-02", "sub-aA", "sub-aa", "sub-" + "x" * 64), [f"sub-{x}" for x in HOSTILE], 6)
SESSIONS = _mostly(("", "", "ses-a", "ses-b", "ses-A", "ses-01"), [f"ses-{x}" for x in HOSTILE], 12)
KINDS = _mostly(
    ("", "", "_acq-a", "_acq-b", "_dir-AP", "_acq-a_dir-AP", "_acq-a_dir-PA", "_desc-preproc", "_acq-b_desc-preproc"),
    ("_desc-denoised", "_acq-", "_desc-", "_acq-1.5", "_desc-a.b", "_old", "_acq-a\nb", "_acq-a b", "_dir-é"),
)
RUNS = _mostly(
    ("", "_run-1", "_run-2", "_run-02", "_run-10"),
    ("_run-two", "_run-", "_run-\N{ARABIC-INDIC DIGIT THREE}", "_run-1.5", "_run--1"),
)
IMAGES = _mostly((".nii.gz",), (".nii",), 4)
FOREIGN = (
    "_sbref.nii.gz", "_dwi.json", "_dwi.nii.gz.part", "_dwi.nii.gz.crdownload", "_T1w.nii", "_dwi.NII.GZ", "_dwi.bvals",
    "_DWI.nii.gz", "_dwi.nii.gz/inside", "_dwi.bval/inside",
)  # fmt: skip
PATTERNS = (
    "# none", "", "sub-01/", "/sub-02", "sub-aa", "ses-a/", "sub-*/ses-b/**", "dwi", "**/dwi/", "*_acq-b_*", "*.bval",
    "*_run-2_dwi.nii.gz", "sub-0?/*/*.bvec", "!sub-01*", "!*.bval", "sub-[13]*", "*copy*", "derivatives/", "*.nii",
    "* *",
)  # fmt: skip


@st.composite
def choices(draw: st.DrawFn) -> Choice:
    """The choice by the settings: mostly none."""
    return Choice(
        acq=draw(_mostly((None,), ("a", "b", "a, b", "a,", "c"), 5)),
        dir=draw(_mostly((None,), ("AP", "PA", "AP,PA", "ap"), 6)),
        run=draw(_mostly((None,), ("1", "01,2", "2, 10", "two", "1,"), 5)),
        select=draw(_mostly((None,), ("*", "*dir-AP*", "*_acq-[ab]*", "*_run-*", "*.nii", "sub-01*", "*copy*"), 4)),
    )


@st.composite
def trees(draw: st.DrawFn) -> Tree:
    files = ["dataset_description.json"]
    # Few names, many series: some belong to one subject, so that one folder has several kinds.
    for _ in range(draw(st.integers(3, 9))):
        files += draw(_series())
    for other in draw(st.lists(st.sampled_from(OTHER_FOLDERS), max_size=2)):
        files += [f"{other}/{file}" for file in draw(_series())]
    for extension in (".bval", ".bvec"):
        files += [f"dwi{extension}"] * draw(_once_in(6))
    patterns = st.one_of(st.sampled_from(PATTERNS), st.sampled_from(files))
    ignore = draw(st.lists(patterns, min_size=1, max_size=4)) if draw(_once_in(3)) else None
    lines = None if ignore is None else tuple(ignore)
    return Tree(_possible(files), lines and tuple(line.replace("\n", "?") for line in lines))


@st.composite
def _series(draw: st.DrawFn) -> list[str]:
    """The files of a subject, of one kind except for mistakes."""
    subject, session = draw(SUBJECTS), draw(SESSIONS)
    above = f"{subject}/{session}" if session else subject
    levels = [f"{above}/dwi", above, subject, ""] if session else [f"{above}/dwi", above, ""]
    key = f"{subject}_{session}" if session else subject
    kind = draw(KINDS)
    files = list[str]()
    for run in sorted({draw(RUNS) for _ in range(draw(st.integers(1, 3)))}):
        name = f"{draw(_mostly((key,), (subject, 'sub-01', 'sub-02_ses-a', f'.{key}', ''), 24))}{kind}{run}"
        files += [f"{levels[0]}/{name}_dwi{extension}" for extension in draw(_image_extensions())]
        for extension in (".bval", ".bvec"):
            files += draw(_tables(levels, name, extension))
    if draw(_once_in(4)):
        files.append(f"{levels[0]}/{key}{kind}{draw(st.sampled_from(FOREIGN))}")
    if draw(_once_in(8)):  # a copy that a user made
        files.append(f"{levels[0]}/{key}{kind}_{draw(st.sampled_from(('copy', 'old', '1')))}_dwi.nii.gz")
    if draw(_once_in(6)):  # the temporary file of rsync
        files.append(f"{levels[0]}/.{key}{kind}_dwi.nii.gz.Xa1B2c")
    return files


@st.composite
def _image_extensions(draw: st.DrawFn) -> list[str]:
    return [".nii.gz", ".nii"] if draw(_once_in(16)) else [draw(IMAGES)]


@st.composite
def _tables(draw: st.DrawFn, levels: list[str], name: str, extension: str) -> list[str]:
    """The gradient tables of this image: mostly one beside it, with the same name."""
    how = draw(_mostly(("beside", "beside", "beside", "above"), ("missing", "both", "two", "hidden"), 5))
    places = {"beside": 1, "above": 0, "missing": 0, "both": 1, "two": 0, "hidden": 0}[how]
    files = [f"{levels[0]}/{name}_dwi{extension}"] * places
    entities = name.split("_")
    for _ in range({"above": 1, "both": 1, "two": 2}.get(how, 0)):
        level = draw(st.sampled_from(levels[1:] if how == "above" else levels))
        # Mostly without the run, as for a table that applies to all runs.
        remaining = [part for part in entities if not draw(_once_in(2 if part.startswith("run-") else 4))]
        files.append(f"{level}/{'_'.join([*remaining, 'dwi'])}{extension}".lstrip("/"))
    if how == "hidden":
        files.append(f"{levels[0]}/.{name}_dwi{extension}")
    return files


def _possible(files: list[str]) -> tuple[str, ...]:
    """The paths that a file system accepts: no name is too long, and none is both a file and a folder."""
    short = [file for file in files if all(0 < len(part.encode()) <= LONGEST_NAME for part in file.split("/"))]
    folders = {file[:at] for file in short for at, letter in enumerate(file) if letter == "/"}
    return tuple(sorted({file for file in short if file not in folders and ".." not in file.split("/")}))


def answer(url: str, choice: Choice) -> Answer:
    """The answer of the index under test, in the form of the reference."""
    dataset = SourceDataset(SourceSettings(url=url, **asdict(choice)))
    subjects, refused = dataset.subjects()
    assert len(set(subjects)) == len(subjects)
    assert subjects == sorted(subjects, key=str)
    series: dict[str, Joined | None] = {}
    for subject in subjects:
        try:
            found = dataset.series(subject)
        except InvalidData:
            series[str(subject)] = None
            continue
        assert found.subject == subject
        runs = [tuple(dataset.relative(path) for path in (run.image, run.bval, run.bvec)) for run in found.runs]
        series[str(subject)] = Joined(tuple(runs), found.interpolated)  # type: ignore[arg-type]
    assert all(isinstance(error, InvalidData) and error.where for error in refused.values())
    return Answer(series, frozenset(refused))


def features(found: Answer, tree: Tree, choice: Choice) -> Iterator[str]:
    """The features of a tree."""
    for joined in found.series.values():
        if joined is None:
            yield "a series that is refused"
            continue
        yield "a series"
        yield from ["several runs"] * (len(joined.runs) > 1)
        yield from ["an interpolated series"] * joined.interpolated
        yield from ["what the settings chose"] * (choice != Choice())
        for image, *tables in joined.runs:
            levels = {image.count("/") - table.count("/") for table in tables}
            yield from ["a table from above"] * (max(levels) > 0)
            yield from ["a table from the root"] * any("/" not in table for table in tables)
    yield from ["a name that is refused"] * bool(found.refused)
    yield from ["names that differ in case"] * (len({key.lower() for key in found.refused}) < len(found.refused))
    yield from ["ignored files"] * any(is_ignored(file, tree.ignore or ()) for file in tree.files)


Place = Callable[[Tree], AbstractContextManager[str]]


@contextmanager
def on_disk(tree: Tree) -> Iterator[str]:
    with tempfile.TemporaryDirectory() as folder:
        for name, content in tree.contents().items():
            path = Path(folder, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        Path(folder, "sub-04", "dwi").mkdir(parents=True)  # an empty folder, which S3 cannot have
        yield folder


@contextmanager
def in_memory(tree: Tree) -> Iterator[str]:
    root = UPath("memory:///random-trees/study")
    for name, content in tree.contents().items():
        root.fs.pipe_file(f"{root.path}/{name}", content)
    try:
        yield str(root)
    finally:
        root.fs.rm(root.path, recursive=True)


def compare(examples: int, place: Place, drawn: st.SearchStrategy[Tree] | None = None) -> Counter[str]:
    """Draw this many trees, compare the answers for each, and count the features."""
    counts: Counter[str] = Counter()

    @hypothesis_settings(
        max_examples=examples,
        derandomize="KWNEURO_TREES" not in os.environ,
        database=None,
        deadline=None,
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
    )
    @given(trees() if drawn is None else drawn, choices())
    def one(tree: Tree, choice: Choice) -> None:
        expected = index(tree.files, tree.ignore or (), choice)
        with place(tree) as url:
            assert answer(url, choice) == expected
        counts.update(features(expected, tree, choice))

    one()
    print(f"\n{examples} trees: " + ", ".join(f"{count} x {what}" for what, count in counts.most_common()))
    return counts


def test_the_index_of_any_tree_on_disk_is_that_of_the_reference() -> None:
    counts = compare(TREES, on_disk)
    if TREES >= 150:  # all features are drawn
        assert len(counts) == 10
        assert min(counts.values()) >= TREES // 10


def test_the_same_tree_in_an_object_store_has_the_same_index() -> None:
    compare(TREES, in_memory)


@pytest.mark.slow
def test_the_same_tree_on_s3_has_the_same_index_wherever_a_page_ends(
    s3_bucket: S3Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, number = s3_bucket.server.client, iter(range(10**9))

    @contextmanager
    def on_s3(tree: Tree) -> Iterator[str]:
        prefix = f"tree-{next(number)}"
        monkeypatch.setattr(listing_s3, "PAGE", 2 + len(tree.files) % 3)
        for name, content in tree.contents().items():
            client.put_object(Bucket=s3_bucket.name, Key=f"{prefix}/{name}", Body=content)
        url = f"{s3_bucket.url}/{prefix}"
        SourceDataset(
            SourceSettings(url=url)
        ).subjects()  # the second listing requests pages by their former boundaries
        yield url

    # Unlike S3, moto supports no key with a newline.
    drawn = trees().map(lambda tree: replace(tree, files=tuple(file for file in tree.files if "\n" not in file)))
    compare(max(TREES // 3, 1), on_s3, drawn)
