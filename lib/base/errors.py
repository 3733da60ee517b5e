"""Errors that the user can correct."""

from __future__ import annotations


class UserError(Exception):
    """A mistake in the user's input: the message is one line with the file or key and the remedy.

    Every command of the project prints only the message, without a traceback, and exits with
    ``exit_code``.
    """

    exit_code = 2


class GateError(UserError):
    """A failed gate: the run worked correctly, but its result was not good enough."""

    exit_code = 1


def last_line(text: str) -> str:
    """Returns the last line of a failed command's output, which is usually the reason.

    Args:
        text: Standard error of the command.
    """
    return (text.strip().splitlines() or ["no message"])[-1]
