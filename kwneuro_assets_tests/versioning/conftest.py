"""Fixtures of the tests of staleness."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from dagster import DagsterInstance

from kwneuro_assets.assets.mechanism import execution
from kwneuro_assets.versioning.partitions import PARTITIONS
from kwneuro_assets_tests.testkit.small_dataset import write_dataset
from kwneuro_assets_tests.versioning.lab import COMPUTED, NEW, SPARE, Lab


@pytest.fixture(scope="module")
def computed_lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A subject with all cheap derivatives and their figures."""
    root = tmp_path_factory.mktemp("lab")
    write_dataset(root / "source", [COMPUTED, NEW, *SPARE])
    with DagsterInstance.ephemeral() as instance:
        lab = Lab(root, instance)
        assert {result.outcome for result in lab.run().values()} == {"materialized"}
        yield lab


@pytest.fixture
def lab(computed_lab: Lab, monkeypatch: pytest.MonkeyPatch) -> Lab:
    """A subject for one test, without figures: these take most of the time of a run on so few voxels."""
    monkeypatch.setattr(execution, "draw_figure", lambda *_: None)
    known = computed_lab.instance.get_dynamic_partitions(PARTITIONS)
    own = Lab(computed_lab.root, computed_lab.instance, next(key for key in SPARE if key not in known))
    assert {result.outcome for result in own.run().values()} == {"materialized"}
    return own
