"""Stages of remote folders. On S3 files are uploaded in parts while they are written, and appear when completed.

A process that stood still may have lost its lease when it goes on, so each act that is seen asks for the lease right
before it. On S3 nothing can come even between the two: whoever takes over aborts the uploads that its predecessor
began, and so none of them, however small, can be put among the files of its successor.
"""

from __future__ import annotations

import base64
import hashlib
import logging
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from upath import UPath

from kwneuro_assets.storage.lease import Lease, leased, remove
from kwneuro_assets.storage.patience import Passing, StorageError, patiently
from kwneuro_assets.storage.sidecar import StoredFile
from kwneuro_assets.storage.staging import DigestedWriter, Owns, Stage, Writer

PART = 8 << 20  # bytes; with S3's most parts, 10 000, the largest file is 80 GB
UPLOADS = 4  # parts on their way at once, of all that this process writes: 32 MB, which the HTTP client holds twice
_CORRUPTED = 3  # answers with a wrong checksum after which the server's ETags are no MD5

_log = logging.getLogger(__name__)
_room = threading.BoundedSemaphore(UPLOADS)


@contextmanager
def remote_stage(folder: UPath, mark: str, owns: Owns) -> Iterator[Stage]:
    """See `staging.staged`."""
    on_s3 = "s3" in folder.fs.protocol
    if not on_s3:
        patiently(folder, lambda: folder.fs.makedirs(folder.path, exist_ok=True))
    with leased(folder / f".{mark}.lock") as lease:
        if on_s3:
            _remove_unfinished(folder, owns)
            with _s3_stage(folder, lease) as stage:
                yield stage
        else:
            with tempfile.TemporaryDirectory(prefix="kwneuro-") as scratch:
                yield _SpooledStage(folder, lease, Path(scratch))


class _SpooledStage:
    """Files in a local temporary folder, put in place when they are committed: for all that is not S3."""

    def __init__(self, folder: UPath, lease: Lease, scratch: Path) -> None:
        self._folder = folder
        self._lease = lease
        self._scratch = scratch

    def write(self, name: str, writer: Writer) -> StoredFile:
        with (self._scratch / name).open("wb") as file:
            digested = DigestedWriter(file.write)
            try:
                writer(digested)  # type: ignore[arg-type]  # a write-only stream is all a writer needs
            finally:
                stored = digested.close()
        return stored

    def commit(self, name: str) -> None:
        self._lease.require()
        path = self._folder / name
        patiently(path, lambda: path.fs.put_file(str(self._scratch / name), path.path))
        (self._scratch / name).unlink()

    def remove(self, name: str) -> None:
        self._lease.require()
        path = self._folder / name
        patiently(path, lambda: remove(path))

    def require_alone(self) -> None:
        self._lease.require()


class _S3Stage:
    """Uploads that are complete but for the request that makes them visible."""

    def __init__(self, folder: UPath, lease: Lease, pool: ThreadPoolExecutor) -> None:
        self._folder = folder
        self._lease = lease
        self._pool = pool
        self._uploads: dict[str, _Upload] = {}

    def write(self, name: str, writer: Writer) -> StoredFile:
        upload = self._uploads[name] = _Upload(self._folder / name, self._pool)
        digested = DigestedWriter(upload.write)
        try:
            writer(digested)  # type: ignore[arg-type]  # a write-only stream is all a writer needs
        finally:
            stored = digested.close()
        upload.finish()
        return stored

    def commit(self, name: str) -> None:
        self._lease.require()
        self._uploads[name].complete()
        del self._uploads[name]

    def remove(self, name: str) -> None:
        self._lease.require()
        path = self._folder / name
        patiently(path, lambda: remove(path))

    def require_alone(self) -> None:
        self._lease.require()

    def discard(self) -> None:
        for upload in self._uploads.values():
            upload.abort()


@contextmanager
def _s3_stage(folder: UPath, lease: Lease) -> Iterator[Stage]:
    with ThreadPoolExecutor(UPLOADS, thread_name_prefix="upload") as pool:
        stage = _S3Stage(folder, lease, pool)
        try:
            yield stage
        finally:
            stage.discard()


