"""Texts of subject keys and the folders of their data."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kwneuro_assets.imaging import InvalidData
from kwneuro_assets.storage.names import NAMES
from kwneuro_assets.subjects import MAX_LABEL, SubjectKey

labels = st.from_regex(rf"[A-Za-z0-9+]{{1,{MAX_LABEL}}}", fullmatch=True)


@given(labels, st.none() | labels)
@settings(max_examples=100, deadline=None, derandomize=True)
def test_a_key_is_parsed_from_its_text_and_has_a_folder_in_the_dataset(subject: str, session: str | None) -> None:
    key = SubjectKey(subject, session)
    assert SubjectKey.parse(str(key)) == key
    assert key.folder.split("/") == [f"sub-{subject}", *([f"ses-{session}"] if session else []), "dwi"]
    for name in NAMES.values():
        assert len(name.file(key, ".nii.gz", "peakvalues")) < 255 - len("..0123456789ab.tmp")


@pytest.mark.parametrize(
    "text",
    [
        "", "01", "sub-", "sub-01_", "sub-01_ses-", "sub-01_run-1", "sub-01_ses-1_ses-2", "ses-01", "SUB-01",
        "sub-..", "sub-../../etc", "sub-01/..", "sub-01/ses-02", "sub-0 1", " sub-01", "sub-01\n", "sub-0\x001",
        "sub-é", "sub-٣", "sub-\uff10\uff11", "sub-a-b", "sub-a_b", "sub-a.b", "sub-*", "sub-" + "x" * (MAX_LABEL + 1),
    ],
)  # fmt: skip
def test_labels_that_are_not_bids_labels_are_errors(text: str) -> None:
    with pytest.raises(InvalidData, match="subject: expected sub-LABEL or sub-LABEL_ses-LABEL") as caught:
        SubjectKey.parse(text)
    assert caught.value.found == repr(text)
