"""The files that make the store a BIDS derivatives dataset: dataset_description.json, .bidsignore and README.md."""

from __future__ import annotations

import json
import time
from importlib.metadata import version

from upath import UPath

from kwneuro_assets.storage.checked_files import with_rereads
from kwneuro_assets.storage.files import read_bytes
from kwneuro_assets.storage.location import is_local
from kwneuro_assets.storage.staging import write_complete
from kwneuro_assets.storage.store_errors import StoreError
from kwneuro_assets.subjects import BIDS_VERSION

FORMAT = 2  # of names, sidecars and the order of volumes; raised with a change that other versions would misread
GENERATOR = "kwneuro-assets"
DESCRIPTION = "dataset_description.json"
# Files that BIDS has no name for yet (BEP014, BEP016), or forbids beside a derived image. One asterisk before the name
# in each line: the validator's own matching fails with more.
_BIDSIGNORE = (
    "*_dwimap.*\n*_dwiref.*\n*_response.json\n*_xfm.*\n*_figure.png\n*_dwi.bval\n*_dwi.bvec\n*_mask.json\n"
    "*_qc.*\n*_report.json\n*.html\n"
)
_README = """\
# Derivatives of diffusion MRI

Computed by kwneuro-assets. Each derivative has a JSON sidecar with its description, its parameters, the versions of
the code and of its inputs, and the size and sha256 of its files; a file that no sidecar names is not a result.
Everything directional is in the world frame, scanner RAS+. Figures (`*_figure.png`) are stored beside the derivatives.
"""
_RECHECK_SECONDS = 60.0  # for which a process assumes that the description of a remote store has not changed

_checked: dict[tuple[str, str], float] = {}  # when this process last checked a store's description, by root and text


class DatasetDescription:
    """The description of the store at `root`; `source_url` is the dataset that it is derived from."""

    def __init__(self, root: UPath, source_url: str) -> None:
        self._root = root
        self._source_url = source_url
        self.exists = False
        """Whether this process has seen a valid description of this store."""

    def require_own(self) -> None:
        """Raises StoreError if the root holds another dataset, or a store of another format.

        A source dataset named as the store by mistake would lose its description and mix with our files.
        """
        if not self.exists:
            self.exists = self._stored() is not None

    def write(self) -> None:
        """Write the three files unless they are up to date. Raises StoreError as `require_own` does.

        On a remote store each check is a request, so a process checks all files once, and from then on only the
        description, at intervals. Whoever changes or removes the description has the other files checked, too.
        """
        text = self._text()
        known = (str(self._root), text)
        checked = _checked.get(known)
        if checked is not None and not is_local(self._root) and time.monotonic() - checked < _RECHECK_SECONDS:
            self.require_own()
            if self.exists:
                return
        found = self._stored()
        if found != text.encode() or checked is None:
            for name, wanted in {DESCRIPTION: text, ".bidsignore": _BIDSIGNORE, "README.md": _README}.items():
                if (found if name == DESCRIPTION else self._content(name)) != wanted.encode():
                    write_complete(self._root / name, wanted.encode())
        self.exists = True
        _checked[known] = time.monotonic()

    def _text(self) -> str:
        links = {"source": self._source_url} if self._source_url else {}
        description = {
            "Name": "kwneuro-assets derivatives",
            "BIDSVersion": BIDS_VERSION,
            "DatasetType": "derivative",
            "GeneratedBy": [{"Name": GENERATOR, "Version": version("kwneuro-assets")}],
            "SourceDatasets": [{"URL": url} for url in links.values()],
            "DatasetLinks": links,
            "StoreFormat": FORMAT,
        }
        return json.dumps(description, indent=2) + "\n"

    def _stored(self) -> bytes | None:
        """The stored description, None if there is none. Raises StoreError as `require_own` does."""
        return with_rereads(self._root, self._read)

    def _read(self) -> bytes | None:
        content = self._content(DESCRIPTION)
        if content is None:
            return None
        try:
            tree = json.loads(content)
            own = tree["DatasetType"] == "derivative" and tree["GeneratedBy"][0]["Name"] == GENERATOR
            found = int(tree.get("StoreFormat", 1))
        except (ValueError, KeyError, IndexError, TypeError):
            own, found = False, FORMAT
        if not own:
            raise StoreError(
                f"the store {self._root} is another dataset, according to its {DESCRIPTION}: "
                "expected a folder of its own"
            )
        if found != FORMAT:
            raise StoreError(
                f"the store {self._root}: expected format {FORMAT}, found format {found} of {_advice(found)}"
            )
        return content

    def _content(self, name: str) -> bytes | None:
        """A small file of the root, None if there is none."""
        try:
            return read_bytes(self._root / name)
        except (FileNotFoundError, NotADirectoryError):
            return None


def _advice(found: int) -> str:
    if found > FORMAT:
        return "a later kwneuro-assets. Upgrade it with: pip install --upgrade kwneuro-assets"
    return (
        "an earlier kwneuro-assets. Delete it, or set store.url (KWNEURO_STORE) to an empty folder, and rebuild it "
        "with: kwneuro-assets run"
    )
