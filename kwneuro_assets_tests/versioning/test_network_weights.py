"""Network weights are part of the code version: other weights make their users stale, and no others.

The computations are replaced by quick ones, which read the weights. Downloads come from a real server.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from dagster import AssetKey, DagsterInstance
from dagster._core.definitions.data_version import CachingStaleStatusResolver, StaleStatus
from dagster._core.loader import LoadingContextForTest

from kwneuro_assets.assets import DERIVATIVES
from kwneuro_assets.cohort.comparison import compare_with_settings
from kwneuro_assets.definitions import build
from kwneuro_assets.resources import network_weights
from kwneuro_assets.resources.network_weights import NOT_INSTALLED
from kwneuro_assets.settings import PipelineSettings
from kwneuro_assets.subjects import SubjectKey
from kwneuro_assets.versioning.code import Code
from kwneuro_assets.weights import NETWORKS, digest_cache
from kwneuro_assets_tests.testkit.small_dataset import write_dataset
from kwneuro_assets_tests.testkit.weight_server import WeightServer
from kwneuro_assets_tests.versioning.lab import Lab
from kwneuro_assets_tests.versioning.quick_derivatives import (
    NETWORKS as USERS,
)
from kwneuro_assets_tests.versioning.quick_derivatives import (
    Behavior,
    quick_derivatives,
    set_algorithm_version,
    write_weights,
)

KEY = "sub-01"
TRACTS = tuple(USERS)
ALL = tuple(one.name for one in DERIVATIVES)


@pytest.fixture
def lab(tmp_path: Path, instance: DagsterInstance, monkeypatch: pytest.MonkeyPatch) -> Lab:
    """A subject without derivatives, and no weights."""
    monkeypatch.setenv("HOME", str(tmp_path))  # TractSeg's own folder of weights is in it
    for variable in ("TRACTSEG_WEIGHTS_DIR", "KWNEURO_OFFLINE", "KWNEURO_WEIGHTS_URL"):
        monkeypatch.delenv(variable, raising=False)
    write_dataset(tmp_path / "source", [KEY])
    return Lab(tmp_path, instance, KEY, {"weights": {"folder": str(tmp_path / "weights")}})


@pytest.fixture
def behavior(lab: Lab) -> Iterator[Behavior]:
    with quick_derivatives(lab.instance) as behavior:
        yield behavior


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[WeightServer]:
    """A server with weights of all networks of tracts, the only one that downloads use."""
    with WeightServer() as server:
        for network in USERS.values():
            server.files |= {file.name: b"some weights" for file in NETWORKS[network].files}
        monkeypatch.setenv("KWNEURO_ARCHIVE_URL", server.url)
        yield server


def install(lab: Lab, text: str | None, networks: tuple[str, ...] = tuple(USERS.values())) -> None:
    for network in networks:
        write_weights(lab.root / "weights", network, text)


def states(lab: Lab) -> dict[str, str]:
    return {name: status.state for name, status in lab.status().items()}


def state_for_dagster(lab: Lab, name: str, settings: PipelineSettings) -> StaleStatus:
    """The state in Dagster's UI with the definitions of these settings as they are now."""
    graph = build(settings).resolve_asset_graph()
    resolver = CachingStaleStatusResolver(lab.instance, graph, LoadingContextForTest(lab.instance))
    return resolver.get_status(AssetKey(name), KEY)


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def test_other_weights_make_exactly_their_users_stale_and_the_former_ones_make_them_fresh(
    lab: Lab, behavior: Behavior
) -> None:
    install(lab, "some weights")
    assert all(result.succeeded for result in lab.run(ALL).values())
    before = states(lab)
    assert set(before.values()) <= {"fresh", "not-applicable"}
    assert before["tract_masks"] == before["csd_peaks"] == "fresh"
    behavior.computed.clear()

    install(lab, "other weights", ("tractseg-masks",))
    after = lab.status()
    downstream = ("tract_orientations", "dwi_qc", "subject_report")
    changed = {"tract_masks": "stale", **dict.fromkeys(downstream, "stale-upstream")}
    assert {name: status.state for name, status in after.items()} == before | changed
    expected = f"network weights tractseg-masks: was {sha256('some weights')[:8]}, now {sha256('other weights')[:8]}"
    assert after["tract_masks"].why == (expected,)
    assert after["tract_masks"].causes == {"code"}
    subject = SubjectKey.parse(KEY)
    found = compare_with_settings(lab.instance, lab.settings, lab.store, subject, TRACTS)
    assert found == {"tract_masks": [expected], "tract_endings": [], "tract_orientations": []}
    assert state_for_dagster(lab, "tract_masks", lab.settings) == StaleStatus.STALE
    assert state_for_dagster(lab, "tract_endings", lab.settings) == StaleStatus.FRESH

    install(lab, "some weights", ("tractseg-masks",))
    assert states(lab) == before
    assert set(lab.update(ALL).values()) <= {"skipped", "not-applicable"}
    assert behavior.computed == []


