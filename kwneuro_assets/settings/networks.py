"""Settings of the neural networks of all derivatives."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from kwneuro_assets.settings.section import Section


class MirroringSettings(Section):
    """What of the section `networks` changes results: settings of `brain_mask`, too."""

    mirroring: Literal["auto"] | bool = Field(
        "auto",
        description="Whether HD-BET also segments mirrored copies of the head and averages, in eight times the time; "
        "auto: on a GPU yes, on a CPU no (HD-BET's advice).",
    )


class NetworkSettings(MirroringSettings):
    """The section `networks`: where networks run."""

    device: str = Field(
        "auto",
        pattern=r"^(auto|cpu|cuda|cuda:\d+)$",
        description="Where networks run: cpu, cuda (the first GPU) or cuda:1 (the second); auto: the first GPU that "
        "PyTorch can use, else the CPU.",
    )
    out_of_memory: Literal["cpu", "fail"] = Field(
        "cpu",
        description="If the memory of the GPU is too small; cpu: compute on the CPU, with a warning; fail: the step "
        "fails.",
    )
