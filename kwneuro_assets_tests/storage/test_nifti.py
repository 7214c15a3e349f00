"""Read all kinds of NIfTI files, refuse damaged ones, and write the same bytes each time."""

from __future__ import annotations

import gzip
import hashlib
import io
import resource
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from kwneuro_assets.imaging import InvalidData, StreamedVolume, Volume
from kwneuro_assets.storage.files import Replaced, digested, drain, fingerprint_of, opened
from kwneuro_assets.storage.nifti import decode_grid, read_nifti, reread_volumes, streamed_nifti, write_nifti
from kwneuro_assets_tests.testkit.small_dataset import AFFINES, affine_of, load, rotation

OBLIQUE = AFFINES["oblique"]
# Offsets of a NIfTI-1 header's fields, from the standard.
DIM, DATATYPE, PIXDIM, VOX_OFFSET, SCL_SLOPE, SCL_INTER, SFORM_CODE, QUATERN_B, MAGIC = (
    40, 70, 76, 108, 112, 116, 254, 256, 344,
)  # fmt: skip


def values(dtype: str = "float32", shape: tuple[int, ...] = (4, 3, 2, 5)) -> NDArray[Any]:
    return np.random.default_rng(7).integers(0, 120, shape).astype(dtype)


def saved(path: Path, array: NDArray[Any], kind: Any = nibabel.Nifti1Image, **fields: float) -> Path:
    image = kind(array, OBLIQUE)
    for name, value in fields.items():
        image.header[name] = value
    nibabel.save(image, path)
    return path


def grid_of(path: Path) -> tuple[tuple[int, ...], NDArray[np.float64]]:
    with opened(path) as file:
        return decode_grid(file)


def patched(path: Path, *changes: tuple[int, str, Any]) -> Path:
    """Overwrite header fields of a .nii.gz file: offset, struct format, value."""
    content = bytearray(gzip.decompress(path.read_bytes()))
    for offset, form, value in changes:
        struct.pack_into(f"<{form}", content, offset, *(value if isinstance(value, tuple) else (value,)))
    path.write_bytes(gzip.compress(bytes(content), mtime=0))
    return path


@pytest.mark.parametrize("name", ["image.nii.gz", "image.nii"])
@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "int32", "float32", "float64", ">i2", ">f4", ">f8"])
def test_every_kind_of_nifti_is_read_as_nibabel_reads_it(tmp_path: Path, name: str, kind: Any, dtype: str) -> None:
    array = values(dtype)
    header = kind.header_class(endianness="<>"[dtype.startswith(">")])
    header.set_data_dtype(array.dtype)
    path = tmp_path / name
    nibabel.save(kind(array, OBLIQUE, header), path)
    volume = read_nifti(path)
    assert volume.array.dtype == ("uint8" if dtype == "uint8" else "float32")
    np.testing.assert_array_equal(volume.array, load(path).get_fdata())
    np.testing.assert_allclose(volume.affine, load(path).affine, atol=1e-6)
    assert grid_of(path)[0] == array.shape


@pytest.mark.parametrize(("slope", "intercept"), [(0.5, 0.0), (2.0, -100.0), (-1.0, 3.0), (1.0, 7.0)])
@pytest.mark.parametrize("dtype", ["uint8", "int16", "float32"])
def test_scaled_voxels_are_scaled(tmp_path: Path, dtype: str, slope: float, intercept: float) -> None:
    array = values(dtype)
    path = saved(tmp_path / "image.nii.gz", array)
    patched(path, (SCL_SLOPE, "f", slope), (SCL_INTER, "f", intercept))
    volume = read_nifti(path)
    assert volume.array.dtype == "float32"
    np.testing.assert_array_equal(volume.array, array.astype(float) * slope + intercept)


