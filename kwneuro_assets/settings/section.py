"""The base class of all sections."""

from __future__ import annotations

from typing import TypeVar

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """Base of all sections: frozen; unknown keys are errors."""

    # Defaults are validated too: 50 and 50.0 must give one code version.
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, validate_default=True)


SectionT = TypeVar("SectionT", bound=Section)
