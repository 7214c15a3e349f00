"""Stages of remote folders. On S3, files are uploaded in parts while they are written, and appear when completed.

The lease of a suspended process may have expired when it resumes, so the lease is checked right before each visible
change. On S3 nothing can happen between the two: a process that takes over aborts the uploads that its predecessor
began, so none of them, however small, can appear among the files of its successor.
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
from kwneuro_assets.storage.retries import StorageError, TransientError, with_retries
from kwneuro_assets.storage.sidecar import StoredFile
from kwneuro_assets.storage.stage import Owns, Stage, Writer, write_digested

PART = 8 << 20  # bytes; S3 allows 10 000 parts, so the largest file is 80 GB
UPLOADS = 4  # concurrent part uploads of this process: 32 MB, which the HTTP client holds twice
_CORRUPTED = 3  # answers with a wrong checksum after which the server's ETags are no MD5

_log = logging.getLogger(__name__)
_upload_slots = threading.BoundedSemaphore(UPLOADS)


@contextmanager
def remote_stage(folder: UPath, mark: str, owns: Owns) -> Iterator[Stage]:
    """See `staging.staged`. Raises StorageError."""
    on_s3 = "s3" in folder.fs.protocol
    if not on_s3:
        with_retries(folder, lambda: folder.fs.makedirs(folder.path, exist_ok=True))
    with leased(folder / f".{mark}.lock") as lease:
        if on_s3:
            _abort_unfinished(folder, owns)
            with _s3_stage(folder, lease) as stage:
                yield stage
        else:
            with tempfile.TemporaryDirectory(prefix="kwneuro-") as scratch:
                yield _SpooledStage(folder, lease, Path(scratch))


class _SpooledStage:
    """Files in a local temporary folder, uploaded by `commit`: for remote file systems other than S3."""

    def __init__(self, folder: UPath, lease: Lease, scratch: Path) -> None:
        self._folder = folder
        self._lease = lease
        self._scratch = scratch

    def write(self, name: str, writer: Writer) -> StoredFile:
        with (self._scratch / name).open("wb") as file:
            return write_digested(writer, file.write)

    def commit(self, name: str) -> None:
        self._lease.require()
        path = self._folder / name
        with_retries(path, lambda: path.fs.put_file(str(self._scratch / name), path.path))
        (self._scratch / name).unlink()

    def remove(self, name: str) -> None:
        self._lease.require()
        path = self._folder / name
        with_retries(path, lambda: remove(path))

    def require_lock(self) -> None:
        self._lease.require()


class _S3Stage:
    """Multipart uploads that lack only the request that makes them visible."""

    def __init__(self, folder: UPath, lease: Lease, pool: ThreadPoolExecutor) -> None:
        self._folder = folder
        self._lease = lease
        self._pool = pool
        self._uploads: dict[str, _Upload] = {}

    def write(self, name: str, writer: Writer) -> StoredFile:
        upload = self._uploads[name] = _Upload(self._folder / name, self._pool)
        stored = write_digested(writer, upload.write)
        upload.finish()
        return stored

    def commit(self, name: str) -> None:
        self._lease.require()
        self._uploads[name].complete()
        del self._uploads[name]

    def remove(self, name: str) -> None:
        self._lease.require()
        path = self._folder / name
        with_retries(path, lambda: remove(path))

    def require_lock(self) -> None:
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
    """One multipart upload; parts are sent while the object is written."""

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
        """Wait until all parts have arrived."""
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
        _upload_slots.acquire()

        def send() -> bytes:
            try:
                return self._s3.send(upload_id, number, content)
            except Exception as error:
                self._failed = error  # raised at the next part rather than at the end
                raise
            finally:
                _upload_slots.release()

        self._parts.append(self._pool.submit(send))


class _S3Object:
    """The requests of one multipart upload; each is retried on transient errors."""

    _etags_are_md5 = True  # of the servers met so far; AWS with its own encryption keys has other ETags

    def __init__(self, path: UPath) -> None:
        self._path = path
        bucket, key, _ = path.fs.split_path(path.path)
        self._object = {"Bucket": bucket, "Key": key}

    def start(self) -> str:
        return str(self._call("create_multipart_upload")["UploadId"])

    def send(self, upload_id: str, number: int, content: bytearray) -> bytes:
        """The ETag of one uploaded part. Where ETags are MD5 sums, it also proves that the part arrived intact."""
        digest = hashlib.md5(content, usedforsecurity=False)
        mismatches = 0

        def once() -> bytes:
            nonlocal mismatches
            answer = self._path.fs.call_s3(
                "upload_part", **self._object, UploadId=upload_id, PartNumber=number, Body=content,
                ContentMD5=base64.b64encode(digest.digest()).decode(),
            )  # fmt: skip
            etag = str(answer["ETag"]).strip('"')
            if _S3Object._etags_are_md5 and etag != digest.hexdigest():
                mismatches += 1
                if mismatches < _CORRUPTED:
                    raise TransientError("the bytes that arrived differ from those that were sent")
                _S3Object._etags_are_md5 = False
            return etag.encode()

        return with_retries(self._path, once)

    def complete(self, upload_id: str, etags: list[bytes]) -> None:
        parts = [{"PartNumber": number, "ETag": etag.decode()} for number, etag in enumerate(etags, 1)]
        try:
            self._call("complete_multipart_upload", UploadId=upload_id, MultipartUpload={"Parts": parts})
        except FileNotFoundError:
            # Either an earlier attempt succeeded though its answer did not arrive, or another process aborted it.
            if not self._has_parts(etags):
                raise StorageError(f"{self._path}: its upload was aborted by another process: run again") from None

    def abort(self, upload_id: str) -> None:
        try:
            self._call("abort_multipart_upload", UploadId=upload_id)
        except FileNotFoundError:
            pass  # it was completed, or aborted by another process
        except StorageError as error:  # it is invisible, and the next write removes it
            _log.warning("%s: an unfinished upload remains: %s", self._path, error)

    def _has_parts(self, etags: list[bytes]) -> bool:
        """Whether the visible object consists of these parts, by S3's rule for the ETag of a multipart upload."""
        try:
            combined = hashlib.md5(b"".join(bytes.fromhex(etag.decode()) for etag in etags), usedforsecurity=False)
            found = str(self._call("head_object")["ETag"]).strip('"')
        except (FileNotFoundError, ValueError):
            return False
        return found == f"{combined.hexdigest()}-{len(etags)}"

    def _call(self, request: str, **parameters: object) -> Any:
        return with_retries(self._path, lambda: self._path.fs.call_s3(request, **self._object, **parameters))


def _abort_unfinished(folder: UPath, owns: Owns) -> None:
    """Abort the uploads of a process that ended: they are invisible, but are charged for."""
    bucket, key, _ = folder.fs.split_path(folder.path)
    prefix = f"{key.rstrip('/')}/"
    request: Callable[[], Any] = lambda: folder.fs.call_s3("list_multipart_uploads", Bucket=bucket, Prefix=prefix)  # noqa: E731
    try:
        found = with_retries(folder, request)
    except StorageError as error:
        _log.warning("%s: unfinished uploads cannot be listed: %s", folder, error)
        return
    for upload in found.get("Uploads", ()):
        name = upload["Key"].removeprefix(prefix)
        if owns(name):
            _S3Object(folder / name).abort(upload["UploadId"])