class _Upload:
    """One object on its way, in parts that are sent while it is written."""

    def __init__(self, path: UPath, pool: ThreadPoolExecutor) -> None:
        self._path = path
        self._s3 = _S3Object(path)
        self._pool = pool
        self._content = bytearray()
        self._upload_id: str | None = None
        self._parts: list[Future[bytes]] = []
        self._failed: Exception | None = None

    def write(self, block: bytes) -> None:
        self._content += block
        if len(self._content) >= PART:
            self._send()

    def finish(self) -> None:
        """Wait until all that was written has arrived."""
        if self._content or not self._parts:  # an empty file is one empty part
            self._send()
        for part in self._parts:
            part.result()

    def complete(self) -> None:
        assert self._upload_id is not None, "finish() comes first"
        self._s3.complete(self._upload_id, [part.result() for part in self._parts])

    def abort(self) -> None:
        if self._upload_id is not None:
            wait(self._parts)
            self._s3.abort(self._upload_id)

    def _send(self) -> None:
        if self._failed:
            raise self._failed
        content, self._content = self._content, bytearray()
        if self._upload_id is None:
            self._upload_id = self._s3.start()
        upload_id, number = self._upload_id, len(self._parts) + 1
        _room.acquire()

        def send() -> bytes:
            try:
                return self._s3.send(upload_id, number, content)
            except Exception as error:
                self._failed = error  # told at the next part, not at the end
                raise
            finally:
                _room.release()

        self._parts.append(self._pool.submit(send))


class _S3Object:
    """The requests that make one object, each tried again while its failure may pass."""

    _etags_are_md5 = True  # of the servers met so far; AWS with its own keys for encryption has others

    def __init__(self, path: UPath) -> None:
        self._path = path
        bucket, key, _ = path.fs.split_path(path.path)
        self._object = {"Bucket": bucket, "Key": key}

    def start(self) -> str:
        return str(self._call("create_multipart_upload")["UploadId"])

    def send(self, upload_id: str, number: int, content: bytearray) -> bytes:
        """Upload one part, which has arrived as it was sent where the ETag is its MD5; returns the ETag."""
        digest = hashlib.md5(content, usedforsecurity=False)
        differing = 0

        def once() -> bytes:
            nonlocal differing
            answer = self._path.fs.call_s3(
                "upload_part", **self._object, UploadId=upload_id, PartNumber=number, Body=content,
                ContentMD5=base64.b64encode(digest.digest()).decode(),
            )  # fmt: skip
            etag = str(answer["ETag"]).strip('"')
            if _S3Object._etags_are_md5 and etag != digest.hexdigest():
                differing += 1
                if differing < _CORRUPTED:
                    raise Passing("other bytes arrived than were sent")
                _S3Object._etags_are_md5 = False
            return etag.encode()

        return patiently(self._path, once)

    def complete(self, upload_id: str, etags: list[bytes]) -> None:
        parts = [{"PartNumber": number, "ETag": etag.decode()} for number, etag in enumerate(etags, 1)]
        try:
            self._call("complete_multipart_upload", UploadId=upload_id, MultipartUpload={"Parts": parts})
        except FileNotFoundError:
            # Either an earlier try of ours had arrived though its answer was lost, or somebody else aborted it.
            if not self._is_made_of(etags):
                raise StorageError(f"{self._path}: its upload was aborted by another process: run again") from None

    def abort(self, upload_id: str) -> None:
        try:
            self._call("abort_multipart_upload", UploadId=upload_id)
        except FileNotFoundError:
            pass  # it is gone: completed, or aborted by another process
        except StorageError as error:  # it is invisible, and the next write removes it
            _log.warning("%s: an unfinished upload remains: %s", self._path, error)

    def _is_made_of(self, etags: list[bytes]) -> bool:
        """Whether the object that stands is the one of these parts, by S3's rule for its ETag."""
        try:
            whole = hashlib.md5(b"".join(bytes.fromhex(etag.decode()) for etag in etags), usedforsecurity=False)
            found = str(self._call("head_object")["ETag"]).strip('"')
        except (FileNotFoundError, ValueError):
            return False
        return found == f"{whole.hexdigest()}-{len(etags)}"

    def _call(self, request: str, **parameters: object) -> Any:
        return patiently(self._path, lambda: self._path.fs.call_s3(request, **self._object, **parameters))


def _remove_unfinished(folder: UPath, owns: Owns) -> None:
    """Abort uploads that a process which ended left behind: they are invisible, but are paid for."""
    bucket, key, _ = folder.fs.split_path(folder.path)
    prefix = f"{key.rstrip('/')}/"
    ask: Callable[[], Any] = lambda: folder.fs.call_s3("list_multipart_uploads", Bucket=bucket, Prefix=prefix)  # noqa: E731
    try:
        found = patiently(folder, ask)
    except StorageError as error:
        _log.warning("%s: unfinished uploads cannot be listed: %s", folder, error)
        return
    for upload in found.get("Uploads", ()):
        name = upload["Key"].removeprefix(prefix)
        if owns(name):
            _S3Object(folder / name).abort(upload["UploadId"])
