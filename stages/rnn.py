"""ConvGRU dynamics on the frozen features -> checkpoints/spatial_rnn.safetensors."""

from lib.checkpoint import save_checkpoint
from lib.compute import start
from lib.console import say
from lib.evaluation.dynamics import prediction_skill
from lib.files import write_csv, write_json
from lib.manifest import load_dataset
from lib.models.convgru import ConvGRU
from lib.params import load_params
from lib.paths import FEATURES, METRICS, PLOTS, SPATIAL_RNN
from lib.perception.encoder import load_backbone
from lib.perception.memory import Normalizer
from lib.perception.store import load_frames
from lib.stage import run
from lib.training.loop import Curve
from lib.training.rnn import Windows, train_rnn


def main() -> None:
    """Trains the forward model and measures what it foresees on held-out episodes."""
    params = load_params("seed", "compute", "safety", "rnn")
    settings = params.rnn
    fabric = start(params.compute, params.seed)
    digest = load_backbone().digest
    dataset = load_dataset("rnn", ["actions"])
    features = load_frames(FEATURES, settings.levels, dataset, digest)
    train = dataset.rows(["train"])
    normalize = Normalizer.of({level: values[train] for level, values in features.items()})
    channels = {level: int(values.shape[1]) for level, values in features.items()}
    action_dim = int(dataset.arrays["actions"].shape[1])
    model = ConvGRU(channels, action_dim, settings.hidden_channels)

    curve = Curve.off("prediction", "total")
    if settings.use_neural:
        windows = Windows(features, dataset, ["train"], settings.window)
        curve = train_rnn(model, windows, normalize, settings, params.safety, fabric)
    else:
        say("rnn: use_neural is false, persistence serves")
    config = {
        "levels": channels,
        "hidden_channels": settings.hidden_channels,
        "action_dim": action_dim,
        "backbone": digest,
        "use_neural": settings.use_neural,
    }
    save_checkpoint(
        SPATIAL_RNN,
        "spatial_rnn",
        config,
        {"rnn": model.state_dict(), "mean": normalize.mean, "std": normalize.std},
    )

    held_out = Windows(features, dataset, ["test"], settings.warmup + 8, stride=4)
    trained = model.cpu().eval() if settings.use_neural else None
    skill, shuffled, by_step = prediction_skill(
        trained, held_out, normalize, settings.warmup, seed=params.seed
    )
    write_json(
        METRICS / "rnn.json",
        {"loss": curve.losses(), "skill": skill, "skill_shuffled_actions": shuffled},
    )
    write_csv(PLOTS / "rnn_loss.csv", curve.rows)
    write_csv(PLOTS / "rnn_skill.csv", by_step)
    say(f"skill against persistence: {skill}, with shuffled actions: {shuffled}")


if __name__ == "__main__":
    run("rnn", main)
