"""Exit codes of the commands; 0 is success."""

from __future__ import annotations

FAILED = 1  # something was not computed or is damaged, or, of `diff`, something differs
USAGE_ERROR = 2  # the arguments, settings, source or store cannot be used
OUT_OF_DATE = 3  # of `status --fail-if-stale`
