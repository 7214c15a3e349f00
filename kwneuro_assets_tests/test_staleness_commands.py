"""The commands that tell what is stale and make it fresh: `run`, `status` and `diff`, as a person types them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from benchmarks.event_log import write_cohort
from kwneuro_assets.cli import FAILED, MISUSED, UNSETTLED, main
from kwneuro_assets_tests.small_dataset import write_dataset

CHEAP = "denoised_dwi,mean_b0,brain_mask,dti"
SETTINGS = "denoising: {method: none}\nbrain_mask: {method: provided}\ningestion: {settle_seconds: 0}\n"


class Home:
    """A project folder, and its command line in this process."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.settings("")

    def settings(self, more: str) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "settings.yaml").write_text(SETTINGS + more)

    def __call__(self, *arguments: str) -> Result:
        with pytest.MonkeyPatch.context() as environment:  # a command completes it, for its own project
            for variable in ("KWNEURO_SOURCE", "KWNEURO_STORE", "KWNEURO_SETTINGS", "KWNEURO_HOME", "DAGSTER_HOME"):
                environment.setenv(variable, "")
                environment.delenv(variable)
            return CliRunner().invoke(main, ["--home", str(self.folder), *arguments])

    def outcomes(self, done: Result) -> dict[str, dict[str, str]]:
        """By subject and asset, from the table that `run` prints."""
        rows = [line.split() for line in done.stdout.splitlines()]
        table: dict[str, dict[str, str]] = {}
        for row in rows:
            if len(row) >= 3 and row[0].startswith("sub-") and row[1] in CHEAP.split(","):
                table.setdefault(row[0], {})[row[1]] = row[2]
        return table


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """Two subjects, both made."""
    home = Home(tmp_path_factory.mktemp("home"))
    write_dataset(home.folder / "source", ["sub-01", "sub-02"])
    done = home("run", "--select", CHEAP)
    assert done.exit_code == 0, done.output
    return home


@pytest.fixture
def home(made: Home) -> Iterator[Home]:
    yield made
    made.settings("")
    assert made("run", "--stale", "--select", CHEAP).exit_code == 0


def test_run_makes_what_is_not_fresh_and_says_so_of_each(home: Home) -> None:
    fresh = dict.fromkeys(CHEAP.split(","), "fresh")
    assert home.outcomes(home("run", "--select", CHEAP)) == {"sub-01": fresh, "sub-02": fresh}
    home.settings("dti: {max_bvalue: 900}\n")
    assert home.outcomes(home("run", "--select", CHEAP, "--subject", "sub-01")) == {"sub-01": {**fresh, "dti": "made"}}
    forced = home("run", "--select", "dti", "--subject", "sub-01", "--force")
    assert home.outcomes(forced) == {"sub-01": {"dti": "made"}}


def test_run_stale_leaves_alone_who_is_fresh(home: Home) -> None:
    done = home("run", "--stale", "--select", CHEAP)
    assert done.exit_code == 0
    assert "nothing to do: all of 2 subjects is fresh" in done.stdout
    path = home.folder / "source" / "sub-02" / "dwi" / "sub-02_dwi.bvec"
    before = path.read_text()
    np.savetxt(path, np.loadtxt(path) * [[-1], [1], [1]])
    done = home("run", "--stale", "--select", CHEAP)
    path.write_text(before)
    assert done.exit_code == 0
    assert home.outcomes(done) == {
        "sub-02": {"denoised_dwi": "made", "mean_b0": "made", "brain_mask": "fresh", "dti": "made"}
    }


def test_stale_and_force_exclude_each_other(made: Home) -> None:
    done = made("run", "--stale", "--force")
    assert done.exit_code == MISUSED
    assert "exclude each other" in done.stderr


