"""Behaviour cloning, then multi-objective SAC -> checkpoints/hydra_policy.safetensors."""

from collections.abc import Sequence
from contextlib import closing

import lib  # noqa: F401  Pins the arithmetic, so it comes before NumPy and torch.

# isort: split
import numpy as np

from lib.agent.agents import Observed, PolicyAgent, build_actor, save_policy
from lib.agent.closed_loop import Trial, run_episodes
from lib.agent.condition import ConditionVector
from lib.agent.perception import Perception, perceive_dataset
from lib.agent.projector import Projector
from lib.agent.vector import make_vector_env
from lib.base.console import say, timed
from lib.base.files import write_csv, write_json
from lib.base.paths import CLONED_POLICY, METRICS, PLOTS, POLICY
from lib.base.stage import run
from lib.data.dataset import load_dataset
from lib.learning.device import arithmetic_class, start
from lib.learning.loop import Curve
from lib.params import load_params
from lib.policy.cloning import clone, to_replay
from lib.policy.teacher import Teacher
from lib.policy.train_sac import VALIDATED, Validation, train_sac
from lib.sim.env import spread_seeds

LOSSES = ("critic", "actor", "temperature", "bc")
FIELDS = ["obs/eef_pos", "obs/gripper", "actions", "vector_rewards", "dones"]


def main() -> None:
    """Clones the teacher from pixels, improves the clone, and publishes the best by validation."""
    params = load_params(
        "task", "world", "seed", "compute", "safety", "economics", "policy", "evaluate.horizon"
    )
    settings, seed = params.policy, params.seed
    if not settings.use_neural:
        serve_script()
        return
    fabric = start(params.compute, seed)
    dataset = load_dataset("policy", [*FIELDS, "labels/state"], ["train"])
    perception = Perception(fabric.autocast)
    percepts = perceive_dataset(perception, dataset)
    projector = Projector.fit(percepts, settings.vision_components, settings.memory_components)
    teacher = Teacher()
    seen = Observed(projector(percepts), percepts.skill, percepts.severity)
    replay = to_replay(dataset, seen, settings, teacher)
    condition = ConditionVector(task=params.task, weights=tuple(settings.weights))
    actor = build_actor(projector.dim, settings.hidden)
    agent = PolicyAgent(perception, projector, actor, condition)
    cloning = clone(actor, replay, condition, settings, params.safety, seed)
    save_policy(CLONED_POLICY, agent)

    env = make_vector_env(
        settings.num_envs,
        task=params.task,
        world=params.world,
        image_size=perception.backbone.image_size,
        horizon=max(settings.horizon, params.evaluate.horizon),
        linger=None,
        prices=params.economics.model_dump(),
    )
    positions = env.call("positions")[0]
    held_out = spread_seeds(seed, settings.validate_episodes, "validate", positions)
    # More seeds than training episodes, as long as episodes take a quarter of the horizon.
    count = 4 * settings.online_steps // settings.horizon + settings.num_envs
    training = spread_seeds(seed, count, "train", positions, ends=True)

    def validate(weights: Sequence[float]) -> Validation:
        # The horizon is that of the test. Episodes go on after success only under the published
        # preference, to check that the drawer stays open.
        linger = None if list(weights) == settings.weights else 0
        horizon = params.evaluate.horizon
        trials = [Trial(one, weights=weights, linger=linger, horizon=horizon) for one in held_out]
        with timed("validation"):
            runs = run_episodes(env, agent, trials)
        figures = [(t.succeeded, t.success[-1], t.steps, t.joules) for t in runs]
        value = np.mean([t.value for t in runs], axis=0)
        return Validation(*np.mean(figures, axis=0).tolist(), value)

    with closing(env):
        best, validations, curve, facts = train_sac(
            agent,
            replay,
            env,
            lambda index: training[index % count],
            teacher,
            validate,
            settings,
            params.safety,
            seed,
            fabric.autocast,
        )
    actor.load_state_dict(best)
    save_policy(POLICY, agent)
    losses = {name: value for name, value in curve.losses().items() if name in LOSSES}
    cloned = cloning.losses()["total"]
    facts["compute"] = {"class": arithmetic_class(params.compute)}
    write_json(METRICS / "policy.json", {"loss": losses, "cloning": cloned, **facts})
    write_csv(PLOTS / "policy_loss.csv", curve.rows)
    write_csv(PLOTS / "policy_cloning.csv", cloning.rows)
    write_csv(PLOTS / "policy_online.csv", validations)


def serve_script() -> None:
    """Writes the outs of a run without a learned policy: the scripted expert takes its place."""
    say("policy: use_neural is false, the scripted expert serves")
    for path in (POLICY, CLONED_POLICY):
        save_policy(path, None)
    write_json(METRICS / "policy.json", {"loss": {}, "online_steps": 0, "best_step": 0})
    curves = {"loss": ["critic"], "cloning": ["total"], "online": VALIDATED}
    for name, values in curves.items():
        write_csv(PLOTS / f"policy_{name}.csv", Curve.off(*values).rows)


if __name__ == "__main__":
    run("policy", main)