def test_one_of_several_files_of_a_network_counts(lab: Lab, behavior: Behavior) -> None:
    install(lab, "some weights")
    lab.run(ALL)
    file = lab.root / "weights" / "tractseg-orientations" / NETWORKS["tractseg-orientations"].installed_files[2]
    file.write_text("other weights")
    stale = {name: status.why for name, status in lab.status().items() if status.state == "stale"}
    assert list(stale) == ["tract_orientations"]
    assert stale["tract_orientations"][0].startswith("network weights tractseg-orientations: was ")


def test_the_first_run_downloads_the_weights_and_records_them(
    lab: Lab, behavior: Behavior, server: WeightServer
) -> None:
    loaded = build(lab.settings).resolve_asset_graph()  # before the weights are there, as in a code server
    assert server.requests == [], "definitions and states download nothing"
    results = lab.run(ALL)
    assert all(result.succeeded for result in results.values())
    assert states(lab)["tract_masks"] == "fresh"
    settings = lab.settings
    for name in TRACTS:
        derivative = next(one for one in DERIVATIVES if one.name == name)
        code = derivative.code(settings)
        assert NOT_INSTALLED not in code.weights.values()
        assert results[name].code_version == code.version
        sidecar = lab.store.sidecar(name, SubjectKey.parse(KEY))
        assert sidecar is not None
        assert sidecar.provenance.code_version == code.version
        assert sidecar.provenance.weights == code.weights
        assert state_for_dagster(lab, name, settings) == StaleStatus.FRESH
    resolver = CachingStaleStatusResolver(lab.instance, loaded, LoadingContextForTest(lab.instance))
    assert resolver.get_status(AssetKey("tract_masks"), KEY) == StaleStatus.STALE, "until the UI reloads"
    requests = len(server.requests)
    behavior.computed.clear()
    assert set(lab.update(ALL).values()) <= {"skipped", "not-applicable"}
    assert len(server.requests) == requests


def test_a_step_whose_weights_were_removed_downloads_them_and_finds_itself_up_to_date(
    lab: Lab, behavior: Behavior, server: WeightServer
) -> None:
    install(lab, "some weights")
    lab.run(ALL)
    behavior.computed.clear()
    install(lab, None, ("tractseg-endings",))
    [why] = lab.status()["tract_endings"].why
    assert why == f"network weights tractseg-endings: was {sha256('some weights')[:8]}, now not installed"
    assert lab.run(ALL)["tract_endings"].outcome == "skipped"
    assert behavior.computed == []
    assert "api" in server.names()
    assert states(lab)["tract_endings"] == "fresh"


