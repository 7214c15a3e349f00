"""Files that are being copied: an incomplete subject is neither added nor observed, whatever the order of its files."""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from dagster import AssetKey, AssetRecordsFilter, DagsterInstance

from kwneuro_assets.ingestion import ingest as ingest_module
from kwneuro_assets.ingestion import subject_files as files_module
from kwneuro_assets.ingestion.custom_layout import open_dataset
from kwneuro_assets.ingestion.ingest import ingest
from kwneuro_assets.ingestion.ingest_report import IngestReport
from kwneuro_assets.ingestion.read_source import scan_dwi
from kwneuro_assets.settings import PipelineSettings
from kwneuro_assets.storage import files
from kwneuro_assets.storage.files import Fingerprint
from kwneuro_assets.subjects import SubjectKey
from kwneuro_assets.versioning.partitions import PARTITIONS
from kwneuro_assets.versioning.records import DATA_VERSION_TAG
from kwneuro_assets_tests.testkit.small_dataset import dwi_folder, small_settings, table, write_series

SETTLE = 30.0  # seconds
PAUSE = 20.0  # maximum seconds between two steps of a copy
STALL = 100.0  # maximum seconds between two steps of a copy that stalls
SUBJECTS = 10  # that arrive in one test
ORDERS = 100
EXTENSIONS = (".nii.gz", ".bval", ".bvec")
PROBLEMS = {"quarantined", "removed"}


@dataclass
class Place:
    """A source with a simulated clock, which also gives the modification times of its files."""

    source: Path
    now: float = 1e9
    written: dict[str, float] = field(default_factory=dict)

    def write(self, path: Path, content: bytes, *, more: bool = False) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab" if more else "wb") as file:
            file.write(content)
        self.written[str(path)] = self.now

    def rename(self, path: Path, target: Path) -> None:
        path.rename(target)
        self.written[str(target)] = self.now


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    place = Place(tmp_path / "source")
    place.source.mkdir()
    fingerprint_of_disk = files._local_fingerprint

    def fingerprint(entry: os.DirEntry[str] | Path) -> Fingerprint:
        found, path = fingerprint_of_disk(entry), os.fspath(entry)
        is_arriving = found.tag and path.startswith(str(place.source))
        return replace(found, changed=place.written[path]) if is_arriving else found

    monkeypatch.setattr(files, "_local_fingerprint", fingerprint)
    clock = SimpleNamespace(time=lambda: place.now, monotonic=time.monotonic, sleep=time.sleep)
    for module in (ingest_module, files_module):
        monkeypatch.setattr(module, "time", clock)
    return place


def settings_for(source: Path, settle_seconds: float = SETTLE) -> PipelineSettings:
    return small_settings(
        source, source.parent / "store", brain_mask={"method": "hd-bet"}, ingestion={"settle_seconds": settle_seconds}
    )


def tick(instance: DagsterInstance, place: Place) -> IngestReport:
    return ingest(instance, settings_for(place.source), seconds=10)


def complete_files(scratch: Path, key: str, brightness: float = 1.0) -> tuple[dict[str, bytes], str]:
    """The files to copy, by name, and their data version; all subjects differ."""
    write_series(scratch, key, directions=table((1000.0,), 12), brightness=brightness)
    contents = {path.name: path.read_bytes() for path in sorted(dwi_folder(scratch, key).iterdir())}
    assert sorted(contents) == sorted(f"{key}_dwi{extension}" for extension in EXTENSIONS)
    return contents, version_of(scratch, key)


def version_of(source: Path, key: str) -> str:
    dataset = open_dataset(settings_for(source).source)
    return scan_dwi(dataset, dataset.series(SubjectKey.parse(key))).version


def versions(instance: DagsterInstance, key: str) -> list[str]:
    """The observed data versions of a subject, oldest first, without observations of a problem."""
    wanted = AssetRecordsFilter(asset_key=AssetKey("dwi"), asset_partitions=[key])
    found = []
    for record in instance.fetch_observations(wanted, limit=1000, ascending=True).records:
        event = record.event_log_entry.asset_observation
        assert event is not None
        if not PROBLEMS & set(event.metadata):
            found.append((event.tags or {})[DATA_VERSION_TAG])
    return found


