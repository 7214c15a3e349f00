"""Pages of the store as local files: a browser does not open the pages of a remote store."""

from __future__ import annotations

import tempfile
from pathlib import Path, PurePosixPath

from kwneuro_assets.storage.files import listing
from kwneuro_assets.storage.location import is_local
from kwneuro_assets.storage.store import SHARED, DerivativeStore
from kwneuro_assets.subjects import StoreKey

_FIGURE = "_figure.png"


def local_page(store: DerivativeStore, asset: str, key: StoreKey) -> Path:
    """The file of a page of a local store; of a remote one, a copy in a temporary folder.

    With the copy come the viewer's program and, for a subject, its figures; links to other pages do not work there.
    Raises StoreError if the store does not have the page.
    """
    sidecar = store.sidecar(asset, key)
    if sidecar is None:
        raise store.missing(asset, key)
    (name,) = sidecar.files
    if is_local(store.root):
        return Path(str(store.root / name))
    figures = [file for file in listing(store.root / key.folder).files if file.endswith(_FIGURE)] if key.folder else []
    files = [
        name,
        *(f"{SHARED}/{shared}" for shared in sidecar.content.get("Shared", ())),
        *(str(PurePosixPath(key.folder, file)) for file in figures),
    ]
    folder = Path(tempfile.mkdtemp(prefix="kwneuro-report-"))
    for file in files:
        target = folder / file
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(store.read_file(file))
    return folder / name
