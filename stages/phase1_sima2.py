"""Stress rollouts in the simulator -> data/phase1/sima2.hdf5, and views.hdf5."""

from lib import episode
from lib.base.console import say, track
from lib.base.paths import SIMA2_EPISODES, VIEWS
from lib.base.stage import run
from lib.params import load_params
from lib.sim.rollout import LEGEND, RolloutRequest, rollout
from lib.sim.tasks import get_task
from lib.sim.views import views
from lib.sim.workers import ordered_map


def main() -> None:
    """Rolls the scripted expert out under stress and writes its observations, actions and views."""
    params = load_params("task", "world", "phase1", "phase1_sima2", "economics")
    settings, size = params.phase1_sima2, params.phase1.image_size
    task, count = get_task(params.task), settings.episodes
    asked = RolloutRequest(
        task.name,
        params.world,
        params.phase1.seed,
        size,
        settings.horizon,
        mix=settings.model_dump(),
        prices=params.economics.model_dump(),
        pictures=settings.pictures,
    )
    episodes = ordered_map(rollout, ((asked, index) for index in range(count)))
    env_args = {"env_name": task.env_name, "type": 1, "env_kwargs": {"image_size": size}}
    episode.write(
        SIMA2_EPISODES,
        track(episodes, "stress rollouts", count, "episodes"),
        source="sima2",
        shares=params.phase1.split,
        legend=LEGEND,
        env_args=env_args,
    )
    # In Meta-World's own world all pictures look alike, so views would show nothing new.
    count = settings.view_rollouts if settings.pictures and params.world == "wide" else 0
    if not count:
        say("views: none, because the world has one look only or pictures are off")
    singles = ordered_map(views, ((asked, index, settings.views) for index in range(count)))
    episode.write(
        VIEWS,
        track(singles, "views", count, "rollouts"),
        source="views",
        shares=params.phase1.split,
        env_args=env_args,
    )


if __name__ == "__main__":
    run("phase1_sima2", main)