Step = Callable[[], object]


def steps_of_a_file(place: Place, target: Path, content: bytes, moments: random.Random) -> list[tuple[Step, bool]]:
    """The steps in which one file is copied, each with whether the copy may stall after it.

    It may not if the incomplete file could pass for a complete one: a truncated gradient table shows only by its number
    of columns.
    """
    pieces = moments.randint(1, 3)
    places = range(
        len(content) - 12 if moments.random() < 0.3 else 1, len(content)
    )  # sometimes only the last bytes are missing
    cuts = sorted(moments.sample(places, pieces - 1))
    parts = [content[start:end] for start, end in zip([0, *cuts], [*cuts, len(content)], strict=True)]
    method = moments.choice(["cp", "rsync", "part"])
    hidden = target.with_name(f".{target.name}.{moments.randrange(10**6):06d}")
    path = {"cp": target, "rsync": hidden, "part": target.with_name(f"{target.name}.part")}[method]
    may_stall = method != "cp" or target.name.endswith(".nii.gz")
    steps: list[tuple[Step, bool]] = [
        (lambda part=part, more=index > 0: place.write(path, part, more=more), may_stall or index == pieces - 1)
        for index, part in enumerate(parts)
    ]
    if method == "rsync":

        def set_the_date() -> None:
            os.utime(path, (1e8, 1e8))
            place.written[str(path)] = place.now

        steps.append((set_the_date, True))
    if method != "cp":
        steps.append((lambda: place.rename(path, target), True))
    return steps


