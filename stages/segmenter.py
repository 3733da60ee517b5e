"""U-Net on pixel labels -> checkpoints/sima2_segmenter.safetensors, and the skill router."""

import numpy as np
import torch

from lib.checkpoint import save_checkpoint
from lib.compute import start
from lib.console import say, track
from lib.episode import PRIMITIVES
from lib.evaluation.figures import confusion_figure, overlay_sheet
from lib.evaluation.segmentation import router_accuracy, score
from lib.files import write_csv, write_json
from lib.manifest import load_dataset, read_manifest, trust_table
from lib.models.unet import UNet
from lib.params import load_params
from lib.paths import METRICS, PLOTS, SEGMENTER
from lib.perception.segmenter import Segmenter, SkillRouter
from lib.ridge import fit_ridge
from lib.stage import run
from lib.training.segmenter import train_segmenter

EVERY = 3  # neighbouring frames are nearly the same: every third one is scored
BATCH = 64
RIDGE = 1.0


def main() -> None:
    """Trains, decides who serves, calibrates the router, and scores both segmenters."""
    params = load_params("seed", "compute", "safety", "segmenter")
    settings = params.segmenter
    fabric = start(params.compute, params.seed)
    dataset = load_dataset("segmenter", ["obs/image", "labels/segmentation"])
    images, truth = dataset.arrays["obs/image"], dataset.arrays["labels/segmentation"]
    model = UNet(num_classes=len(PRIMITIVES), widths=settings.widths)
    losses: dict[str, float] = {}
    rows = [{"step": 0, "total": 0.0}]
    if settings.use_neural:
        trust = trust_table(read_manifest())
        curve = train_segmenter(model, dataset, trust, settings, params.safety, fabric)
        rows = curve.rows
        losses = {name: curve.last(name) for name in rows[0] if name != "step"}
    neural, heuristic = Segmenter(model.cpu()), Segmenter(None)

    def evaluate(segmenter: Segmenter, splits: list[str], visual: bool | None):
        chosen = [
            e
            for e in dataset.episodes
            if e.split in splits
            and e.tags["labels"] == "exact"
            and visual in (None, bool(e.tags["visual"]))
        ]
        frames = np.concatenate([np.arange(e.start, e.stop, EVERY) for e in chosen])
        return score(segmenter, images[frames], truth[frames], settings.threshold)

    # Who serves is decided on validation episodes; the test ones only report.
    valid_f1 = evaluate(neural, ["valid"], None).metrics()["boundary_f1"]
    active = settings.use_neural and valid_f1 >= settings.f1_activation_threshold
    serving = neural if active else heuristic
    say(
        f"segmenter: boundary F1 {valid_f1:.4f} on validation episodes, threshold "
        f"{settings.f1_activation_threshold}: the {'U-Net' if active else 'heuristic'} serves"
    )

    fields = ["obs/image", "obs/eef_pos", "obs/gripper", "labels/skill", "labels/state"]
    labelled = load_dataset("policy", fields)
    geometry = geometry_of_all(serving, labelled.arrays["obs/image"])
    router = SkillRouter(calibrate(labelled, geometry))
    accuracy = router_accuracy(router, labelled, geometry, ["test"])

    test = evaluate(neural, ["test"], False) if settings.use_neural else None
    baseline = evaluate(heuristic, ["test"], False)
    nominal = test or baseline
    metrics = {
        "loss": losses,
        **nominal.metrics(),
        "stress": evaluate(neural if test else heuristic, ["test"], True).metrics(),
        "heuristic": {
            **baseline.metrics(),
            "stress": evaluate(heuristic, ["test"], True).metrics(),
        },
        "router_accuracy": accuracy,
        "valid_boundary_f1": valid_f1,
        "activated": int(active),
    }
    config = {
        "widths": settings.widths,
        "primitives": list(PRIMITIVES),
        "active": active,
        "use_neural": settings.use_neural,
        "valid_boundary_f1": valid_f1,
    }
    save_checkpoint(
        SEGMENTER,
        "segmenter",
        config,
        {"unet": model.state_dict(), "router": {"weights": torch.from_numpy(router.weights)}},
    )
    write_json(METRICS / "segmenter.json", metrics)
    write_csv(PLOTS / "segmenter_loss.csv", rows)
    confusion_figure(PLOTS / "segmenter_confusion.png", nominal.confusion)
    test_rows = dataset.rows(["test"])
    sheet = test_rows[np.linspace(0, len(test_rows) - 1, 8, dtype=int)]
    overlay_sheet(
        PLOTS / "segmenter_overlay.png",
        images[sheet],
        truth[sheet],
        neural.probabilities(images[sheet])[0].argmax(1).numpy(),
        heuristic.probabilities(images[sheet])[0].argmax(1).numpy(),
    )


def geometry_of_all(segmenter: Segmenter, images: np.ndarray) -> np.ndarray:
    """Measures the geometry of every frame, (N, G)."""
    starts = range(0, len(images), BATCH)
    parts = [
        segmenter.geometry(images[s : s + BATCH]).numpy()
        for s in track(starts, "measuring geometry", len(starts), "batches")
    ]
    return np.concatenate(parts)


def calibrate(dataset, geometry: np.ndarray) -> np.ndarray:
    """Fits the router's regression on the training episodes."""
    train = dataset.rows(["train"])
    proprio = np.concatenate([dataset.arrays["obs/eef_pos"], dataset.arrays["obs/gripper"]], 1)
    state = dataset.arrays["labels/state"]
    inputs = SkillRouter.inputs(geometry[train], proprio[train])
    return fit_ridge(inputs, state[train, 4:7] - state[train, :3], RIDGE)


if __name__ == "__main__":
    run("segmenter", main)
