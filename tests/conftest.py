"""Tests compute as the stages do: ``lib`` pins the arithmetic before torch is imported."""

import lib  # noqa: F401
