"""The order of a diffusion tensor's six volumes: BEP016's, in which they are stored, and those of other tools."""

from __future__ import annotations

from typing import Any, Literal, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

from kwneuro_assets.imaging import InvalidData, Volume

Order = Literal["mrtrix", "dipy", "fsl", "bids"]
Number = TypeVar("Number", bound=np.generic)

ORDERS: dict[Order, tuple[str, ...]] = {
    "bids": ("Dxx", "Dxy", "Dxz", "Dyy", "Dyz", "Dzz"),
    "fsl": ("Dxx", "Dxy", "Dxz", "Dyy", "Dyz", "Dzz"),
    "mrtrix": ("Dxx", "Dyy", "Dzz", "Dxy", "Dxz", "Dyz"),
    "dipy": ("Dxx", "Dxy", "Dyy", "Dxz", "Dyz", "Dzz"),
}


@overload
def tensor_in(order: Order, tensor: Volume) -> Volume: ...
@overload
def tensor_in(order: Order, tensor: NDArray[Number]) -> NDArray[Number]: ...
def tensor_in(order: Order, tensor: Volume | NDArray[Any]) -> Volume | NDArray[Any]:
    """The stored diffusion tensor (..., 6) with its elements in the order of another tool; same type, dtype and units.

    `tensor` is the map `param-tensor` of the asset `dti`, a Volume (x, y, z, 6) or an array (..., 6), in the order of
    BIDS: the upper triangle row by row (BEP016, draft of 2025-11).

    | order | elements | tool |
    |---|---|---|
    | `bids` | Dxx, Dxy, Dxz, Dyy, Dyz, Dzz | BEP016: returned unchanged |
    | `fsl` | Dxx, Dxy, Dxz, Dyy, Dyz, Dzz | `dtifit --save_tensor` |
    | `mrtrix` | Dxx, Dyy, Dzz, Dxy, Dxz, Dyz | `dwi2tensor`, `tensor2metric` |
    | `dipy` | Dxx, Dxy, Dyy, Dxz, Dyz, Dzz | `dipy.reconst.dti.lower_triangular`; also NIfTI's symmetric matrix |

    Only the order changes; the components stay in the world frame (scanner RAS+), as MRtrix3's are. FSL's dtifit writes
    its tensor along the voxel axes, in the frame of the bvec file: for FSL, also rotate each tensor `D` to
    `R.T @ D @ R` with `R = kwneuro_assets.imaging.gradients.fsl_to_world(affine)`.

    Raises InvalidData if the last axis does not have six elements, and ValueError for an unknown order.

    >>> import numpy as np
    >>> tensor_in("mrtrix", np.array([11, 12, 13, 22, 23, 33])).tolist()
    [11, 22, 33, 12, 13, 23]
    >>> tensor_in("dipy", np.array([11, 12, 13, 22, 23, 33])).tolist()
    [11, 12, 22, 13, 23, 33]
    """
    if order not in ORDERS:
        raise ValueError(f"order of tensor elements: expected one of {', '.join(ORDERS)}, found {order!r}")
    if not tensor.shape or tensor.shape[-1] != 6 or (isinstance(tensor, Volume) and len(tensor.shape) != 4):
        expected = "(x, y, z, 6)" if isinstance(tensor, Volume) else "(..., 6)"
        raise InvalidData("diffusion tensor", expected=f"shape {expected}", found=f"shape {tensor.shape}")
    indices = [ORDERS["bids"].index(element) for element in ORDERS[order]]
    if isinstance(tensor, Volume):
        names = tuple(tensor.names[index] for index in indices) if tensor.names else ()
        return Volume(np.asfortranarray(tensor.array[..., indices]), tensor.affine, names)
    return tensor[..., indices]