@pytest.mark.parametrize(("slope", "intercept"), [(np.nan, np.nan), (np.nan, 0.0), (0.0, 0.0), (0.0, 9.0), (1.0, 0.0)])
def test_a_slope_of_nan_or_zero_means_no_scaling(tmp_path: Path, slope: float, intercept: float) -> None:
    array = values("uint8")
    path = patched(
        saved(tmp_path / "image.nii.gz", array), (SCL_SLOPE, "f", slope), (SCL_INTER, "f", intercept)
    )  # fmt: skip
    assert read_nifti(path).array.dtype == "uint8"
    np.testing.assert_array_equal(read_nifti(path).array, array)


def test_an_uncompressed_file_named_gz_is_read(tmp_path: Path) -> None:
    path = saved(tmp_path / "image.nii", values())
    misnamed = path.rename(tmp_path / "image.nii.gz")
    np.testing.assert_array_equal(read_nifti(misnamed).array, values())


def test_a_single_form_and_no_form_are_read_as_nibabel_reads_them(tmp_path: Path) -> None:
    for codes in ((0, 1), (1, 0), (0, 0)):
        image = nibabel.Nifti1Image(values(), OBLIQUE)
        image.set_sform(OBLIQUE, codes[0])
        image.set_qform(OBLIQUE, codes[1])
        path = tmp_path / f"{codes}.nii.gz"
        nibabel.save(image, path)
        np.testing.assert_allclose(read_nifti(path).affine, load(path).affine, atol=1e-5)


@pytest.mark.parametrize("name", ["image.nii.gz", "image.nii"])
@pytest.mark.parametrize("endianness", "<>")
@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
@pytest.mark.parametrize("gap", [0, 1, 16, 300])
def test_voxels_start_at_vox_offset_and_0_means_after_the_header(
    tmp_path: Path, name: str, endianness: str, kind: Any, gap: int
) -> None:
    """The file consists of its header, the extension flag (four bytes), a gap and the voxels."""
    array = np.arange(1, 121, dtype=f"{endianness}f4").reshape(4, 3, 2, 5)
    header = kind.header_class(endianness=endianness)
    header.set_data_dtype(array.dtype)
    header.set_data_shape(array.shape)
    header.set_sform(OBLIQUE, 1)
    minimum = header.single_vox_offset
    content = header.binaryblock + bytes(4 + gap) + array.tobytes("F")
    offsets = [minimum + gap] if gap else [minimum, 0]
    for offset in offsets:
        header["vox_offset"] = offset
        content = header.binaryblock + content[len(header.binaryblock) :]
        path = tmp_path / name
        path.write_bytes(gzip.compress(content) if name.endswith("gz") else content)
        np.testing.assert_array_equal(read_nifti(path).array, array)
        with opened(path) as file, streamed_nifti(file) as image:
            for index, volume in enumerate(image.volumes()):
                np.testing.assert_array_equal(volume, array[..., index])
            assert image.warnings == []
    assert len(content) == minimum + gap + array.nbytes


def test_the_size_of_a_large_file_is_compared_exactly(tmp_path: Path) -> None:
    """A sum in float32, the type of vox_offset, would be one byte too large here."""
    array = np.broadcast_to(np.uint8(1), (257, 257, 257))
    size = 352 + array.size
    assert float(np.float32(size + 2)) != size + 2
    path = tmp_path / "image.nii"
    for shape in (array.shape, (array.size - 2, 1, 1), (array.size + 2, 1, 1)):
        header = nibabel.Nifti2Header() if shape[0] > 32767 else nibabel.Nifti1Header()
        header.set_data_dtype(np.uint8)
        header.set_data_shape(shape)
        header["vox_offset"] = header.single_vox_offset
        path.write_bytes(header.binaryblock + bytes(4) + b"\1" * int(np.prod(shape)))
        assert read_nifti(path).array.all()


TRAILING: dict[str, tuple[bytes, list[str]]] = {
    "nothing": (b"", []),
    "padding": (bytes(100), []),
    "text": (b"left over", ["9 bytes follow the end of its gzip stream: they are ignored"]),
    "much": (bytes(10) + b"x" * 300_000, ["300010 bytes follow the end of its gzip stream: they are ignored"]),
}


