"""BIDS fields of model maps after BEP016 (draft of 2025-11): `Model`, and `OrientationEncoding` of each 4-D map.

Fields that hold for all maps of a derivative are in its sidecar. Fields of one map are declared under `MAPS` by its
name; each map of more than three dimensions has them in a JSON of its own, `..._param-<map>_dwimap.json`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from kwneuro_assets.imaging import MapSet, Volume
from kwneuro_assets.imaging.content_hash import Value
from kwneuro_assets.storage.sidecar import json_text

MAPS = "Maps"
ENCODING = "OrientationEncoding"
_WORLD = {"EncodingAxis": 3, "Reference": "xyz"}  # scanner RAS+, along the fourth axis

# Values of OrientationEncoding.
SCALARS = {"Type": "scalar"}
TENSOR = {"Type": "tensor", "TensorRank": 2, "AntipodalSymmetry": True, **_WORLD}  # Dxx, Dxy, Dxz, Dyy, Dyz, Dzz
UNIT_VECTORS = {"Type": "unit3vector", "AntipodalSymmetry": True, "FillValue": 0.0, **_WORLD}
VECTORS = {"Type": "3vector", "AntipodalSymmetry": True, "FillValue": 0.0, **_WORLD}  # the norm is an amplitude
SPHERICAL_HARMONICS = {"Type": "sh", "AntipodalSymmetry": True, "SphericalHarmonicBasis": "mrtrix3", **_WORLD}


def shared_fields(bids: Mapping[str, Any], parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of the sidecar: `bids` without those of single maps, and `parameters` among those of the model."""
    fields = {key: value for key, value in bids.items() if key != MAPS}
    if "Model" in fields:
        model = fields["Model"]
        fields["Model"] = {**model, "Parameters": {**model.get("Parameters", {}), **parameters}}
    return fields


def map_fields(bids: Mapping[str, Any], value: Value) -> dict[str, str]:
    """The JSON text of each map of more than three dimensions that `bids` describes, by its name."""
    if not isinstance(value, MapSet):
        return {}
    declared = bids.get(MAPS, {})
    return {
        name: json_text(_with_degree(declared[name], volume))
        for name, volume in value.items()
        if name in declared and volume.array.ndim > 3
    }


def _with_degree(fields: Mapping[str, Any], volume: Volume) -> dict[str, Any]:
    """With the harmonic degree lmax, which the (lmax + 1) (lmax + 2) / 2 volumes determine."""
    encoding = fields.get(ENCODING, {})
    if encoding.get("Type") != "sh":
        return dict(fields)
    degree = (math.isqrt(8 * volume.shape[3] + 1) - 3) // 2
    return {**fields, ENCODING: {**encoding, "SphericalHarmonicDegree": degree}}
