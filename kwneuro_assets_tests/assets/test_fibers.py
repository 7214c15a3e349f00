"""Response functions and fiber orientations as derivatives: the method, the DWI and the files that they use."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml

from kwneuro_assets.assets.csd_peaks import csd_peaks
from kwneuro_assets.assets.fiber_response import fiber_response
from kwneuro_assets.cli.exit_codes import FAILED
from kwneuro_assets.derivations.shells import Method, choose_method, dwi_for
from kwneuro_assets.imaging import (
    Dwi,
    GradientTable,
    InvalidData,
    MapSet,
    NotApplicable,
    ResponseFunction,
    TissueResponses,
    Volume,
)
from kwneuro_assets.imaging.tissue_responses import format_tissue_responses
from kwneuro_assets.settings import PipelineSettings, SettingsError, load_settings
from kwneuro_assets.storage.store import DerivativeStore
from kwneuro_assets.subjects import SubjectKey
from kwneuro_assets_tests.cli.test_staleness_commands import Home
from kwneuro_assets_tests.derivations.tissues import true_responses
from kwneuro_assets_tests.testkit.small_dataset import FIBER, head, signal, table, write_dataset, write_series

SUBJECT = SubjectKey("01")
SELECTED = "denoised_dwi,mean_b0,brain_mask,fiber_response,csd_peaks"
TWO_SHELLS, ONE_SHELL = table((1000.0, 3000.0), directions=24), table((2000.0,), directions=24)
QUICK = {"checks": {"gradients": False}}


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = Home(tmp_path)
    write_dataset(tmp_path / "source")
    write_series(tmp_path / "source", directions=TWO_SHELLS)
    return home


def response_files(folder: Path) -> dict[str, str]:
    """Paths of response files in MRtrix3's text format, by setting."""
    settings = ("wm_response", "gm_response", "csf_response")
    paths = {name: folder / f"{name}.txt" for name in settings}
    for path, text in zip(paths.values(), format_tissue_responses(true_responses(6)), strict=True):
        path.write_text(text)
    return {name: str(path) for name, path in paths.items()}


def stored(home: Home, asset: str) -> object:
    return DerivativeStore(home.folder / "store").read(asset, SUBJECT)[0]


def test_three_response_files_give_tissue_fractions_and_one_gives_none(home: Home) -> None:
    files = response_files(home.folder)
    home.settings(yaml.safe_dump({**QUICK, "csd": files}))
    done = home("run", "--select", SELECTED)
    assert done.exit_code == 0, done.output
    responses, maps = stored(home, "fiber_response"), stored(home, "csd_peaks")
    assert isinstance(responses, TissueResponses)
    np.testing.assert_array_equal(responses.wm, true_responses(6).wm)
    assert responses.bvalues.tolist() == [0, 1000, 3000]
    assert isinstance(maps, MapSet)
    assert list(maps) == ["peaks", "peakvalues", "wmfraction", "gmfraction", "csffraction"]
    inside = head()
    assert maps["wmfraction"].array[inside].min() > 0.9, "the phantom is a single fiber population"
    first = maps["peaks"].array[inside][:, :3]
    assert (np.abs(first @ FIBER) / np.linalg.norm(first, axis=1)).min() > np.cos(np.radians(3))
    home.settings(yaml.safe_dump({**QUICK, "csd": {"wm_response": files["wm_response"]}}))
    assert home("run", "--select", SELECTED).exit_code == 0
    maps = stored(home, "csd_peaks")
    assert isinstance(stored(home, "fiber_response"), ResponseFunction)
    assert isinstance(maps, MapSet)
    assert list(maps) == ["peaks", "peakvalues"]
    assert not list((home.folder / "store").rglob("*fraction*")), "files of maps that the new value lacks are removed"


def test_response_files_for_other_shells_are_an_error_that_names_the_files(home: Home) -> None:
    files = response_files(home.folder)
    path = Path(files["gm_response"])
    path.write_text("1000\n")
    home.settings(yaml.safe_dump({**QUICK, "csd": files}))
    done = home("run", "--select", SELECTED)
    assert done.exit_code == FAILED
    assert "gm_response.txt" in done.stdout
    assert "GM response function: expected 3 lines, one for each shell, b=0, 1000, 3000, found 1" in done.stdout


@pytest.mark.parametrize(
    ("text", "shell", "mean"),
    [
        ("900 -200 20\n600 -290 80\n", 1000.0, 900),
        ("1500 0 0\n900 -200 20\n600 -290 80\n", 1000.0, 900),
        ("1500 0 0\n900 -200 20\n600 -290 80\n", "auto", 600),
        ("# Shells: 5,995,2000,3000\n1500 0 0\n900 -200 20\n700 -260 45\n600 -290 80\n", 1000.0, 900),
        ("# Shells: 3000\n600 -290 80\n", "auto", 600),
    ],
)
def test_the_line_of_the_deconvolved_shell_is_read_from_a_response_file(
    text: str, shell: object, mean: float, tmp_path: Path
) -> None:
    found = response_of(text, shell, tmp_path)
    assert isinstance(found, ResponseFunction)
    assert (found.coefficients[0], found.bvalue) == (mean, 3000 if shell == "auto" else shell)