@pytest.mark.parametrize("writer", ["theirs", "ours"])
@pytest.mark.parametrize(("trailing", "warnings"), TRAILING.values(), ids=list(TRAILING))
@pytest.mark.parametrize("threads", [1, 3])
def test_bytes_after_a_complete_gzip_stream_are_ignored_with_a_warning(
    tmp_path: Path, writer: str, trailing: bytes, warnings: list[str], threads: int
) -> None:
    path = saved(tmp_path / "image.nii.gz", values())
    if writer == "ours":
        path.write_bytes(written(Volume(values(), OBLIQUE)))
    path.write_bytes(path.read_bytes() + trailing)
    with opened(path) as file, digested(file) as (read, digest):
        with streamed_nifti(read, threads) as image:
            for index, volume in enumerate(image.volumes()):
                np.testing.assert_array_equal(volume, values()[..., index])
                found = list(image.warnings)
            assert found == warnings, "all warnings are known with the last volume"
        drain(read)
        assert digest.close() == hashlib.sha256(path.read_bytes()).hexdigest()
    assert grid_of(path)[0] == values().shape
    np.testing.assert_array_equal(read_nifti(path).array, values())


@pytest.mark.parametrize("writer", ["theirs", "ours"])
@pytest.mark.parametrize("trailing", [b"", b"left over", bytes(5000)])
def test_bytes_after_a_damaged_stream_do_not_hide_the_damage(tmp_path: Path, writer: str, trailing: bytes) -> None:
    path = tmp_path / "image.nii.gz"
    intact = written(Volume(values(), OBLIQUE)) if writer == "ours" else saved(path, values()).read_bytes()
    for stored in (intact[:-200], intact[:-9], intact[:-8] + bytes(4) + intact[-4:], intact[:-1] + b"x"):
        path.write_bytes(stored + trailing)
        with pytest.raises(InvalidData, match="a complete gzip stream"):
            read_nifti(path)


def test_an_image_in_several_members_is_one_image(tmp_path: Path) -> None:
    path = saved(tmp_path / "image.nii", values())
    content = path.read_bytes()
    path = tmp_path / "image.nii.gz"
    path.write_bytes(b"".join(gzip.compress(content[start : start + 100]) for start in range(0, len(content), 100)))
    np.testing.assert_array_equal(read_nifti(path).array, values())
    path.write_bytes(gzip.compress(content[:700]) + b"left over")
    with pytest.raises(InvalidData, match="voxels that its header declares"):
        read_nifti(path)


@pytest.mark.parametrize("name", ["image.nii.gz", "image.nii"])
def test_bytes_after_the_voxels_are_ignored_with_a_warning(tmp_path: Path, name: str) -> None:
    content = saved(tmp_path / "first.nii", values()).read_bytes()
    for trailing, warnings in ((bytes(99), []), (b"left over", ["9 bytes follow its voxels: they are ignored"])):
        path = tmp_path / name
        path.write_bytes(gzip.compress(content + trailing) if name.endswith("gz") else content + trailing)
        with opened(path) as file, streamed_nifti(file) as image:
            np.testing.assert_array_equal(image.in_memory().array, values())
            assert image.warnings == warnings


SERIES = {
    (4, 3, 2): (4, 3, 2, 1),
    (4, 3, 2, 1): (4, 3, 2, 1),
    (4, 3, 2, 1, 1): (4, 3, 2, 1),
    (4, 3, 2, 5): (4, 3, 2, 5),
    (4, 3, 2, 1, 5): (4, 3, 2, 5),
    (4, 3, 2, 5, 1): (4, 3, 2, 5),
    (4, 3, 2, 1, 5, 1): (4, 3, 2, 5),
    (4, 3, 1, 5): (4, 3, 1, 5),
    (4, 1, 1): (4, 1, 1, 1),
    (4, 3, 2, 5, 2): (4, 3, 2, 5, 2),
    (4, 3): (4, 3),
}


