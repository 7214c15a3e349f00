"""Where runs execute: the run queue, and the liveness of their processes."""
