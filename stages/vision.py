"""SimCLR on the pictures of phase 1 -> checkpoints/vision_backbone.safetensors, features."""

import copy

import lib  # noqa: F401  Pins the arithmetic, so it comes before NumPy and torch.

# isort: split
import numpy as np

from lib.base.console import say, timed
from lib.base.files import write_csv, write_json
from lib.base.paths import BACKBONE, FEATURES, METRICS, PLOTS
from lib.base.stage import run
from lib.data.dataset import load_dataset
from lib.data.frames import write_frames
from lib.data.manifest import SIMULATED
from lib.episode import STATE_HAND
from lib.learning.checkpoint import save_checkpoint
from lib.learning.device import arithmetic_class, start
from lib.learning.loop import Curve
from lib.models.encoder import encode_all, load_backbone
from lib.models.frozen import folded, freeze
from lib.params import load_params
from lib.vision.probes import neighbour_sheet, neighbours, probe, probe_scatter
from lib.vision.train_backbone import (
    EMBEDDED_LEVEL,
    build_backbone,
    calibrate_batch_norm,
    train_backbone,
)

QUERIES, NEIGHBOURS = 6, 3  # rows of the picture sheet, and neighbours in each


def main() -> None:
    """Trains, freezes and probes the backbone, and writes its features of every frame."""
    params = load_params("seed", "compute", "safety", "vision")
    settings = params.vision
    fabric = start(params.compute, params.seed)
    dataset = load_dataset("vision", ["obs/image"])
    images = dataset.arrays["obs/image"]
    model = build_backbone(settings)
    random = copy.deepcopy(model)
    calibrate_batch_norm(random, images[dataset.rows(["train"])], params.seed)
    freeze(random)

    curve = Curve.off("contrastive", "total")
    if settings.use_neural:
        canonical = None
        if any(e.source == "views" and e.split == "train" for e in dataset.episodes):
            canonical = load_dataset("vision", ["labels/canonical"], ["train"], ["views"])
        training = (settings, params.safety, fabric, params.seed)
        curve = train_backbone(model, dataset, *training, canonical)
    else:
        say("vision: use_neural is false, the random frozen backbone serves")
        model.load_state_dict(random.state_dict())
    config = {
        "size": settings.size,
        "block": settings.block,
        "pyramid_channels": settings.pyramid_channels,
        "image_size": int(images.shape[1]),
        "frozen": True,
        "use_neural": settings.use_neural,
    }
    save_checkpoint(BACKBONE, "backbone", config, {"backbone": model.state_dict()})

    frozen = load_backbone()
    levels = list(dict.fromkeys([EMBEDDED_LEVEL, *settings.feature_levels]))
    features = encode_all(frozen.model, images, levels, "encoding frames")
    kept = {level: features[level] for level in settings.feature_levels}
    # Later stages need features in sequence, which views are not.
    write_frames(FEATURES, kept, dataset.part(lambda e: e.source != "views"), frozen.digest)
    labelled = load_dataset("segmenter", ["labels/state"], sources=SIMULATED)
    baseline = encode_all(
        folded(random), images, [EMBEDDED_LEVEL], "encoding frames, random weights"
    )
    keep = dataset.rows_of(labelled)
    labelled.borrow("obs/image", dataset)
    states = labelled.arrays["labels/state"]
    # Both backbones are judged by the same map, and only on frames that have labels.
    maps = {"trained": features[EMBEDDED_LEVEL][keep], "random": baseline[EMBEDDED_LEVEL][keep]}
    with timed("probes"):
        nominal, stressed, scatter = probe(maps["trained"], states, labelled, settings.ridge)
        random_scores, random_stressed, _ = probe(maps["random"], states, labelled, settings.ridge)
    write_json(
        METRICS / "vision.json",
        {
            "loss": curve.losses(),
            "compute": {"class": arithmetic_class(params.compute)},
            "probe": nominal,
            "probe_random": random_scores,
            "probe_stress": stressed,
            "probe_stress_random": random_stressed,
        },
    )
    write_csv(PLOTS / "vision_loss.csv", curve.rows)
    probe_scatter(PLOTS / "vision_probe.png", scatter, nominal)
    test = labelled.seen(labelled.rows(["test"]))
    queries = test[np.linspace(0, len(test) - 1, QUERIES + 2, dtype=int)[1:-1]]
    found = {name: neighbours(x, labelled, queries, NEIGHBOURS) for name, x in maps.items()}
    neighbour_sheet(
        PLOTS / "vision_neighbours.png",
        labelled.arrays["obs/image"],
        states[:, STATE_HAND],
        queries,
        found,
    )
    say(f"probe R2 {nominal.get('min_r2')}, random weights {random_scores.get('min_r2')}")


if __name__ == "__main__":
    run("vision", main)
