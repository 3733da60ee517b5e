"""Closed-loop evaluation on held-out positions -> metrics/evaluate.json, films."""

from contextlib import closing

from lib.agent.agents import ScriptAgent
from lib.agent.closed_loop import Trial
from lib.base.console import say
from lib.base.files import write_csv, write_json
from lib.base.paths import METRICS, PLOTS, VIDEOS
from lib.base.stage import run
from lib.evaluate.baselines import exchanged, load_recordings, run_baselines
from lib.evaluate.pareto import PreferenceSweep, pareto_figure
from lib.evaluate.robot import best_ratios, episode_rows, summarise
from lib.evaluate.suite import (
    Films,
    Suite,
    by_kind,
    episode_sheet,
    load_robots,
    stress_figure,
    write_films,
)
from lib.learning.device import arithmetic_class, start
from lib.models.encoder import load_backbone
from lib.params import load_params
from lib.policy.teacher import Teacher
from lib.sim.env import episode_seed
from lib.sim.stress import stress_kinds
from lib.sim.world import WORLDS


def main() -> None:
    """Runs policy, clone, teacher and both scripts on the same positions, nominal and stressed."""
    params = load_params("task", "world", "compute", "economics", "policy", "evaluate")
    settings, prices = params.evaluate, params.economics
    autocast = start(params.compute, settings.seed).autocast
    agents = load_robots(params.task, autocast)
    pace = float(params.policy.pace_at(params.policy.weights[-1]))
    agents["teacher"] = ScriptAgent(Teacher().at(pace))
    policy, expert = agents["policy"], agents["scripted"]
    seeds = [episode_seed(settings.seed, i, settings.suite) for i in range(settings.episodes)]
    backbone, recordings = load_backbone(), load_recordings()
    options = {
        "task": params.task,
        "image_size": backbone.image_size,
        "horizon": settings.horizon,
        "prices": prices.model_dump(),
    }
    lame = (policy, backbone, recordings, settings.baseline_episodes)
    with closing(Suite(settings.num_envs, seeds, world=params.world, **options)) as suite:
        films = Films(seeds[: settings.videos])
        runs = suite.run_each(agents, films={"policy": films})
        blind = run_baselines(suite, *lame)
        worlds = {params.world: suite.brief({**runs, **blind})}
        exchange = exchanged(suite, policy, runs["policy"], settings.exchange_episodes)
        shown = {f"position_{i}": seed for i, seed in enumerate(seeds[: settings.videos])}
        shown["worst"] = films.worst
        expert_films = Films(shown.values())
        filmed = [Trial(seed) for seed in shown.values()]
        suite.run("scripted, filmed", expert, filmed, films=expert_films)
        summaries = {name: summarise(runs[name], prices, settings) for name in agents}
        sweep = PreferenceSweep(suite, policy, runs["scripted"], prices, settings)
        presets = sweep.presets(params.policy, runs["policy"])
        points = sweep.run(params.policy, settings.sweep_weights, settings.sweep_episodes)
        compared = {"policy": policy, "scripted": expert}
        severity, severe = settings.stress_severity, 1.0
        # Severe stress comes first: its episodes may fail and then take longest. The others fill
        # the remaining environments meanwhile.
        asked = {severe: settings.stress_severe_episodes, severity: settings.stress_episodes}
        stress = suite.stressed(compared, asked, stress_kinds(params.world), runs)
    # The same robots in the world that they were not trained in, on fewer positions.
    for other in (world for world in WORLDS if world != params.world):
        few = seeds[: settings.other_episodes]
        with closing(Suite(settings.num_envs, few, world=other, **options)) as suite:
            found = suite.run_each(agents, suite.trials(linger=0), when=f", {other}")
            worlds[other] = suite.brief({**found, **run_baselines(suite, *lame)})
    figures = {
        **worlds,
        "exchange": exchange,
        "suite": settings.suite,
        "world": params.world,
        "compute": {"class": arithmetic_class(params.compute)},
        "presets": presets,
        "ratio": best_ratios(presets),
        "pareto": sweep.scores(points),
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
