"""Code that the stages share. Importing it pins the arithmetic, so import it before torch."""

from lib.base import arithmetic

arithmetic.pin(arithmetic.asked_for())
