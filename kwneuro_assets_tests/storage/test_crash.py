"""Processes that are killed while they write: what is read then is whole, or is told to be missing.

`KWNEURO_KILLS` sets how often, in each of the two slow tests and on each kind of store.
"""

from __future__ import annotations

import json
import os
import random
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from click.testing import CliRunner

import kwneuro_assets
from kwneuro_assets.cli import main
from kwneuro_assets.storage import lease
from kwneuro_assets.storage.names import NAMES
from kwneuro_assets.storage.store import DerivativeStore, StoreError
from kwneuro_assets.versioning.content import data_version
from kwneuro_assets_tests.project import Project
from kwneuro_assets_tests.small_dataset import table, write_mask, write_series
from kwneuro_assets_tests.storage.conftest import Place
from kwneuro_assets_tests.storage.writers import (
    ASSET,
    QUICK_LEASE,
    SUBJECT,
    Writer,
    names_of,
    run_command,
    standing,
    write,
    write_for_ever,
    write_until_files_are_safe,
)

KILLS = os.environ.get("KWNEURO_KILLS")
WRITER_KILLS = {"local": int(KILLS or 50), "s3": int(KILLS or 10)}
RUN_KILLS = int(KILLS or 10)
MADE = ("denoised_dwi", "mean_b0", "brain_mask", "dti", "fiber_response", "csd_peaks")  # what takes a second or less


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seconds in QUICK_LEASE.items():
        monkeypatch.setattr(lease, name, seconds)


@pytest.mark.slow
def test_a_writer_killed_at_any_moment_leaves_the_old_value_the_new_one_or_none(place: Place) -> None:
    kills = WRITER_KILLS[place.kind]
    moments = random.Random(place.kind)
    store = DerivativeStore(place.url)
    write(store, 0)  # with the description of the store
    start = time.monotonic()
    write(store, 1)
    longest = 2 * (time.monotonic() - start)  # between the begin of a first write and the kill: some two writes
    stood: int | None = 1
    number = 2
    left: Counter[str] = Counter()
    for _ in range(kills):
        with Writer(write_for_ever, place.url, number, QUICK_LEASE) as writer:
            told = [writer.next()]
            time.sleep(moments.uniform(0, longest))
            writer.kill()
            told += writer.rest()
        begun, done = told[-1], told.count(told[-1]) == 2
        old = begun - 1 if begun > number else stood
        stood, number = standing(store), begun + 1
        assert stood in ([begun] if done else [old, begun, None])
        left["all done" if done else "new" if stood == begun else "old" if stood == old else "none"] += 1
    print(f"{place.kind}: of {kills} kills within {longest:.2f} s, in {number} writes, left behind: {dict(left)}")
    write(store, number)
    assert place.names() == names_of(store, ASSET)


@pytest.mark.parametrize("before", [None, 1])
def test_what_a_killed_writer_left_is_invisible_and_removed_by_the_next_write_of_the_same_derivative(
    place: Place, before: int | None
) -> None:
    store = DerivativeStore(place.url)
    write(store, 3, "mean_b0")
    whole = ["mean_b0"]
    if before is not None:
        write(store, before)
        whole.append(ASSET)
    for asset in (ASSET, "noddi"):
        with Writer(write_until_files_are_safe, place.url, 2, asset, QUICK_LEASE) as writer:
            assert writer.next() == asset
    left = place.names() - names_of(store, *whole)
    of_noddi = {name for name in left if "model-noddi" in name}
    assert of_noddi
    assert left - of_noddi
    assert standing(store) == before
    assert standing(store, "noddi") is None
    assert sorted(store.assets(SUBJECT)) == sorted(whole)
    write(store, 4)
    assert standing(store) == 4
    assert place.names() - names_of(store, ASSET, "mean_b0") == of_noddi
    write(store, 5, "noddi")
    assert place.names() == names_of(store, ASSET, "mean_b0", "noddi")


