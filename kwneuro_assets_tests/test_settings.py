"""Settings from a file and the environment, and the messages for invalid ones."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from kwneuro_assets.settings import (
    BrainMaskSettings,
    CsdSettings,
    DtiSettings,
    PeakSettings,
    PipelineSettings,
    ResponseSettings,
    SettingsError,
    TractEndingSettings,
    load_settings,
)


def settings_file(folder: Path, text: str) -> Path:
    file = folder / "settings.yaml"
    file.write_text(text)
    return file


def test_without_a_file_and_variables_all_settings_have_their_defaults() -> None:
    assert load_settings(environment={}) == PipelineSettings()


def test_an_empty_file_and_an_empty_section_give_defaults(tmp_path: Path) -> None:
    assert load_settings(settings_file(tmp_path, ""), {}) == PipelineSettings()
    assert load_settings(settings_file(tmp_path, "dti:\nnoddi: {}\n"), {}) == PipelineSettings()


def test_dumped_settings_read_back_unchanged(tmp_path: Path) -> None:
    chosen = PipelineSettings.model_validate(
        {"csd": {"shell": 3000, "wm_response": "r.txt"}, "dti": {"max_bvalue": 1200}}
    )
    file = settings_file(tmp_path, yaml.safe_dump(chosen.model_dump(mode="json")))
    assert load_settings(file, {}) == chosen


def test_a_variable_overrides_the_file_and_the_file_the_default(tmp_path: Path) -> None:
    file = settings_file(tmp_path, "dti: {max_bvalue: 1200}\nnoddi: {directions: 1000}\nsource: {url: from/file}\n")
    environment = {
        "KWNEURO_SETTINGS": str(file), "KWNEURO_DTI__MAX_BVALUE": "900", "KWNEURO_SOURCE": "from/variable",
        "KWNEURO_CSD__SHELL": "auto", "KWNEURO_CSD__LMAX": "6", "KWNEURO_NODDI__DPAR": "1.5e-3",
        "KWNEURO_CSD__WM_RESPONSE": "null", "KWNEURO_STORE": "",
    }  # fmt: skip
    found = load_settings(environment=environment)
    assert found.dti.max_bvalue == 900
    assert found.noddi.directions == 1000
    assert found.noddi.dpar == 1.5e-3
    assert (found.csd.shell, found.csd.lmax, found.csd.wm_response) == ("auto", 6, None)
    assert found.source.url == "from/variable"
    assert found.store == PipelineSettings().store


@pytest.mark.parametrize("url", ["2024", "~", "null", "on", "a: b", "s3://bucket/x"])
def test_a_url_from_the_environment_is_literal_text(url: str) -> None:
    assert load_settings(environment={"KWNEURO_SOURCE": url}).source.url == url


@pytest.mark.parametrize("pattern", ["*dir-AP*", "*", "?un-[12]*", "sub-01*"])
def test_a_pattern_from_the_environment_is_literal_text(pattern: str) -> None:
    assert load_settings(environment={"KWNEURO_SOURCE__SELECT": pattern}).source.select == pattern


@pytest.mark.parametrize(
    ("yaml_text", "text"),
    [("1", "1"), ("010", "010"), ("on", "on"), ("2024-01-31", "2024-01-31"), ("1e3", "1e3"), ("12:30", "12:30"),
     ("'64'", "64"), ("no", "no"), ("0x1F", "0x1F"), ("1_000", "1_000")],
)  # fmt: skip
def test_values_of_text_keys_are_text_even_if_yaml_reads_another_type(
    tmp_path: Path, yaml_text: str, text: str
) -> None:
    file = settings_file(tmp_path, f"source: {{acq: {yaml_text}, desc: , run: null}}\n")
    assert load_settings(file, {}).source.acq == text
    assert load_settings(file, {}).source.run is None
    assert load_settings(environment={"KWNEURO_SOURCE__ACQ": yaml_text}).source.acq == text


@pytest.mark.parametrize("value", ["", "~", "null"])
def test_a_variable_without_a_value_is_none(value: str) -> None:
    assert load_settings(environment={"KWNEURO_SOURCE__ACQ": value}).source.acq is None


BAD_FILES: dict[str, tuple[str, list[str]]] = {
    "unknown key": ("dti: {max_bvalues: 1200}", ["unknown key 'dti.max_bvalues'", "'dti.max_bvalue'"]),
    "key of another section": ("dti: {dpar: 1}", ["unknown key 'dti.dpar'", "the nearest valid one is 'dti."]),
    "unknown section": ("brainmask: {method: hd-bet}", ["unknown key 'brainmask'", "'brain_mask'"]),
    "number as a section": ("5: {a: 1}", ["unknown key '5'"]),
    "too small": ("dti: {max_bvalue: 5}", ["dti.max_bvalue: ", "greater than or equal to 100", "found 5", "s/mm^2"]),
    "too large": ("noddi: {dpar: 1.7}", ["noddi.dpar: ", "less than or equal to 0.005", "found 1.7", "mm^2/s"]),
    "at an exclusive limit": ("csd: {relative_threshold: 1}", ["csd.relative_threshold: ", "less than 1", "found 1"]),
    "not a number": ("dti: {max_bvalue: high}", ["dti.max_bvalue: ", "valid number", "found 'high'"]),
    "NaN": ("dti: {max_bvalue: .nan}", ["dti.max_bvalue: ", "found nan"]),
    "infinite": ("dti: {max_bvalue: .inf}", ["dti.max_bvalue: ", "found inf"]),
    "fraction for an integer": ("source: {subsample: 1.5}", ["source.subsample: ", "valid integer", "found 1.5"]),
    "unknown choice": ("brain_mask: {method: bet}", ["brain_mask.method: ", "'hd-bet'", "'provided'", "found 'bet'"]),
    "odd order": ("csd: {lmax: 7}", ["csd.lmax: ", "2, 4, 6", "found 7"]),
    "neither auto nor number": ("csd: {shell: low}", ["csd.shell: ", "'auto'", "valid number", "found 'low'"]),
    "list as a section": ("dti: [1200]", ["dti: expected keys with values, found [1200]"]),
    "text as a section": ("dti: 1200", ["dti: expected keys with values, found 1200"]),
    "list as the file": ("- dti", ["expected sections with keys, found list"]),
    "text as the file": ("dti", ["expected sections with keys, found str"]),
    "not YAML": ("dti: {max_bvalue: [1200", ["is not YAML"]),
    "invalid range of volumes": (
        "source: {exclude_volumes: 3-1}",
        ["source.exclude_volumes: ", "indices (0, 70)", "found '3-1'"],
    ),
    "mask without subject": ("source: {mask: mask.nii.gz}", ["source.mask: ", "a pattern with {subject}"]),
    "list for text": ("source: {acq: [64, 32]}", ["source.acq: ", "valid string", "found [64, 32]"]),
    "empty value": ("dti: {max_bvalue: }", ["dti.max_bvalue: ", "found None"]),
}


@pytest.mark.parametrize(("text", "parts"), BAD_FILES.values(), ids=list(BAD_FILES))
def test_the_message_for_an_invalid_file_names_file_key_expected_and_found(
    tmp_path: Path, text: str, parts: list[str]
) -> None:
    file = settings_file(tmp_path, text)
    with pytest.raises(SettingsError) as caught:
        load_settings(file, {})
    message = str(caught.value)
    assert message.startswith(f"settings file {file}: ")
    assert "\n" not in message
    for part in parts:
        assert part in message


def test_a_missing_file_a_folder_and_a_binary_file_are_errors_with_their_path(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    for name, reason in (("missing", "No such file"), ("", "directory"), ("binary", "is not YAML")):
        with pytest.raises(SettingsError, match=f"settings file {tmp_path / name}: .*{reason}"):
            load_settings(tmp_path / name, {})


@pytest.mark.parametrize(
    ("variable", "value", "parts"),
    [
        ("KWNEURO_DTI__MAX_BVALUE", "5", ["dti.max_bvalue", "greater than or equal to 100", "found 5"]),
        ("KWNEURO_DTI__MAX_BVALUE", "[1", ["dti.max_bvalue", "valid number", "found '[1'"]),
        ("KWNEURO_DTI__MAXBVALUE", "1200", ["unknown key 'dti.maxbvalue'", "'dti.max_bvalue'"]),
        ("KWNEURO_DIT__MAX_BVALUE", "1200", ["unknown key 'dit'", "'dti'"]),
    ],
)
def test_the_message_for_an_invalid_variable_names_the_variable_and_not_the_file(
    tmp_path: Path, variable: str, value: str, parts: list[str]
) -> None:
    with pytest.raises(SettingsError) as caught:
        load_settings(settings_file(tmp_path, "noddi: {directions: 1000}"), {variable: value})
    message = str(caught.value)
    assert message.startswith(f"environment variable {variable}: ")
    for part in parts:
        assert part in message


def test_of_two_invalid_keys_the_message_names_the_first_only(tmp_path: Path) -> None:
    file = settings_file(tmp_path, "dti: {max_bvalue: 5}\nnoddi: {dpar: 9}\n")
    with pytest.raises(SettingsError) as caught:
        load_settings(file, {})
    assert "dti.max_bvalue" in str(caught.value)
    assert "0.005" not in str(caught.value)


@pytest.mark.parametrize("kind", [DtiSettings, BrainMaskSettings, ResponseSettings, PeakSettings, TractEndingSettings])
def test_a_view_has_the_fields_of_one_derivation_only(kind: type[DtiSettings]) -> None:
    chosen = PipelineSettings.model_validate({"csd": {"max_peaks": 3, "fa_threshold": 0.6}, "dti": {"max_bvalue": 999}})
    view = chosen.view(kind)
    assert type(view) is kind
    assert set(type(view).model_fields) == set(kind.model_fields)
    for name in kind.model_fields:
        owner = chosen.csd if issubclass(CsdSettings, kind) else None
        if owner is not None:
            assert getattr(view, name) == getattr(owner, name)


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        PipelineSettings().dti.max_bvalue = 5  # type: ignore[misc]
