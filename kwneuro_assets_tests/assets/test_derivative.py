"""The mechanism of derivatives: what a declaration determines, and that the mechanism names no asset."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dagster import AssetKey, CodeReferencesMetadataValue, Definitions, LocalFileCodeReference, UrlCodeReference

import kwneuro_assets.assets.derivative as derivative_module
from kwneuro_assets.assets import ALL_DERIVATIVES, GROUP_DERIVATIVES, build_assets
from kwneuro_assets.assets.derivative import Derivative, derivative
from kwneuro_assets.assets.mechanism.code_references import REPOSITORY_VARIABLE
from kwneuro_assets.assets.mechanism.description import EXAMPLE, example_files, markdown_description, value_types
from kwneuro_assets.assets.mechanism.execution import not_applicable
from kwneuro_assets.assets.mechanism.group_inputs import values_by_subject
from kwneuro_assets.imaging import (
    Dwi,
    GradientTable,
    MapSet,
    NotApplicable,
    Report,
    ResponseFunction,
    RigidTransform,
    Segmentation,
    Table,
    Volume,
)
from kwneuro_assets.imaging.content_hash import Value
from kwneuro_assets.resources import build_resources
from kwneuro_assets.resources.deferred_input import Deferred
from kwneuro_assets.settings import DtiSettings, PipelineSettings
from kwneuro_assets.storage.bids_fields import MAPS
from kwneuro_assets.storage.names import NAMES
from kwneuro_assets.storage.sidecar import Provenance
from kwneuro_assets.storage.store import DerivativeStore
from kwneuro_assets.subjects import GROUP
from kwneuro_assets.versioning.source_names import SOURCES

ALL = (*ALL_DERIVATIVES, *GROUP_DERIVATIVES)
MECHANISM = Path(derivative_module.__file__).with_name("mechanism")
BLANK = Volume(np.zeros((1, 1, 1), np.uint8), np.eye(4))


def declared(**fields: Any) -> Derivative:
    """A derivative with a required input `a` and an optional input `b`."""
    options = {"optional_inputs": {"b": lambda settings: settings.csd.group_response}, **fields}

    @derivative(group="g", version=1, figure=lambda *_: b"", summary=lambda *_: {}, **options)
    def example(a: Value, b: Value | None = None) -> Value:
        """The first paragraph
        on two lines.

        More.
        """
        return a if b is None else b

    return example


def test_the_mechanism_names_no_asset() -> None:
    files = [Path(derivative_module.__file__), *MECHANISM.glob("*.py")]
    assert len(files) > 5
    named = re.compile(rf"(?<![\w.])({'|'.join([*NAMES, *SOURCES])})(?!\w)")
    assert {file.name: found for file in files if (found := named.findall(file.read_text(encoding="utf-8")))} == {}


def test_an_optional_input_depends_on_the_settings() -> None:
    example = declared()
    assert example.inputs(PipelineSettings()) == ("a",)
    assert example.inputs(PipelineSettings.model_validate({"csd": {"group_response": True}})) == ("a", "b")


def test_a_default_without_a_condition_is_refused() -> None:
    with pytest.raises(TypeError, match=r"example: expected a default for exactly the optional_inputs"):
        declared(optional_inputs={})


def test_a_condition_without_a_default_is_refused() -> None:
    with pytest.raises(TypeError, match=r"found \['a', 'b'\] and parameters with a default \['b'\]"):
        declared(optional_inputs={"a": bool, "b": bool})


def test_two_settings_of_the_same_name_are_refused() -> None:
    with pytest.raises(TypeError, match="example: expected parameters with different names, found max_bvalue, max_bv"):

        @derivative(group="g", version=1, figure=lambda *_: b"", summary=lambda *_: {})
        def example(a: Value, first: DtiSettings, second: DtiSettings) -> Value:
            return a


def test_an_unknown_input_cannot_be_accepted_as_not_applicable() -> None:
    with pytest.raises(TypeError, match="accepts_not_applicable names no parameter: c"):
        declared(accepts_not_applicable={"c"})


@pytest.mark.parametrize(
    ("accepted", "inputs", "expected"),
    [
        ((), {"a": BLANK, "b": BLANK}, None),
        ((), {"a": BLANK, "b": NotApplicable("no shell")}, "needs b, which is not applicable: no shell"),
        (("b",), {"a": BLANK, "b": NotApplicable("no shell")}, None),
        (("b",), {"a": NotApplicable("no data"), "b": BLANK}, "needs a, which is not applicable: no data"),
    ],
)
def test_a_derivative_of_an_input_that_is_not_applicable_is_neither_unless_it_accepts_that(
    accepted: tuple[str, ...], inputs: Mapping[str, Value], expected: str | None
) -> None:
    found = not_applicable(declared(accepts_not_applicable=accepted), inputs)
    assert (found.reason if found else None) == expected


def test_the_inputs_of_a_group_are_mappings_by_subject() -> None:
    def deferred(asset: str, subject: str) -> Deferred:
        return Deferred(asset, subject, None, lambda: BLANK)

    inputs = [deferred("dti", "sub-01"), deferred("dti", "sub-02"), deferred("dwi_qc", "sub-01")]
    values = values_by_subject(["dti", "noddi"], inputs, lambda one: one.load())
    found = {name: list(of) for name, of in values.items() if isinstance(of, Mapping)}
    assert found == {"dti": ["sub-01", "sub-02"], "noddi": [], "dwi_qc": ["sub-01"]}


def test_a_value_of_the_group_is_read_when_the_function_asks_for_it() -> None:
    read: list[str] = []

    def load(one: Deferred) -> Value:
        read.append(str(one.partition))
        return BLANK

    inputs = [Deferred("dti", key, None, lambda: BLANK) for key in ("sub-01", "sub-02")]
    of_subjects = values_by_subject(["dti"], inputs, load)["dti"]
    assert isinstance(of_subjects, Mapping)
    assert read == []
    assert of_subjects["sub-02"] is BLANK
    assert read == ["sub-02"]


def test_the_sidecar_description_is_the_first_paragraph_on_one_line() -> None:
    assert declared().description == "The first paragraph on two lines."


@pytest.mark.parametrize("one", ALL, ids=[one.name for one in ALL])
def test_a_description_is_plain_in_the_sidecar_and_markdown_in_the_ui(one: Derivative) -> None:
    assert re.fullmatch(r"[^`*|\[\]\n]{20,150}\.", one.description)
    markdown = markdown_description(one)
    assert markdown.startswith(one.description)
    assert "| unit |" in markdown
    assert all(f"- `{file}`" in markdown for file in example_files(one))
    assert all(re.fullmatch(r"10\.\d{4,}/\S+", doi) for doi in re.findall(r"doi\.org/([^)]+)\)", markdown))


@pytest.mark.parametrize("one", ALL, ids=[one.name for one in ALL])
def test_the_files_of_a_description_are_those_that_the_store_writes(one: Derivative, tmp_path: Path) -> None:
    store, key = DerivativeStore(tmp_path), EXAMPLE if one.is_partitioned else GROUP
    kinds = value_types(one)
    kind = "Segmentation" if "Segmentation" in kinds else kinds[0]
    store.write(one.name, key, tiny(kind, one), Provenance("a description", "1-0", "0" * 64, bids=one.bids))
    stored = [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob(f"{key}[._]*")]
    assert {re.sub(r"param-[a-z0]+(.*\.nii\.gz)", r"param-<map>\1", file) for file in stored} == set(example_files(one))


def tiny(kind: str, one: Derivative) -> Value:
    """A tiny value of that type; a set of maps has those with an encoding of their own, and one without."""

    def image(*size: int) -> Volume:
        return Volume(np.ones((1, 1, 1, *size), np.float32), np.eye(4))

    if kind == "MapSet":
        sizes = {"tensor": 6, "fod": 15}
        return MapSet({"fa": image(), **{name: image(sizes.get(name, 3)) for name in one.bids.get(MAPS, {})}})
    if kind == "Dwi":
        return Dwi(image(2), GradientTable(np.array([0.0, 1000.0]), np.array([[0.0, 0, 0], [1, 0, 0]]), "world"))
    if kind == "Segmentation":
        names = ("CST_left",)
        return Segmentation.of(
            Volume(image(1).array.astype(np.uint8), np.eye(4), names), Volume(image(1).array, np.eye(4), names)
        )
    if kind == "RigidTransform":
        return RigidTransform(np.eye(4))
    if kind == "ResponseFunction":
        return ResponseFunction(np.array([1000.0, -300.0]), 1000.0)
    if kind == "Table":
        return Table({"ndc": [0.5]}, {"ndc": "number"})
    if kind == "Report":
        return Report("<p>report</p>")
    return BLANK


def test_a_derivative_may_have_several_value_types() -> None:
    by_name = {one.name: one for one in ALL}
    assert value_types(by_name["csd_peaks"]) == ["MapSet"]
    assert value_types(by_name["fiber_response"]) == ["ResponseFunction", "TissueResponses"]


def references(monkeypatch: pytest.MonkeyPatch, url: str) -> dict[str, LocalFileCodeReference | UrlCodeReference]:
    monkeypatch.setenv(REPOSITORY_VARIABLE, url)
    settings = PipelineSettings()
    graph = Definitions(assets=build_assets(settings), resources=build_resources(settings)).resolve_asset_graph()
    found = {}
    for key in graph.get_all_asset_keys():
        value = graph.get(key).metadata["dagster/code_references"]
        assert isinstance(value, CodeReferencesMetadataValue)
        [found[key.to_user_string()]] = value.code_references
    assert AssetKey("dwi") in graph.get_all_asset_keys()
    return found


def test_an_asset_links_to_its_own_function(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, reference in references(monkeypatch, "").items():
        assert isinstance(reference, LocalFileCodeReference)
        file = Path(reference.file_path)
        assert file.stem == ("source" if name in SOURCES else name)
        line = file.read_text(encoding="utf-8").splitlines()[(reference.line_number or 0) - 1].strip()
        assert line.startswith("def observe_source" if name in SOURCES else "@derivative(")


def test_one_variable_links_the_code_in_a_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    url = "https://github.com/OWNER/kwneuro-assets/tree/main"
    local = references(monkeypatch, "")["dti"]
    assert isinstance(local, LocalFileCodeReference)
    for address in (url, f"{url}/"):
        linked = references(monkeypatch, address)["dti"]
        assert isinstance(linked, UrlCodeReference)
        assert linked.url == f"{url}/kwneuro_assets/assets/dti.py#L{local.line_number}"
