"""Closed loop on held-out positions -> metrics/evaluate.json, films."""

from contextlib import closing

from lib.agent.agents import Agent, ScriptAgent, load_policy
from lib.agent.closed_loop import Trial
from lib.compute import arithmetic_class, start
from lib.console import say
from lib.evaluation.pareto import Dial, pareto_figure
from lib.evaluation.robot import episode_rows, summarise
from lib.evaluation.suite import (
    Films,
    Suite,
    by_kind,
    episode_sheet,
    stress_figure,
    write_films,
)
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
    params = load_params("task", "compute", "economics", "policy", "evaluate")
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
    policy = agents["policy"]
    seeds = [episode_seed(settings.seed, i, "test") for i in range(settings.episodes)]
    options = {
        "task": params.task,
        "image_size": load_backbone().image_size,
        "horizon": settings.horizon,
        "prices": prices.model_dump(),
    }
    with closing(Suite(settings.num_envs, seeds, **options)) as suite:
        films = Films(seeds[: settings.videos])
        # The warm start is a by-product: fewer positions say how good it is.
        trials = {"cloned": suite.trials(settings.cloned_episodes)}
        watched = {"policy": films}
        runs = {
            name: suite.run(name, agent, trials.get(name), films=watched.get(name))
            for name, agent in agents.items()
        }
        shown = {f"position_{i}": seed for i, seed in enumerate(seeds[: settings.videos])}
        shown["worst"] = films.worst
        expert_films = Films(shown.values())
        filmed = [Trial(seed) for seed in shown.values()]
        suite.run("scripted, filmed", expert, filmed, films=expert_films)
        summaries = {name: summarise(runs[name], prices) for name in agents}
        dial = Dial(suite, policy, summaries["scripted"], prices)
        presets = dial.presets(params.policy, summaries["policy"])
        points = dial.sweep(params.policy, settings.sweep_weights, settings.sweep_episodes)
        compared = {"policy": policy, "scripted": expert}
        severity, severe = settings.stress_severity, 1.0
        # What may fail, and so takes longest, first: the others fill the environments meanwhile.
        asked = {severe: settings.stress_severe_episodes, severity: settings.stress_episodes}
        stress = suite.stressed(compared, asked)
    ratio = {
        "mpl": max(preset["mpl_ratio"] for preset in presets.values()),
        "energy": min(preset["energy_ratio"] for preset in presets.values()),
    }
    compute = {"class": arithmetic_class(params.compute)}
    figures = {
        "compute": compute,
        "presets": presets,
        "ratio": ratio,
        "pareto": dial.scores(points),
    }
    tables = {"stress": by_kind(stress, severity), "stress_severe": by_kind(stress, severe)}
    write_json(METRICS / "evaluate.json", {**summaries, **figures, **tables})
    write_csv(PLOTS / "evaluate_episodes.csv", episode_rows(runs))
    write_csv(PLOTS / "evaluate_pareto.csv", points)
    write_csv(PLOTS / "evaluate_stress.csv", stress)
    write_films(VIDEOS, shown, films, expert_films)
    episode_sheet(PLOTS / "evaluate_episode.png", films.of(seeds[0]), expert_films.of(seeds[0]))
    scripts = {name: summary for name, summary in summaries.items() if name != "policy"}
    pareto_figure(PLOTS / "evaluate_pareto.png", points, scripts)
    stress_figure(PLOTS / "evaluate_stress.png", stress)
    say(f"policy {summaries['policy']}")


if __name__ == "__main__":
    run("evaluate", main)
