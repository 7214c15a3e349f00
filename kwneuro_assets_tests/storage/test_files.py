"""Pointers of git-annex and Git LFS to content that was not fetched are recognized."""

from __future__ import annotations

import gzip
from pathlib import Path

import nibabel
import numpy as np
import pytest

from kwneuro_assets.storage.files import missing_content, pointer_kind

LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 12345\n"
KEY = b"SHA256E-s1048576--4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393.nii.gz"


@pytest.mark.parametrize("start", [LFS, b"\xef\xbb\xbf" + LFS, LFS.replace(b"\n", b"\r\n")])
def test_a_git_lfs_pointer_is_recognized_with_its_command(start: bytes) -> None:
    assert pointer_kind(start) == ("a Git LFS pointer", "Fetch the file itself with: git lfs pull")


@pytest.mark.parametrize(
    "start",
    [
        b"/annex/objects/" + KEY + b"\n",
        b"/annex/objects/" + KEY + b"\r\n",
        rb"\annex\objects" + b"\\" + KEY,
        b"../../.git/annex/objects/Xk/9p/" + KEY + b"/" + KEY,
        rb"..\..\.git\annex\objects\Xk\9p" + b"\\" + KEY,
        b"../.git/modules/my-study/annex/objects/Xk/9p/" + KEY,
        b"C:/My Data/.git/annex/objects/" + KEY,
    ],
)
def test_a_git_annex_pointer_is_recognized_with_its_command(start: bytes) -> None:
    assert pointer_kind(start) == ("a git-annex pointer", "Fetch the file itself with: git annex get")


def test_nothing_else_is_a_pointer() -> None:
    image = nibabel.Nifti1Image(np.zeros((2, 2, 2)), np.eye(4))
    image.header["descrip"] = b"/annex/objects/ in words"
    content = image.to_bytes()
    tables = [b"0 1000 1000\n", b"# from /annex/objects/\n0 1000\n", b"0 1000\n/annex/objects/\n", b"version 1\n"]
    for start in (b"", content, gzip.compress(content), gzip.compress(LFS), *tables):
        assert pointer_kind(start) is None


def test_a_link_without_its_content_is_distinguished_from_other_links(tmp_path: Path) -> None:
    objects = tmp_path / ".git" / "annex" / "objects"
    objects.mkdir(parents=True)
    link = tmp_path / "image.nii.gz"
    link.symlink_to(".git/annex/objects/key")
    assert missing_content(link) == (
        "a git-annex link without its content",
        "Fetch the file itself with: git annex get",
    )
    assert missing_content(str(link)) == missing_content(link)
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    (folder / "link").symlink_to(link)
    assert missing_content(folder / "link") == missing_content(link)
    (objects / "key").write_bytes(b"content")
    assert missing_content(link) is None
    other = tmp_path / "other"
    other.symlink_to("nowhere")
    assert missing_content(other) is None
    assert missing_content(tmp_path / "nothing") is None
    assert missing_content("s3://bucket/image.nii.gz") is None
