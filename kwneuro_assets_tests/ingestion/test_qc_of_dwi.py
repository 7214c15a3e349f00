"""The QC values of a DWI series: immutable, stored with it, and not of a series that is derived from it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from kwneuro_assets.derivations.denoise import denoise, patch2self
from kwneuro_assets.imaging import Dwi, InvalidData, Volume
from kwneuro_assets.imaging.content_hash import data_version
from kwneuro_assets.ingestion.dataset import SourceDataset
from kwneuro_assets.ingestion.read_source import read_dwi
from kwneuro_assets.settings import SourceSettings
from kwneuro_assets.storage.sidecar import Provenance
from kwneuro_assets.storage.store import DerivativeStore
from kwneuro_assets.subjects import SubjectKey
from kwneuro_assets_tests.ingestion.test_preprocessing_qc import read_both, write_qc
from kwneuro_assets_tests.testkit.small_dataset import write_series

SUBJECT = SubjectKey("01")


def with_values(tmp_path: Path) -> Dwi:
    write_series(tmp_path)
    write_qc(tmp_path)
    return read_both(tmp_path)[0]


def test_a_derived_series_has_no_values(tmp_path: Path) -> None:
    dwi = with_values(tmp_path)
    plain = Dwi(dwi.volume, dwi.gradients)
    assert dwi.preprocessing
    for derived in (
        dwi.with_array(dwi.array), dwi.without_preprocessing(), denoise(dwi, "none", 20), patch2self(dwi),
        patch2self(Dwi(Volume(np.ascontiguousarray(dwi.array), dwi.affine), dwi.gradients, False, dwi.preprocessing)),
    ):  # fmt: skip
        assert derived.preprocessing == {}
    assert plain.without_preprocessing() is plain
    assert data_version(dwi.without_preprocessing()) == data_version(plain) != data_version(dwi)
    assert data_version(denoise(dwi, "none", 20)) == data_version(plain)


def test_a_stored_series_retains_its_values(tmp_path: Path) -> None:
    dwi, store = with_values(tmp_path / "source"), DerivativeStore(tmp_path / "store")
    store.write("denoised_dwi", SUBJECT, dwi, Provenance("a DWI series", "1-0123abcd", data_version(dwi)))
    loaded, _ = store.read("denoised_dwi", SUBJECT)
    assert isinstance(loaded, Dwi)
    assert data_version(loaded) == data_version(dwi)
    assert dict(loaded.preprocessing) == dict(dwi.preprocessing)
    kinds = [type(value) for value in loaded.preprocessing.values()]
    assert kinds == [type(value) for value in dwi.preprocessing.values()]


@pytest.mark.parametrize(
    "values",
    [
        {"a": float("nan")}, {"a": float("inf")}, {"a": 2**63}, {"a": True}, {"a": None}, {"a": "n/a"}, {"a": "b\tc"},
        {"": 1}, {"a\n": 1}, {"a": [1]},
    ],
)  # fmt: skip
def test_a_value_that_no_table_can_have_is_refused(tmp_path: Path, values: dict[str, float]) -> None:
    write_series(tmp_path)
    dataset = SourceDataset(SourceSettings(url=str(tmp_path)))
    dwi, _ = read_dwi(dataset, dataset.series(SUBJECT))
    with pytest.raises(InvalidData):
        Dwi(dwi.volume, dwi.gradients, preprocessing=values)


def test_the_values_of_a_series_cannot_be_changed(tmp_path: Path) -> None:
    values = {"qsiprep_mean_fd": 1.0}
    dwi = with_values(tmp_path)
    other = Dwi(dwi.volume, dwi.gradients, preprocessing=values)
    values["qsiprep_mean_fd"] = 2.0
    assert other.preprocessing == {"qsiprep_mean_fd": 1.0}
    with pytest.raises(TypeError):
        other.preprocessing["qsiprep_mean_fd"] = 3.0  # type: ignore[index]
