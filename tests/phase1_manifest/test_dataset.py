"""Arrays of pictures lie in mapped files: they take no memory, and say where there is no room."""

import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from lib.base.errors import UserError
from lib.data import dataset as dataset_module
from tests.factories import dataset


def anonymous_bytes() -> int:
    """Memory of this process that no file backs."""
    line = next(s for s in Path("/proc/self/status").read_text().splitlines() if "RssAnon" in s)
    return 1024 * int(line.split()[1])


@pytest.mark.skipif(sys.platform != "linux", reason="asks /proc")
def test_pictures_take_no_memory_that_the_system_cannot_have_back():
    """Two hundred megabytes of pictures, written and read, are not in anonymous memory."""
    before = anonymous_bytes()
    pictures = dataset_module._empty((200, 1000, 1000), np.dtype(np.uint8))
    pictures[:] = 7
    assert type(pictures) is np.ndarray
    assert int(pictures[::50, 0, 0].sum()) == 4 * 7
    assert anonymous_bytes() - before < 50e6


def test_numbers_are_in_memory():
    """What is read whole is no file."""
    assert dataset_module._empty((5, 4), np.dtype(np.float32)).base is None


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="the system cannot tell")
def test_a_full_disk_is_one_line():
    """It says how much is needed and where else to put it; the process is not killed later."""
    with pytest.raises(UserError, match=r"no room for .* GB of pictures .*GOLDEN_PATH_WORK"):
        dataset_module._empty((1 << 22, 1 << 20, 1 << 10), np.dtype(np.uint8))


def test_a_dataset_borrows_pictures_and_copies_only_what_it_needs():
    """The same episodes share one array; others get the frames of their own, in their order."""
    frames = np.arange(9 * 2 * 2, dtype=np.uint8).reshape(9, 2, 2)
    every = dataset(2, 3, 4, keys="abc", pictures=frames)
    same, some = dataset(2, 3, 4, keys="abc"), dataset(4, 2, keys="ca")
    same.borrow("pictures", every)
    assert same.arrays["pictures"] is frames
    some.borrow("pictures", every)
    assert np.array_equal(some.arrays["pictures"], frames[[5, 6, 7, 8, 0, 1]])


def test_every_episode_is_drawn_as_often_however_long_it_is():
    """Of the rows asked for only; a part of a dataset keeps the arrays."""
    data = dataset(100, 4, 10, 6, splits="train train valid train")
    rows = data.rows(["train"])[1:]
    drawn = data.draw(rows, 30_000, torch.Generator().manual_seed(0))
    assert set(drawn) <= set(rows)
    counts = [((drawn >= e.start) & (drawn < e.stop)).mean() for e in data.episodes]
    np.testing.assert_allclose(counts, [1 / 3, 1 / 3, 0, 1 / 3], atol=0.015)
    assert len(set(drawn[drawn >= 114])) == 6
    short = data.part(lambda e: len(e) < 10)
    assert [len(e) for e in short.episodes] == [4, 6]
    assert short.arrays is data.arrays
