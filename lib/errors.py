"""The one error that a user can mend."""

from __future__ import annotations


class UserError(Exception):
    """A mistake in what the user gave: one line that names the file or key and the way out.

    Every command of the project prints the message alone, without a traceback, and exits with 2.
    """