@pytest.mark.parametrize(("stored", "shape"), SERIES.items())
def test_a_dwi_series_has_four_dimensions_however_it_is_stored(
    tmp_path: Path, stored: tuple[int, ...], shape: tuple[int, ...]
) -> None:
    array = values(shape=stored)
    path = saved(tmp_path / "image.nii.gz", array)
    with opened(path) as file, streamed_nifti(file, series=True) as image:
        assert image.shape == shape
        found = list(image.volumes())
        assert len(found) == shape[-1]
        np.testing.assert_array_equal(np.stack(found, axis=-1), array.reshape(shape, order="F"))
    if len(shape) == 4:
        (last,) = reread_volumes(path, fingerprint_of(path), [shape[3] - 1])
        np.testing.assert_array_equal(last, array.reshape(shape, order="F")[..., -1])
    with opened(path) as file, streamed_nifti(file) as image:
        assert image.shape == stored


@pytest.mark.parametrize("volumes", [range(2, -1, -1), range(4, -1, -2), range(3, 4), range(1, 5, 2), range(4, 2, -1)])
@pytest.mark.parametrize("dtype", ["uint8", "float32", "int16"])
def test_volumes_come_in_the_requested_order(tmp_path: Path, volumes: range, dtype: str) -> None:
    path = saved(tmp_path / "image.nii.gz", values(dtype))
    np.testing.assert_array_equal(read_nifti(path, volumes).array, values(dtype)[..., list(volumes)])


def test_the_file_is_not_read_beyond_the_last_requested_volume(tmp_path: Path) -> None:
    array = np.random.default_rng(0).normal(size=(40, 40, 40, 20)).astype(np.float32)
    path = tmp_path / "image.nii.gz"
    path.write_bytes(written(Volume(array, OBLIQUE)))
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2)
    np.testing.assert_array_equal(read_nifti(path, range(3, -1, -1)).array, array[..., 3::-1])


LFS_POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab2935c943f9e0ff69d22e\nsize 12345\n"
ANNEX_POINTER = b"/annex/objects/MD5E-s12345--6f1c5b2e8b8e1e4f9a3d.nii.gz\n"


def test_content_that_was_not_fetched_is_reported_with_the_command_that_fetches_it(tmp_path: Path) -> None:
    path = tmp_path / "image.nii.gz"
    for read in (read_nifti, grid_of):
        path.write_bytes(LFS_POINTER)
        with pytest.raises(InvalidData, match=r"found a Git LFS pointer\. Fetch the file itself with: git lfs pull"):
            read(path)
        path.write_bytes(ANNEX_POINTER)
        with pytest.raises(InvalidData, match=r"found a git-annex pointer\. Fetch .* with: git annex get"):
            read(path)
    path.unlink()
    path.symlink_to("../.git/annex/objects/Xk/9p/MD5E-s12--6f1c.nii.gz/MD5E-s12--6f1c.nii.gz")
    with pytest.raises(InvalidData, match=r"found a git-annex link without its content\. Fetch .*: git annex get"):
        read_nifti(path)


def truncated(path: Path) -> Path:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    return path


def bad_checksum(path: Path) -> Path:
    content = bytearray(path.read_bytes())
    content[-6] ^= 1
    path.write_bytes(content)
    return path


def two_forms(path: Path, change: NDArray[np.float64]) -> Path:
    """The sform is the qform after `change` of the voxel axes."""
    image = nibabel.Nifti1Image(values(), OBLIQUE)
    image.set_qform(OBLIQUE, 1)
    image.set_sform(OBLIQUE @ change, 1)
    nibabel.save(image, path)
    return path


def empty(path: Path) -> Path:
    path.write_bytes(b"")
    return path


def text(path: Path) -> Path:
    path.write_text("<html>404 not found</html>" * 40)
    return path


