"""Closed loop on held-out positions -> metrics/evaluate.json, films."""

from contextlib import closing

from lib.agent.agents import Agent, ScriptAgent, load_policy
from lib.compute import start
from lib.console import say
from lib.evaluation.robot import ratios, summarise
from lib.evaluation.suite import Suite, episode_sheet, write_films
from lib.files import write_csv, write_json
from lib.params import load_params
from lib.paths import CLONED_POLICY, METRICS, PLOTS, POLICY, VIDEOS
from lib.perception.encoder import load_backbone
from lib.sim.env import episode_seed
from lib.sim.experts import FastScript, ScriptedExpert
from lib.sim.tasks import get_task
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
    seeds = [episode_seed(settings.seed, i, "test") for i in range(settings.episodes)]
    options = {
        "task": params.task,
        "image_size": load_backbone().image_size,
        "horizon": settings.horizon,
        "prices": prices.model_dump(),
    }
    with closing(Suite(settings.num_envs, seeds, **options)) as suite:
        count = settings.videos
        shown = suite.run("expert, filmed", expert, count=count, filmed=count)
        filmed = {name: count if agent.needs_pixels else 0 for name, agent in agents.items()}
        runs = {name: suite.run(name, agents[name], filmed=filmed[name]) for name in agents}
        compared = {"success_any": agents["policy"], "scripted": expert}
        stress = suite.stressed(compared, settings.stress_episodes, settings.stress_severity)
    summaries = {name: summarise(runs[name], prices) for name in agents}
    sheet = write_films(VIDEOS, runs["policy"][:count], shown)
    write_json(
        METRICS / "evaluate.json",
        {
            **summaries,
            "ratio": ratios(summaries["policy"], summaries["scripted"]),
            "stress": stress,
        },
    )
    rows = [
        {
            "episode": index,
            "agent": name,
            "success": int(any(t.success)),
            "steps": t.steps,
            "energy_j": t.joules,
        }
        for name in agents
        for index, t in enumerate(runs[name])
    ]
    write_csv(PLOTS / "evaluate_episodes.csv", rows)
    episode_sheet(PLOTS / "evaluate_episode.png", sheet)
    say(f"policy {summaries['policy']}")


if __name__ == "__main__":
    run("evaluate", main)
