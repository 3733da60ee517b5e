"""ConvGRU dynamics model on the frozen features -> checkpoints/spatial_rnn.safetensors."""

import lib  # noqa: F401  Pins the arithmetic, so it comes before NumPy and torch.

# isort: split
import numpy as np

from lib.base.console import say, timed, track
from lib.base.files import write_csv, write_json
from lib.base.paths import FEATURES, METRICS, PLOTS, SPATIAL_RNN
from lib.base.stage import run
from lib.data.dataset import Windows, load_dataset
from lib.data.frames import load_frames
from lib.data.manifest import SIMULATED
from lib.learning.checkpoint import save_checkpoint
from lib.learning.device import arithmetic_class, start
from lib.learning.loop import Curve
from lib.models.convgru import ConvGRU
from lib.models.encoder import load_backbone
from lib.params import load_params
from lib.rnn.normalizer import Normalizer
from lib.rnn.skill import STEPS, prediction_skill
from lib.rnn.surprise import Sensed, episode_deviations
from lib.rnn.surprise_test import calibrate, episode_score, separation, suite, suite_kinds
from lib.rnn.train_rnn import train_rnn


def main() -> None:
    """Trains the forward model, calibrates surprise, and measures both on held-out episodes."""
    params = load_params("task", "world", "seed", "compute", "safety", "phase1", "rnn")
    settings = params.rnn
    fabric = start(params.compute, params.seed)
    backbone = load_backbone()
    dataset = load_dataset("rnn", ["actions", "obs/image"])
    senses = load_frames(FEATURES, [*settings.levels, "look", "hand"], dataset, backbone.digest)
    features = {level: senses[level] for level in settings.levels}
    rows = np.arange(len(dataset))
    seen = np.isin(rows, dataset.seen(rows))
    train = dataset.rows(["train"])
    train = train[seen[train]]
    normalize = Normalizer.of({level: values[train] for level, values in features.items()})
    channels = {level: int(values.shape[1]) for level, values in features.items()}
    action_dim = int(dataset.arrays["actions"].shape[1])
    model = ConvGRU(channels, action_dim, settings.hidden_channels)

    curve = Curve.off("prediction", "total")
    if settings.use_neural:
        windows = Windows(features, dataset, ["train"], settings.window)
        training = (settings, params.safety, fabric, params.seed)
        curve = train_rnn(model, windows, normalize, *training, seen)
    else:
        say("rnn: use_neural is false, persistence serves")
    trained = model.cpu().eval() if settings.use_neural else None
    with timed("calibrating surprise"):
        # Only the simulator says truly whether an episode is nominal.
        felt = load_dataset(
            "rnn", ["obs/eef_pos", "obs/gripper", "actions"], ["train", "valid"], SIMULATED
        )
        mine = dataset.rows_of(felt)
        motion, scale = calibrate(
            trained,
            {name: values[mine] for name, values in senses.items()},
            felt,
            normalize,
            components=settings.surprise_components,
            quantile=settings.known_quantile,
            factor=settings.unknown_factor,
        )
    config = {
        "levels": channels,
        "hidden_channels": settings.hidden_channels,
        "action_dim": action_dim,
        "backbone": backbone.digest,
        "use_neural": settings.use_neural,
        "surprise": scale.config(),
    }
    parts = {
        "rnn": model.state_dict(),
        "mean": normalize.mean,
        "std": normalize.std,
        "motion": motion.tensors(),
        "surprise": scale.tensors(),
    }
    save_checkpoint(SPATIAL_RNN, "spatial_rnn", config, parts)

    # A dropped (black) picture cannot be predicted from earlier pictures and actions, and its error
    # is as large as that of a hundred other frames. So the skill with dropped pictures is reported
    # separately.
    length = settings.warmup + STEPS
    everything = Windows(features, dataset, ["test"], length, stride=4)
    clean = Windows(features, dataset, ["test"], length, stride=4, without=rows[~seen])
    if not len(clean):
        say(
            "rnn: every held-out window has a dropped picture, so the skill is measured on windows "
            "with dropped pictures"
        )
        clean = everything
    with timed("skill"):
        common = (normalize, settings.warmup)
        skill, by_step = prediction_skill(trained, clean, *common, seed=params.seed)
        with_dropped, _ = prediction_skill(
            trained, everything, *common, seed=params.seed, controls=False
        )
    skill["skill_with_dropped"] = with_dropped["skill"]
    episodes = suite(
        params.task,
        params.world,
        params.phase1.seed,
        backbone.image_size,
        settings.surprise_episodes,
        settings.surprise_severity,
    )
    scores = []
    count = len(suite_kinds(params.world, settings.surprise_episodes))
    for kind, images, proprio, actions in track(episodes, "surprise", count, "episodes"):
        found = backbone(images)
        sensed = Sensed(normalize(found), found["look"], found["hand"], proprio, actions)
        scores.append((kind, episode_score(scale, episode_deviations(trained, motion, sensed))))
    surprise = separation(scores)
    compute = {"class": arithmetic_class(params.compute)}
    figures = {"loss": curve.losses(), "compute": compute, **skill, "surprise": surprise}
    write_json(METRICS / "rnn.json", figures)
    write_csv(PLOTS / "rnn_loss.csv", curve.rows)
    write_csv(PLOTS / "rnn_skill.csv", by_step)
    say(f"skill against persistence {skill['skill']}, AUROC of surprise {surprise['auroc']}")


if __name__ == "__main__":
    run("rnn", main)
