"""Side by side with plain implementations; run by hand, not part of the tests.

``GOLDEN_PATH_ARITHMETIC=native`` measures without pinned instructions.
"""

import os

from lib import arithmetic

arithmetic.pin(os.environ.get("GOLDEN_PATH_ARITHMETIC", "portable"))