def short_header(path: Path) -> Path:
    path.write_bytes(struct.pack("<i", 348) + b"\0" * 100)
    return path


def pair(path: Path) -> Path:
    return patched(saved(path, values()), (MAGIC, "4s", b"ni1\0"))


DAMAGED: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "empty": (empty, "a NIfTI file", "an empty file"),
    "text": (text, "a NIfTI header", "other bytes"),
    "half a header": (short_header, "a header of 348 bytes", "a file of 104"),
    "header of a pair": (pair, "one file", ".img"),
    "truncated gzip": (
        lambda p: truncated(saved(p, np.random.default_rng(1).normal(size=(9, 9, 9)))),
        "complete gzip",
        "",
    ),
    "gzip checksum": (lambda p: bad_checksum(saved(p, values())), "complete gzip", ""),
    "too many volumes": (
        lambda p: patched(saved(p, values()), (DIM, "8h", (4, 4, 3, 2, 6, 1, 1, 1))),
        "576 bytes of voxels that its header declares, (4, 3, 2, 6)",
        "480",
    ),
    "terabytes declared": (
        lambda p: patched(saved(p, values()), (DIM, "8h", (4, 32767, 32767, 32767, 99, 1, 1, 1))),
        "voxels that its header declares",
        "",
    ),
    "volumes of gigabytes": (
        lambda p: patched(saved(p, values()), (DIM, "8h", (4, 2000, 2000, 2000, 1, 1, 1, 1))),
        "voxels that its header declares",
        "",
    ),
    "offset beyond the end": (
        lambda p: patched(saved(p, values()), (VOX_OFFSET, "f", 1e30)),
        "voxels that its header declares",
        "",
    ),
    **{
        f"offset {offset}": (
            lambda p, offset=offset: patched(saved(p, values()), (VOX_OFFSET, "f", offset)),
            "voxels that start at byte 352 or later, or vox_offset 0, which means 352",
            f"vox_offset {offset:g}",
        )
        for offset in (1, 16, 347, 348, 351, 351.5, 352.5, -352, np.nan, np.inf, -np.inf)
    },
    "extensions at an unknown place": (
        lambda p: patched(saved(p, values()), (VOX_OFFSET, "f", 0), (348, "4B", (1, 0, 0, 0))),
        "a vox_offset with the start of the voxels",
        "vox_offset 0",
    ),
    "dimension zero": (
        lambda p: patched(saved(p, values()), (DIM, "8h", (3, 4, 0, 2, 1, 1, 1, 1))),
        "positive numbers",
        "(4, 0, 2)",
    ),
    "nine dimensions": (
        lambda p: patched(saved(p, values()), (DIM, "h", 9)),
        "",
        "",
    ),
    "unknown data type": (lambda p: patched(saved(p, values()), (DATATYPE, "h", 77)), "valid NIfTI header", "77"),
    "complex": (lambda p: saved(p, values("complex64")), "real numbers", "complex64"),
    "colors": (
        lambda p: nibabel.save(nibabel.Nifti1Image(np.zeros((2, 2, 2), [(c, "u1") for c in "RGB"]), np.eye(4)), p),
        "real numbers",
        "",
    ),
    "NaN": (lambda p: saved(p, np.where(values() == values().flat[0], np.nan, values())), "finite", "NaN or infinite"),
    "infinite": (lambda p: saved(p, np.where(values() > 100, np.inf, values())), "finite", "NaN or infinite"),
    "beyond float32": (lambda p: saved(p, values("float64") * 1e300), "finite", "NaN or infinite of 120"),
    "slope that overflows": (
        lambda p: patched(saved(p, values("int16")), (SCL_SLOPE, "f", 3e38), (SCL_INTER, "f", 0)),
        "fit float32",
        "scl_slope 3e+38",
    ),
    "slope infinite": (lambda p: patched(saved(p, values()), (SCL_SLOPE, "f", np.inf)), "finite", "scl_slope inf"),
    "intercept NaN": (
        lambda p: patched(saved(p, values()), (SCL_SLOPE, "2f", (2.0, np.nan))),
        "finite",
        "scl_inter nan",
    ),
    "zero determinant": (
        lambda p: patched(saved(p, values(), qform_code=0), (280, "12f", (1, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0))),
        "a usable sform or qform",
        "sform unusable (voxel axes that are zero or not independent)",
    ),
    "sform NaN": (
        lambda p: patched(saved(p, values(), qform_code=0), (280, "f", np.nan)),
        "a usable sform or qform",
        "sform unusable (NaN or infinite numbers)",
    ),
    "sform and qform disagree": (
        lambda p: two_forms(p, np.diag([1.0, -1, 1, 1])),
        "sform and qform whose voxel axes point the same way",
        "RAS",
    ),
    "qform that is no rotation": (
        lambda p: patched(saved(p, values(), sform_code=0, qform_code=1), (QUATERN_B, "3f", (2.0, 2.0, 2.0))),
        "a usable sform or qform",
        "a quaternion of length",
    ),
    "voxels of negative size": (
        lambda p: patched(saved(p, values(), sform_code=0, qform_code=1), (PIXDIM + 4, "f", -2.0)),
        "a usable sform or qform",
        "voxel sizes of -2",
    ),
    "a Git LFS pointer": (lambda p: p.write_bytes(LFS_POINTER), "a NIfTI file", "a Git LFS pointer"),
    "a git-annex pointer": (lambda p: p.write_bytes(ANNEX_POINTER), "a NIfTI file", "a git-annex pointer"),
}


