"""ROS bags in data/raw/ros -> data/phase1/ros.hdf5."""

from lib import episode
from lib.base.console import say
from lib.base.paths import RAW_ROS, ROS_EPISODES, relative
from lib.base.stage import run
from lib.ingest.report import Report
from lib.models.heuristic import HeuristicSegmenter
from lib.params import load_params
from lib.phase1_ros.reader import read_bags


def main() -> None:
    """Converts every usable bag into episodes; the heuristic segmenter labels their pictures."""
    params = load_params("phase1", "phase1_ros")
    report = Report()
    episodes = read_bags(
        RAW_ROS,
        params.phase1_ros,
        params.phase1.image_size,
        HeuristicSegmenter().primitives,
        report,
    )
    count = episode.write(ROS_EPISODES, episodes, source="ros", shares=params.phase1.split)
    report.write(ROS_EPISODES.with_name("ros_skipped.json"))
    if count or report.skipped:
        say(f"{count} episodes from ROS bags, {len(report.skipped)} skipped")
    else:
        say(f"no ROS bags in {relative(RAW_ROS)}: this source is empty")


if __name__ == "__main__":
    run("phase1_ros", main)
