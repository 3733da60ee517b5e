"""Benchmarks against plain implementations; run by hand, not part of the tests.

``GOLDEN_PATH_ARITHMETIC=native`` measures without the pinned CPU instructions.
"""

import os

from lib.base import arithmetic

arithmetic.pin(os.environ.get("GOLDEN_PATH_ARITHMETIC", "portable"))  # not that of params.yaml
