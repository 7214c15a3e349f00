"""Ingests that are killed at any moment, also with two processes: no event is missing, and none is recorded twice."""

from __future__ import annotations

import itertools
import os
import random
import subprocess
import sys
import time
from collections import deque
from pathlib import Path

import numpy as np
import pytest
from dagster import AssetKey, AssetRecordsFilter, DagsterInstance

from kwneuro_assets.ingestion import ingest_index as index
from kwneuro_assets.ingestion.custom_layout import open_dataset
from kwneuro_assets.ingestion.ingest import ingest
from kwneuro_assets.ingestion.read_source import scan_dwi
from kwneuro_assets.settings import PipelineSettings
from kwneuro_assets.subjects import SubjectKey
from kwneuro_assets.versioning.dagster_internals import read_values
from kwneuro_assets.versioning.partitions import PARTITIONS
from kwneuro_assets.versioning.records import DATA_VERSION_TAG, FIRST_SCAN
from kwneuro_assets_tests.testkit.small_dataset import dwi_folder, small_settings, table, write_series

KILLS = int(os.environ.get("KWNEURO_KILLS") or 10)
SUBJECTS = [f"sub-{number:02d}" for number in range(40)]
AT_FIRST = 10
CHANGE_SECONDS = 0.1  # maximum between two replaced bvec files while a process ingests
LOCK_SECONDS = 1.0  # so that the lock of a killed process expires soon
MAX_SECONDS = 2.5  # that a process ingests before it is killed
READY = 2  # processes that are loaded and wait

INSTANCE = """
telemetry: {enabled: false}
nux: {enabled: false}
"""

INGESTS = f"""
import sys, time
from dagster import DagsterInstance
from kwneuro_assets.ingestion import ingest_index as index
from kwneuro_assets.ingestion.ingest import ingest
from kwneuro_assets.settings import PipelineSettings

index.LOCK_SECONDS, index._HEARTBEAT_SECONDS = {LOCK_SECONDS}, {LOCK_SECONDS / 5}
settings = PipelineSettings.model_validate_json(sys.argv[2])
with DagsterInstance.from_config(sys.argv[1]) as instance:
    print("ready", flush=True)
    sys.stdin.readline()
    while True:
        try:
            print(ingest(instance, settings, seconds=5).summary(), file=sys.stderr, flush=True)
        except index.LockLost as error:
            print(error, file=sys.stderr, flush=True)
        time.sleep(0.02)
"""

pytestmark = pytest.mark.slow


class Lab:
    """A source whose subjects arrive and change atomically, and the data versions of each, oldest first."""

    def __init__(self, home: Path) -> None:
        self.source, self._scratch, self.log = home / "source", home / "scratch", home / "ingests.log"
        self.source.mkdir()
        self.settings: PipelineSettings = small_settings(
            self.source, home / "store", brain_mask={"method": "hd-bet"}, checks={"gradients": False}
        )
        self.dagster = home / "dagster"
        self.dagster.mkdir()
        (self.dagster / "dagster.yaml").write_text(INSTANCE)
        self.history: dict[str, list[str]] = {}
        self._waiting: deque[subprocess.Popen[bytes]] = deque()

    def add(self, key: str) -> None:
        write_series(self._scratch, key, directions=table((1000.0,), 8))
        (self._scratch / key).rename(self.source / key)
        self.history[key] = [self.version(key)]

    def replace_bvec(self, key: str, moments: random.Random) -> None:
        """Replace the b-vectors of a subject atomically."""
        folder = dwi_folder(self.source, key)
        bvec, hidden = folder / f"{key}_dwi.bvec", folder / f".{key}_dwi.bvec.new"
        vectors = np.loadtxt(bvec)
        angle = moments.uniform(0.5, 3)
        vectors[:2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]] @ vectors[:2]
        np.savetxt(hidden, vectors, fmt="%.8f")
        hidden.rename(bvec)
        self.history[key].append(self.version(key))

    def version(self, key: str) -> str:
        dataset = open_dataset(self.settings.source)
        return scan_dwi(dataset, dataset.series(SubjectKey.parse(key))).version

    def prepare(self) -> None:
        """Start processes in advance, so that the test does not wait while they load."""
        while len(self._waiting) < READY:
            with self.log.open("ab") as log:
                self._waiting.append(
                    subprocess.Popen(
                        [sys.executable, "-c", INGESTS, str(self.dagster), self.settings.model_dump_json()],
                        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log,
                    )
                )  # fmt: skip

    def start(self) -> subprocess.Popen[bytes]:
        self.prepare()
        process = self._waiting.popleft()
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n", self.log.read_text()[-5000:]
        process.stdin.write(b"go\n")
        process.stdin.flush()
        self.prepare()
        return process

    def kill(self, process: subprocess.Popen[bytes]) -> None:
        assert process.poll() is None, self.log.read_text()[-5000:]
        with process:  # closes its pipes, and waits for it
            process.kill()

    def kill_waiting(self) -> None:
        while self._waiting:
            self.kill(self._waiting.popleft())