def test_status_tells_which_setting_changed_from_what_to_what(home: Home) -> None:
    home.settings("dti: {max_bvalue: 900}\n")
    done = home("status", "--why")
    assert done.exit_code == 0
    assert "2 subjects (such as sub-01) dti: stale: dti.max_bvalue: was 1500, now 900" in done.stdout
    tree = json.loads(home("status", "--json", "--subject", "sub-02").stdout)
    assert list(tree) == ["sub-02"]
    assert tree["sub-02"]["dti"]["state"] == "stale"
    assert tree["sub-02"]["dti"]["why"] == ["dti.max_bvalue: was 1500, now 900"]
    assert tree["sub-02"]["dti"].keys() == {"state", "why", "data_version", "code_version"}
    assert tree["sub-02"]["mean_b0"] == {**tree["sub-02"]["mean_b0"], "state": "fresh", "why": []}


def test_status_may_fail_a_script_where_anything_is_not_fresh(home: Home) -> None:
    done = home("status", "--fail-if-stale")
    assert done.exit_code == UNSETTLED, "noddi is missing"
    assert "missing" in done.stdout
    assert home("status").exit_code == 0


def test_status_of_many_subjects_counts_and_of_one_it_has_rows(tmp_path: Path) -> None:
    from dagster import DagsterInstance

    home = Home(tmp_path)
    (tmp_path / "settings.yaml").write_text("")
    home("status")  # makes the instance
    with DagsterInstance.from_config(str(tmp_path / "dagster")) as instance:
        write_cohort(instance, 40)
    done = home("status")
    assert done.exit_code == 0, done.output
    assert "40 subjects" in done.stdout
    header, *rows = [line.split() for line in done.stdout.splitlines() if line.strip()][1:]
    assert header[0] == "asset"
    assert all(sum(map(int, row[1:])) == 40 for row in rows)
    assert "sub-00007" in home("status", "--subject", "sub-00007").stdout


def test_two_subjects_that_were_made_alike_do_not_differ(made: Home) -> None:
    done = made("diff", "sub-01", "sub-02", "--asset", "dti", "--asset", "denoised_dwi")
    assert done.exit_code == 0, done.output
    assert "made in the same way: denoised_dwi, dti" in done.stdout


def test_diff_tells_the_settings_in_which_two_subjects_differ(home: Home) -> None:
    home.settings("dti: {max_bvalue: 900}\n")
    home("run", "--subject", "sub-01", "--select", "dti")
    done = home("diff", "sub-01", "sub-02", "--asset", "dti", "--json")
    assert done.exit_code == FAILED
    assert json.loads(done.stdout) == {"dti": ["max_bvalue: 900 and 1500"]}


def test_diff_tells_what_would_be_made_otherwise_now(home: Home) -> None:
    home.settings("dti: {max_bvalue: 900}\n")
    path = home.folder / "source" / "sub-01" / "dwi" / "sub-01_dwi.bvec"
    before = path.read_text()
    np.savetxt(path, np.loadtxt(path) * [[-1], [1], [1]])
    home("ingest")
    done = home("diff", "sub-01", "--versus-settings", "--asset", "dti", "--asset", "denoised_dwi", "--asset", "noddi")
    path.write_text(before)
    home("ingest")
    assert done.exit_code == FAILED
    assert "dti: dti.max_bvalue: was 1500, now 900" in done.stdout
    assert "denoised_dwi: version of dwi: was " in done.stdout
    assert "noddi: sub-01 does not have it" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("diff", "sub-01"), "expected two subjects, or one with --versus-settings"),
        (("diff", "sub-01", "sub-02", "--versus-settings"), "expected two subjects"),
        (("diff", "sub-01", "../x"), "expected sub-LABEL"),
        (("diff", "sub-01", "sub-02", "--asset", "fa"), "The assets are: denoised_dwi"),
        (("status", "--subject", "sub-09"), "no such subject: sub-09"),
    ],
)
def test_a_command_that_is_misused_says_what_it_expects(made: Home, arguments: tuple[str, ...], told: str) -> None:
    done = made(*arguments)
    assert done.exit_code in (FAILED, MISUSED)
    assert told in done.stderr