def test_weights_that_cannot_be_downloaded_fail_their_step_with_the_remedy(
    lab: Lab, behavior: Behavior, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KWNEURO_OFFLINE", "1")
    results = lab.run(ALL)
    failed = {name: result for name, result in results.items() if result.outcome == "failed"}
    assert set(failed) == {"tract_masks", "tract_endings"}
    assert results["tract_orientations"].outcome == "upstream-failed"
    assert "kwneuro-assets weights add tractseg-masks FILE" in failed["tract_masks"].reason
    assert "tract_masks" not in behavior.computed


def test_nothing_is_downloaded_for_a_derivative_that_is_not_applicable(
    lab: Lab, behavior: Behavior, server: WeightServer
) -> None:
    for number in range(1, 50):  # the quick result depends on the algorithm version
        set_algorithm_version("fiber_response", number)
        if lab.run(("denoised_dwi", "mean_b0", "brain_mask", "fiber_response"))["fiber_response"].reason:
            break
    results = lab.run(ALL)
    assert {results[name].outcome for name in ("csd_peaks", *TRACTS)} == {"not-applicable"}
    assert server.requests == []
    assert states(lab)["tract_masks"] == "not-applicable"


def test_a_file_that_was_recorded_and_then_changed_is_not_used(
    lab: Lab, behavior: Behavior, server: WeightServer
) -> None:
    lab.run(ALL)
    behavior.computed.clear()
    file = lab.root / "weights" / "tractseg-masks" / NETWORKS["tractseg-masks"].files[0].name
    file.write_text("damaged")
    result = lab.run(ALL)["tract_masks"]
    assert result.outcome == "failed"
    assert "remove the file and fetch it again" in result.reason
    assert behavior.computed == []


@pytest.fixture
def demo_networks(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in place of that of the demo's networks; the setting `weights.demo_networks` is on."""
    folder = lab.root / "demo-networks"
    folder.mkdir()
    for network in USERS.values():
        for file in NETWORKS[network].installed_files:
            (folder / file).write_text("demo weights")
    monkeypatch.setattr(network_weights, "DEMO_FOLDER", folder)
    network_weights._demo_digests.cache_clear()
    lab.sections["weights"]["demo_networks"] = True
    yield folder
    network_weights._demo_digests.cache_clear()


def declare_synthetic(lab: Lab) -> None:
    description = {"Name": "Synthetic head", "BIDSVersion": "1.11.1", "GeneratedBy": [{"Name": "kwneuro-assets"}]}
    (lab.root / "source" / "dataset_description.json").write_text(json.dumps(description))


def test_the_networks_of_the_demo_are_used_for_its_dataset_and_named_in_the_result(
    lab: Lab, behavior: Behavior, demo_networks: Path, server: WeightServer
) -> None:
    declare_synthetic(lab)
    titles: list[str] = []
    masks = next(one for one in DERIVATIVES if one.name == "tract_masks")
    object.__setattr__(masks, "figure", lambda value, inputs, title: titles.append(title) or b"")
    assert all(result.succeeded for result in lab.run(ALL).values())
    assert server.requests == []
    note = "demo network: synthetic anatomy only"
    assert titles == [f"{KEY}  tract_masks  ({note})"]
    for name in TRACTS:
        sidecar = lab.store.sidecar(name, SubjectKey.parse(KEY))
        assert sidecar is not None
        assert sidecar.provenance.networks["Note"] == note
        assert json.loads(sidecar.to_json())["Networks"]["Note"] == note
        event = lab.instance.get_latest_materialization_event(AssetKey(name))
        assert event is not None
        assert event.asset_materialization.metadata["networks"].value["Note"] == note  # type: ignore[union-attr]
    assert states(lab)["tract_masks"] == "fresh"

    install(lab, "some weights", ("tractseg-masks",))  # real ones take their place
    [why] = lab.status()["tract_masks"].why
    assert why == (
        f"network weights tractseg-masks: was {sha256('demo weights')[:8]}, now {sha256('some weights')[:8]}"
    )
    lab.run(ALL)
    sidecar = lab.store.sidecar("tract_masks", SubjectKey.parse(KEY))
    assert sidecar is not None
    assert "Note" not in sidecar.provenance.networks


@pytest.mark.parametrize("content", [None, '{"Name": "Our study", "BIDSVersion": "1.8.0"}', "[]", "no JSON"])
def test_the_networks_of_the_demo_are_refused_for_another_dataset(
    lab: Lab, behavior: Behavior, demo_networks: Path, server: WeightServer, content: str | None
) -> None:
    file = lab.root / "source" / "dataset_description.json"
    if content is None:
        file.unlink()
    else:
        file.write_text(content)
    results = lab.run(ALL)
    assert results["tract_masks"].outcome == "failed"
    assert results["tract_masks"].reason == (
        "weights of tractseg-masks: the demo's networks (weights.demo_networks) know synthetic heads only, and "
        f"{lab.settings.source.url} is not the demo's dataset; remove that setting and run: kwneuro-assets weights "
        "fetch tractseg-masks"
    )
    assert server.requests == []
    assert not behavior.computed or "tract_masks" not in behavior.computed


def test_installed_weights_are_used_for_any_dataset_whatever_the_setting(
    lab: Lab, behavior: Behavior, demo_networks: Path
) -> None:
    install(lab, "some weights")
    assert all(result.succeeded for result in lab.run(ALL).values())


def test_code_versions_of_derivatives_without_networks_do_not_depend_on_weights() -> None:
    assert Code(1, {"a": 1}, {"numpy": "2.4"}).version == Code(1, {"a": 1}, {"numpy": "2.4"}, weights={}).version
    assert Code(1, weights={"hd-bet": NOT_INSTALLED}).version != Code(1).version


def test_states_read_no_weights_file_twice(lab: Lab, behavior: Behavior, monkeypatch: pytest.MonkeyPatch) -> None:
    install(lab, "some weights")
    lab.status()
    read: list[Path] = []
    real = digest_cache.file_sha256
    monkeypatch.setattr(digest_cache, "file_sha256", lambda path: read.append(path) or real(path))
    monkeypatch.setattr(digest_cache, "MIN_AGE", 0.0)
    lab.status()
    read.clear()
    lab.status()
    assert read == []
