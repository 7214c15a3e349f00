"""A remote dataset gives the same subjects, data versions, values and errors as a local one."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from dagster import AssetKey, DagsterInstance, build_input_context
from upath import UPath

from kwneuro_assets.imaging import Dwi, StreamedVolume, streamed
from kwneuro_assets.ingestion import subject_files as files_module
from kwneuro_assets.ingestion import tree as tree_module
from kwneuro_assets.ingestion.dataset import SourceDataset
from kwneuro_assets.ingestion.ingest import ingest
from kwneuro_assets.ingestion.read_mask import read_mask, scan_mask
from kwneuro_assets.ingestion.read_source import ScannedDwi, read_dwi, scan_dwi
from kwneuro_assets.ingestion.tree import SourceError
from kwneuro_assets.resources.source_io_manager import SourceIOManager
from kwneuro_assets.settings import PipelineSettings, SourceSettings
from kwneuro_assets.storage import files, retries
from kwneuro_assets.storage.files import Listing
from kwneuro_assets.storage.retries import StorageError
from kwneuro_assets.subjects import SubjectKey
from kwneuro_assets_tests.ingestion.test_bad_input import BAD, GOOD, key_of
from kwneuro_assets_tests.testkit.project import Project
from kwneuro_assets_tests.testkit.s3_server import KEY, SECRET, S3Bucket
from kwneuro_assets_tests.testkit.small_dataset import (
    AFFINES,
    dwi_folder,
    small_settings,
    table,
    write_dataset,
    write_gradients,
    write_mask,
    write_series,
)

PREFIX = "study/raw"
TEXT = 1  # requests for a bval or bvec
FILES = 4  # of a subject: image, bval, bvec, mask
IMAGE = 2  # requests: one for its size, one for its bytes if it fits into one block
Upload = Callable[[Path], str]


def put(bucket: S3Bucket, path: str, content: bytes, **how: str) -> None:
    bucket.server.client.put_object(Bucket=bucket.name, Key=f"{PREFIX}/{path}", Body=content, **how)


def put_dataset(bucket: S3Bucket, root: Path, **how: str) -> str:
    """Upload all files below `root`; returns the URL of the dataset."""
    for path in sorted(root.rglob("*")):
        if path.is_file():
            put(bucket, path.relative_to(root).as_posix(), path.read_bytes(), **how)
    return f"{bucket.url}/{PREFIX}"


@pytest.fixture
def in_memory(tmp_path: Path) -> Upload:
    """Copies a local dataset to a memory:// URL."""

    def upload(root: Path) -> str:
        url = f"memory:/{tmp_path}/{PREFIX}"  # unique for each test
        for path in sorted(root.rglob("*")):
            if path.is_file():
                target = UPath(url) / path.relative_to(root).as_posix()
                target.fs.pipe_file(target.path, path.read_bytes())
        return url

    return upload


@pytest.fixture(params=["memory", "s3"])
def upload(request: pytest.FixtureRequest) -> Upload:
    """Copies a local dataset to a memory:// or s3:// URL."""
    if request.param == "memory":
        return request.getfixturevalue("in_memory")
    bucket = request.getfixturevalue("s3_bucket")
    return lambda root: put_dataset(bucket, root)


@pytest.fixture
def requests(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str, str]]:
    """All S3 requests from here on: operation, key or prefix relative to the dataset, byte range."""
    client = pytest.importorskip("aiobotocore.client").AioBaseClient
    call, noted = client._make_api_call, []

    async def noting_call(self: Any, operation: str, arguments: dict[str, Any]) -> Any:
        key = str(arguments.get("Key") or arguments.get("Prefix") or "").removeprefix(PREFIX).strip("/")
        noted.append((operation, key, str(arguments.get("Range") or "")))
        return await call(self, operation, arguments)

    monkeypatch.setattr(client, "_make_api_call", noting_call)
    return noted


def opened(url: str | Path, **source: object) -> SourceDataset:
    return SourceDataset(SourceSettings(url=str(url), **source))


