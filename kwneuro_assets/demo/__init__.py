"""The synthetic subject with known truth, and DIPY's Sherbrooke dataset."""
