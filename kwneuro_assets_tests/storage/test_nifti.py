"""Reading NIfTI files of every make, refusing broken ones, and writing the same bytes each time."""

from __future__ import annotations

import gzip
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
from kwneuro_assets.storage.files import Replaced, opened, stamp_of
from kwneuro_assets.storage.nifti import read_grid, read_nifti, streamed_nifti, volumes_again, write_nifti
from kwneuro_assets_tests.small_dataset import AFFINES, affine_of, load, rotation

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
def test_every_make_of_nifti_gives_what_nibabel_gives(tmp_path: Path, name: str, kind: Any, dtype: str) -> None:
    array = values(dtype)
    header = kind.header_class(endianness="<>"[dtype.startswith(">")])
    header.set_data_dtype(array.dtype)
    path = tmp_path / name
    nibabel.save(kind(array, OBLIQUE, header), path)
    volume = read_nifti(path)
    assert volume.array.dtype == ("uint8" if dtype == "uint8" else "float32")
    np.testing.assert_array_equal(volume.array, load(path).get_fdata())
    np.testing.assert_allclose(volume.affine, load(path).affine, atol=1e-6)
    assert read_grid(path)[0] == array.shape


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
def test_a_slope_of_nan_or_zero_is_none(tmp_path: Path, slope: float, intercept: float) -> None:
    array = values("uint8")
    path = patched(
        saved(tmp_path / "image.nii.gz", array), (SCL_SLOPE, "f", slope), (SCL_INTER, "f", intercept)
    )  # fmt: skip
    assert read_nifti(path).array.dtype == "uint8"
    np.testing.assert_array_equal(read_nifti(path).array, array)


def test_a_file_named_gz_that_is_not_compressed_is_read_all_the_same(tmp_path: Path) -> None:
    path = saved(tmp_path / "image.nii", values())
    misnamed = path.rename(tmp_path / "image.nii.gz")
    np.testing.assert_array_equal(read_nifti(misnamed).array, values())


def test_a_qform_alone_and_no_form_at_all_are_read_as_nibabel_reads_them(tmp_path: Path) -> None:
    for codes in ((0, 1), (1, 0), (0, 0)):
        image = nibabel.Nifti1Image(values(), OBLIQUE)
        image.set_sform(OBLIQUE, codes[0])
        image.set_qform(OBLIQUE, codes[1])
        path = tmp_path / f"{codes}.nii.gz"
        nibabel.save(image, path)
        np.testing.assert_allclose(read_nifti(path).affine, load(path).affine, atol=1e-5)


def truncated(path: Path) -> Path:
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    return path


def bad_checksum(path: Path) -> Path:
    content = bytearray(path.read_bytes())
    content[-6] ^= 1
    path.write_bytes(content)
    return path


def two_forms(path: Path, shift: float) -> Path:
    image = nibabel.Nifti1Image(values(), OBLIQUE)
    image.set_qform(OBLIQUE, 1)
    moved = OBLIQUE.copy()
    moved[1, 3] += shift
    image.set_sform(moved, 1)
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


BROKEN: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "empty": (empty, "a NIfTI file", "an empty file"),
    "text": (text, "a NIfTI header", "other bytes"),
    "half a header": (short_header, "a header of 348 bytes", "a file of 104"),
    "header of a pair": (pair, "one file", ".img"),
    "truncated gzip": (
        lambda p: truncated(saved(p, np.random.default_rng(1).normal(size=(9, 9, 9)))),
        "whole gzip",
        "",
    ),
    "gzip checksum": (lambda p: bad_checksum(saved(p, values())), "whole gzip", ""),
    "too many volumes": (
        lambda p: patched(saved(p, values()), (DIM, "8h", (4, 4, 3, 2, 6, 1, 1, 1))),
        "576 bytes of voxels that its header promises, (4, 3, 2, 6)",
        "480",
    ),
    "terabytes promised": (
        lambda p: patched(saved(p, values()), (DIM, "8h", (4, 32767, 32767, 32767, 99, 1, 1, 1))),
        "voxels that its header promises",
        "",
    ),
    "volumes of gigabytes": (
        lambda p: patched(saved(p, values()), (DIM, "8h", (4, 2000, 2000, 2000, 1, 1, 1, 1))),
        "voxels that its header promises",
        "",
    ),
    "offset beyond the end": (
        lambda p: patched(saved(p, values()), (VOX_OFFSET, "f", 1e30)),
        "voxels that its header promises",
        "",
    ),
    "offset NaN": (lambda p: patched(saved(p, values()), (VOX_OFFSET, "f", np.nan)), "valid NIfTI header", ""),
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
    "colours": (
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
        "determinant other than zero",
        "[1.0, 1.0, 0.0]",
    ),
    "sform NaN": (lambda p: patched(saved(p, values(), qform_code=0), (280, "f", np.nan)), "finite", "nan"),
    "sform and qform disagree": (lambda p: two_forms(p, 30), "agree within half a voxel", "up to 30.0 mm"),
    "qform that is no rotation": (
        lambda p: patched(saved(p, values(), qform_code=1), (QUATERN_B, "3f", (2.0, 2.0, 2.0))),
        "a rotation",
        "",
    ),
    "voxels of negative size": (
        lambda p: patched(saved(p, values(), qform_code=1), (PIXDIM + 4, "f", -2.0)),
        "",
        "",
    ),
}