@pytest.mark.parametrize(("damage", "expected", "found"), DAMAGED.values(), ids=list(DAMAGED))
def test_a_damaged_file_is_refused_with_its_path_and_what_was_expected_and_found(
    tmp_path: Path, damage: Callable[[Path], object], expected: str, found: str
) -> None:
    path = tmp_path / "image.nii.gz"
    damage(path)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(InvalidData) as caught:
        read_nifti(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)
    assert expected in caught.value.expected
    assert found in caught.value.found
    # A damaged file must not allocate the memory that it declares: half a gigabyte is far above what these tests need.
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500_000


@pytest.mark.parametrize("name", ["image.nii.gz", "image.nii"])
def test_shape_and_affine_are_read_from_the_header_alone(tmp_path: Path, name: str) -> None:
    shape, affine = grid_of(saved(tmp_path / name, values()))
    assert shape == (4, 3, 2, 5)
    np.testing.assert_allclose(affine, OBLIQUE, atol=1e-5)


def test_a_missing_file_is_reported_with_its_path(tmp_path: Path) -> None:
    with pytest.raises(InvalidData, match=r"missing\.nii\.gz: image: expected a readable file, found No such file"):
        read_nifti(tmp_path / "missing.nii.gz")


def written(volume: Volume | StreamedVolume, threads: int | None = None) -> bytes:
    file = io.BytesIO()
    write_nifti(file, volume, threads)
    return file.getvalue()


angles = st.floats(-180, 180)
volumes = st.builds(
    lambda shape, dtype, x, y, z, zooms, shear, seed: Volume(
        np.random.default_rng(seed).integers(0, 255, shape).astype(dtype),
        sheared(affine_of(rotation(x, y, z), zooms), shear),
    ),
    st.lists(st.integers(1, 6), min_size=3, max_size=5).map(tuple),
    st.sampled_from(["float32", "uint8"]),
    angles,
    angles,
    angles,
    st.tuples(*[st.floats(0.3, 8)] * 3),
    st.sampled_from([0.0, 0.0, 0.1, 1.0]),
    st.integers(0, 1000),
)


def sheared(affine: NDArray[np.float64], amount: float) -> NDArray[np.float64]:
    affine[:3, 1] += amount * affine[:3, 0]
    return affine


