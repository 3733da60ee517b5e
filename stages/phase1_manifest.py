"""All sources -> data/phase1/manifest.json: what there is, and what each stage may use."""

from lib.console import say
from lib.files import write_json
from lib.ingest.manifest import build_manifest
from lib.params import load_params
from lib.paths import MANIFEST, METRICS
from lib.sim.tasks import get_task
from lib.stage import run


def main() -> None:
    """Checks every episode, splits by episode, and estimates the trust in the labels."""
    params = load_params("task", "phase1", "phase1_manifest")
    settings = params.phase1_manifest
    manifest, metrics = build_manifest(
        get_task(params.task).name,
        params.phase1.split,
        settings.trust_frames,
        settings.trust_prior,
    )
    write_json(MANIFEST, manifest)
    write_json(METRICS / "phase1.json", metrics)
    say(f"{metrics['episodes']} episodes, {metrics['frames']} frames")


if __name__ == "__main__":
    run("phase1_manifest", main)