class Runs:
    """A project whose source is another one before each run, so that a run writes all derivatives anew."""

    def __init__(self, home: Path, place: Place) -> None:
        self.project = Project(home, {"KWNEURO_STORE": place.url})
        self.store = DerivativeStore(place.url)
        self._count = 0
        self.project.source.mkdir(parents=True)
        (self.project.source / "dataset_description.json").write_text('{"Name": "small", "BIDSVersion": "1.10.0"}')
        write_mask(self.project.source)

    def change_the_source(self) -> None:
        """Other b-values and a brightness that never was, so that nothing is fresh; the mask stays, and is written with
        the same bytes."""
        self._count += 1
        odd = self._count % 2
        shells = (1000.0, 2000.0) if odd else (800.0, 2500.0)
        write_series(self.project.source, directions=table(shells, 20), brightness=1.0 + 0.01 * self._count)
        self.project.write_settings(
            {
                "denoising": {"method": "none"},
                "brain_mask": {"method": "provided"},
                "csd": {"peaks": 3 + odd, "minimum_voxels": 20, "method": "single-tissue"},
            }
        )

    @contextmanager
    def begun(self) -> Iterator[Writer]:
        """A run whose first step has begun; killed at the end, if it lasts until then."""
        arguments = ["run", "--select", ",".join(MADE)]
        with Writer(run_command, str(self.project.home), arguments, environment=self.project.environment) as run:
            while not run.next().endswith(f"{MADE[0]}: starts"):
                pass
            yield run

    def whole_run(self) -> float:
        """Seconds of a run that nobody disturbs and that succeeds, from its first step to its end."""
        self.change_the_source()
        with self.begun() as run:
            start = time.monotonic()
            run.rest()
            return time.monotonic() - start

    def stored(self) -> dict[str, str]:
        """The data version of each derivative that loads; raises where one neither loads nor is told to be missing."""
        found = {}
        for asset in NAMES:
            try:
                value, sidecar = self.store.read(asset, SUBJECT)
            except StoreError as error:
                if "is not in the store" not in str(error):
                    raise
                continue
            assert data_version(value) == sidecar.data_version
            found[asset] = sidecar.data_version
        return found

    def told(self) -> dict[str, dict[str, str]]:
        """What `status --json` says of each derivative."""
        home = self.project.home
        settled = {
            "KWNEURO_SOURCE": str(self.project.source),
            "KWNEURO_SETTINGS": str(home / "settings.yaml"),
            "DAGSTER_HOME": str(home / "dagster"),
        }
        result = CliRunner().invoke(
            main, ["--home", str(home), "status", "--json"], env={**self.project.environment, **settled}
        )
        assert result.exit_code == 0, result.output
        states: dict[str, dict[str, str]] = json.loads(result.output)[str(SUBJECT)]
        return states


@pytest.mark.slow
def test_a_run_killed_at_any_moment_leaves_nothing_half_made_and_the_next_run_completes(
    tmp_path: Path, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    moments = random.Random(place.kind)
    runs = Runs(tmp_path / "project", place)
    runs.whole_run()  # the first writes more: the store's description, the instance
    span = runs.whole_run()
    fell: Counter[str] = Counter()
    for _ in range(RUN_KILLS):
        runs.change_the_source()
        before = place.contents()
        with runs.begun() as run:
            time.sleep(moments.uniform(0, span))
            ended = not run.is_alive()
        after = place.contents()
        stored, told = runs.stored(), runs.told()
        for asset, status in told.items():
            if status["state"] in ("fresh", "not-applicable"):
                assert stored.get(asset) == status["data_version"], f"{asset}: {status}"
        fresh = sum(status["state"] == "fresh" for status in told.values())
        late = ended or fresh == len(MADE)
        fell["after the last write" if late else "before the first" if after == before else "in between"] += 1
        fell["a write was under way"] += any(name.endswith(".lock") for name in set(after) - set(before))
    print(f"{place.kind}: {RUN_KILLS} kills within {span:.1f} s: {dict(fell)}")
    runs.whole_run()
    stored = runs.stored()
    assert set(stored) == set(MADE)
    monkeypatch.setenv("KWNEURO_STORE", place.url)
    monkeypatch.delenv("KWNEURO_SETTINGS", raising=False)
    assert data_version(kwneuro_assets.load("dti", str(SUBJECT))) == stored["dti"] == runs.told()["dti"]["data_version"]
    assert place.names() == names_of(runs.store, *MADE)
