"""Looks that are killed at any moment, two processes at once among them: nothing is forgotten, nothing told twice."""

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

from kwneuro_assets.dagster_internals import read_notes
from kwneuro_assets.ingestion import ledger
from kwneuro_assets.ingestion.ingest import ingest
from kwneuro_assets.ingestion.plain import open_dataset
from kwneuro_assets.ingestion.read import look_at_dwi
from kwneuro_assets.settings import PipelineSettings
from kwneuro_assets.subjects import PARTITIONS, SubjectKey
from kwneuro_assets.versioning.records import DATA_VERSION_TAG, FIRST_LOOK
from kwneuro_assets_tests.small_dataset import dwi_folder, small_settings, table, write_series

KILLS = int(os.environ.get("KWNEURO_KILLS") or 10)
SUBJECTS = [f"sub-{number:02d}" for number in range(40)]
AT_FIRST = 10
CHANGE_SECONDS = 0.1  # in which some b-vectors are replaced, as long as a process looks
TURN = f"{ledger._PREFIX}/turn"  # the note of who looks
TURN_SECONDS = 1.0  # so that the turn of a process that was killed is soon another's
MOST_WORK = 2.5  # seconds that a process looks before it is killed
READY = 2  # processes that have loaded everything and wait

INSTANCE = """
telemetry: {enabled: false}
nux: {enabled: false}
"""

LOOKS = f"""
import sys, time
from dagster import DagsterInstance
from kwneuro_assets.ingestion import ledger
from kwneuro_assets.ingestion.ingest import ingest
from kwneuro_assets.settings import PipelineSettings

ledger.TURN_SECONDS, ledger._RENEWED_AFTER = {TURN_SECONDS}, {TURN_SECONDS / 5}
settings = PipelineSettings.model_validate_json(sys.argv[2])
with DagsterInstance.from_config(sys.argv[1]) as instance:
    print("ready", flush=True)
    sys.stdin.readline()
    while True:
        try:
            print(ingest(instance, settings, seconds=5).sentence(), file=sys.stderr, flush=True)
        except ledger.TurnLost as lost:
            print(lost, file=sys.stderr, flush=True)
        time.sleep(0.02)
"""

pytestmark = pytest.mark.slow


class Lab:
    """A source whose subjects come and change whole, and the content that each has had, oldest first."""

    def __init__(self, home: Path) -> None:
        self.source, self._scratch, self.log = home / "source", home / "scratch", home / "looks.log"
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

    def turn_bvec(self, key: str, moments: random.Random) -> None:
        """Other b-vectors, which take the place of the old ones at once."""
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
        return look_at_dwi(dataset, dataset.series(SubjectKey.parse(key))).version

    def prepare(self) -> None:
        """Let processes load what they need, so that a test need not wait for it."""
        while len(self._waiting) < READY:
            with self.log.open("ab") as log:
                self._waiting.append(
                    subprocess.Popen(
                        [sys.executable, "-c", LOOKS, str(self.dagster), self.settings.model_dump_json()],
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

    def kill_those_that_wait(self) -> None:
        while self._waiting:
            self.kill(self._waiting.popleft())


def observations(instance: DagsterInstance, key: str) -> list[tuple[int, str, bool]]:
    """Event, data version, and whether it was told as the first look, oldest first."""
    wanted = AssetRecordsFilter(asset_key=AssetKey("dwi"), asset_partitions=[key])
    found = []
    for record in instance.fetch_observations(wanted, limit=1000, ascending=True).records:
        event = record.event_log_entry.asset_observation
        assert event is not None
        found.append((record.storage_id, (event.tags or {}).get(DATA_VERSION_TAG, ""), FIRST_LOOK in event.metadata))
    return found


def newest_event(instance: DagsterInstance) -> int:
    records = instance.fetch_observations(AssetRecordsFilter(asset_key=AssetKey("dwi")), limit=1).records
    return records[0].storage_id if records else 0


def is_in_order(part: list[str], whole: list[str]) -> bool:
    """Whether `part` is what remains of `whole` when some are left out."""
    rest = iter(whole)
    return all(one in rest for one in part)


def test_looks_killed_at_any_moment_forget_nothing_and_tell_nothing_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab, moments = Lab(tmp_path), random.Random(os.environ.get("KWNEURO_SEED") or 0)
    for key in SUBJECTS[:AT_FIRST]:
        lab.add(key)
    to_come = deque(SUBJECTS[AT_FIRST:])
    existed: dict[str, int] = {}  # by subject: the newest event when it was first found to be a partition
    with DagsterInstance.from_config(str(lab.dagster)) as instance:
        in_a_look = 0
        looking: list[subprocess.Popen[bytes]] = []
        try:
            for kill in range(KILLS):
                at_once = 2 if kill % 3 == 2 else 1
                while len(looking) < at_once:
                    looking.append(lab.start())
                end = time.monotonic() + moments.uniform(0, MOST_WORK)
                for _ in range(-(-len(to_come) // (KILLS - kill))):
                    lab.add(to_come.popleft())
                while (left := end - time.monotonic()) > 0:
                    lab.turn_bvec(moments.choice(sorted(lab.history)), moments)
                    time.sleep(min(left, moments.uniform(0, CHANGE_SECONDS)))
                lab.kill(looking.pop(moments.randrange(len(looking))))
                if not looking:
                    in_a_look += bool(read_notes(instance, TURN))
                # In this order: what another process tells meanwhile is before what is asked for last.
                there = instance.get_dynamic_partitions(PARTITIONS)
                newest = newest_event(instance)
                for key in there:
                    existed.setdefault(key, newest)
        finally:
            for process in looking:
                lab.kill(process)
            lab.kill_those_that_wait()
        kills = KILLS + len(looking)
        monkeypatch.setattr(ledger, "TURN_SECONDS", TURN_SECONDS)
        before = len(existed)
        ingest(instance, lab.settings)
        assert sorted(instance.get_dynamic_partitions(PARTITIONS)) == sorted(lab.history) == SUBJECTS
        told = {key: observations(instance, key) for key in SUBJECTS}
        newest = newest_event(instance)
        last = ingest(instance, lab.settings)
        assert last.unchanged == SUBJECTS
        assert newest_event(instance) == newest
    repeats = 0
    for key in SUBJECTS:
        versions = [version for _, version, _ in told[key]]
        assert versions[-1] == lab.history[key][-1] == lab.version(key)
        changes = [version for index, version in enumerate(versions) if versions[index - 1 : index] != [version]]
        assert is_in_order(changes, lab.history[key]), "what has come once does not come again after another"
        firsts = [index for index, (_, _, is_first) in enumerate(told[key]) if is_first]
        assert firsts
        assert firsts == list(range(len(firsts))), "before it is a partition it has first looks, and none after"
        assert len(firsts) <= 1 + kills
        assert [event for event, _, is_first in told[key] if is_first and event > existed.get(key, newest)] == []
        life = versions[len(firsts) - 1 :]
        repeats += sum(one == other for one, other in itertools.pairwise(life))
    first_looks = sum(is_first for events in told.values() for _, _, is_first in events) - len(SUBJECTS)
    print(f"{kills} kills, {in_a_look} of a single process in a look: {repeats} observations "
          f"and {first_looks} first looks twice, "
          f"{sum(map(len, told.values()))} in all, {before} partitions before the last look")  # fmt: skip
    assert repeats <= kills
