"""The partitions of all assets: one dynamic partition per subject, or per session of a subject (`SubjectKey`)."""

from __future__ import annotations

from dagster import DynamicPartitionsDefinition

PARTITIONS = "subject"  # the name under which the Dagster instance stores the keys
subject_partitions = DynamicPartitionsDefinition(name=PARTITIONS)
