"""The names of TractSeg's bundles, for settings that name one: settings are read where TractSeg is not installed."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

# In TractSeg's order.
BUNDLES = (
    "AF_left", "AF_right", "ATR_left", "ATR_right", "CA", "CC_1", "CC_2", "CC_3", "CC_4", "CC_5", "CC_6", "CC_7",
    "CG_left", "CG_right", "CST_left", "CST_right", "MLF_left", "MLF_right", "FPT_left", "FPT_right", "FX_left",
    "FX_right", "ICP_left", "ICP_right", "IFO_left", "IFO_right", "ILF_left", "ILF_right", "MCP", "OR_left",
    "OR_right", "POPT_left", "POPT_right", "SCP_left", "SCP_right", "SLF_I_left", "SLF_I_right", "SLF_II_left",
    "SLF_II_right", "SLF_III_left", "SLF_III_right", "STR_left", "STR_right", "UF_left", "UF_right", "CC",
    "T_PREF_left", "T_PREF_right", "T_PREM_left", "T_PREM_right", "T_PREC_left", "T_PREC_right", "T_POSTC_left",
    "T_POSTC_right", "T_PAR_left", "T_PAR_right", "T_OCC_left", "T_OCC_right", "ST_FO_left", "ST_FO_right",
    "ST_PREF_left", "ST_PREF_right", "ST_PREM_left", "ST_PREM_right", "ST_PREC_left", "ST_PREC_right",
    "ST_POSTC_left", "ST_POSTC_right", "ST_PAR_left", "ST_PAR_right", "ST_OCC_left", "ST_OCC_right",
)  # fmt: skip


def _known(name: str) -> str:
    if name not in BUNDLES:
        raise PydanticCustomError(
            "bundle", "expected a bundle of TractSeg, one of {names}", {"names": ", ".join(BUNDLES)}
        )
    return name


Bundle = Annotated[str, AfterValidator(_known)]
Probability = Annotated[float, Field(gt=0, lt=1)]
