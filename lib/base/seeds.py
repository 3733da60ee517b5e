"""Named seeds: each use of random numbers has its own generator, seeded from (seed, name).

An additional draw for one purpose therefore changes no number of another purpose. Only the initial
weights of networks come from torch's global generator, which ``lib.learning.device.start`` seeds.
"""

from __future__ import annotations

import zlib

import numpy as np


def named_seed(seed: int, name: str, index: int = 0) -> int:
    """Returns a seed that depends only on the arguments.

    Args:
        seed: One of the seeds of params.yaml.
        name: Purpose of the random numbers; seeds of different names are independent.
        index: Index of the seed, for a name with several seeds.

    Returns:
        An integer in [0, 2**32).
    """
    entropy = [seed, zlib.crc32(name.encode()), index]
    return int(np.random.SeedSequence(entropy).generate_state(1, np.uint32)[0])
