"""The base of all errors that a person can act on."""

from __future__ import annotations


class ActionableError(Exception):
    """An error whose message says where, what was expected, what was found and what to do: it needs no traceback."""