def settings_for(url: str, **sections: dict[str, object]) -> PipelineSettings:
    return small_settings(Path("here"), Path("there"), source={"url": url, **sections.pop("source", {})}, **sections)


def varied_dataset(root: Path) -> Path:
    """Sessions, gradient tables inherited from two levels, several runs, masks in two places, an invalid name."""
    write_dataset(root, ["sub-01", "sub-02_ses-a", "sub-02_ses-b"])
    for session in ("a", "b"):
        for path in dwi_folder(root, f"sub-02_ses-{session}").glob("*.bv*"):
            path.rename(root / "sub-02" / f"sub-02_dwi{path.suffix}")
    for run in ("run-1", "run-2", "run-10"):
        write_series(root, "sub-03", entities=run, gradients=run != "run-2", brightness=1 + len(run))
    write_gradients(root / "dwi", table(), AFFINES["right-handed"])
    write_mask(root / "derivatives" / "masks", "sub-03")
    write_series(root, "sub-04", entities="desc-preproc", extension=".nii", affine=AFFINES["oblique"])
    write_mask(root / "derivatives" / "other masks", "sub-04", affine=AFFINES["oblique"])
    (root / "sub-0 5" / "dwi").mkdir(parents=True)
    (root / "sub-0 5" / "dwi" / "sub-0 5_dwi.nii").write_bytes(b"none")
    (root / "sub-06" / "anat").mkdir(parents=True)
    (root / "sub-06" / "anat" / "sub-06_T1w.nii").write_bytes(b"none")
    return root


def described(url: str | Path, **source: object) -> dict[str, Any]:
    """All that a dataset gives, arrays as bytes and paths relative to its root."""
    dataset = opened(url, **source)
    subjects, refused = dataset.subjects()
    tree: dict[str, Any] = {key: str(error).replace(str(dataset.root), "") for key, error in refused.items()}
    for subject in subjects:
        series, mask = dataset.series(subject), dataset.mask(subject)
        dwi, version = read_dwi(dataset, series)
        brain, brain_version = read_mask(dataset, mask)
        assert scan_dwi(dataset, series).version == version
        assert scan_mask(dataset, mask).version == brain_version
        tree[str(subject)] = [
            [dataset.relative(path) for path in (*series.files(), mask)],
            [version, brain_version, dwi.interpolated],
            [part.tobytes() for part in (dwi.array, dwi.affine, dwi.bvals, dwi.world_bvecs, brain.array, brain.affine)],
        ]
    return tree


def test_a_remote_dataset_gives_the_same_as_a_local_one(tmp_path: Path, upload: Upload) -> None:
    local = varied_dataset(tmp_path / "local")
    url = upload(local)
    here = described(local)
    assert list(here) == ["sub-0 5", "sub-01", "sub-02_ses-a", "sub-02_ses-b", "sub-03", "sub-04"]
    assert described(url) == here
    changed = {"subsample": 2, "b0_threshold": 100}
    assert described(url, **changed) == described(local, **changed) != here


def test_errors_have_the_same_messages_as_for_a_local_dataset(
    tmp_path: Path, in_memory: Upload, instance: DagsterInstance
) -> None:
    bad = {name: one for name, one in BAD.items() if "not fetched" not in name}
    local = write_dataset(tmp_path / "local", [GOOD, *map(key_of, bad)])
    for name, one in bad.items():
        one.damage(local, key_of(name))
    url = in_memory(local)
    here, there = (ingest(instance, settings_for(str(place))).quarantined for place in (local, url))
    assert {key: message.replace(url, str(local)) for key, message in there.items()} == here
    assert list(here) == list(map(key_of, bad))


def test_a_bucket_may_be_the_dataset(tmp_path: Path, s3_bucket: S3Bucket) -> None:
    local = write_dataset(tmp_path)
    for path in local.rglob("*.*"):
        if path.is_file():
            s3_bucket.server.client.upload_file(str(path), s3_bucket.name, path.relative_to(local).as_posix())
    assert described(s3_bucket.url) == described(f"{s3_bucket.url}/") == described(local)


