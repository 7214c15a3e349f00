"""Code versions, event log records and history, and the staleness of derivatives."""
