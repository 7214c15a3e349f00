"""Derivations: pure functions that compute derivatives from values, without Dagster and without paths."""