def test_each_byte_of_an_image_of_many_blocks_is_fetched_once(
    tmp_path: Path, s3_bucket: S3Bucket, requests: list[tuple[str, str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "BLOCK", 1000)
    monkeypatch.setattr(files, "FIRST_BLOCK", 1000)
    local = write_dataset(tmp_path)
    image = dwi_folder(local, "sub-01") / "sub-01_dwi.nii.gz"
    noise = np.random.default_rng(0).normal(100, 10, (8, 7, 6, len(table().bvals))).astype(np.float32)
    nibabel.save(nibabel.Nifti1Image(noise, AFFINES["right-handed"]), image)
    dataset = opened(put_dataset(s3_bucket, local))
    dwi, version = read_dwi(dataset, dataset.series(SubjectKey("01")))
    np.testing.assert_array_equal(dwi.array, noise)
    fetched = [
        range(int(start), int(end) + 1)
        for operation, key, span in requests
        if operation == "GetObject" and key.endswith("_dwi.nii.gz")
        for start, end in [span.removeprefix("bytes=").split("-")]
    ]
    assert len(fetched) > 25
    assert sorted(byte for span in fetched for byte in span) == list(range(image.stat().st_size))
    here = opened(local)
    assert version == read_dwi(here, here.series(SubjectKey("01")))[1]


def loaded(instance: DagsterInstance, settings: PipelineSettings, key: str = "sub-01") -> object:
    """The input `dwi` of a step of this subject."""
    context = build_input_context(asset_key=AssetKey("dwi"), partition_key=key, instance=instance)
    return SourceIOManager.of(settings.source).load_input(context)


def test_a_changed_bvec_is_not_read_before_it_is_observed(
    tmp_path: Path, s3_bucket: S3Bucket, instance: DagsterInstance
) -> None:
    local = write_dataset(tmp_path, ["sub-01", "sub-02"])
    settings = settings_for(put_dataset(s3_bucket, local))
    assert ingest(instance, settings).added == ["sub-01", "sub-02"]
    before = loaded(instance, settings)
    assert isinstance(before, Dwi)
    path = "sub-01/dwi/sub-01_dwi.bvec"
    np.savetxt(local / path, -np.loadtxt(local / path))
    put(s3_bucket, path, (local / path).read_bytes())
    with pytest.raises(SourceError, match=r"^dwi of sub-01 has changed since it was observed: .* ingest$"):
        loaded(instance, settings)
    assert isinstance(loaded(instance, settings, "sub-02"), Dwi)
    report = ingest(instance, settings)
    assert (report.changed, report.unchanged) == (["sub-01"], ["sub-02"])
    after = loaded(instance, settings)
    assert isinstance(after, Dwi)
    np.testing.assert_array_equal(after.array, before.array)
    np.testing.assert_array_equal(after.world_bvecs, -before.world_bvecs)


def test_nothing_is_written_to_the_source(
    tmp_path: Path, s3_bucket: S3Bucket, requests: list[tuple[str, str, str]], instance: DagsterInstance
) -> None:
    def objects() -> list[tuple[str, str, object]]:
        found = s3_bucket.server.client.list_objects_v2(Bucket=s3_bucket.name)["Contents"]
        return [(entry["Key"], entry["ETag"], entry["LastModified"]) for entry in found]

    settings = settings_for(put_dataset(s3_bucket, varied_dataset(tmp_path)))
    before = objects()
    for subject in ingest(instance, settings).usable:
        loaded(instance, settings, subject)
    assert objects() == before
    assert s3_bucket.uploads() == []
    assert {operation for operation, _, _ in requests} == {"ListObjectsV2", "HeadObject", "GetObject"}


@pytest.mark.parametrize("key", ["sub-01", "sub-01_ses-a"])
def test_a_subject_needs_one_request_for_each_text_file_and_two_for_each_image(
    tmp_path: Path, s3_bucket: S3Bucket, requests: list[tuple[str, str, str]], instance: DagsterInstance, key: str
) -> None:
    """An ingest reads image, bval, bvec and mask, and sends one more request for each file to check that it did not
    change meanwhile. A file of many blocks needs one more request per block. The dataset is listed by one request.
    """
    others = [key.replace("01", f"{number:02d}") for number in range(2, 5)]
    settings = settings_for(put_dataset(s3_bucket, write_dataset(tmp_path, [key, *others])))
    assert len(ingest(instance, settings).added) == 4
    of_each = Counter(path.partition("/")[0] for _, path, _ in requests)
    subjects = [one.partition("_")[0] for one in (key, *others)]
    assert {of_each.pop(subject) for subject in subjects} == {2 * TEXT + 2 * IMAGE + FILES}
    assert [operation for operation, path, _ in requests if path == ""] == ["ListObjectsV2"]
    requests.clear()
    assert len(ingest(instance, settings).unchanged) == 4
    assert [operation for operation, *_ in requests] == ["ListObjectsV2"]
    requests.clear()
    dataset = SourceDataset(settings.source)
    read_dwi(dataset, dataset.series(SubjectKey.parse(key)))
    levels = len(SubjectKey.parse(key).folder.split("/")) + 1
    assert len(requests) == levels + 1 + 2 * TEXT + IMAGE, "its folder, its parent folders, and .bidsignore"
    requests.clear()
    loaded(instance, settings, key)
    assert len(requests) == 2 * TEXT + IMAGE, "observed files are read without a listing"


def test_a_custom_layout_is_listed_once_by_ingest_and_never_by_a_step(
    tmp_path: Path, s3_bucket: S3Bucket, requests: list[tuple[str, str, str]], instance: DagsterInstance
) -> None:
    bids = write_dataset(tmp_path)
    names = {"dwi.nii.gz": "dwi.nii.gz", "dwi.bval": "dwi.bval", "dwi.bvec": "dwi.bvec"}
    names["desc-brain_mask.nii.gz"] = "dwi_mask.nii.gz"
    for number in range(6):
        for name, other in names.items():
            content = (bids / "sub-01" / "dwi" / f"sub-01_{name}").read_bytes()
            put(s3_bucket, f"{number}_S_1/{other}", content)
    settings = settings_for(f"{s3_bucket.url}/{PREFIX}", source={"layout": "{subject}/dwi.nii.gz"})
    assert ingest(instance, settings).added == [f"sub-{number}+S+1" for number in range(6)]
    assert [operation for operation, *_ in requests].count("ListObjectsV2") == 1
    requests.clear()
    for number in range(6):
        assert isinstance(loaded(instance, settings, f"sub-{number}+S+1"), Dwi)
    assert len(requests) == 6 * (2 * TEXT + IMAGE)


def test_a_dwi_that_is_too_large_for_memory_is_fetched_once(
    tmp_path: Path,
    s3_bucket: S3Bucket,
    requests: list[tuple[str, str, str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write_series(tmp_path, entities="run-1")
    write_series(tmp_path, entities="run-2", brightness=2)
    dataset = SourceDataset(SourceSettings(url=put_dataset(s3_bucket, tmp_path), subsample=2))
    series = dataset.series(SubjectKey("01"))
    in_memory, version = read_dwi(dataset, series)
    monkeypatch.setattr(streamed, "LARGE", 0)
    requests.clear()
    from_file, same = read_dwi(dataset, series)
    assert isinstance(from_file.volume, StreamedVolume)
    assert same == version
    for _ in range(2):
        np.testing.assert_array_equal(from_file.array, in_memory.array)
    np.testing.assert_array_equal(from_file.affine, in_memory.affine)
    assert len(requests) == 2 * (2 * TEXT + IMAGE)


def test_ingest_of_one_subject_lists_no_other(
    tmp_path: Path, s3_bucket: S3Bucket, requests: list[tuple[str, str, str]], instance: DagsterInstance
) -> None:
    settings = settings_for(put_dataset(s3_bucket, write_dataset(tmp_path, ["sub-01", "sub-02", "sub-011"])))
    assert ingest(instance, settings, subjects=["sub-01"]).added == ["sub-01"]
    assert {path.partition("/")[0] for _, path, _ in requests} == {"", "sub-01", "derivatives"}


def test_the_folders_of_many_subjects_are_listed_in_parallel(
    tmp_path: Path, in_memory: Upload, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = in_memory(write_dataset(tmp_path / "local", [f"sub-{number:02d}" for number in range(8)]))
    barrier = threading.Barrier(8)

    def listing(folder: UPath) -> Listing:
        if "sub-" in folder.path:
            barrier.wait(timeout=60)  # fails if fewer than eight are listed in parallel
        return files.listing(folder)

    monkeypatch.setattr(tree_module, "listing", listing)
    subjects, refused = opened(url).subjects()
    assert (len(subjects), refused) == (8, {})


def test_a_new_dataset_object_finds_new_subjects(tmp_path: Path, upload: Upload) -> None:
    url = upload(write_dataset(tmp_path / "local"))
    assert len(opened(url).subjects()[0]) == 1
    upload(write_dataset(tmp_path / "more", ["sub-02"]))
    assert len(opened(url).subjects()[0]) == 2


@pytest.mark.parametrize("below", ["elsewhere", f"{PREFIX}/dataset_description.json"], ids=["nothing", "a file"])
def test_an_empty_prefix_is_an_error_that_names_the_setting(
    tmp_path: Path, s3_bucket: S3Bucket, instance: DagsterInstance, below: str
) -> None:
    put_dataset(s3_bucket, write_dataset(tmp_path))
    url = f"{s3_bucket.url}/{below}"
    message = rf"^the source {url}: expected the folder of a dataset, found nothing below it\. Set source\.url"
    with pytest.raises(SourceError, match=message):
        ingest(instance, settings_for(url))
    with pytest.raises(SourceError, match=message):
        opened(url).series(SubjectKey("01"))


@pytest.mark.parametrize("command", ["ingest", "run"])
def test_a_missing_bucket_ends_a_command_with_a_one_line_message(
    tmp_path: Path, s3_bucket: S3Bucket, command: str
) -> None:
    project = Project(tmp_path, s3_bucket.server.environment())
    done = project.command(command, "--source", "s3://no-such-bucket-at-all/raw")
    assert done.returncode == 2
    assert done.stderr == "Error: s3://no-such-bucket-at-all/raw: the bucket does not exist\n"


def test_an_unreachable_server_is_an_error_after_retries(
    s3_bucket: S3Bucket, monkeypatch: pytest.MonkeyPatch, instance: DagsterInstance
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setattr(retries, "FIRST_DELAY", 0.01)
    with pytest.raises(
        StorageError, match=rf"^{s3_bucket.url}/raw: the server cannot be reached, in 7 attempts"
    ) as caught:
        ingest(instance, settings_for(f"{s3_bucket.url}/raw"))
    assert KEY not in str(caught.value)
    assert SECRET not in str(caught.value)


def test_a_public_dataset_is_read_without_credentials_if_the_settings_say_so(
    tmp_path: Path, s3_bucket: S3Bucket, monkeypatch: pytest.MonkeyPatch, instance: DagsterInstance
) -> None:
    url = put_dataset(s3_bucket, write_dataset(tmp_path), ACL="public-read")
    for variable in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(variable)
    with pytest.raises(StorageError, match=r"found no credentials.*source\.anonymous"):
        ingest(instance, settings_for(url))
    settings = settings_for(url, source={"anonymous": True})
    assert ingest(instance, settings).added == ["sub-01"]
    assert isinstance(loaded(instance, settings), Dwi)


def deny(bucket: S3Bucket, path: str) -> None:
    """Set a bucket policy under which objects that match the path can be listed but not read."""
    statement = {
        "Effect": "Deny", "Principal": "*", "Action": "s3:GetObject",
        "Resource": f"arn:aws:s3:::{bucket.name}/{PREFIX}/{path}",
    }  # fmt: skip
    policy = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
    bucket.server.client.put_bucket_policy(Bucket=bucket.name, Policy=policy)


@pytest.mark.parametrize("path", ["sub-01/dwi/sub-01_dwi.nii.gz", "sub-01/dwi/sub-01_desc-brain_mask.nii.gz"])
def test_a_file_without_access_stops_no_other_subject(
    tmp_path: Path, s3_bucket: S3Bucket, instance: DagsterInstance, path: str
) -> None:
    settings = settings_for(put_dataset(s3_bucket, write_dataset(tmp_path, ["sub-01", "sub-02"])))
    deny(s3_bucket, path)
    report = ingest(instance, settings)
    assert report.usable == ["sub-02"]
    assert list(report.quarantined) == ["sub-01"]
    assert report.quarantined["sub-01"].startswith(f"{settings.source.url}/{path}: access is denied")


def test_an_archived_file_stops_no_other_subject(
    tmp_path: Path, s3_bucket: S3Bucket, instance: DagsterInstance
) -> None:
    local = write_dataset(tmp_path, ["sub-01", "sub-02"])
    settings = settings_for(put_dataset(s3_bucket, local))
    path = "sub-01/dwi/sub-01_dwi.nii.gz"
    put(s3_bucket, path, (local / path).read_bytes(), StorageClass="GLACIER")
    report = ingest(instance, settings)
    assert report.usable == ["sub-02"]
    assert report.quarantined["sub-01"].startswith(f"{settings.source.url}/{path}: ")


def test_denied_access_to_all_files_quarantines_no_subject(
    tmp_path: Path, s3_bucket: S3Bucket, instance: DagsterInstance
) -> None:
    settings = settings_for(put_dataset(s3_bucket, write_dataset(tmp_path, ["sub-01", "sub-02"])))
    ingest(instance, settings)
    deny(s3_bucket, "*")
    message = r"/sub-0[12]_(dwi|desc-brain).*: access is denied \(403\): check the permissions"
    with DagsterInstance.ephemeral() as another, pytest.raises(StorageError, match=message):
        ingest(another, settings)
    with pytest.raises(StorageError, match="access is denied"):
        loaded(instance, settings)


def test_credentials_that_expire_during_an_ingest_quarantine_no_subject(
    tmp_path: Path, s3_bucket: S3Bucket, instance: DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_for(put_dataset(s3_bucket, write_dataset(tmp_path, ["sub-01", "sub-02"])))

    one_at_a_time = threading.Lock()

    def scan_and_deny(*arguments: Any, **options: Any) -> ScannedDwi:
        with one_at_a_time:
            found = scan_dwi(*arguments, **options)
            deny(s3_bucket, "*")
        return found

    monkeypatch.setattr(files_module, "scan_dwi", scan_and_deny)
    with pytest.raises(StorageError, match="access is denied"):
        ingest(instance, settings)


def test_a_file_that_is_removed_after_it_was_listed_is_reported(
    tmp_path: Path, in_memory: Upload, instance: DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = in_memory(write_dataset(tmp_path / "local", ["sub-01", "sub-02"]))
    removed = UPath(url) / "sub-01/dwi/sub-01_dwi.bvec"

    def listing_and_removal(folder: UPath) -> Listing:
        found = files.listing(folder)
        if folder == removed.parent and removed.exists():
            removed.unlink()
        return found

    monkeypatch.setattr(tree_module, "listing", listing_and_removal)
    report = ingest(instance, settings_for(url))
    assert report.usable == ["sub-02"]
    assert "sub-01_dwi.bvec beside the image" in report.quarantined["sub-01"]