@pytest.mark.parametrize("seed", range(ORDERS // SUBJECTS))
def test_only_complete_subjects_are_ingested_whatever_the_order_of_files(
    instance: DagsterInstance, place: Place, tmp_path: Path, seed: int
) -> None:
    moments, stalls = random.Random(seed), seed % 2 == 1
    left: dict[str, list[tuple[Step, bool]]] = {}
    expected: dict[str, str] = {}
    for number in range(SUBJECTS):
        key = f"sub-{number:02d}"
        contents, expected[key] = complete_files(tmp_path / "scratch", key, 1 + number)
        names = sorted(contents)
        moments.shuffle(names)
        folder = dwi_folder(place.source, key)
        left[key] = [step for name in names for step in steps_of_a_file(place, folder / name, contents[name], moments)]
    finished: dict[str, float] = {}
    while any(left.values()):
        place.now += moments.uniform(0, PAUSE)
        may_stall = stalls
        for key in [key for key in left if left[key]]:
            step, harmless = left[key].pop(0)
            step()
            may_stall &= harmless
            if not left[key]:
                finished[key] = place.now
        if may_stall and moments.random() < 0.5:
            place.now += moments.uniform(0, STALL)
        report = tick(instance, place)
        ready = {key for key, moment in finished.items() if place.now - moment >= SETTLE}
        assert set(instance.get_dynamic_partitions(PARTITIONS)) == ready
        assert not stalls or set(report.arriving).isdisjoint(ready)
        assert {key: versions(instance, key) for key in left} == {
            key: [expected[key]] if key in ready else [] for key in left
        }
        if not stalls:
            assert report.quarantined == {}
    place.now += SETTLE
    report = tick(instance, place)
    assert report.usable == sorted(expected)
    assert report.quarantined == report.arriving == {}
    assert {key: versions(instance, key) for key in left} == {key: [version] for key, version in expected.items()}
    assert sorted(instance.get_dynamic_partitions(PARTITIONS)) == sorted(expected)
    place.now += SETTLE
    assert tick(instance, place).unchanged == sorted(expected)


def test_a_stalled_copy_is_quarantined_and_ingested_when_it_is_complete(
    instance: DagsterInstance, place: Place, tmp_path: Path
) -> None:
    contents, version = complete_files(tmp_path / "scratch", "sub-01")
    folder = dwi_folder(place.source, "sub-01")
    for name, content in contents.items():
        place.write(folder / name, content[: len(content) // 2] if name.endswith(".nii.gz") else content)
    image, content = folder / "sub-01_dwi.nii.gz", contents["sub-01_dwi.nii.gz"]
    assert list(tick(instance, place).arriving) == ["sub-01"]
    place.now += SETTLE
    report = tick(instance, place)
    assert list(report.quarantined) == ["sub-01"]
    assert instance.get_dynamic_partitions(PARTITIONS) == []
    place.write(image, content[len(content) // 2 :], more=True)
    assert list(tick(instance, place).arriving) == ["sub-01"]
    assert versions(instance, "sub-01") == []
    place.now += SETTLE
    assert tick(instance, place).added == ["sub-01"]
    assert versions(instance, "sub-01") == [version]


@pytest.mark.parametrize("stalls", [False, True], ids=["continuous", "with stalls"])
def test_a_replaced_bvec_is_not_observed_while_it_is_incomplete(
    instance: DagsterInstance, place: Place, tmp_path: Path, stalls: bool
) -> None:
    contents, first = complete_files(tmp_path / "scratch", "sub-01")
    folder = dwi_folder(place.source, "sub-01")
    for name, content in contents.items():
        place.write(folder / name, content)
    place.now += SETTLE
    assert tick(instance, place).added == ["sub-01"]
    bvec = dwi_folder(tmp_path / "scratch", "sub-01") / "sub-01_dwi.bvec"
    np.savetxt(bvec, np.loadtxt(bvec) * [[-1], [1], [1]], fmt="%.8f")
    second, content = version_of(tmp_path / "scratch", "sub-01"), bvec.read_bytes()
    place.write(folder / bvec.name, b"")
    # Each step is larger than the digits of the last number, whose absence cannot be detected.
    step = -(-len(content) // 5)
    for start in range(0, len(content), step):
        place.now += STALL if stalls else PAUSE
        report = tick(instance, place)
        assert list(report.quarantined if stalls else report.arriving) == ["sub-01"]
        assert versions(instance, "sub-01") == [first]
        place.write(folder / bvec.name, content[start : start + step], more=True)
    assert list(tick(instance, place).arriving) == ["sub-01"]
    place.now += SETTLE
    assert tick(instance, place).changed == ["sub-01"]
    assert versions(instance, "sub-01") == [first, second]


def test_a_growing_file_is_arriving_by_the_clock_of_the_file_system(instance: DagsterInstance, tmp_path: Path) -> None:
    contents, version = complete_files(tmp_path / "scratch", "sub-01")
    source = tmp_path / "source"
    folder = dwi_folder(source, "sub-01")
    folder.mkdir(parents=True)
    settings = settings_for(source, settle_seconds=1)
    finished: list[float] = []

    def copy() -> None:
        for name in sorted(contents, reverse=True):  # the image last
            content, pieces = contents[name], 12 if name.endswith(".nii.gz") else 1
            size = -(-len(content) // pieces)
            with (folder / name).open("wb") as file:
                for start in range(0, len(content), size):
                    time.sleep(0.25)
                    finished[:] = [time.time()] if start + size >= len(content) else []
                    file.write(content[start : start + size])
                    file.flush()
                    os.utime(file.fileno(), (1e9, 1e9))  # as rsync and cp -p do

    copying = threading.Thread(target=copy)
    copying.start()
    deadline = time.monotonic() + 15
    added: list[str] = []
    while not added and time.monotonic() < deadline:
        added = ingest(instance, settings, seconds=10).added
        now = time.time()
        assert copying.is_alive() or finished
        if added:
            assert not copying.is_alive()
            assert now - finished[0] >= 0.9  # the clock of the file system is coarse
        time.sleep(0.1)
    copying.join()
    assert added == ["sub-01"]
    assert versions(instance, "sub-01") == [version]
