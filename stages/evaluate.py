"""Closed loop on held-out positions -> metrics/evaluate.json, videos."""

from contextlib import closing

import numpy as np

from lib.agent.agents import Agent, ScriptAgent, load_policy
from lib.agent.closed_loop import Trajectory, run_episodes
from lib.compute import start
from lib.console import say
from lib.evaluation.figures import contact_sheet
from lib.evaluation.robot import ratios, summarise
from lib.evaluation.video import beside, write_video
from lib.files import write_csv, write_json
from lib.params import load_params
from lib.paths import CLONED_POLICY, METRICS, PLOTS, POLICY, VIDEOS
from lib.perception.encoder import load_backbone
from lib.sim.env import episode_seed
from lib.sim.experts import FastScript, ScriptedExpert
from lib.sim.stress import STRESS_KINDS, Stress
from lib.sim.tasks import get_task
from lib.sim.vector import make_vector_env
from lib.stage import run


def main() -> None:
    """Runs policy, clone and both scripts on the same positions, nominal and stressed."""
    params = load_params("task", "compute", "economics", "evaluate")
    settings, prices = params.evaluate, params.economics
    autocast = start(params.compute, settings.seed).autocast
    expert = ScriptAgent(ScriptedExpert(get_task(params.task)))
    agents: dict[str, Agent] = {
        # Where policy.use_neural is off, the scripted expert is the policy.
        "policy": load_policy(POLICY, autocast) or expert,
        "cloned": load_policy(CLONED_POLICY, autocast) or expert,
        "scripted": expert,
        "fast_script": ScriptAgent(FastScript()),
    }
    options = {
        "task": params.task,
        "image_size": load_backbone().image_size,
        "horizon": settings.horizon,
        "prices": prices.model_dump(),
    }
    seeds = [episode_seed(settings.seed, i, "test") for i in range(settings.episodes)]
    filmed = set(seeds[: settings.videos])
    runs: dict[str, list[Trajectory]] = {}
    for render in (False, True):
        with closing(
            make_vector_env(settings.num_envs, **options, render=render, terminate_on_success=False)
        ) as env:
            for name, agent in agents.items():
                if agent.needs_pixels == render:
                    say(f"evaluate: {name}, {len(seeds)} positions")
                    runs[name] = run_episodes(env, agent, seeds, keep_frames=filmed.__contains__)
            if render and filmed:
                films = run_episodes(env, expert, sorted(filmed), keep_frames=filmed.__contains__)
    summaries = {name: summarise(runs[name], prices) for name in agents}
    metrics = {**summaries, "ratio": ratios(summaries["policy"], summaries["scripted"])}

    stress: dict[str, dict[str, float]] = {}
    if settings.stress_episodes:
        with closing(make_vector_env(settings.num_envs, **options)) as env:
            for kind in STRESS_KINDS:
                severe = Stress(**{kind: settings.stress_severity})
                stress[kind] = {}
                for name, label in (("policy", "success_any"), ("scripted", "scripted")):
                    some = seeds[: settings.stress_episodes]
                    trajectories = run_episodes(env, agents[name], some, stress=severe)
                    rate = np.mean([t.terminated for t in trajectories])
                    stress[kind][label] = round(float(rate), 6)
                say(f"evaluate: stress {kind}: {stress[kind]}")
    write_json(METRICS / "evaluate.json", {**metrics, "stress": stress})
    write_csv(
        PLOTS / "evaluate_episodes.csv",
        [
            {
                "episode": index,
                "agent": name,
                "success": int(any(t.success)),
                "steps": t.steps,
                "energy_j": t.joules,
            }
            for name in agents
            for index, t in enumerate(runs[name])
        ],
    )
    VIDEOS.mkdir(parents=True, exist_ok=True)
    by_seed = {t.seed: t for t in films} if filmed else {}
    policies = {t.seed: t for t in runs["policy"] if t.seed in filmed}
    for index, seed in enumerate(seeds[: settings.videos]):
        shown = policies[seed] if agents["policy"].needs_pixels else by_seed[seed]
        left, right = (np.stack(t.frames[: t.steps + 10]) for t in (shown, by_seed[seed]))
        write_video(VIDEOS / f"position_{index}.mp4", beside(left, right))
        if index == 0:
            write_sheet(left, right)
    say(f"policy {summaries['policy']}")


def write_sheet(left: np.ndarray, right: np.ndarray) -> None:
    """Draws policy and expert at the same moments of one test episode."""
    moments = np.linspace(0, max(len(left), len(right)) - 1, 8, dtype=int)
    rows = {
        "policy": left[np.minimum(moments, len(left) - 1)],
        "scripted expert": right[np.minimum(moments, len(right) - 1)],
    }
    title = "The same held-out position, control steps " + ", ".join(map(str, moments))
    contact_sheet(PLOTS / "evaluate_episode.png", rows, title)


if __name__ == "__main__":
    run("evaluate", main)
