"""Halves side by side have the values and gradients of one batch after the other."""

from __future__ import annotations

import threading

import pytest
import torch
from torch import nn

from lib.learning.halves import Twins, both, each_half, in_halves, small_operations, split


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 2, 3))


@pytest.mark.parametrize("count", [8, 5, 1])
def test_values_and_gradients_are_those_of_the_parts(count):
    """Of a network that sees each half alone; an odd batch and one without halves, too."""
    model, images = network(), torch.randn(count, 3, 9, 9)
    parts = split(count)
    truth = torch.cat([Twins(model).other(images[part]) for part in parts])
    weights = torch.randn(truth.shape)
    gradients = torch.autograd.grad((truth * weights).sum(), list(model.parameters()))

    works = Twins(model).works(count, lambda net, part: [net(images[part])])
    (found,) = in_halves(works, model.parameters())
    (found * weights).sum().backward()
    torch.testing.assert_close(found, truth, rtol=0, atol=0)
    for parameter, gradient in zip(model.parameters(), gradients, strict=True):
        torch.testing.assert_close(parameter.grad, gradient)


def test_the_number_of_threads_changes_no_bit():
    def grads(threads):
        model, before = network(), torch.get_num_threads()
        images = torch.rand(6, 3, 16, 16, generator=torch.Generator().manual_seed(1))
        torch.set_num_threads(threads)
        try:
            works = Twins(model).works(6, lambda net, part: [net(images[part])])
            in_halves(works, model.parameters())[0].square().sum().backward()
            assert torch.get_num_threads() == threads
        finally:
            torch.set_num_threads(before)
        return [p.grad for p in model.parameters()]

    assert all(torch.equal(one, two) for one, two in zip(grads(1), grads(2), strict=True))


def test_modes_reach_both_halves():
    model, images = network().eval(), torch.rand(4, 3, 9, 9)
    works = [lambda part=part: [model(images[part])] for part in split(4)]
    with torch.inference_mode():
        (found,) = in_halves(works)
    assert found.is_inference()
    torch.testing.assert_close(found, model(images).detach())
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert in_halves(works)[0].dtype == torch.bfloat16


def test_a_failure_of_either_half_is_told_and_the_next_call_works():
    def fail():
        raise ValueError("no")

    torch.set_num_threads(2)
    for works in ((fail, int), (int, fail)):
        with pytest.raises(ValueError, match="no"):
            both(*works)
    # Two at once, and in turn inside one of them: nobody waits for himself.
    meeting = threading.Barrier(2, timeout=10)
    assert both(meeting.wait, meeting.wait) in ((0, 1), (1, 0))
    assert both(lambda: both(int, int), lambda: both(int, int)) == ((0, 0), (0, 0))


@pytest.mark.parametrize("count", [7, 2, 1])
def test_each_half_is_worked_on_once(count):
    done = [0] * count

    def work(part):
        for index in range(count)[part]:
            done[index] += 1

    each_half(work, count)
    assert done == [1] * count


@pytest.mark.parametrize("threads", [1, 2])
def test_small_operations_have_one_thread_and_both_as_many_as_asked_for(threads):
    """Also after an error the number of threads is what it was."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with pytest.raises(KeyError), small_operations():
            assert torch.get_num_threads() == 1
            first, second = both(threading.get_ident, threading.get_ident)
            assert (first != second) == (threads == 2)
            raise KeyError
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)


def test_a_twin_has_statistics_of_its_own():
    model = network().train()
    twins = Twins(model)
    other = twins.other
    assert all(
        mine is theirs for mine, theirs in zip(model.parameters(), other.parameters(), strict=True)
    )
    model(torch.zeros(2, 3, 9, 9)), other(torch.ones(2, 3, 9, 9))
    means = model[1].running_mean.clone(), other[1].running_mean.clone()
    assert not torch.equal(*means)
    twins.average_buffers()
    torch.testing.assert_close(model[1].running_mean, (means[0] + means[1]) / 2)
