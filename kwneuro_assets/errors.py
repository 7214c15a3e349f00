"""The base class of all errors that the user can fix."""

from __future__ import annotations


class ActionableError(Exception):
    """An error whose message names the place, what was expected, what was found and the remedy, without traceback."""
