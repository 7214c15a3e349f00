"""Responses and directions as derivatives: which method is taken, on which series, and from which files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml

from kwneuro_assets.assets.csd_peaks import csd_peaks
from kwneuro_assets.assets.fiber_response import fiber_response
from kwneuro_assets.cli import FAILED
from kwneuro_assets.derivations.shells import Method, choose_method, series_for
from kwneuro_assets.imaging import Dwi, GradientTable, MapSet, NotApplicable, ResponseFunction, TissueResponses, Volume
from kwneuro_assets.imaging.tissue_responses import format_tissue_responses
from kwneuro_assets.settings import PipelineSettings, SettingsError, load_settings
from kwneuro_assets.storage.store import DerivativeStore
from kwneuro_assets.subjects import SubjectKey
from kwneuro_assets_tests.derivations.tissues import true_responses
from kwneuro_assets_tests.small_dataset import FIBRE, head, signal, table, write_dataset, write_series
from kwneuro_assets_tests.test_staleness_commands import Home

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


def files_of_responses(folder: Path) -> dict[str, str]:
    """By setting, in MRtrix3's text form."""
    settings = ("response", "grey_response", "water_response")
    paths = {name: folder / f"{name}.txt" for name in settings}
    for path, text in zip(paths.values(), format_tissue_responses(true_responses(6)), strict=True):
        path.write_text(text)
    return {name: str(path) for name, path in paths.items()}


def stored(home: Home, asset: str) -> object:
    return DerivativeStore(home.folder / "store").read(asset, SUBJECT)[0]


def test_three_files_give_shares_of_tissues_and_one_gives_none(home: Home) -> None:
    files = files_of_responses(home.folder)
    home.settings(yaml.safe_dump({**QUICK, "csd": files}))
    done = home("run", "--select", SELECTED)
    assert done.exit_code == 0, done.output
    responses, maps = stored(home, "fiber_response"), stored(home, "csd_peaks")
    assert isinstance(responses, TissueResponses)
    np.testing.assert_array_equal(responses.white, true_responses(6).white)
    assert responses.bvalues.tolist() == [0, 1000, 3000]
    assert isinstance(maps, MapSet)
    assert list(maps) == ["peaks", "peakvalues", "wmfraction", "gmfraction", "csffraction"]
    inside = head()
    assert maps["wmfraction"].array[inside].min() > 0.9, "all of it is one fibre"
    first = maps["peaks"].array[inside][:, :3]
    assert (np.abs(first @ FIBRE) / np.linalg.norm(first, axis=1)).min() > np.cos(np.radians(3))
    home.settings(yaml.safe_dump({**QUICK, "csd": {"response": files["response"]}}))
    assert home("run", "--select", SELECTED).exit_code == 0
    maps = stored(home, "csd_peaks")
    assert isinstance(stored(home, "fiber_response"), ResponseFunction)
    assert isinstance(maps, MapSet)
    assert list(maps) == ["peaks", "peakvalues"]
    assert not list((home.folder / "store").rglob("*fraction*")), "what the new value lacks is gone"


def test_files_for_other_shells_are_an_error_that_names_them(home: Home) -> None:
    files = files_of_responses(home.folder)
    path = Path(files["grey_response"])
    path.write_text("1000\n")
    home.settings(yaml.safe_dump({**QUICK, "csd": files}))
    done = home("run", "--select", SELECTED)
    assert done.exit_code == FAILED
    assert "grey_response.txt" in done.stdout
    assert "grey response: expected 3 numbers, one for each shell, found shape (1,)" in done.stdout


@pytest.mark.parametrize(
    ("csd", "expected"),
    [
        ("{grey_response: g.txt}", "all three of response, grey_response and water_response, or response alone"),
        ("{response: w.txt, water_response: c.txt}", "all three of response"),
        ("{response: w.txt, method: multi-tissue}", "grey_response and water_response, too"),
        ("{response: w, grey_response: g, water_response: c, method: single-tissue}", "response alone"),
    ],
)
def test_files_that_do_not_go_together_are_refused(csd: str, expected: str, tmp_path: Path) -> None:
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
def test_the_method_follows_from_the_shells(
    shells: tuple[float, ...], method: str, shell: object, expected: str
) -> None:
    directions = table(shells, directions=20)
    gradients = GradientTable(directions.bvals, directions.world, "world")
    assert choose_method(gradients, method, shell) == expected  # type: ignore[arg-type]


def test_each_method_takes_the_series_that_serves_it_best_of_those_there_are() -> None:
    noisy, denoised = (_series(TWO_SHELLS, brightness) for brightness in (1.0, 2.0))
    methods: list[Method] = ["single-tissue", "multi-tissue"]
    assert [series_for(one, noisy, denoised) for one in methods] == [denoised, noisy]
    assert [series_for(one, noisy, None) for one in methods] == [noisy, noisy]
    assert [series_for(one, None, denoised) for one in methods] == [denoised, denoised]


@pytest.mark.parametrize(
    ("series", "inputs"),
    [("auto", {"dwi", "denoised_dwi"}), ("denoised", {"denoised_dwi"}), ("source", {"dwi"})],
)
def test_the_graph_has_the_series_that_the_settings_name(series: str, inputs: set[str]) -> None:
    settings = PipelineSettings.model_validate({"csd": {"series": series}})
    assert set(fiber_response.inputs(settings)) == {"brain_mask"} | inputs
    assert set(csd_peaks.inputs(settings)) == {"brain_mask", "fiber_response"} | inputs


def test_multi_tissue_of_one_shell_is_not_applicable_and_says_why() -> None:
    settings = PipelineSettings.model_validate({"csd": {"method": "multi-tissue"}})
    one = _series(ONE_SHELL)
    found = fiber_response.compute(Volume(head().astype(np.uint8), np.eye(4)), settings.csd, one, one)
    assert isinstance(found, NotApplicable)
    assert "at least two shells besides b=0; found 1" in found.reason


def _series(directions: object, brightness: float = 1.0) -> Dwi:
    gradients = GradientTable(directions.bvals, directions.world, "world")  # type: ignore[attr-defined]
    return Dwi(Volume(np.asfortranarray(signal(directions) * np.float32(brightness)), np.eye(4)), gradients)  # type: ignore[arg-type]
