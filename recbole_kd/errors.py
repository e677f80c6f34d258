"""Errors that a user can mend.

The command line prints these as one line and exits with status 2; anything else is a defect
and keeps its traceback.
"""

from __future__ import annotations


class UserError(Exception):
    """Something in the user's input is wrong; the message names where, what and the mend."""


class SpecError(UserError):
    """An experiment, model, dataset or profile YAML is wrong."""


class DataError(UserError):
    """An atomic file is missing, malformed or leaves nobody to test."""


class AbsentDataError(DataError):
    """None of a dataset's files is there: it was never brought, rather than damaged."""


class ProfileError(UserError):
    """An embedding file does not fit the dataset."""


class LeakageError(ProfileError):
    """A profile saw interactions outside the training part of the split in use."""


class StoreError(UserError):
    """A profile store or a run directory cannot be read or written."""
