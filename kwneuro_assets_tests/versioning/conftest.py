"""Fixtures of the tests of staleness."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from dagster import DagsterInstance

from kwneuro_assets.assets.derivative import Derivative
from kwneuro_assets.subjects import PARTITIONS
from kwneuro_assets_tests.small_dataset import write_dataset
from kwneuro_assets_tests.versioning.lab import MADE, NEVER_MADE, SPARE, Lab


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A subject that is made, pictures and all."""
    root = tmp_path_factory.mktemp("lab")
    write_dataset(root / "source", [MADE, NEVER_MADE, *SPARE])
    with DagsterInstance.ephemeral() as instance:
        lab = Lab(root, instance)
        assert {result.outcome for result in lab.run().values()} == {"made"}
        yield lab


@pytest.fixture
def lab(made: Lab, monkeypatch: pytest.MonkeyPatch) -> Lab:
    """A subject of the test's own, made without pictures: they take most of a run's time on so few voxels."""
    monkeypatch.setattr(Derivative, "_figure", lambda *_: None)
    known = made.instance.get_dynamic_partitions(PARTITIONS)
    own = Lab(made.root, made.instance, next(key for key in SPARE if key not in known))
    assert {result.outcome for result in own.run().values()} == {"made"}
    return own
