"""All sources -> data/phase1/manifest.json: all episodes, and which stages may use them."""

from lib.base.console import say
from lib.base.files import write_json
from lib.base.paths import MANIFEST, METRICS
from lib.base.stage import run
from lib.params import load_params
from lib.phase1_manifest.builder import build_manifest


def main() -> None:
    """Checks every episode, assigns it to a split, and estimates the trust in the labels."""
    params = load_params("task", "phase1", "phase1_manifest")
    settings = params.phase1_manifest
    manifest, metrics = build_manifest(
        params.task,
        params.phase1.split,
        settings.trust_frames,
        settings.trust_prior,
    )
    write_json(MANIFEST, manifest)
    write_json(METRICS / "phase1.json", metrics)
    say(f"{metrics['episodes']} episodes, {metrics['frames']} frames")


if __name__ == "__main__":
    run("phase1_manifest", main)
