"""One operation on a large value in a process of its own, which prints the memory that it used; run by test_memory."""

from __future__ import annotations

import json
import resource
import sys

import numpy as np

from kwneuro_assets.imaging import MapSet, Volume
from kwneuro_assets.storage.checking import export_subjects, verify_store
from kwneuro_assets.storage.sidecar import Provenance
from kwneuro_assets.storage.store import DerivativeStore
from kwneuro_assets.subjects import SubjectKey

ASSETS = {"series": "tract_orientations", "maps": "dti"}
SUBJECT = SubjectKey("01")
MANY = [SubjectKey(f"{number:02d}") for number in range(1, 7)]
MB = 1e6


def noise(volumes: int) -> Volume:
    """15 MB per volume, of random numbers: gzip reduces them by less than a tenth."""
    array = np.empty((156, 156, 154, volumes), np.float32, order="F")
    random = np.random.default_rng(0)
    for index in range(volumes):
        array[..., index] = random.random(array.shape[:3], np.float32)
    return Volume(array, np.eye(4))


def value(kind: str, volumes: int) -> Volume | MapSet:
    if kind == "series":
        return noise(volumes)
    return MapSet({name: noise(volumes // 4) for name in ("a", "b", "c", "d")})


def size(value: Volume | MapSet) -> float:
    images = value.values() if isinstance(value, MapSet) else [value]
    return sum(image.array.nbytes for image in images) / MB


def peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / MB


def act(operation: str, asset: str, store: DerivativeStore, target: str, given: Volume | MapSet | None) -> object:
    if given is not None:
        for subject in [SUBJECT] if operation == "write" else MANY:
            store.write(asset, subject, given, Provenance("large", "1-00000000", "0" * 64))
        return given
    if operation == "read":
        return store.read(asset, SUBJECT)[0]
    if operation == "verify":
        return verify_store(store, [], lambda done, total: None).problems
    return export_subjects(store, DerivativeStore(target), MANY, [asset], lambda done, total: None)


def main(operation: str, kind: str, url: str, target: str = "") -> None:
    store = DerivativeStore(url)
    store.assets(SUBJECT)  # the modules that a first request loads do not count
    volumes = {"write": 20, "write many": 8}.get(operation)
    given = value(kind, volumes) if volumes else None
    before = peak()
    result = act(operation, ASSETS[kind], store, target, given)
    array = size(result) if isinstance(result, Volume | MapSet) else 0
    print(json.dumps({"array": array, "before": before, "peak": peak()}))


if __name__ == "__main__":
    main(*sys.argv[1:])
