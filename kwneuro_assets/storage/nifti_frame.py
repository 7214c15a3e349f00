"""The affine of a NIfTI header: the reliable one of its two forms, sform and qform.

NIfTI-1 (nifti1.h): a form whose code is not positive is absent; the sform may be any affine, the qform is rigid.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.orientations import io_orientation
from nibabel.quaternions import quat2mat
from numpy.typing import NDArray

from kwneuro_assets.imaging import InvalidData
from kwneuro_assets.imaging.volume import checked_affine

_MAX_LENGTH = 1.01  # of a quaternion, if its numbers were rounded to two decimals; a longer one is not rounding
_UNIT_BITS = 0b111  # of xyzt_units, for lengths
_MM = {1: ("meters", 1000.0), 3: ("micrometers", 0.001)}  # by the code of the unit; 2 is mm; other codes are no lengths


@dataclass(frozen=True)
class Frame:
    """The affine (4, 4) from voxel indices to scanner RAS+ in mm.

    `is_oriented` is whether the header defines the orientation of the voxel axes. `warnings` are messages about what
    was repaired or ignored; in each, "its" refers to the file.
    """

    affine: NDArray[np.float64]
    is_oriented: bool
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Form:
    """Sform or qform: its affine if it is usable, its flaws, and their repairs.

    A blank form has zeros alone, as from a tool that sets the code and nothing else; its meaning is ambiguous.
    """

    name: str
    affine: NDArray[np.float64] | None
    flaws: tuple[str, ...] = ()
    repairs: tuple[str, ...] = ()
    is_blank: bool = False

    @property
    def flaw(self) -> str:
        return " and ".join(self.flaws)


def world_frame(header: Any) -> Frame:
    """The frame of a nibabel NIfTI header.

    Uses the sform if both forms are valid; a form with a flaw is used only if the other one is worse. Lengths in meters
    or micrometers, if the header declares them, are converted to mm. Without any form, the affine is nibabel's guess
    from the voxel sizes. Raises InvalidData if no form is usable, or if two valid forms differ by a flipped or swapped
    voxel axis.
    """
    unit, scale = _MM.get(int(header["xyzt_units"]) & _UNIT_BITS, ("mm", 1.0))
    converted = () if scale == 1 else (f"its lengths are declared in {unit}: they are converted to mm",)
    forms = [_sform(header)] if header["sform_code"] > 0 else []
    forms += [_qform(header)] if header["qform_code"] > 0 else []
    if not forms:
        return Frame(_scaled(header.get_base_affine(), scale), False, converted)
    # A stable sort: the sform comes first among equals.
    chosen, *others = sorted(forms, key=lambda form: (form.affine is None, bool(form.flaws)))
    if chosen.affine is None:
        raise InvalidData(
            "orientation",
            expected="a usable sform or qform",
            found="; ".join(f"{form.name} unusable ({form.flaw})" for form in forms),
            remedy="Convert the image again from its DICOM files.",
        )
    affine = _scaled(chosen.affine, scale)
    warnings = list[str]()
    for other in others:
        if other.affine is None or other.flaws:
            warnings.append(f"its {other.name} is unusable ({other.flaw}): the {chosen.name} is used")
        else:
            warnings += _disagreement(affine, _scaled(other.affine, scale), header.get_data_shape(), other.is_blank)
    if chosen.flaws:
        warnings.append(f"its {chosen.name} is doubtful ({chosen.flaw}): {' and '.join(chosen.repairs)}")
    return Frame(affine, True, (*warnings, *converted))


def forms_agree(header: Any) -> bool:
    """Whether sform and qform agree within half a voxel for every voxel."""
    sform, qform = header.get_sform(), header.get_qform()
    return _largest_offset(sform, qform, header.get_data_shape()) <= _half_a_voxel(sform)


def _sform(header: Any) -> _Form:
    affine = np.asarray(header.get_sform(), np.float64)
    return _refused("sform", affine) or _Form("sform", affine)


def _qform(header: Any) -> _Form:
    """The qform as nibabel computes it if it can, else as nifti1.h, which uses the sign of `pixdim[0]` (0 is positive)
    and treats a quaternion that is too long as a rotation by 180 degrees.
    """
    sign, *edges = (float(value) for value in header["pixdim"][:4])
    quaternion = np.array([header[f"quatern_{name}"] for name in "bcd"], np.float64)
    offset = np.array([header[f"qoffset_{name}"] for name in "xyz"], np.float64)
    length = float(np.linalg.norm(quaternion))
    if np.isnan(sign):
        return _Form("qform", None, ("pixdim[0] is nan",))
    if not all(np.isfinite(edge) and edge > 0 for edge in edges):
        return _Form("qform", None, (f"voxel sizes of {' x '.join(f'{edge:g}' for edge in edges)}",))
    if not length <= _MAX_LENGTH:
        return _Form("qform", None, (f"a quaternion of length {length:g}",))
    flaws, repairs = list[str](), list[str]()
    if abs(sign) != 1:
        flaws.append(f"pixdim[0] is {sign:g}")
        repairs.append(f"it is read as {-1 if sign < 0 else 1}")
    try:
        rotation = quat2mat(header.get_qform_quaternion())
    except ValueError:  # longer than 1 by more than float32 rounding
        flaws.append(f"a quaternion of length {length:.7g}")
        repairs.append("its quaternion is normalized")
        rotation = quat2mat([0, *quaternion])  # which divides by the length
    affine = np.eye(4)
    affine[:3, :3] = rotation @ np.diag([*edges[:2], edges[2] * (-1 if sign < 0 else 1)])
    affine[:3, 3] = offset
    is_blank = not quaternion.any() and not offset.any()
    return _refused("qform", affine) or _Form("qform", affine, tuple(flaws), tuple(repairs), is_blank)


def _refused(name: str, affine: NDArray[np.float64]) -> _Form | None:
    """A form without an affine if the value types would refuse this affine, else None."""
    if not np.isfinite(affine).all():
        return _Form(name, None, ("NaN or infinite numbers",))
    try:
        checked_affine(affine)
    except InvalidData:
        return _Form(name, None, ("voxel axes that are zero or not independent",))
    return None


def _scaled(affine: NDArray[Any], scale: float) -> NDArray[np.float64]:
    scaled = np.array(affine, np.float64)
    scaled[:3] *= scale
    return scaled


def _disagreement(sform: NDArray[Any], qform: NDArray[Any], shape: tuple[int, ...], is_blank: bool) -> list[str]:
    """Warnings about two valid forms. Raises InvalidData if they differ by a flipped or swapped voxel axis, unless the
    qform is blank.
    """
    offset = _largest_offset(sform, qform, shape)
    if not _point_alike(sform, qform):
        if is_blank:
            return ["its qform is unusable (all zeros): the sform is used"]
        raise InvalidData(
            "orientation",
            expected="sform and qform whose voxel axes point the same way",
            found=f"{_described(sform)} by the sform and {_described(qform)} by the qform",
            remedy="Determine which is correct and write it to both.",
        )
    if offset <= _half_a_voxel(sform):
        return []
    return [f"its sform and qform disagree by up to {offset:.3g} mm: the sform is used"]


def _point_alike(sform: NDArray[Any], qform: NDArray[Any]) -> bool:
    """Whether each voxel axis of one form is nearest to the same axis of the other, in the same direction."""
    between = np.eye(4)
    between[:3, :3] = np.linalg.solve(_directions(qform), _directions(sform))
    unchanged = np.array_equal(io_orientation(between), [(0, 1), (1, 1), (2, 1)])
    return unchanged and bool(np.linalg.det(between[:3, :3]) > 0)


def _directions(affine: NDArray[Any]) -> NDArray[np.float64]:
    axes = affine[:3, :3]
    return np.asarray(axes / np.linalg.norm(axes, axis=0), np.float64)


def _described(affine: NDArray[Any]) -> str:
    """The nearest anatomical directions, such as "RAS", and the unit vectors."""
    codes = "".join(nib.aff2axcodes(affine))
    vectors = ", ".join("({:.2f} {:.2f} {:.2f})".format(*axis) for axis in _directions(affine).T + 0.0)
    return f"{codes} [{vectors}]"


def _largest_offset(sform: NDArray[Any], qform: NDArray[Any], shape: tuple[int, ...]) -> float:
    """The maximum distance in mm between the positions of a corner of the grid."""
    corners = np.array(np.meshgrid(*[(0, size - 1) for size in (*shape, 1, 1)[:3]])).reshape(3, -1)
    return float(np.linalg.norm((sform - qform)[:3, :3] @ corners + (sform - qform)[:3, 3:], axis=0).max())


def _half_a_voxel(affine: NDArray[Any]) -> float:
    return float(np.linalg.norm(affine[:3, :3], axis=0).min()) / 2
