"""Cloning, then multi-objective SAC -> checkpoints/hydra_policy.safetensors."""

from contextlib import closing

import numpy as np

from lib.agent.agents import PolicyAgent, build_actor, save_policy
from lib.agent.closed_loop import run_episodes
from lib.compute import start
from lib.condition import ConditionVector
from lib.console import say
from lib.files import write_csv, write_json
from lib.manifest import load_dataset
from lib.params import load_params
from lib.paths import CLONED_POLICY, METRICS, PLOTS, POLICY
from lib.perception.stack import Perception, Projector, perceive_dataset
from lib.sim.env import episode_seed
from lib.sim.vector import make_vector_env
from lib.stage import run
from lib.training.policy import clone, record, reinforce

FIELDS = ["obs/eef_pos", "obs/gripper", "actions", "vector_rewards", "dones"]


def main() -> None:
    """Clones the expert from pixels, improves on it, and publishes the best by validation."""
    params = load_params("task", "seed", "compute", "safety", "economics", "policy")
    settings, seed = params.policy, params.seed
    if not settings.use_neural:
        say("policy: use_neural is false, the scripted expert serves")
        save_policy(POLICY, None)
        save_policy(CLONED_POLICY, None)
        write_json(METRICS / "policy.json", {"loss": {}, "online_steps": 0, "best_step": 0})
        write_csv(PLOTS / "policy_loss.csv", [{"step": 0, "critic": 0.0}])
        write_csv(PLOTS / "policy_cloning.csv", [{"step": 0, "total": 0.0}])
        write_csv(PLOTS / "policy_online.csv", [{"online_step": 0, "success": 0.0, "steps": 0.0}])
        return

    fabric = start(params.compute, seed)
    dataset = load_dataset("policy", [*FIELDS, "labels/expert_action"], ["train"])
    perception = Perception(fabric.autocast)
    percepts = perceive_dataset(perception, dataset)
    projector = Projector.fit(percepts, settings.vision_components, settings.memory_components)
    observations = projector(percepts)
    replay = record(dataset, observations, percepts.skill, settings)
    condition = ConditionVector(task=params.task, weights=tuple(settings.weights))
    actor = build_actor(projector.dim, settings.hidden)
    agent = PolicyAgent(perception, projector, actor, condition)
    cloning = clone(actor, replay, condition, settings, params.safety)
    save_policy(CLONED_POLICY, agent)

    env = make_vector_env(
        settings.num_envs,
        task=params.task,
        image_size=perception.backbone.image_size,
        horizon=settings.horizon,
        prices=params.economics.model_dump(),
    )
    held_out = [episode_seed(seed, i, "validate") for i in range(settings.validate_episodes)]

    def validate() -> tuple[float, float]:
        trajectories = run_episodes(env, agent, held_out)
        success = np.mean([t.terminated for t in trajectories])
        return float(success), float(np.mean([t.steps for t in trajectories]))

    with closing(env):
        best, validations, curve, facts = reinforce(
            agent,
            replay,
            env,
            lambda index: episode_seed(seed, index, "train"),
            validate,
            settings,
            params.safety,
        )
    actor.load_state_dict(best)
    save_policy(POLICY, agent)
    names = ("critic", "actor", "temperature", "bc")
    losses = {name: curve.last(name) for name in names if name in curve.rows[-1]}
    write_json(METRICS / "policy.json", {"loss": losses, "cloning": cloning.last("total"), **facts})
    write_csv(PLOTS / "policy_loss.csv", curve.rows)
    write_csv(PLOTS / "policy_cloning.csv", cloning.rows)
    write_csv(PLOTS / "policy_online.csv", validations)


if __name__ == "__main__":
    run("policy", main)