@pytest.mark.parametrize(("spoil", "expected", "found"), BROKEN.values(), ids=list(BROKEN))
def test_a_broken_file_is_refused_by_name_with_what_was_expected_and_found(
    tmp_path: Path, spoil: Callable[[Path], object], expected: str, found: str
) -> None:
    path = tmp_path / "image.nii.gz"
    spoil(path)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(InvalidData) as caught:
        read_nifti(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)
    assert expected in caught.value.expected
    assert found in caught.value.found
    # No broken file may cost the memory that it promises: half a gigabyte is far above what these tests need.
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500_000


def test_a_shift_between_the_two_forms_that_is_rounding_is_let_pass(tmp_path: Path) -> None:
    path = two_forms(tmp_path / "image.nii.gz", 0.01)
    np.testing.assert_allclose(read_nifti(path).affine[1, 3], OBLIQUE[1, 3] + 0.01, atol=1e-5)


@pytest.mark.parametrize("name", ["image.nii.gz", "image.nii"])
def test_a_header_alone_tells_shape_and_affine_as_the_whole_does(tmp_path: Path, name: str) -> None:
    shape, affine = read_grid(saved(tmp_path / name, values()))
    assert shape == (4, 3, 2, 5)
    np.testing.assert_allclose(affine, OBLIQUE, atol=1e-5)


@pytest.mark.parametrize("read", [read_nifti, read_grid])
def test_a_file_that_is_not_there_is_named(tmp_path: Path, read: Callable[[Path], object]) -> None:
    with pytest.raises(
        InvalidData, match=r"gone\.nii\.gz: image: expected a file that can be read, found No such file"
    ):
        read(tmp_path / "gone.nii.gz")


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
def test_what_is_written_is_read_back_to_the_bit_here_and_in_nibabel(
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


def test_two_writes_give_the_same_bytes_whatever_the_order_in_memory() -> None:
    array = np.random.default_rng(3).normal(size=(5, 4, 3, 7)).astype(np.float32)
    assert written(Volume(array.copy("C"), OBLIQUE)) == written(Volume(array.copy("F"), OBLIQUE))


def test_the_gzip_header_holds_no_time_and_no_name() -> None:
    content = written(Volume(values(), OBLIQUE))
    flags, time = content[3], content[4:8]
    assert (flags, time) == (4, b"\0" * 4)  # a field of our own, which readers skip


def test_threads_memory_order_and_streaming_change_no_byte_of_a_file_of_many_blocks(tmp_path: Path) -> None:
    """Three megabytes, so that blocks end within volumes."""
    array = np.random.default_rng(3).normal(size=(50, 40, 30, 13)).astype(np.float32)
    one = written(Volume(array.copy("F"), OBLIQUE), 1)
    assert written(Volume(array.copy("F"), OBLIQUE), 2) == written(Volume(array.copy("F"), OBLIQUE), 4) == one
    assert written(Volume(array.copy("C"), OBLIQUE), 2) == one
    apart = StreamedVolume(array.shape, OBLIQUE, lambda chosen: (array[..., index] for index in chosen))
    assert written(apart, 2) == one
    path = tmp_path / "image.nii.gz"
    path.write_bytes(one)
    np.testing.assert_array_equal(np.asarray(load(path).dataobj), array)
    np.testing.assert_array_equal(read_nifti(path).array, array)
    with gzip.open(path) as stream:
        assert stream.read()[352:] == array.tobytes("F")


def test_a_stream_gives_what_is_chosen_and_reads_to_the_end_before_the_last_volume(tmp_path: Path) -> None:
    path = saved(tmp_path / "image.nii.gz", values("int16"))
    with opened(path) as file, streamed_nifti(file) as image:
        found = list(image.volumes([1, 3], dtype=np.float32))
    for index, volume in zip([1, 3], found, strict=True):
        assert volume.dtype == np.float32
        np.testing.assert_array_equal(volume, values("int16")[..., index])
    bad_checksum(path)
    with opened(path) as file, pytest.raises(InvalidData, match="whole gzip"), streamed_nifti(file) as image:  # noqa: PT012
        taken = image.volumes()
        for _ in range(4):
            next(taken)
        next(taken)


def test_a_file_that_is_read_again_is_the_same_or_refused(tmp_path: Path) -> None:
    path = saved(tmp_path / "image.nii.gz", values())
    stamp = stamp_of(path)
    for index, volume in zip([0, 4], volumes_again(path, stamp, [0, 4]), strict=True):
        np.testing.assert_array_equal(volume, values()[..., index])
    saved(path, values() + 1)
    with pytest.raises(Replaced, match=r"image.nii.gz: has changed, or is gone, since it was first read"):
        list(volumes_again(path, stamp, [0]))
    truncated(path)
    with pytest.raises(Replaced, match="has changed"):
        list(volumes_again(path, stamp, [0]))
