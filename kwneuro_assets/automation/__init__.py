"""Sensors, jobs, schedule and asset check that keep a cohort up to date."""
