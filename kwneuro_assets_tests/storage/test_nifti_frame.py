"""The form of a NIfTI header that gives the affine, repairs with a warning, and refusals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from numpy.typing import NDArray

from kwneuro_assets.imaging import InvalidData
from kwneuro_assets.storage.files import opened
from kwneuro_assets.storage.nifti import decode_grid, read_nifti
from kwneuro_assets.storage.nifti_frame import Frame, world_frame
from kwneuro_assets_tests.testkit.small_dataset import AFFINES, affine_of, rotation

SHAPE = (9, 8, 7, 5)
LEFT_HANDED = AFFINES["left-handed oblique"]
KINDS = [nibabel.Nifti1Header, nibabel.Nifti2Header]
HALF_TURN = affine_of(np.diag([1.0, -1, -1]))  # about x: the quaternion (0, 1, 0, 0) is most sensitive to rounding


def header(
    affine: NDArray[np.float64] = LEFT_HANDED,
    *,
    codes: tuple[int, int] = (1, 1),
    kind: Any = nibabel.Nifti1Header,
    **fields: Any,
) -> Any:
    """A header whose sform and qform are `affine`, with these codes; then fields are overwritten."""
    result = kind()
    result.set_data_shape(SHAPE)
    result.set_sform(affine, 1)
    result.set_qform(affine, 1)
    result["sform_code"], result["qform_code"] = codes
    for name, value in fields.items():
        result[name] = value
    return result


def pixdim(*first: float) -> dict[str, Any]:
    """`pixdim` of LEFT_HANDED with its first elements replaced."""
    sizes = header()["pixdim"].copy()
    sizes[: len(first)] = first
    return {"pixdim": sizes}


def assert_frame(frame: Frame, affine: NDArray[np.float64], *words: str) -> None:
    """Compare the affine, and require one warning with each of the words."""
    np.testing.assert_allclose(frame.affine, affine, atol=2e-5)
    assert frame.is_oriented
    assert len(frame.warnings) == len(words), frame.warnings
    for warning, word in zip(frame.warnings, words, strict=True):
        assert word in warning


@pytest.mark.parametrize("affine", AFFINES.values(), ids=list(AFFINES))
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("codes", [(1, 1), (1, 0), (0, 1), (4, 2)])
def test_valid_forms_give_the_same_affine_as_nibabel_to_the_bit(
    kind: Any, codes: tuple[int, int], affine: NDArray[np.float64]
) -> None:
    nifti_header = header(affine, kind=kind, codes=codes)
    frame = world_frame(nifti_header)
    assert_frame(frame, affine)
    assert frame.affine.tobytes() == np.asarray(nifti_header.get_best_affine(), np.float64).tobytes()


BAD_QFORMS: dict[str, tuple[dict[str, Any], str]] = {
    "pixdim[0] of 0": (pixdim(0), "pixdim[0] is 0"),
    "pixdim[0] of 3": (pixdim(3), "pixdim[0] is 3"),
    "pixdim[0] NaN": (pixdim(np.nan), "pixdim[0] is nan"),
    "a voxel size of 0": (pixdim(-1, 2, 0), "voxel sizes of 2 x 0 x 3"),
    "all voxel sizes 0": (pixdim(0, 0, 0, 0), "voxel sizes of 0 x 0 x 0"),
    "a negative voxel size": (pixdim(-1, -2), "voxel sizes of -2 x 2.5 x 3"),
    "a voxel size NaN": (pixdim(-1, np.nan), "voxel sizes of nan x"),
    "a voxel size infinite": (pixdim(-1, 2, 2.5, np.inf), "x inf"),
    "a quaternion slightly too long": ({"quatern_b": 0.6, "quatern_c": 0.8, "quatern_d": 0.003}, "of length 1.00000"),
    "a quaternion far too long": ({"quatern_b": 2.0}, "a quaternion of length"),
    "a quaternion NaN": ({"quatern_c": np.nan}, "a quaternion of length nan"),
    "a quaternion infinite": ({"quatern_d": -np.inf}, "a quaternion of length inf"),
    "an offset NaN": ({"qoffset_y": np.nan}, "NaN or infinite"),
    "an offset infinite": ({"qoffset_y": np.inf}, "NaN or infinite"),
    "all zeros": (
        {**{f"quatern_{name}": 0 for name in "bcd"}, **{f"qoffset_{name}": 0 for name in "xyz"}, **pixdim(1)},
        "all zeros",
    ),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("fields", "flaw"), BAD_QFORMS.values(), ids=list(BAD_QFORMS))
def test_an_unusable_qform_does_not_affect_the_sform(kind: Any, fields: dict[str, Any], flaw: str) -> None:
    frame = world_frame(header(kind=kind, **fields))
    assert_frame(frame, LEFT_HANDED, flaw)
    assert frame.warnings[0].startswith("its qform is unusable (")
    assert frame.warnings[0].endswith("): the sform is used")
    assert_frame(world_frame(header(kind=kind, codes=(1, 0), **fields)), LEFT_HANDED)  # a code of 0: absent


BAD_SFORMS: dict[str, tuple[dict[str, Any], str]] = {
    "zeros": ({f"srow_{name}": 0 for name in "xyz"}, "zero or not independent"),
    "a row of zeros": ({"srow_z": 0}, "zero or not independent"),
    "a column of zeros": ({f"srow_{name}": (0, 1, 2, 3) for name in "xyz"}, "zero or not independent"),
    "two equal axes": ({"srow_x": (1, 1, 0, 0), "srow_y": (0, 0, 1, 0), "srow_z": 0}, "zero or not independent"),
    "NaN": ({"srow_y": (0, 1, np.nan, 0)}, "NaN or infinite"),
    "an infinite offset": ({"srow_y": (0, 1, 0, np.inf)}, "NaN or infinite"),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("fields", "flaw"), BAD_SFORMS.values(), ids=list(BAD_SFORMS))
def test_an_unusable_sform_does_not_affect_the_qform(kind: Any, fields: dict[str, Any], flaw: str) -> None:
    frame = world_frame(header(kind=kind, **fields))
    assert_frame(frame, LEFT_HANDED, flaw)
    assert frame.warnings[0].startswith("its sform is unusable (")
    assert frame.warnings[0].endswith("): the qform is used")
    assert_frame(world_frame(header(kind=kind, codes=(0, 1), **fields)), LEFT_HANDED)
    assert_frame(world_frame(header(kind=kind, codes=(-1, 1), **fields)), LEFT_HANDED)  # nifti1.h: above 0
    with pytest.raises(InvalidData, match=r"expected a usable sform or qform, found sform unusable \("):
        world_frame(header(kind=kind, codes=(1, 0), **fields))


@pytest.mark.parametrize("name", ["a voxel size of 0", "a negative voxel size", "a quaternion far too long",
                                  "a quaternion NaN", "an offset NaN", "pixdim[0] NaN"])  # fmt: skip
def test_a_qform_that_cannot_be_repaired_is_refused_without_another_form(name: str) -> None:
    fields, flaw = BAD_QFORMS[name]
    with pytest.raises(InvalidData, match="expected a usable sform or qform") as caught:
        world_frame(header(codes=(0, 1), **fields))
    assert flaw in caught.value.found
    with pytest.raises(InvalidData, match="expected a usable sform or qform") as caught:
        world_frame(header(**fields, **BAD_SFORMS["NaN"][0]))
    assert "sform unusable (NaN" in caught.value.found
    assert flaw in caught.value.found


@pytest.mark.parametrize("codes", [(0, 1), (1, 1)], ids=["alone", "beside a bad sform"])
@pytest.mark.parametrize(("first", "sign"), [(0.0, 1), (-0.0, 1), (4.0, 1), (-3.0, -1)])
def test_the_sign_of_pixdim_0_is_used_and_0_is_positive(codes: tuple[int, int], first: float, sign: int) -> None:
    right_handed = AFFINES["oblique"]
    fields = {} if codes == (0, 1) else BAD_SFORMS["zeros"][0]
    frame = world_frame(header(right_handed, codes=codes, **{**pixdim(first), **fields}))
    expected = right_handed.copy()
    expected[:3, 2] *= sign
    words = ["zero or not independent"] if fields else []
    assert_frame(frame, expected, *words, f"pixdim[0] is {first:g}): it is read as {sign}")


@pytest.mark.parametrize("excess", [2e-6, 1e-4, 9e-3])
def test_a_quaternion_that_is_slightly_too_long_is_normalized_without_another_form(excess: float) -> None:
    frame = world_frame(header(HALF_TURN, codes=(0, 1), quatern_b=1 + excess))
    assert_frame(frame, HALF_TURN, "its quaternion is normalized")
    tilted = affine_of(rotation(0, 0, 90) @ np.diag([1.0, -1, -1]))  # 180 degrees about x = y: (0, 1, 1, 0) / sqrt(2)
    component = np.sqrt(0.5) + excess / 2
    frame = world_frame(header(tilted, codes=(0, 1), quatern_b=component, quatern_c=component))
    assert_frame(frame, tilted, "its quaternion is normalized")


def test_float32_rounding_of_a_quaternion_is_no_flaw() -> None:
    assert_frame(world_frame(header(HALF_TURN, codes=(0, 1), quatern_b=np.nextafter(np.float32(1), 2))), HALF_TURN)
    assert_frame(world_frame(header(HALF_TURN, quatern_b=np.nextafter(np.float32(1), 2))), HALF_TURN)


def differing(sform: NDArray[np.float64], qform: NDArray[np.float64]) -> Any:
    result = header(qform)
    result.set_sform(sform, 1)
    return result


def moved(affine: NDArray[np.float64], *millimeters: float) -> NDArray[np.float64]:
    result = affine.copy()
    result[:3, 3] += millimeters
    return result


ROTATIONS = [(12.0, 0.0, 0.0), (0.0, -30.0, 0.0), (0.0, 0.0, 44.0)]


@pytest.mark.parametrize("base", AFFINES.values(), ids=list(AFFINES))
def test_forms_that_disagree_without_a_flip_give_the_sform_and_a_warning(base: NDArray[np.float64]) -> None:
    others = [moved(base, 0, 30, 0), base @ np.diag([2.0, 2, 2, 1])]
    for angles in ROTATIONS:
        rotated = base.copy()
        rotated[:3, :3] = rotation(*angles) @ base[:3, :3]
        others.append(rotated)
    for other in others:
        assert_frame(world_frame(differing(other, base)), other, "disagree by up to")
        assert_frame(world_frame(differing(base, other)), base, "disagree by up to")
    assert "up to 30 mm: the sform is used" in world_frame(differing(others[0], base)).warnings[0]
    assert_frame(world_frame(differing(moved(base, 0, 0.9, 0), base)), moved(base, 0, 0.9, 0))  # under half a voxel


def test_oblique_forms_on_both_sides_of_45_degrees_differ_by_a_rotation_and_not_by_a_swap() -> None:
    first, second = affine_of(rotation(0, 0, 40)), affine_of(rotation(0, 0, 50))
    assert_frame(world_frame(differing(first, second)), first, "disagree")


@pytest.mark.parametrize("base", AFFINES.values(), ids=list(AFFINES))
@pytest.mark.parametrize(
    "change",
    [
        np.diag([-1.0, 1, 1]),
        np.diag([1.0, 1, -1]),
        np.diag([-1.0, -1, 1]),
        np.eye(3)[:, [1, 0, 2]],
        np.eye(3)[:, [1, 2, 0]],
        rotation(0, 0, 80),
    ],
    ids=["flip x", "flip z", "flip x and y", "swap", "roll", "80 degrees"],
)
@pytest.mark.parametrize("slices", [7, 1])
def test_forms_that_flip_or_swap_an_axis_are_refused(
    base: NDArray[np.float64], change: NDArray[np.float64], slices: int
) -> None:
    other = base.copy()
    other[:3, :3] = base[:3, :3] @ change
    nifti_header = differing(other, base)
    nifti_header["dim"][3] = slices  # a flip of a single slice moves no voxel, but would mirror the b-vectors
    with pytest.raises(InvalidData, match="orientation: expected sform and qform whose voxel axes point the same way"):
        world_frame(nifti_header)


def test_a_blank_qform_that_agrees_or_is_alone_is_used() -> None:
    plain = np.diag([2.0, 2.5, 3, 1])
    for codes in ((1, 1), (0, 1)):
        nifti_header = header(plain, codes=codes)
        assert not any(nifti_header[f"quatern_{name}"] for name in "bcd")
        assert_frame(world_frame(nifti_header), plain)


UNITS = {1: 1000.0, 2: 1.0, 3: 0.001, 0: 1.0, 5: 1.0}  # meters, mm, micrometers, unknown, no unit of lengths


@pytest.mark.parametrize(("code", "scale"), UNITS.items())
@pytest.mark.parametrize("codes", [(1, 1), (0, 1), (0, 0)])
@pytest.mark.parametrize("time", [0, 8, 16])  # unknown, seconds, milliseconds: in the same field
def test_lengths_are_in_the_unit_that_the_header_declares(
    code: int, scale: float, codes: tuple[int, int], time: int
) -> None:
    affine = LEFT_HANDED.copy()
    affine[:3] /= scale
    frame = world_frame(header(affine, codes=codes, xyzt_units=code + time))
    if codes == (0, 0):
        assert not frame.is_oriented
        np.testing.assert_allclose(np.linalg.norm(frame.affine[:3, :3], axis=0), (2, 2.5, 3), rtol=1e-6)
    else:
        np.testing.assert_allclose(frame.affine, LEFT_HANDED, rtol=1e-5, atol=1e-5)
    words = {1: ["declared in meters: they are converted"], 3: ["declared in micrometers"]}.get(code, [])
    assert len(frame.warnings) == len(words)
    assert all(word in warning for word, warning in zip(words, frame.warnings, strict=True))


def test_forms_in_micrometers_are_compared_in_voxels() -> None:
    affine = LEFT_HANDED.copy()
    affine[:3] *= 1000
    nifti_header = differing(moved(affine, 0, 900, 0), affine)  # 0.9 mm, under half a voxel
    nifti_header["xyzt_units"] = 3
    assert_frame(world_frame(nifti_header), moved(LEFT_HANDED, 0, 0.9, 0), "micrometers")


@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
@pytest.mark.parametrize("endianness", "<>")
def test_images_and_their_grids_have_the_repaired_affine(tmp_path: Path, kind: Any, endianness: str) -> None:
    array = np.zeros(SHAPE, np.float32)
    image = kind(array, LEFT_HANDED, kind.header_class(endianness=endianness))
    image.set_qform(LEFT_HANDED, 1)
    image.header["pixdim"][0] = 0
    image.header["xyzt_units"] = 3
    path = tmp_path / "image.nii.gz"
    image.header["sform_code"] = 1
    nibabel.save(image, path)
    expected = LEFT_HANDED.copy()
    expected[:3] /= 1000
    np.testing.assert_allclose(read_nifti(path).affine, expected, rtol=1e-5, atol=1e-8)
    with opened(path) as file:
        np.testing.assert_allclose(decode_grid(file)[1], expected, rtol=1e-5, atol=1e-8)
