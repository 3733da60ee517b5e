"""SimCLR on the pictures of phase 1 -> checkpoints/vision_backbone.safetensors, features."""

import copy
from functools import partial

import lib  # noqa: F401  Pins the arithmetic, so it comes before NumPy and torch.

# isort: split
import numpy as np
import torch

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
from lib.models.encoder import EMBEDDED_LEVEL, LookScale, encode, encode_all, load_backbone
from lib.models.frozen import folded, freeze
from lib.params import load_params
from lib.vision.probes import TARGETS, fit_probe, neighbour_sheet, neighbours, probe, probe_scatter
from lib.vision.train_backbone import build_backbone, calibrate_batch_norm, train_backbone

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
        states = load_dataset("segmenter", ["labels/state"], ["train"], SIMULATED)
        training = (settings, params.safety, fabric, params.seed)
        curve = train_backbone(model, dataset, *training, canonical, states)
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

    levels = list(dict.fromkeys([EMBEDDED_LEVEL, *settings.feature_levels]))
    networks = {"trained": folded(freeze(model)), "random": folded(random)}
    maps = {
        name: encode_all(partial(encode, network), images, levels, f"encoding, {name} weights")
        for name, network in networks.items()
    }
    labelled = load_dataset("segmenter", ["labels/state"], sources=SIMULATED)
    keep = dataset.rows_of(labelled)
    labelled.borrow("obs/image", dataset)
    # Both backbones are judged by the same map, and only on frames that have labels.
    judged = {name: found[EMBEDDED_LEVEL][keep] for name, found in maps.items()}
    with timed("probes"):
        weights = {
            name: fit_probe(found, labelled, settings.ridge) for name, found in judged.items()
        }
        nominal, stressed, scatter = probe(weights["trained"], judged["trained"], labelled)
        random_scores, random_stressed, _ = probe(weights["random"], judged["random"], labelled)

    usual = labelled.seen(labelled.rows(["train"], visual=False))
    hand = [name.startswith("hand_") for name in TARGETS]
    parts = {
        "backbone": model.state_dict(),
        "look": LookScale.fit(labelled.arrays["obs/image"], usual).tensors(),
        "hand": {"weights": torch.from_numpy(weights["trained"][:, hand]).float()},
    }
    save_checkpoint(BACKBONE, "backbone", config, parts)
    frozen = load_backbone()
    # Later stages need features in sequence, which views are not.
    films = dataset.part(lambda e: e.source != "views")
    kept = {level: maps["trained"][level] for level in settings.feature_levels}
    hands = frozen.hand(torch.from_numpy(maps["trained"][EMBEDDED_LEVEL]).float())
    looks = encode_all(lambda x: {"look": frozen.look(x)}, images, ["look"], "judging looks")
    write_frames(FEATURES, kept | looks | {"hand": hands.half().numpy()}, films, frozen.digest)
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
    states = labelled.arrays["labels/state"]
    test = labelled.seen(labelled.rows(["test"]))
    queries = test[np.linspace(0, len(test) - 1, QUERIES + 2, dtype=int)[1:-1]]
    found = {name: neighbours(x, labelled, queries, NEIGHBOURS) for name, x in judged.items()}
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
