"""Two halves of a batch side by side: one thread each, instead of two threads for every operation.

Between two operations the threads of one operation wait for each other, and small ones are not
shared at all. Two halves need each other twice a step: the backbone and the ConvGRU train 1.5 times
as fast, the U-Net 1.25 times. What comes out does not depend on the number of threads: a half is
always computed by one.

A batch normalisation sees the half it is in, as on each of two devices ("ghost" batches, Hoffer et
al. 2017, arXiv 1705.08741), which needs a network a half; see ``Twins``.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from functools import lru_cache, partial
from threading import local
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

Model = TypeVar("Model", bound=nn.Module)
T = TypeVar("T")

_here = local()


def _never_again() -> None:
    _here.busy = True


@lru_cache(maxsize=1)
def _helper() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(1, initializer=_never_again)


def both(first: Callable[[], T], second: Callable[[], T]) -> tuple[T, T]:
    """Runs two functions at once; in turn inside one of them, and where one thread is asked for.

    Args:
        first: Runs in this thread.
        second: Runs in a helper.

    Returns:
        What each returned.
    """
    alone = torch.get_num_threads() == 1 and not getattr(_here, "pair", False)
    if getattr(_here, "busy", False) or alone:
        return first(), second()
    _here.busy = True
    try:
        task = _helper().submit(second)
        try:
            return first(), task.result()
        finally:
            wait([task])
    finally:
        _here.busy = False


@contextmanager
def small_operations() -> Iterator[None]:
    """Gives every operation one thread, and leaves two to ``both``.

    For many small operations: two threads would wait for each other longer than they work.
    """
    threads = torch.get_num_threads()
    _here.pair = threads > 1
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        _here.pair = False


def split(count: int) -> list[slice]:
    """Returns the halves of a batch, or the whole one where there is no half.

    Args:
        count: Its size.
    """
    return [slice(count // 2), slice(count // 2, count)] if count > 1 else [slice(count)]


def each_half(work: Callable[[slice], None], count: int) -> None:
    """Calls a function for both halves of a batch at once.

    Args:
        work: Given the half.
        count: Size of the batch.
    """
    first, *second = (partial(work, part) for part in split(count))
    both(first, *second) if second else first()


def _one_thread(work: Callable[[], T]) -> Callable[[], T]:
    """Makes operations inside ``work`` use one thread, and the modes that are on here."""
    grad, inference = torch.is_grad_enabled(), torch.is_inference_mode_enabled()
    cast, dtype = torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu")

    def run() -> T:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            with (
                torch.inference_mode(inference),
                torch.set_grad_enabled(grad),
                torch.autocast("cpu", dtype, enabled=cast),
            ):
                return work()
        finally:
            torch.set_num_threads(threads)

    return run


def _run(works: Sequence[Callable[[], T]]) -> Sequence[T]:
    # Decided before either half sets its number of threads.
    works = [_one_thread(work) for work in works]
    return both(*works) if len(works) == 2 else [works[0]()]


class _InHalves(torch.autograd.Function):
    @staticmethod
    def forward(ctx, works, *parameters: Tensor) -> tuple[Tensor, ...]:
        with torch.enable_grad():
            ctx.outs = _run(works)
        ctx.parameters = parameters
        return tuple(x.detach() for outs in ctx.outs for x in outs)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        each = len(gradients) // len(ctx.outs)

        def back(index: int) -> tuple[Tensor | None, ...]:
            mine = gradients[index * each : (index + 1) * each]
            return torch.autograd.grad(ctx.outs[index], ctx.parameters, mine, allow_unused=True)

        with torch.enable_grad():
            halves = _run([lambda i=i: back(i) for i in range(len(ctx.outs))])
        return None, *map(_sum, zip(*halves, strict=True))


def _sum(gradients: Sequence[Tensor | None]) -> Tensor | None:
    present = [g for g in gradients if g is not None]
    return sum(present[1:], present[0]) if present else None


def in_halves(
    works: Sequence[Callable[[], Sequence[Tensor]]],
    parameters: Iterable[Tensor] = (),
    dim: int = 0,
) -> list[Tensor]:
    """Computes the halves of a batch, forward and later backward, side by side.

    Args:
        works: A function a half (``split``); each returns the same tensors, of its half. They draw
            no random numbers: whose turn it is would be chance.
        parameters: What they compute with and gradients are wanted of; data get none.
        dim: The tensors' dimension along the batch.

    Returns:
        The tensors of the whole batch, with gradients.
    """
    wanted = [p for p in parameters if p.requires_grad] if torch.is_grad_enabled() else []
    if wanted:
        flat = _InHalves.apply(works, *wanted)
        each = len(flat) // len(works)
        outs = [flat[i * each : (i + 1) * each] for i in range(len(works))]
    else:
        outs = _run(works)
    return [torch.cat(same, dim) for same in zip(*outs, strict=True)]


class Twins(Generic[Model]):
    """A network a half: itself, and one with the same parameters and buffers of its own.

    For networks whose normalisation counts what it sees.
    """

    def __init__(self, model: Model) -> None:
        """Makes the second network.

        Args:
            model: The first one.
        """
        self.model = model
        self.other = copy.deepcopy(model, {id(p): p for p in model.parameters()})

    def works(
        self, count: int, work: Callable[[Model, slice], Sequence[Tensor]]
    ) -> list[Callable[[], Sequence[Tensor]]]:
        """Returns what ``in_halves`` takes.

        Args:
            count: Size of the batch.
            work: Given a network and its half of the batch.
        """
        networks = (self.model, self.other)
        return [partial(work, *pair) for pair in zip(networks, split(count), strict=False)]

    @torch.no_grad()
    def average_buffers(self) -> None:
        """Gives the first network the mean of both networks' statistics."""
        for mine, theirs in zip(self.model.buffers(), self.other.buffers(), strict=True):
            if mine.is_floating_point():
                mine.lerp_(theirs, 0.5)
