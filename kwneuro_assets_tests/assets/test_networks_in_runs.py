"""Steps with a real, small network: how it ran is recorded, and consecutive subjects of a process share it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from dagster import AssetKey, AssetMaterialization, DagsterInstance

from kwneuro_assets.cohort.run import run_subject
from kwneuro_assets.derivations import devices
from kwneuro_assets.derivations.devices import NetworkDevice, forget_networks
from kwneuro_assets.imaging import InvalidData
from kwneuro_assets.resources import step_networks
from kwneuro_assets.resources.step_networks import StepNetworks
from kwneuro_assets.settings import PipelineSettings
from kwneuro_assets.storage.sidecar import Provenance
from kwneuro_assets.storage.store import DerivativeStore
from kwneuro_assets.subjects import SubjectKey
from kwneuro_assets.versioning.partitions import PARTITIONS
from kwneuro_assets.versioning.records import CODE_VERSION_TAG, DATA_VERSION_TAG, INPUT_DATA_VERSIONS

KEYS = ("sub-01", "sub-02")


def settings_for(folder: Path, **networks: object) -> PipelineSettings:
    return PipelineSettings.model_validate(
        {"store": {"url": str(folder / "store")}, "weights": {"folder": str(folder / "weights")}, "networks": networks}
    )


@pytest.fixture
def peaks(tmp_path: Path, instance: DagsterInstance, monkeypatch: pytest.MonkeyPatch) -> PipelineSettings:
    """Two subjects with peaks in the store, small weights of TractSeg, and settings for them."""
    pytest.importorskip("tractseg")
    from kwneuro_assets.imaging.content_hash import data_version
    from kwneuro_assets_tests.golden.inputs import Inputs
    from kwneuro_assets_tests.testkit.small_networks import shrink_tractseg, write_tractseg

    shrink_tractseg(monkeypatch.setattr)
    folder = tmp_path / "weights" / "tractseg-masks"
    folder.mkdir(parents=True)
    write_tractseg(folder)
    value = Inputs(tmp_path).csd_peaks
    provenance = Provenance("Peaks.", "1-0", data_version(value))
    instance.add_dynamic_partitions(PARTITIONS, list(KEYS))
    for key in KEYS:
        DerivativeStore(tmp_path / "store").write("csd_peaks", SubjectKey.parse(key), value, provenance)
        instance.report_runless_asset_event(
            AssetMaterialization(
                "csd_peaks",
                partition=key,
                metadata={INPUT_DATA_VERSIONS: {}},
                tags={DATA_VERSION_TAG: provenance.data_version, CODE_VERSION_TAG: provenance.code_version},
            )
        )
    return settings_for(tmp_path, device="cpu")


@pytest.mark.slow
def test_consecutive_subjects_share_a_network_and_record_how_it_ran(
    peaks: PipelineSettings, instance: DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    from kwneuro_assets.derivations import tractseg_network

    forget_networks()
    loads: list[Any] = []
    real = tractseg_network._module
    monkeypatch.setattr(tractseg_network, "_module", lambda network: loads.append(network) or real(network))
    for key in KEYS:
        [result] = run_subject(instance, peaks, key, ["tract_masks"])
        assert result.outcome == "materialized", result.reason
    assert len(loads) == 1
    sidecar = DerivativeStore(peaks.store.url).sidecar("tract_masks", SubjectKey.parse("sub-02"))
    assert sidecar is not None
    recorded = {"Device": "cpu", "Precision": "float32"}
    assert sidecar.provenance.networks == recorded
    assert json.loads(sidecar.to_json())["Networks"] == recorded
    event = instance.get_latest_materialization_event(AssetKey("tract_masks"))
    assert event is not None
    assert event.asset_materialization is not None
    assert event.asset_materialization.metadata["networks"].value == recorded
    forget_networks()


def test_the_device_is_recorded_as_it_was_used_in_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(step_networks, "select_device", lambda wanted: "cuda:0")

    def work(device: str) -> str:
        if device != "cpu":
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate")
        return device

    networks = StepNetworks(settings_for(tmp_path), ())
    device = networks.device_with("auto")
    assert networks.used() == {"Device": "cuda:0", "Precision": "float32", "Mirroring": True}
    assert device.run(work) == "cpu"
    assert networks.used() == {"Device": "cpu", "Precision": "float32", "Mirroring": True}
    failing = StepNetworks(settings_for(tmp_path, out_of_memory="fail"), ()).device
    with pytest.raises(torch.OutOfMemoryError):
        failing.run(work)


def test_mirroring_is_recorded_only_for_networks_that_may_mirror(tmp_path: Path) -> None:
    networks = StepNetworks(settings_for(tmp_path, device="cpu"), ())
    assert networks.used() == {}, "no network ran"
    assert isinstance(networks.device, NetworkDevice)
    assert networks.device is networks.device
    assert networks.used() == {"Device": "cpu", "Precision": devices.PRECISION}
    assert networks.device_with(True).mirroring
    assert networks.used() == {"Device": "cpu", "Precision": devices.PRECISION, "Mirroring": True}


def test_a_device_that_does_not_exist_is_reported_with_the_setting(tmp_path: Path) -> None:
    with pytest.raises(InvalidData, match=r"networks\.device: expected a GPU that PyTorch can use.*found cuda:99"):
        _ = StepNetworks(settings_for(tmp_path, device="cuda:99"), ()).device


def test_a_network_that_the_derivative_does_not_declare_is_not_provided(tmp_path: Path) -> None:
    networks = StepNetworks(settings_for(tmp_path), ("tractseg-masks",))
    with pytest.raises(ValueError, match=r"hd-bet: expected one of the declared networks \(tractseg-masks\)"):
        networks.folder("hd-bet")