def observations(instance: DagsterInstance, key: str) -> list[tuple[int, str, bool]]:
    """Event id, data version, and whether it is marked as the first scan, oldest first."""
    wanted = AssetRecordsFilter(asset_key=AssetKey("dwi"), asset_partitions=[key])
    found = []
    for record in instance.fetch_observations(wanted, limit=1000, ascending=True).records:
        event = record.event_log_entry.asset_observation
        assert event is not None
        found.append((record.storage_id, (event.tags or {}).get(DATA_VERSION_TAG, ""), FIRST_SCAN in event.metadata))
    return found


def newest_event(instance: DagsterInstance) -> int:
    records = instance.fetch_observations(AssetRecordsFilter(asset_key=AssetKey("dwi")), limit=1).records
    return records[0].storage_id if records else 0


def is_subsequence(part: list[str], sequence: list[str]) -> bool:
    rest = iter(sequence)
    return all(one in rest for one in part)


def test_killed_ingests_miss_no_event_and_repeat_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lab, moments = Lab(tmp_path), random.Random(os.environ.get("KWNEURO_SEED") or 0)
    for key in SUBJECTS[:AT_FIRST]:
        lab.add(key)
    to_come = deque(SUBJECTS[AT_FIRST:])
    existed: dict[str, int] = {}  # by subject: the newest event when it was first found as a partition
    with DagsterInstance.from_config(str(lab.dagster)) as instance:
        killed_with_lock = 0
        running: list[subprocess.Popen[bytes]] = []
        try:
            for kill in range(KILLS):
                at_once = 2 if kill % 3 == 2 else 1
                while len(running) < at_once:
                    running.append(lab.start())
                end = time.monotonic() + moments.uniform(0, MAX_SECONDS)
                for _ in range(-(-len(to_come) // (KILLS - kill))):
                    lab.add(to_come.popleft())
                while (left := end - time.monotonic()) > 0:
                    lab.replace_bvec(moments.choice(sorted(lab.history)), moments)
                    time.sleep(min(left, moments.uniform(0, CHANGE_SECONDS)))
                lab.kill(running.pop(moments.randrange(len(running))))
                if not running:
                    killed_with_lock += bool(read_values(instance, index.LOCK_NAME))
                # In this order: what another process records meanwhile is in the second query, too.
                partitions = instance.get_dynamic_partitions(PARTITIONS)
                newest = newest_event(instance)
                for key in partitions:
                    existed.setdefault(key, newest)
        finally:
            for process in running:
                lab.kill(process)
            lab.kill_waiting()
        kills = KILLS + len(running)
        monkeypatch.setattr(index, "LOCK_SECONDS", LOCK_SECONDS)
        before = len(existed)
        ingest(instance, lab.settings)
        assert sorted(instance.get_dynamic_partitions(PARTITIONS)) == sorted(lab.history) == SUBJECTS
        events = {key: observations(instance, key) for key in SUBJECTS}
        newest = newest_event(instance)
        last = ingest(instance, lab.settings)
        assert last.unchanged == SUBJECTS
        assert newest_event(instance) == newest
    repeats = 0
    for key in SUBJECTS:
        versions = [version for _, version, _ in events[key]]
        assert versions[-1] == lab.history[key][-1] == lab.version(key)
        changes = [version for index, version in enumerate(versions) if versions[index - 1 : index] != [version]]
        assert is_subsequence(changes, lab.history[key]), "an older content never follows a newer one"
        firsts = [index for index, (_, _, is_first) in enumerate(events[key]) if is_first]
        assert firsts
        assert firsts == list(range(len(firsts))), "all first scans are before the partition exists"
        assert len(firsts) <= 1 + kills
        assert [event for event, _, is_first in events[key] if is_first and event > existed.get(key, newest)] == []
        life = versions[len(firsts) - 1 :]
        repeats += sum(one == other for one, other in itertools.pairwise(life))
    first_scans = sum(is_first for one in events.values() for _, _, is_first in one) - len(SUBJECTS)
    print(f"{kills} kills, {killed_with_lock} of a single process with the lock: {repeats} observations "
          f"and {first_scans} first scans twice, "
          f"{sum(map(len, events.values()))} in all, {before} partitions before the last ingest")  # fmt: skip
    assert repeats <= kills