@pytest.mark.parametrize(
    ("text", "shell", "expected"),
    [
        ("# Shells: 3000\n600 -290 80\n", 1000.0, "wm.txt: response function: .* b=1000, .* lines for b=3000"),
        ("1 0\n1 -1\n1 -1\n1 -1\n", "auto", "wm.txt: response function: .* 4 lines, and b=1000, 3000 in the data"),
    ],
)
def test_a_response_file_without_the_deconvolved_shell_is_refused(
    text: str, shell: object, expected: str, tmp_path: Path
) -> None:
    with pytest.raises(InvalidData, match=expected):
        response_of(text, shell, tmp_path)


def response_of(text: str, shell: object, folder: Path) -> object:
    """The value of `fiber_response` with a response file of that text, for data with shells at b=1000 and 3000."""
    file = folder / "wm.txt"
    file.write_text(text)
    settings = PipelineSettings.model_validate(
        {"csd": {"wm_response": str(file), "shell": shell, "method": "single-tissue"}}
    )
    series = _series(TWO_SHELLS)
    return fiber_response.compute(Volume(head().astype(np.uint8), np.eye(4)), settings.csd, series, series)


@pytest.mark.parametrize(
    ("csd", "expected"),
    [
        ("{gm_response: g.txt}", "all three of wm_response, gm_response and csf_response, or wm_response alone"),
        ("{wm_response: w.txt, csf_response: c.txt}", "all three of wm_response"),
        ("{wm_response: w.txt, method: multi-tissue}", "gm_response and csf_response, too"),
        ("{wm_response: w, gm_response: g, csf_response: c, method: single-tissue}", "wm_response alone"),
    ],
)
def test_an_incomplete_combination_of_response_files_is_refused(csd: str, expected: str, tmp_path: Path) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text(f"csd: {csd}\n")
    with pytest.raises(SettingsError, match=expected):
        load_settings(file, {})


@pytest.mark.parametrize(
    ("shells", "method", "shell", "expected"),
    [
        ((1000.0, 3000.0), "auto", "auto", "multi-tissue"),
        ((3000.0,), "auto", "auto", "single-tissue"),
        ((), "auto", "auto", "single-tissue"),
        ((1000.0, 3000.0), "auto", 3000.0, "single-tissue"),
        ((1000.0, 3000.0), "single-tissue", "auto", "single-tissue"),
        ((3000.0,), "multi-tissue", "auto", "multi-tissue"),
    ],
)
def test_the_method_depends_on_the_shells(shells: tuple[float, ...], method: str, shell: object, expected: str) -> None:
    directions = table(shells, directions=20)
    gradients = GradientTable(directions.bvals, directions.world, "world")
    assert choose_method(gradients, method, shell) == expected  # type: ignore[arg-type]


def test_each_method_uses_its_preferred_dwi_if_available() -> None:
    noisy, denoised = (_series(TWO_SHELLS, brightness) for brightness in (1.0, 2.0))
    methods: list[Method] = ["single-tissue", "multi-tissue"]
    assert [dwi_for(one, noisy, denoised) for one in methods] == [denoised, noisy]
    assert [dwi_for(one, noisy, None) for one in methods] == [noisy, noisy]
    assert [dwi_for(one, None, denoised) for one in methods] == [denoised, denoised]


@pytest.mark.parametrize(
    ("series", "inputs"),
    [("auto", {"dwi", "denoised_dwi"}), ("denoised", {"denoised_dwi"}), ("source", {"dwi"})],
)
def test_the_inputs_are_the_dwi_that_the_settings_name(series: str, inputs: set[str]) -> None:
    settings = PipelineSettings.model_validate({"csd": {"series": series}})
    assert set(fiber_response.inputs(settings)) == {"brain_mask"} | inputs
    assert set(csd_peaks.inputs(settings)) == {"brain_mask", "fiber_response"} | inputs


def test_multi_tissue_deconvolution_of_one_shell_is_not_applicable_with_a_reason() -> None:
    settings = PipelineSettings.model_validate({"csd": {"method": "multi-tissue"}})
    one = _series(ONE_SHELL)
    found = fiber_response.compute(Volume(head().astype(np.uint8), np.eye(4)), settings.csd, one, one)
    assert isinstance(found, NotApplicable)
    assert "at least two shells besides b=0; found 1" in found.reason


def _series(directions: object, brightness: float = 1.0) -> Dwi:
    gradients = GradientTable(directions.bvals, directions.world, "world")  # type: ignore[attr-defined]
    return Dwi(Volume(np.asfortranarray(signal(directions) * np.float32(brightness)), np.eye(4)), gradients)  # type: ignore[arg-type]
