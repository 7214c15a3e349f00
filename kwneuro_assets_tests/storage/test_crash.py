"""Processes that are killed while they write: a derivative is then complete, or reported as missing.

`KWNEURO_KILLS` sets the number of kills in each of the two slow tests and on each kind of store.
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
from kwneuro_assets.cli.main import main
from kwneuro_assets.imaging.content_hash import data_version
from kwneuro_assets.storage import lease
from kwneuro_assets.storage.names import NAMES
from kwneuro_assets.storage.store import DerivativeStore, StoreError
from kwneuro_assets_tests.storage.conftest import Place
from kwneuro_assets_tests.storage.writers import (
    ASSET,
    QUICK_LEASE,
    SUBJECT,
    Writer,
    names_of,
    run_command,
    stored_number,
    write,
    write_forever,
    write_until_commit,
)
from kwneuro_assets_tests.testkit.project import Project
from kwneuro_assets_tests.testkit.small_dataset import table, write_mask, write_series

KILLS = os.environ.get("KWNEURO_KILLS")
WRITER_KILLS = {"local": int(KILLS or 50), "s3": int(KILLS or 10)}
RUN_KILLS = int(KILLS or 10)
COMPUTED = (
    "denoised_dwi",
    "mean_b0",
    "brain_mask",
    "dti",
    "fiber_response",
    "csd_peaks",
)  # a second or less each


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seconds in QUICK_LEASE.items():
        monkeypatch.setattr(lease, name, seconds)


@pytest.mark.slow
def test_a_writer_killed_at_any_moment_leaves_the_old_value_the_new_one_or_none(place: Place) -> None:
    kills = WRITER_KILLS[place.kind]
    moments = random.Random(place.kind)
    store = DerivativeStore(place.url)
    write(store, 0)  # and the description of the store
    start = time.monotonic()
    write(store, 1)
    longest = 2 * (time.monotonic() - start)  # between the start of a first write and the kill: about two writes
    stored: int | None = 1
    number = 2
    left: Counter[str] = Counter()
    for _ in range(kills):
        with Writer(write_forever, place.url, number, QUICK_LEASE) as writer:
            messages = [writer.next()]
            time.sleep(moments.uniform(0, longest))
            writer.kill()
            messages += writer.rest()
        begun, done = messages[-1], messages.count(messages[-1]) == 2
        old = begun - 1 if begun > number else stored
        stored, number = stored_number(store), begun + 1
        assert stored in ([begun] if done else [old, begun, None])
        left["all done" if done else "new" if stored == begun else "old" if stored == old else "none"] += 1
    print(f"{place.kind}: of {kills} kills within {longest:.2f} s, in {number} writes, left behind: {dict(left)}")
    write(store, number)
    assert place.names() == names_of(store, ASSET)


@pytest.mark.parametrize("before", [None, 1])
def test_files_of_a_killed_writer_are_invisible_and_removed_by_the_next_write_of_the_same_derivative(
    place: Place, before: int | None
) -> None:
    store = DerivativeStore(place.url)
    write(store, 3, "mean_b0")
    complete = ["mean_b0"]
    if before is not None:
        write(store, before)
        complete.append(ASSET)
    for asset in (ASSET, "noddi"):
        with Writer(write_until_commit, place.url, 2, asset, QUICK_LEASE) as writer:
            assert writer.next() == asset
    left = place.names() - names_of(store, *complete)
    of_noddi = {name for name in left if "model-noddi" in name}
    assert of_noddi
    assert left - of_noddi
    assert stored_number(store) == before
    assert stored_number(store, "noddi") is None
    assert sorted(store.assets(SUBJECT)) == sorted(complete)
    write(store, 4)
    assert stored_number(store) == 4
    assert place.names() - names_of(store, ASSET, "mean_b0") == of_noddi
    write(store, 5, "noddi")
    assert place.names() == names_of(store, ASSET, "mean_b0", "noddi")


class Runs:
    """A project whose source changes before each run, so that a run recomputes all derivatives."""

    def __init__(self, home: Path, place: Place) -> None:
        self.project = Project(home, {"KWNEURO_STORE": place.url})
        self.store = DerivativeStore(place.url)
        self._count = 0
        self.project.source.mkdir(parents=True)
        (self.project.source / "dataset_description.json").write_text('{"Name": "small", "BIDSVersion": "1.11.1"}')
        write_mask(self.project.source)

    def change_the_source(self) -> None:
        """Other b-values and a new brightness, so that nothing is fresh; the mask is written with the same bytes."""
        self._count += 1
        odd = self._count % 2
        shells = (1000.0, 2000.0) if odd else (800.0, 2500.0)
        write_series(self.project.source, directions=table(shells, 20), brightness=1.0 + 0.01 * self._count)
        self.project.write_settings(
            {
                "denoising": {"method": "none"},
                "brain_mask": {"method": "provided"},
                "csd": {"max_peaks": 3 + odd, "min_voxels": 20, "method": "single-tissue"},
            }
        )

    @contextmanager
    def begun(self) -> Iterator[Writer]:
        """A run whose first step has started; killed at the end if it still runs."""
        arguments = ["run", "--select", ",".join(COMPUTED)]
        with Writer(run_command, str(self.project.home), arguments, environment=self.project.environment) as run:
            while not run.next().endswith(f"{COMPUTED[0]}: started"):
                pass
            yield run

    def complete_run(self) -> float:
        """Seconds of an undisturbed run that succeeds, from its first step to its end."""
        self.change_the_source()
        with self.begun() as run:
            start = time.monotonic()
            run.rest()
            return time.monotonic() - start

    def stored(self) -> dict[str, str]:
        """The data version of each derivative that loads. Raises StoreError if one neither loads nor is missing."""
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

    def states(self) -> dict[str, dict[str, str]]:
        """The states of each derivative by `status --json`."""
        home = self.project.home
        places = {
            "KWNEURO_SOURCE": str(self.project.source),
            "KWNEURO_SETTINGS": str(home / "settings.yaml"),
            "DAGSTER_HOME": str(home / "dagster"),
        }
        result = CliRunner().invoke(
            main, ["--home", str(home), "status", "--json"], env={**self.project.environment, **places}
        )
        assert result.exit_code == 0, result.output
        states: dict[str, dict[str, str]] = json.loads(result.output)[str(SUBJECT)]
        return states


@pytest.mark.slow
def test_a_run_killed_at_any_moment_leaves_no_partial_result_and_the_next_run_completes(
    tmp_path: Path, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    moments = random.Random(place.kind)
    runs = Runs(tmp_path / "project", place)
    runs.complete_run()  # the first run also writes the store's description and the instance
    span = runs.complete_run()
    outcomes: Counter[str] = Counter()
    for _ in range(RUN_KILLS):
        runs.change_the_source()
        before = place.contents()
        with runs.begun() as run:
            time.sleep(moments.uniform(0, span))
            ended = not run.is_alive()
        after = place.contents()
        stored, states = runs.stored(), runs.states()
        for asset, status in states.items():
            if status["state"] in ("fresh", "not-applicable"):
                assert stored.get(asset) == status["data_version"], f"{asset}: {status}"
        fresh = sum(status["state"] == "fresh" for status in states.values())
        late = ended or fresh == len(COMPUTED)
        outcomes["after the last write" if late else "before the first" if after == before else "in between"] += 1
        outcomes["a write was in progress"] += any(name.endswith(".lock") for name in set(after) - set(before))
    print(f"{place.kind}: {RUN_KILLS} kills within {span:.1f} s: {dict(outcomes)}")
    runs.complete_run()
    stored = runs.stored()
    assert set(stored) == set(COMPUTED)
    monkeypatch.setenv("KWNEURO_STORE", place.url)
    monkeypatch.delenv("KWNEURO_SETTINGS", raising=False)
    assert (
        data_version(kwneuro_assets.load("dti", str(SUBJECT))) == stored["dti"] == runs.states()["dti"]["data_version"]
    )
    assert place.names() == names_of(runs.store, *COMPUTED)