@given(volumes)
@settings(max_examples=150, deadline=None, derandomize=True)
def test_a_written_image_is_read_back_bit_by_bit_here_and_in_nibabel(
    tmp_path_factory: pytest.TempPathFactory, volume: Volume
) -> None:
    path = tmp_path_factory.getbasetemp() / "round_trip.nii.gz"
    path.write_bytes(written(volume))
    read = read_nifti(path)
    assert read.array.dtype == volume.array.dtype
    assert read.shape == volume.shape
    np.testing.assert_array_equal(read.array, volume.array)
    assert read.affine.tobytes() == volume.affine.tobytes()
    peer = load(path)
    assert peer.shape == volume.shape
    np.testing.assert_array_equal(np.asarray(peer.dataobj), volume.array)
    np.testing.assert_array_equal(peer.affine, volume.affine)


def test_two_writes_give_the_same_bytes_for_any_memory_order() -> None:
    array = np.random.default_rng(3).normal(size=(5, 4, 3, 7)).astype(np.float32)
    assert written(Volume(array.copy("C"), OBLIQUE)) == written(Volume(array.copy("F"), OBLIQUE))


def test_the_gzip_header_has_no_time_and_no_name() -> None:
    content = written(Volume(values(), OBLIQUE))
    flags, time = content[3], content[4:8]
    assert (flags, time) == (4, b"\0" * 4)  # an extra field, which readers skip


def test_threads_memory_order_and_streaming_change_no_byte_of_a_large_file(tmp_path: Path) -> None:
    """Three megabytes, so that blocks end within volumes."""
    array = np.random.default_rng(3).normal(size=(50, 40, 30, 13)).astype(np.float32)
    one = written(Volume(array.copy("F"), OBLIQUE), 1)
    assert written(Volume(array.copy("F"), OBLIQUE), 2) == written(Volume(array.copy("F"), OBLIQUE), 4) == one
    assert written(Volume(array.copy("C"), OBLIQUE), 2) == one
    streaming = StreamedVolume(array.shape, OBLIQUE, lambda chosen: (array[..., index] for index in chosen))
    assert written(streaming, 2) == one
    path = tmp_path / "image.nii.gz"
    path.write_bytes(one)
    np.testing.assert_array_equal(np.asarray(load(path).dataobj), array)
    np.testing.assert_array_equal(read_nifti(path).array, array)
    with gzip.open(path) as stream:
        assert stream.read()[352:] == array.tobytes("F")


def test_a_stream_gives_the_chosen_volumes_and_reads_to_the_end_before_the_last_one(tmp_path: Path) -> None:
    path = saved(tmp_path / "image.nii.gz", values("int16"))
    with opened(path) as file, streamed_nifti(file) as image:
        found = list(image.volumes([1, 3], dtype=np.float32))
    for index, volume in zip([1, 3], found, strict=True):
        assert volume.dtype == np.float32
        np.testing.assert_array_equal(volume, values("int16")[..., index])
    bad_checksum(path)
    with opened(path) as file, pytest.raises(InvalidData, match="complete gzip"), streamed_nifti(file) as image:  # noqa: PT012
        stream = image.volumes()
        for _ in range(4):
            next(stream)
        next(stream)


def test_a_reread_file_is_unchanged_or_refused(tmp_path: Path) -> None:
    path = saved(tmp_path / "image.nii.gz", values())
    fingerprint = fingerprint_of(path)
    for index, volume in zip([0, 4], reread_volumes(path, fingerprint, [0, 4]), strict=True):
        np.testing.assert_array_equal(volume, values()[..., index])
    saved(path, values() + 1)
    with pytest.raises(Replaced, match=r"image.nii.gz: was changed or removed after it was first read"):
        list(reread_volumes(path, fingerprint, [0]))
    truncated(path)
    with pytest.raises(Replaced, match="was changed"):
        list(reread_volumes(path, fingerprint, [0]))
