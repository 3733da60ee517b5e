"""Tests compute as the stages do: ``stages`` pins the arithmetic before torch is imported."""

import stages  # noqa: F401
