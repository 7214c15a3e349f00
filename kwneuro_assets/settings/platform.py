"""Settings of the store, of automation, and of the network weights."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from kwneuro_assets.settings.section import Section


class StoreSettings(Section):
    """Where derivatives are stored and how they are verified."""

    url: str = Field(
        "data/store", description="Folder or URL (s3://bucket/prefix) of the derivatives dataset that is written."
    )
    verify: Literal["always", "first", "never"] = Field(
        "always",
        description="When the checksum of a file is verified on reading; first: once in each process.",
    )
    cache_gb: float = Field(
        2.0,
        ge=0,
        le=64,
        description="Memory in GB for results of a run that its later steps read; 0 reads them from the store instead.",
    )


class AutomationSettings(Section):
    """What the sensor of stale derivatives requests, and how often."""

    mode: Literal["data", "all", "off"] = Field(
        "data",
        description="What the stale-derivatives sensor materializes; data: derivatives of new or changed data; all: "
        "every stale derivative, also after changes of settings or code; off: nothing.",
    )
    select: str | None = Field(
        None,
        description="Derivatives that the sensor materializes, comma-separated or in Dagster's selection syntax; all "
        "by default.",
    )
    max_runs: int = Field(
        50, ge=1, le=10000, description="Maximum number of the sensor's runs (subjects) that are queued or running."
    )
    attempts: int = Field(
        3, ge=1, le=100, description="Maximum number of attempts at a failing derivative until its inputs change."
    )
    retry_minutes: float = Field(
        5, ge=0, le=10080, description="Minutes before the second attempt; doubled before each further one."
    )
    interval_seconds: int = Field(
        30, ge=5, le=86400, description="Interval between two ticks of the stale-derivatives sensor, seconds."
    )


class WeightSettings(Section):
    """Where the weights of the neural networks are."""

    folder: str = Field(
        "~/.kwneuro/weights", description="Folder of the network weights, with one subfolder per network."
    )
    demo_networks: bool = Field(
        False,
        description="Where weights are not installed, use the demo's small networks instead of a download. They are "
        "for its synthetic heads only and are refused for any other source.",
    )
