"""Isaac Lab recordings in data/raw/isaac, or MuJoCo stand-ins -> data/phase1/isaac.hdf5."""

import itertools
from collections.abc import Iterator
from types import SimpleNamespace

from lib import episode
from lib.base.console import say, track
from lib.base.paths import ISAAC_EPISODES, RAW_ISAAC, relative
from lib.base.stage import run
from lib.ingest.report import Report
from lib.models.heuristic import HeuristicSegmenter
from lib.params import load_params
from lib.phase1_isaac.recordings import Segment, find_recordings, read_recordings
from lib.sim.rollout import RolloutRequest, rollout
from lib.sim.tasks import Task, get_task
from lib.sim.workers import ordered_map

# Stand-ins imitate good recordings: the undisturbed expert under nominal light and camera. Their
# pixels are labelled as those of a recording are, by the heuristic and not by the simulator, so
# that trust in such labels is measured and used before anybody has a recording of their own.
NOMINAL = {
    "share_success": 1.0,
    "share_failure": 0.0,
    "share_recovery": 0.0,
    "share_mixed": 0.0,
    "visual_share": 0.0,
    "visual_severity": 0.0,
    "dropout_share": 0.0,
    "detour_share": 0.0,
}


def stand_ins(params: SimpleNamespace, task: Task, segment: Segment) -> Iterator[episode.Episode]:
    """Yields rollouts of the expert in MuJoCo, tagged ``backend: mujoco``.

    Args:
        params: The sections of params.yaml that the stage reads.
        task: The task that the expert performs.
        segment: Function that gives the pixel labels.
    """
    settings = params.phase1_isaac
    count = settings.num_rollouts
    asked = RolloutRequest(
        task.name,
        params.world,
        params.phase1.seed,
        params.phase1.image_size,
        settings.horizon,
        mix=NOMINAL | {"action_noise": settings.action_noise},
        prices=params.economics.model_dump(),
        stream="isaac_stand_in",
    )
    results = ordered_map(rollout, ((asked, index) for index in range(count)))
    for item in track(results, "MuJoCo stand-ins", count, "episodes"):
        item.labels["segmentation"] = segment(item.obs["image"])
        item.tags["labels"] = "heuristic"
        yield item


def main() -> None:
    """Reads the recordings; if there are none, rolls the expert out in MuJoCo and says so."""
    params = load_params("task", "world", "phase1", "phase1_isaac", "economics")
    report, task, env_args = Report(), get_task(params.task), None
    segment = HeuristicSegmenter().primitives
    episodes: Iterator[episode.Episode] = read_recordings(
        RAW_ISAAC,
        params.phase1_isaac,
        params.phase1.image_size,
        segment,
        report,
    )
    if find_recordings(RAW_ISAAC)[0]:
        what = "episodes from Isaac Lab"
    else:
        # The reader still runs first, because it reports files that are not recordings.
        episodes = itertools.chain(episodes, stand_ins(params, task, segment))
        what = f"MuJoCo stand-ins: no Isaac Lab recordings in {relative(RAW_ISAAC)}"
        env_args = {
            "env_name": task.env_name,
            "type": 1,
            "env_kwargs": {"image_size": params.phase1.image_size},
        }
    count = episode.write(
        ISAAC_EPISODES, episodes, source="isaac", shares=params.phase1.split, env_args=env_args
    )
    report.write(ISAAC_EPISODES.with_name("isaac_skipped.json"))
    say(f"{count} {what}" + (f", {len(report.skipped)} skipped" if report.skipped else ""))


if __name__ == "__main__":
    run("phase1_isaac", main)
