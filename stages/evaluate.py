"""Closed-loop evaluation on held-out positions -> metrics/evaluate.json, films."""

from contextlib import closing

from lib.agent.agents import Agent, ScriptAgent, load_policy
from lib.agent.closed_loop import Trial
from lib.base.console import say
from lib.base.files import write_csv, write_json
from lib.base.paths import CLONED_POLICY, METRICS, PLOTS, POLICY, VIDEOS
from lib.base.stage import run
from lib.evaluate.baselines import exchanged, load_recordings, run_baselines
from lib.evaluate.pareto import PreferenceSweep, pareto_figure
from lib.evaluate.robot import best_ratios, brief, episode_rows, summarise
from lib.evaluate.suite import Films, Suite, by_kind, episode_sheet, stress_figure, write_films
from lib.learning.device import arithmetic_class, start
from lib.models.encoder import load_backbone
from lib.params import load_params
from lib.sim.env import episode_seed
from lib.sim.experts import FastScript, ScriptedExpert
from lib.sim.tasks import get_task


def main() -> None:
    """Runs policy, clone and both scripts on the same positions, nominal and stressed."""
    params = load_params("task", "compute", "economics", "policy", "evaluate")
    settings, prices = params.evaluate, params.economics
    autocast = start(params.compute, settings.seed).autocast
    expert = ScriptAgent(ScriptedExpert(get_task(params.task)))
    agents: dict[str, Agent] = {
        # If policy.use_neural is false, the scripted expert takes the place of the policy.
        "policy": load_policy(POLICY, autocast) or expert,
        "cloned": load_policy(CLONED_POLICY, autocast) or expert,
        "scripted": expert,
        "fast_script": ScriptAgent(FastScript()),
    }
    policy = agents["policy"]
    seeds = [episode_seed(settings.seed, i, settings.suite) for i in range(settings.episodes)]
    backbone, recordings = load_backbone(), load_recordings()
    options = {
        "task": params.task,
        "image_size": backbone.image_size,
        "horizon": settings.horizon,
        "prices": prices.model_dump(),
    }
    with closing(Suite(settings.num_envs, seeds, **options)) as suite:
        films = Films(seeds[: settings.videos])
        # The cloned policy is a by-product, so it is tested on fewer positions.
        trials = {"cloned": suite.trials(settings.cloned_episodes)}
        watched = {"policy": films}
        runs = {
            name: suite.run(name, agent, trials.get(name), films=watched.get(name))
            for name, agent in agents.items()
        }
        blind = run_baselines(suite, policy, backbone, recordings, settings.baseline_episodes)
        limits = suite.positions
        world = {name: brief(t, *limits) for name, t in {**runs, **blind}.items()}
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
        stress = suite.stressed(compared, asked)
    figures = {
        "metaworld": world,
        "exchange": exchange,
        "suite": settings.suite,
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
