"""Stress rollouts in the simulator -> data/phase1/sima2.hdf5."""

from lib import episode
from lib.console import track
from lib.params import load_params
from lib.paths import SIMA2_EPISODES
from lib.sim.rollout import LEGEND, rollout
from lib.sim.tasks import get_task
from lib.stage import run
from lib.workers import ordered_map


def main() -> None:
    """Rolls the scripted expert out under stress and writes what it saw and did."""
    params = load_params("task", "phase1", "phase1_sima2", "economics", "safety")
    settings, count = params.phase1_sima2.model_dump(), params.phase1_sima2.episodes
    task, seed, size = get_task(params.task), params.phase1.seed, params.phase1.image_size
    prices = params.economics.model_dump()
    episodes = ordered_map(
        rollout,
        ((task.name, index, seed, settings, size, prices) for index in range(count)),
        params.safety.worker_timeout_s,
    )
    episode.write(
        SIMA2_EPISODES,
        track(episodes, "stress rollouts", count, "episodes"),
        source="sima2",
        shares=params.phase1.split,
        legend=LEGEND,
        env_args={"env_name": task.env_name, "type": 1, "env_kwargs": {"image_size": size}},
    )


if __name__ == "__main__":
    run("phase1_sima2", main)
