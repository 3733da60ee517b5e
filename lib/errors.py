"""The errors that a user can mend."""

from __future__ import annotations


class UserError(Exception):
    """A mistake in what the user gave: one line that names the file or key and the way out.

    Every command of the project prints the message alone, without a traceback, and exits with
    ``exit_code``.
    """

    exit_code = 2


class GateError(UserError):
    """A gate that did not pass: the run was sound, its result was not good enough."""

    exit_code = 1
