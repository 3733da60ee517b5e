"""Times backbone training against a plain training loop on the same model and pictures.

    python -m benchmarks.backbone [--threads 2] [--rounds 5] [--batch 64]

Plain: float32, contiguous memory, each augmentation transform applied to the whole batch, AdamW
parameter by parameter. Here: channels-last memory, bf16 autocast where the processor supports it
and the arithmetic is native, augmentation of one picture at a time so that it stays in the cache,
fused AdamW. Both do the whole training step: views, network, NT-Xent, gradients, optimiser.
"""

from __future__ import annotations

import argparse
import copy

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.side_by_side import report, side_by_side
from lib.base import arithmetic
from lib.learning.augment import Augment
from lib.learning.device import has_fast_bf16
from lib.losses.contrastive import nt_xent
from lib.models.backbone import Backbone, ProjectionHead
from lib.params import load_params


def plain_view(images_BHW3: Tensor, settings) -> Tensor:
    """Returns a random view of each picture: lib.learning.augment, one transform after the other.

    Args:
        images_BHW3: Pictures, uint8.
        settings: The vision section of params.yaml.
    """
    x = images_BHW3.permute(0, 3, 1, 2).contiguous().float() / 255
    batch, _, height, width = x.shape
    reach = settings.shift_px
    padded = F.pad(x, [reach] * 4, mode="replicate")
    corners = torch.randint(0, 2 * reach + 1, (batch, 2)).tolist()
    x = torch.stack(
        [p[:, t : t + height, s : s + width] for p, (t, s) in zip(padded, corners, strict=True)]
    )
    spread = (settings.blur * torch.rand(batch, 1, 1, 1)).square()
    for dim, pad in ((2, [0, 0, 1, 1]), (3, [1, 1, 0, 0])):
        wide = F.pad(x, pad, mode="replicate")
        before, after = (wide.narrow(dim, start, x.shape[dim]) for start in (0, 2))
        x = (1 - spread) * x + spread / 2 * (before + after)
    mean = x.mean((1, 2, 3), keepdim=True)
    x = (x - mean) * (1 + settings.colour * (torch.rand(batch, 1, 1, 1) * 2 - 1)) + mean
    x = x * (1 + settings.colour * (torch.rand(batch, 1, 1, 1) * 2 - 1))
    x = x * (1 + settings.colour / 4 * (torch.rand(batch, 3, 1, 1) * 2 - 1))
    x = x + settings.noise * torch.randn_like(x)
    return x.clamp(0, 1)


def main() -> None:
    """Times both ways and prints the result."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch", type=int, default=64)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    torch.manual_seed(0)
    settings = load_params("vision").vision
    images = torch.randint(0, 256, (given.batch, 96, 96, 3), dtype=torch.uint8)
    backbone = Backbone(settings.size, settings.block, settings.pyramid_channels)
    head = ProjectionHead(settings.pyramid_channels * 36, 256, settings.projection_dim)
    plain = torch.nn.ModuleList([backbone, head]).train()
    fast = copy.deepcopy(plain).to(memory_format=torch.channels_last)
    slow_adam = torch.optim.AdamW(plain.parameters(), settings.lr, foreach=False, fused=False)
    fast_adam = torch.optim.AdamW(fast.parameters(), settings.lr, fused=True)
    generator = torch.Generator().manual_seed(0)
    augment = Augment(
        settings.shift_px, settings.colour, settings.noise, generator, blur=settings.blur
    )

    def step(model, adam, views: Tensor, bf16: bool) -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            z1, z2 = model[1](model[0](views)["p4"].flatten(1)).float().chunk(2)
            loss = nt_xent(z1, z2, settings.temperature)
        adam.zero_grad(set_to_none=True)
        loss.backward()
        adam.step()

    bf16 = has_fast_bf16() and not arithmetic.is_portable()
    print(f"{given.threads} threads, batch {given.batch}, bf16 {'on' if bf16 else 'not available'}")
    seconds = side_by_side(
        lambda: step(
            plain, slow_adam, torch.cat([plain_view(images, settings) for _ in range(2)]), False
        ),
        lambda: step(fast, fast_adam, torch.cat([augment(images), augment(images)]), bf16),
        given.rounds,
    )
    report("backbone training", "views", 2 * given.batch, *seconds)


if __name__ == "__main__":
    main()
