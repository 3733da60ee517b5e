"""U-Net on pixel labels -> checkpoints/sima2_segmenter.safetensors, skill router, geometry."""

from typing import Any

import lib  # noqa: F401  Pins the arithmetic, so it comes before NumPy and torch.

# isort: split
import numpy as np

from lib.base.console import say, timed
from lib.base.files import write_csv, write_json
from lib.base.paths import GEOMETRY, METRICS, PLOTS, SEGMENTER
from lib.base.stage import run
from lib.data.dataset import Dataset, load_dataset
from lib.data.frames import write_frames
from lib.data.manifest import SIMULATED, read_manifest, segment_doubts, trust_table
from lib.episode import PRIMITIVES
from lib.learning.checkpoint import save_checkpoint
from lib.learning.device import arithmetic_class, start
from lib.learning.loop import Curve
from lib.models.unet import UNet
from lib.params import load_params
from lib.segmenter.router import SkillRouter, train_locator
from lib.segmenter.scores import (
    Scores,
    ThresholdCurve,
    confusion_figure,
    overlay_sheet,
    router_accuracy,
    score,
    stressed_episodes,
)
from lib.segmenter.serving import Segmenter
from lib.segmenter.train_segmenter import train_segmenter


def main() -> None:
    """Trains the U-Net, decides which segmenter serves, learns to locate the handle, scores all."""
    params = load_params("task", "world", "seed", "compute", "safety", "segmenter")
    settings = params.segmenter
    fabric = start(params.compute, params.seed)
    pictures = load_dataset("vision", ["obs/image"])  # all pictures, read only once
    images = pictures.arrays["obs/image"]
    dataset = load_dataset("segmenter", ["labels/segmentation"])
    dataset.borrow("obs/image", pictures)
    model = UNet(num_classes=len(PRIMITIVES), widths=settings.widths)
    curve = Curve.off("boundary", "primitive", "total")
    if settings.use_neural:
        manifest = read_manifest()
        curve = train_segmenter(
            model,
            dataset,
            trust_table(manifest),
            settings,
            params.safety,
            fabric,
            params.seed,
            segment_doubts(manifest),
        )
    neural, heuristic = Segmenter(model.cpu(), fabric.autocast), Segmenter(None)
    judged = neural if settings.use_neural else heuristic

    # Validation episodes decide which segmenter serves. Test episodes are only for the report.
    thresholds = ThresholdCurve()
    valid = score(judged, dataset, ["valid"], settings.threshold, curve=thresholds).metrics()
    valid_f1 = valid.get("boundary_f1", 0.0)
    active = settings.use_neural and valid_f1 >= settings.f1_activation_threshold
    serving = neural if active else heuristic
    say(
        f"segmenter: boundary F1 {valid_f1:.4f} on validation episodes, threshold "
        f"{settings.f1_activation_threshold}: the {'U-Net' if active else 'heuristic'} serves"
    )

    fields = ["obs/eef_pos", "obs/gripper", "labels/skill", "labels/state"]
    # Validation episodes are left out, because nothing uses their geometry.
    labelled = load_dataset("policy", fields, ["train", "test"])
    geometry = serving.measure(images, pictures.rows_of(labelled))
    # The network that locates needs many worlds, and views are most of them.
    fields = ["obs/eef_pos", "obs/gripper", "labels/state"]
    states = load_dataset("segmenter", fields, ["train"], SIMULATED)
    measured = serving.measure(images, pictures.rows_of(states))
    locator = train_locator(states, measured, settings, params.safety, params.seed)
    config = {
        "widths": settings.widths,
        "primitives": list(PRIMITIVES),
        "active": active,
        "use_neural": settings.use_neural,
        "valid_boundary_f1": valid_f1,
    }
    parts = {"unet": model.state_dict(), "locator": locator.state_dict()}
    digest = save_checkpoint(SEGMENTER, "segmenter", config, parts)
    write_frames(GEOMETRY, {"geometry": geometry}, labelled, digest)

    stressed = stressed_episodes(
        params.task,
        params.world,
        params.seed,
        settings.stress_episodes,
        settings.stress_severity,
        images.shape[1],
    )
    sets: dict[str, tuple[Dataset, bool | None]] = {
        "nominal": (dataset, False),
        "stress": (stressed, None),
        "stress_phase1": (dataset, True),
    }
    with timed("scoring"):
        scores, baseline = (
            {
                name: score(segmenter, frames, ["test"], settings.threshold, visual=visual)
                for name, (frames, visual) in sets.items()
            }
            for segmenter in (judged, heuristic)
        )
    write_json(
        METRICS / "segmenter.json",
        {
            "loss": curve.losses(),
            "compute": {"class": arithmetic_class(params.compute)},
            **_nested(scores),
            "heuristic": _nested(baseline),
            "router_accuracy": router_accuracy(SkillRouter(locator), labelled, geometry, ["test"]),
            "valid_boundary_f1": valid_f1,
            "activated": int(active),
        },
    )
    write_csv(PLOTS / "segmenter_loss.csv", curve.rows)
    write_csv(PLOTS / "segmenter_threshold.csv", thresholds.rows())
    confusion_figure(PLOTS / "segmenter_confusion.png", scores["nominal"].confusion)
    test_rows = dataset.rows(["test"], exact=True)
    sheet = test_rows[np.linspace(0, len(test_rows) - 1, 8, dtype=int)]
    shown, truth = (dataset.arrays[name][sheet] for name in ("obs/image", "labels/segmentation"))
    overlay_sheet(
        PLOTS / "segmenter_overlay.png",
        shown,
        truth,
        *(s.probabilities(shown)[0].argmax(1).numpy() for s in (judged, heuristic)),
    )


def _nested(scores: dict[str, Scores]) -> dict[str, Any]:
    """Returns the metrics of the nominal set at the top level, the others under their names."""
    metrics = {name: value.metrics() for name, value in scores.items()}
    return {**metrics.pop("nominal"), **metrics}


if __name__ == "__main__":
    run("segmenter", main)
