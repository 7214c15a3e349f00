"""The commands `run`, `status` and `diff`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from kwneuro_assets.assets.mechanism import execution
from kwneuro_assets.cli.exit_codes import FAILED, OUT_OF_DATE, USAGE_ERROR
from kwneuro_assets.cli.main import main
from kwneuro_assets_tests.testkit.event_log import write_cohort
from kwneuro_assets_tests.testkit.s3_server import S3Bucket, counted_requests
from kwneuro_assets_tests.testkit.small_dataset import GRID, head, write_dataset, write_mask

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
        with pytest.MonkeyPatch.context() as environment:  # a command sets variables for its project
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
def computed(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """Two subjects with all cheap derivatives."""
    home = Home(tmp_path_factory.mktemp("home"))
    write_dataset(home.folder / "source", ["sub-01", "sub-02"])
    done = home("run", "--select", CHEAP)
    assert done.exit_code == 0, done.output
    return home


@pytest.fixture
def home(computed: Home) -> Iterator[Home]:
    yield computed
    computed.settings("")
    assert computed("run", "--stale", "--select", CHEAP).exit_code == 0


def test_run_computes_what_is_out_of_date_and_prints_the_outcome_of_each(home: Home) -> None:
    skipped = dict.fromkeys(CHEAP.split(","), "skipped")
    assert home.outcomes(home("run", "--select", CHEAP)) == {"sub-01": skipped, "sub-02": skipped}
    home.settings("dti: {max_bvalue: 900}\n")
    assert home.outcomes(home("run", "--select", CHEAP, "--subject", "sub-01")) == {
        "sub-01": {**skipped, "dti": "materialized"}
    }
    forced = home("run", "--select", "dti", "--subject", "sub-01", "--force")
    assert home.outcomes(forced) == {"sub-01": {"dti": "materialized"}}


def test_run_stale_does_not_run_fresh_subjects(home: Home) -> None:
    done = home("run", "--stale", "--select", CHEAP)
    assert done.exit_code == 0
    assert "nothing to do: 2 subjects are up to date" in done.stdout
    path = home.folder / "source" / "sub-02" / "dwi" / "sub-02_dwi.bvec"
    before = path.read_text()
    np.savetxt(path, np.loadtxt(path) * [[-1], [1], [1]])
    done = home("run", "--stale", "--select", CHEAP)
    path.write_text(before)
    assert done.exit_code == 0
    assert home.outcomes(done) == {
        "sub-02": {
            "denoised_dwi": "materialized",
            "mean_b0": "materialized",
            "brain_mask": "skipped",
            "dti": "materialized",
        }
    }


def shown(done: Result) -> dict[str, tuple[str, bool]]:
    """The outcome of each derivative of one subject, and whether the table marks it as added."""
    rows = [line.split() for line in done.stdout.splitlines()]
    return {row[1]: (row[2], row[-1] == "upstream") for row in rows if len(row) >= 3 and row[1] in CHEAP.split(",")}


@contextmanager
def changed_mask(home: Home, subject: str) -> Iterator[None]:
    path = home.folder / "source" / subject / "dwi" / f"{subject}_desc-brain_mask.nii.gz"
    before = path.read_bytes()
    write_mask(home.folder / "source", subject, inside=head() & (np.arange(GRID[0])[:, None, None] > 2))
    try:
        yield
    finally:
        path.write_bytes(before)


@pytest.mark.parametrize("how", [(), ("--stale",), ("--force",)])
def test_upstream_derivatives_of_a_new_subject_are_added(tmp_path: Path, how: tuple[str, ...]) -> None:
    home = Home(tmp_path)
    write_dataset(home.folder / "source", ["sub-01", "sub-02"])
    done = home("run", "--subject", "sub-01", "--select", "dti", *how)
    assert done.exit_code == 0, done.output
    assert shown(done) == {**dict.fromkeys(CHEAP.split(","), ("materialized", True)), "dti": ("materialized", False)}
    assert shown(home("run", "--subject", "sub-01", "--select", "dti")) == {"dti": ("skipped", False)}
    home.settings("dti: {max_bvalue: 900}\n")
    assert shown(home("run", "--subject", "sub-01", "--select", "dti", *how)) == {"dti": ("materialized", False)}


def test_only_upstream_derivatives_that_are_out_of_date_or_missing_are_computed(home: Home) -> None:
    run = ("run", "--subject", "sub-01", "--select", "dti")
    with changed_mask(home, "sub-01"):
        done = home(*run, "--only")
        assert shown(done) == {"dti": ("skipped", False)}, "it is up to date with the recorded mask"
        assert "sub-01 dti: skipped: brain_mask is stale" in done.stdout
        assert shown(home(*run)) == {"brain_mask": ("materialized", True), "dti": ("materialized", False)}
    assert shown(home(*run, "--stale")) == {"brain_mask": ("materialized", True), "dti": ("materialized", False)}
    next((home.folder / "store" / "sub-01" / "dwi").glob("*desc-denoised_dwi.nii.gz")).unlink()
    found = shown(home(*run))
    assert found["denoised_dwi"] == ("materialized", True)
    assert found["dti"] == ("skipped", False), "its input has the same content again"


def test_force_applies_only_to_the_selected_derivatives(home: Home) -> None:
    run = ("run", "--subject", "sub-01", "--select", "mean_b0,dti", "--force")
    assert shown(home(*run)) == {"mean_b0": ("materialized", False), "dti": ("materialized", False)}
    with changed_mask(home, "sub-01"):
        assert shown(home(*run, "--only")) == {"mean_b0": ("materialized", False), "dti": ("materialized", False)}
        assert shown(home(*run)) == {
            "mean_b0": ("materialized", False), "brain_mask": ("materialized", True), "dti": ("materialized", False),
        }  # fmt: skip


@pytest.mark.parametrize("how", [(), ("--stale",), ("--force",)])
def test_only_adds_nothing_and_reports_what_is_missing(tmp_path: Path, how: tuple[str, ...]) -> None:
    home = Home(tmp_path)
    write_dataset(home.folder / "source", ["sub-01"])
    done = home("run", "--select", "dti", "--only", *how)
    assert done.exit_code == FAILED
    assert shown(done) == {"dti": ("failed", False)}
    assert "has not been materialized. Materialize it with: kwneuro-assets run --subject sub-01 --select" in done.stdout
    assert home("run", "--only").exit_code == USAGE_ERROR


def test_a_failed_upstream_derivative_is_printed_with_its_reason(tmp_path: Path) -> None:
    home = Home(tmp_path)
    write_dataset(home.folder / "source", ["sub-01"])
    place = home.folder / "store" / "sub-01" / "dwi" / "sub-01_desc-brain_mask.nii.gz"
    place.mkdir(parents=True)
    done = home("run", "--select", "dti")
    assert done.exit_code == FAILED
    assert shown(done)["brain_mask"] == ("failed", True)
    assert shown(done)["dti"] == ("upstream-failed", False)
    assert "sub-01 brain_mask: failed: " in done.stdout


def test_a_run_of_many_subjects_lists_a_remote_store_once_for_each(
    tmp_path: Path, s3_bucket: S3Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(execution, "draw_figure", lambda *_: None)  # it takes most of the time
    keys = ["sub-01", "sub-02", "sub-03"]
    home = Home(tmp_path)
    home.settings(f"store: {{url: {s3_bucket.url}/study}}\n")
    write_dataset(home.folder / "source", keys)
    run = ("run", "--select", "mean_b0,brain_mask")
    assert home(*run).exit_code == 0
    missing = "study/sub-03/dwi/sub-03_desc-brain_mask.nii.gz"
    s3_bucket.server.client.delete_object(Bucket=s3_bucket.name, Key=missing)
    with counted_requests() as seen:
        done = home(*run)
    skipped = {"mean_b0": "skipped", "brain_mask": "skipped"}
    assert home.outcomes(done) == {**dict.fromkeys(keys, skipped), "sub-03": {**skipped, "brain_mask": "materialized"}}
    with counted_requests() as seen:
        assert home.outcomes(home(*run)) == dict.fromkeys(keys, skipped)
    assert seen["ListObjectsV2"] == len(keys)
    sidecars = 3 * len(keys)  # including that of denoised_dwi, which is upstream of both
    assert sidecars < seen["GetObject"] <= sidecars + 4, "the description, for each thread at most"
    assert seen.total() == seen["ListObjectsV2"] + seen["GetObject"]


def test_stale_and_force_exclude_each_other(computed: Home) -> None:
    done = computed("run", "--stale", "--force")
    assert done.exit_code == USAGE_ERROR
    assert "exclude each other" in done.stderr


def test_status_why_prints_the_old_and_new_value_of_a_changed_setting(home: Home) -> None:
    home.settings("dti: {max_bvalue: 900}\n")
    done = home("status", "--why")
    assert done.exit_code == 0
    assert "2 subjects (e.g. sub-01) dti: stale: dti.max_bvalue: was 1500, now 900" in done.stdout
    tree = json.loads(home("status", "--json", "--subject", "sub-02").stdout)
    assert list(tree) == ["sub-02"]
    assert tree["sub-02"]["dti"]["state"] == "stale"
    assert tree["sub-02"]["dti"]["why"] == ["dti.max_bvalue: was 1500, now 900"]
    assert tree["sub-02"]["dti"].keys() == {"state", "why", "data_version", "code_version"}
    assert tree["sub-02"]["mean_b0"] == {**tree["sub-02"]["mean_b0"], "state": "fresh", "why": []}


def test_status_fail_if_stale_returns_an_exit_code(home: Home) -> None:
    done = home("status", "--fail-if-stale")
    assert done.exit_code == OUT_OF_DATE, "noddi is missing"
    assert "missing" in done.stdout
    assert home("status").exit_code == 0


def test_status_of_many_subjects_prints_counts_and_of_one_its_states(tmp_path: Path) -> None:
    from dagster import DagsterInstance

    home = Home(tmp_path)
    (tmp_path / "settings.yaml").write_text("")
    home("status")  # creates the instance
    with DagsterInstance.from_config(str(tmp_path / "dagster")) as instance:
        write_cohort(instance, 40)
    done = home("status")
    assert done.exit_code == 0, done.output
    assert "40 subjects" in done.stdout
    header, *rows = [line.split() for line in done.stdout.splitlines() if line.strip()][1:]
    assert header[0] == "asset"
    assert all(sum(map(int, row[1:])) == 40 for row in rows)
    assert "sub-00007" in home("status", "--subject", "sub-00007").stdout


def test_diff_finds_no_difference_between_subjects_computed_in_the_same_way(computed: Home) -> None:
    done = computed("diff", "sub-01", "sub-02", "--asset", "dti", "--asset", "denoised_dwi")
    assert done.exit_code == 0, done.output
    assert "computed in the same way: denoised_dwi, dti" in done.stdout


def test_diff_prints_the_settings_in_which_two_subjects_differ(home: Home) -> None:
    home.settings("dti: {max_bvalue: 900}\n")
    home("run", "--subject", "sub-01", "--select", "dti")
    done = home("diff", "sub-01", "sub-02", "--asset", "dti", "--json")
    assert done.exit_code == FAILED
    assert json.loads(done.stdout) == {"dti": ["max_bvalue: 900 and 1500"]}


def test_diff_versus_settings_prints_changed_settings_and_inputs(home: Home) -> None:
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
    ("arguments", "message"),
    [
        (("diff", "sub-01"), "expected two subjects, or one subject and --versus-settings"),
        (("diff", "sub-01", "sub-02", "--versus-settings"), "expected two subjects"),
        (("diff", "sub-01", "../x"), "expected sub-LABEL"),
        (("diff", "sub-01", "sub-02", "--asset", "fa"), "The assets are: denoised_dwi"),
        (("status", "--subject", "sub-09"), "no such subject: sub-09"),
    ],
)
def test_wrong_arguments_are_reported_with_what_is_expected(
    computed: Home, arguments: tuple[str, ...], message: str
) -> None:
    done = computed(*arguments)
    assert done.exit_code in (FAILED, USAGE_ERROR)
    assert message in done.stderr
