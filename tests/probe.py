"""Prints hashes of a tiny training of each network, to compare the arithmetic of processors.

    python -m tests.probe                                      on this processor
    qemu-x86_64 -cpu Haswell .venv/bin/python -m tests.probe   on another processor, emulated

``make verify CPU=Haswell`` runs both and compares the hashes. An emulator is about 150 times slower
than a processor, so each training takes only two steps on a few small pictures.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import lib  # noqa: F401  Pins the arithmetic.

import numpy as np  # isort: skip
import torch  # isort: skip

from lib.agent.agents import build_actor
from lib.agent.condition import ConditionVector
from lib.episode import OBJECTIVES, SKILLS
from lib.learning.device import start
from lib.learning.loop import Optimizer
from lib.learning.portable import sqrt
from lib.learning.ridge import fit_ridge, principal_axes
from lib.losses.contrastive import nt_xent
from lib.losses.dynamics import dynamics_loss
from lib.models.backbone import Backbone, ProjectionHead
from lib.models.convgru import ConvGRU
from lib.models.unet import UNet
from lib.params import load_params
from lib.policy.replay import Replay
from lib.policy.train_sac import Learner
from lib.segmenter.geometry import geometry_of
from lib.segmenter.router import LOCATED, build_locator
from lib.sim.simulation import Simulation
from lib.sim.tasks import get_task

STEPS = 2


def digest(arrays: Iterable[torch.Tensor | np.ndarray]) -> str:
    """Returns the first 12 hexadecimal digits of the SHA-256 hash of some arrays."""
    sha = hashlib.sha256()
    for array in arrays:
        values = array.detach().numpy() if isinstance(array, torch.Tensor) else array
        sha.update(np.ascontiguousarray(values).tobytes())
    return sha.hexdigest()[:12]


def main() -> None:
    """Prints one line per part."""
    params = load_params("task", "seed", "compute", "safety", "policy")
    start(params.compute, params.seed)
    safety, settings = params.safety, params.policy
    rng = np.random.default_rng(0)
    images = torch.rand(4, 3, 32, 32).to(memory_format=torch.channels_last)

    def trained(name: str, *modules: torch.nn.Module, loss) -> None:
        parameters = [p for module in modules for p in module.parameters()]
        optimizer = Optimizer(name, parameters, 1e-3, safety, weight_decay=1e-4)
        for _ in range(STEPS):
            optimizer.step(loss())
        print(f"{name:10} {digest(parameters)}", flush=True)

    backbone = Backbone("tiny", "X", 48).to(memory_format=torch.channels_last)
    head = ProjectionHead(48 * 4, 64, 32)
    trained(
        "vision",
        backbone,
        head,
        loss=lambda: nt_xent(*head(backbone(images)["p4"].flatten(1)).chunk(2), 0.1),
    )
    rnn, z, actions = ConvGRU({"p4": 8}, 4, 8), torch.randn(6, 2, 8, 6, 6), torch.randn(6, 2, 4)

    def dynamics() -> torch.Tensor:
        predicted, hidden = rnn.rollout({"p4": z}, actions, 2)
        losses = dynamics_loss([predicted["p4"]], [z[1:]], [hidden["p4"]], 1.0, 1e-3)
        return losses["total"]

    trained("rnn", rnn, loss=dynamics)
    unet = UNet(num_classes=7, widths=[8, 16]).to(memory_format=torch.channels_last)
    trained("segmenter", unet, loss=lambda: sum(x.square().mean() for x in unet(images)))

    replay = Replay(64, 20, settings.n_step, settings.gamma)
    obs, action = rng.normal(size=(64, 20)), rng.uniform(-1, 1, (64, 4))
    reward, skill = rng.normal(size=(64, len(OBJECTIVES))), rng.integers(0, len(SKILLS), 64)
    replay.add(obs, skill, np.zeros(64), action, reward, True, np.stack([action, action], 1))
    learner = Learner(build_actor(20, settings.hidden), 20, ConditionVector(), settings, safety, 0)
    learner.updates = settings.imitation_steps
    for _ in range(STEPS):
        learner.update(replay.sample(256, rng))
    print(f"{'policy':10} {digest([*learner.actor.parameters(), *learner.critic.parameters()])}")

    curve = torch.linspace(-9, 9, 20_000)
    functions = (torch.exp, torch.tanh, torch.sigmoid, torch.sin, torch.nn.functional.softplus)
    positive = (torch.log, torch.log1p, torch.rsqrt, sqrt, lambda t: t**0.3)
    values = [f(t) for t in (curve, curve.double()) for f in functions]
    values += [f(t) for t in (curve.exp(), curve.double().exp()) for f in positive]
    print(f"{'functions':10} {digest(values)}")
    print(f"{'geometry':10} {digest([geometry_of(torch.rand(5, 7, 96, 96))])}")
    locator = build_locator()
    x = torch.rand(256, len(locator.mean))
    locator.scale_by(x.numpy())
    losses = torch.nn.functional.smooth_l1_loss
    trained("locator", locator, loss=lambda: losses(locator(x), x[:, :LOCATED], beta=0.1))

    x = rng.normal(size=(300, 100))
    fitted = fit_ridge(x, x[:, :3] ** 2, 1.0)
    print(f"{'algebra':10} {digest([fitted, *principal_axes(x.astype(np.float32), 20)])}")
    world = Simulation(get_task(params.task).env_name)
    world.reset(np.mean(world.positions, axis=0))
    moved = [world.step(rng.uniform(-1, 1, 4))[0] for _ in range(10)]
    print(f"{'physics':10} {digest(moved)}", flush=True)


if __name__ == "__main__":
    main()
