"""A change of numbers without a raised algorithm version fails, and the failure names the derivative.

The package's docstring says how the comparison works on another machine.
"""

from __future__ import annotations

import copy
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest

from kwneuro_assets.settings import PipelineSettings
from kwneuro_assets_tests.golden.compare import TOLERANCE, problem, recorded, same_environment
from kwneuro_assets_tests.golden.compute import BY_NAME, compute_apart, summary
from kwneuro_assets_tests.golden.entries import ENTRIES, NETWORKS, NOT_VARIED

ALIKE = ["denoised_dwi method=none", "denoised_dwi min_ratio=500.0"]  # in both the series is not denoised
LIGHT = [name for name in ENTRIES if name not in NETWORKS]


@pytest.fixture(scope="module")
def light() -> dict[str, Any]:
    """All entries without a network, as the present code computes them."""
    return compute_apart(name for name in LIGHT if _can_be_computed(name))


@pytest.fixture(scope="module")
def networks() -> dict[str, Any]:
    return compute_apart(name for name in sorted(NETWORKS) if _can_be_computed(name))


def _can_be_computed(name: str) -> bool:
    needs = ENTRIES[name].needs
    return not needs or find_spec(needs) is not None


def _require(name: str, found: dict[str, Any]) -> None:
    if not _can_be_computed(name):
        pytest.skip(f"{ENTRIES[name].needs} is not installed")
    known = recorded()
    exact = same_environment(known["environment"], found["environment"])
    wrong = problem(name, known["entries"].get(name), found["entries"][name], exact=exact)
    if wrong:
        pytest.fail(wrong, pytrace=False)


@pytest.mark.parametrize("name", LIGHT)
def test_the_result_is_the_recorded_one(light: dict[str, Any], name: str) -> None:
    _require(name, light)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_the_result_of_a_network_is_the_recorded_one(networks: dict[str, Any], name: str) -> None:
    _require(name, networks)


def test_every_setting_of_every_derivative_is_varied() -> None:
    defaults = PipelineSettings()
    expected = {f"{name}.{key}" for name, derivative in BY_NAME.items() for key in derivative.code(defaults).parameters}
    varied = set()
    for entry in ENTRIES.values():
        for key, value in entry.changes.items():
            section, _, name = key.partition(".")
            if value != getattr(getattr(defaults, section), name):
                varied.add(f"{entry.asset}.{name}")
    assert expected - varied - set(NOT_VARIED) == set()
    assert {entry.asset for entry in ENTRIES.values()} >= set(BY_NAME)


def test_the_file_has_the_entries_of_the_code_and_no_two_alike() -> None:
    entries = recorded()["entries"]
    assert list(entries) == list(ENTRIES)
    versions = [(name.split()[0], record["data_version"]) for name, record in entries.items()]
    alike = [name for name, version in zip(entries, versions, strict=True) if versions.count(version) > 1]
    assert alike == ALIKE, "a variant without any effect on the result shows nothing"


@pytest.mark.parametrize("change", ["tensor.MIN_WEIGHT *= 1e8", "tensor.MIN_WEIGHT = 1.0"], ids=["small", "large"])
def test_a_changed_number_is_reported_with_the_name_of_its_derivative(change: str) -> None:
    """The lower bound of the weights of the tensor fit, which only `dti` of these uses; 1 means no weights."""
    before = f"from kwneuro_assets.derivations import tensor\ntensor.MIN_WEIGHT\n{change}"
    found = compute_apart(["mean_b0", "dti", "group_response"], before=before)
    if "*" in change and not same_environment(recorded()["environment"], found["environment"]):
        pytest.skip("the change is smaller than the tolerance of another environment")
    known = recorded()
    exact = same_environment(known["environment"], found["environment"])
    wrong = {
        name: message
        for name, record in found["entries"].items()
        if (message := problem(name, known["entries"][name], record, exact=exact))
    }
    assert list(wrong) == ["dti"]
    version = BY_NAME["dti"].version
    assert wrong["dti"].startswith(f"dti: the result changed, but not the algorithm version ({version}): ")
    assert "raise `version` in kwneuro_assets/assets/dti.py" in wrong["dti"]


def test_a_raised_version_asks_for_an_update() -> None:
    known = recorded()["entries"]["dti"]
    raised = {**known, "version": known["version"] + 1}
    message = problem("dti", known, raised, exact=True)
    assert message is not None
    assert "its result did not change" in message
    assert "golden.update" in message
    message = problem("dti", known, {**raised, "data_version": "0" * 64}, exact=True)
    assert message is not None
    assert "its result changed" in message


def test_a_changed_default_asks_for_an_update() -> None:
    known = recorded()["entries"]["dti"]
    message = problem("dti", known, {**known, "parameters": {"max_bvalue": 1400.0}}, exact=False)
    assert message is not None
    assert "expected the parameters {'max_bvalue': 1500.0}, found {'max_bvalue': 1400.0}" in message


@pytest.mark.parametrize("key", ["mean", "rms", "moments"])
def test_in_another_environment_a_difference_above_the_tolerance_is_reported(key: str) -> None:
    known = recorded()["entries"]["dti"]
    for factor, reported in ((0.5, False), (2.0, True)):
        found = copy.deepcopy(known)
        found["data_version"] = "0" * 64
        fa = found["summary"]["fa"]
        step = factor * TOLERANCE * fa["largest"]
        fa[key] = [fa[key][0] + step, *fa[key][1:]] if key == "moments" else fa[key] + step
        assert bool(problem("dti", known, found, exact=False)) is reported
        assert problem("dti", known, found, exact=True)


def test_in_another_environment_an_exchange_of_volumes_is_reported() -> None:
    """Such as of Dyy and Dxz, which leaves mean and root mean square as they are."""
    tensor = np.random.default_rng(0).normal(1e-3, 1e-4, (5, 6, 7, 6)) * [1, 0.1, 1, 0.1, 0.1, 1]
    record = {"version": 1, "parameters": {}, "data_version": ""}
    known = {**record, "summary": {"tensor": summary(tensor)}}
    found = {**record, "summary": {"tensor": summary(tensor[..., [0, 1, 3, 2, 4, 5]])}}
    message = problem("dti", known, found, exact=False)
    assert message is not None
    assert "moments of tensor" in message
