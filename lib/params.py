"""params.yaml, typed and validated: every key is known, of its type and in its range.

A stage asks for the sections that dvc.yaml lists for it and can reach no other::

    params = load_params("seed", "vision")
    params.vision.lr

The YAML is read as version 1.2: ``dvc exp run -S vision.lr=1e-5`` writes ``1e-05``, which a YAML
1.1 reader turns into a string.

``python -m lib.params`` checks the file, ``python -m lib.params apply FILE`` writes the values of
another YAML file (presets/small.yaml) over it and keeps the comments.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)
from ruamel.yaml import YAML, YAMLError

from lib.errors import UserError
from lib.files import atomic
from lib.paths import PARAMS, relative

Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0, lt=2**31)]
Level = Literal["p3", "p4", "p5"]
Preference = Annotated[list[Share], Field(min_length=3, max_length=3)]


class Section(BaseModel):
    """Base of all sections: unknown keys and wrong types are errors, infinities too."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class Compute(Section):
    """How the arithmetic is done."""

    threads: Annotated[int, Field(ge=1, le=256)]
    arithmetic: Literal["portable", "native"]
    precision: Literal["auto", "fp32", "bf16"]

    @model_validator(mode="after")
    def _bf16_is_native(self) -> Compute:
        if self.arithmetic == "portable" and self.precision == "bf16":
            raise ValueError(
                "precision: bf16 differs between processors; set compute.arithmetic to native"
            )
        return self


class Safety(Section):
    """Limits that hold in every training and for every worker."""

    max_grad_norm: Positive
    nan: Literal["fail", "clip"]
    worker_timeout_s: Positive


class Economics(Section):
    """Prices; see lib/economics.py for what is made of them."""

    unit_price: Positive
    wage_per_hour: Positive
    energy_price_kwh: NonNegative
    hand_over_s: NonNegative
    damage_force_n: Positive
    damage_cost: NonNegative
    energy_scale_j: Positive


class Phase1(Section):
    """What all sources share."""

    seed: Seed
    image_size: Annotated[int, Field(ge=32, le=512, multiple_of=32)]
    split: Annotated[list[Share], Field(min_length=3, max_length=3)]

    @model_validator(mode="after")
    def _sums_to_one(self) -> Phase1:
        if abs(sum(self.split) - 1) > 1e-6:
            raise ValueError(f"split: the shares sum to {sum(self.split):g}, not to 1")
        return self


class Phase1Sima2(Section):
    """Stress rollouts in the simulator."""

    episodes: Count
    pictures: bool
    horizon: Annotated[int, Field(ge=10, le=250)]
    share_success: Share
    share_failure: Share
    share_recovery: Share
    share_mixed: Share
    action_noise: Share
    visual_share: Share
    visual_severity: Share
    detour_share: Share

    @model_validator(mode="after")
    def _sums_to_one(self) -> Phase1Sima2:
        total = self.share_success + self.share_failure + self.share_recovery + self.share_mixed
        if abs(total - 1) > 1e-6:
            raise ValueError(f"share_*: the shares sum to {total:g}, not to 1")
        return self


_FIELD = r"[A-Za-z]\w*(\.([A-Za-z]\w*|-?\d+))*"
_SELECTION = re.compile(rf"/[^\s:,]+(:{_FIELD}(,{_FIELD})*)?", re.ASCII)
_ARRAY = re.compile(r"(labels/)?[A-Za-z]\w*", re.ASCII)


def _selection(value: str) -> str:
    if not _SELECTION.fullmatch(value):
        raise ValueError(f"{value!r} is neither /topic nor /topic:field.path,other.path")
    return value


def _array(value: str) -> str:
    if not _ARRAY.fullmatch(value):
        raise ValueError(f"{value!r} is neither a name such as wrench nor labels/ and a name")
    return value


def _actions(value: str) -> str:
    return value if value == "joints" else _selection(value)


class Phase1Ros(Section):
    """ROS bags."""

    rate_hz: Annotated[float, Field(gt=0, le=1000)]
    max_gap_s: Positive
    clock: Literal["bag", "header"]
    image_topic: str
    joint_topic: str
    action_topic: Annotated[str, AfterValidator(_actions)]
    signals: dict[
        Annotated[str, AfterValidator(_array)], Annotated[str, AfterValidator(_selection)]
    ]


class Phase1Isaac(Section):
    """Isaac Lab recordings, or the stand-in."""

    num_rollouts: Annotated[int, Field(ge=0)]
    horizon: Annotated[int, Field(ge=10, le=250)]
    action_noise: Share
    min_alignment: Share
    image: Annotated[str, Field(min_length=1)]


class Phase1Manifest(Section):
    """Validation, splits and trust."""

    trust_frames: Count
    trust_prior: Share


class Vision(Section):
    """The backbone and its contrastive training."""

    use_neural: bool = False
    size: Literal["tiny", "small", "400MF"]
    block: Literal["X", "Y"]
    pyramid_channels: Count
    steps: Count
    batch_size: Annotated[int, Field(ge=2)]
    lr: Positive
    weight_decay: NonNegative
    warmup: Share
    temperature: Positive
    projection_dim: Count
    reconstruction: NonNegative
    motion: NonNegative
    shift_px: Annotated[int, Field(ge=0, le=32)]
    blur: Share
    colour: Share
    noise: NonNegative
    ridge: Positive
    feature_levels: Annotated[list[Level], Field(min_length=1, max_length=3)]


class Rnn(Section):
    """The spatial RNN."""

    use_neural: bool = False
    levels: Annotated[list[Level], Field(min_length=1, max_length=3)]
    hidden_channels: Count
    window: Annotated[int, Field(ge=10)]
    warmup: Count
    steps: Count
    batch_size: Count
    lr: Positive
    alpha: NonNegative
    beta: NonNegative
    surprise_components: Count
    known_quantile: Annotated[float, Field(gt=0, lt=1)]
    unknown_factor: Annotated[float, Field(gt=1)]
    surprise_episodes: Count
    surprise_severity: Share

    @model_validator(mode="after")
    def _horizon_fits(self) -> Rnn:
        if self.window < self.warmup + 8:
            raise ValueError(
                f"window: {self.window} frames, but skill is measured 8 steps after a warm-up of "
                f"{self.warmup}; at least {self.warmup + 8} are needed"
            )
        return self


class Segmenter(Section):
    """The U-Net and when it is used."""

    use_neural: bool = False
    widths: Annotated[list[Count], Field(min_length=2, max_length=6)]
    steps: Count
    batch_size: Count
    lr: Positive
    alpha: Share
    focal_alpha: Share
    focal_gamma: NonNegative
    lambda_boundary: NonNegative
    lambda_primitive: NonNegative
    f1_activation_threshold: Share
    threshold: Share
    stress_episodes: Count
    stress_severity: Share


class Policy(Section):
    """Cloning and multi-objective SAC."""

    use_neural: bool = False
    hidden: Annotated[list[Count], Field(min_length=1, max_length=4)]
    vision_components: Count
    memory_components: Count
    critics: Annotated[int, Field(ge=2)]
    bc_steps: Count
    batch_size: Annotated[int, Field(ge=2, multiple_of=2)]
    lr: Positive
    lr_hold: Share
    gamma: Annotated[float, Field(gt=0, lt=1)]
    n_step: Count
    tau: Annotated[float, Field(gt=0, le=1)]
    target_entropy: float
    init_temperature: Positive
    critic_steps: Annotated[int, Field(ge=0)]
    offline_steps: Annotated[int, Field(ge=0)]
    online_steps: Annotated[int, Field(ge=0)]
    updates_per_step: NonNegative
    bc_start: NonNegative
    bc_floor: NonNegative
    bc_anneal: Count
    linger: Annotated[int, Field(ge=0)]
    num_envs: Annotated[int, Field(ge=1, le=64)]
    horizon: Annotated[int, Field(ge=10, le=250)]
    presets: Annotated[dict[str, Preference], Field(min_length=1)]
    preset: str
    validations: Count
    validate_every: Count
    validate_episodes: Count

    @model_validator(mode="after")
    def _presets_are_shares(self) -> Policy:
        for name, weights in self.presets.items():
            if abs(sum(weights) - 1) > 1e-6:
                raise ValueError(f"presets: {name} sums to {sum(weights):g}, not to 1")
        if self.preset not in self.presets:
            known = ", ".join(self.presets)
            raise ValueError(f"preset: {self.preset} is not one of the presets: {known}")
        return self

    @property
    def weights(self) -> list[float]:
        """Returns the preference that the policy is published for."""
        return self.presets[self.preset]


class Evaluate(Section):
    """Closed loop on held-out positions."""

    seed: Seed
    episodes: Count
    cloned_episodes: Count
    horizon: Annotated[int, Field(ge=10, le=250)]
    stress_episodes: Count
    stress_severity: Share
    stress_severe_episodes: Count
    sweep_weights: Annotated[int, Field(ge=2)]
    sweep_episodes: Count
    videos: Count
    num_envs: Annotated[int, Field(ge=1, le=64)]


class Gates(Section):
    """Thresholds; lib/evaluation/gates.py says which metric each one reads."""

    policy_success_any: float
    probe_min_r2: float
    probe_gain_r2: float
    boundary_f1_1px: float
    rnn_skill_k8: float


class Params(Section):
    """The whole of params.yaml."""

    task: str
    seed: Seed
    compute: Compute
    safety: Safety
    economics: Economics
    phase1: Phase1
    phase1_sima2: Phase1Sima2
    phase1_ros: Phase1Ros
    phase1_isaac: Phase1Isaac
    phase1_manifest: Phase1Manifest
    vision: Vision
    rnn: Rnn
    segmenter: Segmenter
    policy: Policy
    evaluate: Evaluate
    gates: Gates

    @model_validator(mode="after")
    def _tests_are_held_out(self) -> Params:
        if self.evaluate.seed in (self.seed, self.phase1.seed):
            raise ValueError(
                f"evaluate.seed: {self.evaluate.seed} is a seed of the training too; the test "
                "positions must be others"
            )
        return self


def read_yaml(path: Path) -> Any:
    """Reads a YAML 1.2 file as plain Python values.

    Args:
        path: The file.

    Raises:
        UserError: If it is missing or not YAML.
    """
    try:
        return YAML(typ="safe", pure=True).load(Path(path).read_text())
    except FileNotFoundError:
        raise UserError(f"{relative(path)}: not found") from None
    except (YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{relative(path)}: not valid YAML: {reason}") from None


def parse_params(values: Any, name: str = "params.yaml") -> Params:
    """Validates the values of a parameter file.

    Args:
        values: What the YAML reader gave.
        name: File name for the error.

    Raises:
        UserError: On the first unknown key, wrong type or value out of range.
    """
    if not isinstance(values, Mapping):
        raise UserError(f"{name}: not a mapping of parameter sections")
    try:
        return Params.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            raise UserError(f"{name}: {key}: unknown key; remove it or correct its name") from None
        if first["type"] == "missing":
            raise UserError(f"{name}: {key}: missing; add it") from None
        message = first["msg"].removeprefix("Value error, ")
        given = "" if first["type"] == "value_error" else f" (given: {first['input']!r})"
        raise UserError(f"{name}: {key + ': ' if key else ''}{message}{given}") from None


def load_params(*sections: str, path: Path = PARAMS) -> SimpleNamespace:
    """Reads and validates the whole file, and hands out only the sections asked for.

    What a stage asks for here is what dvc.yaml must list for it; a test holds the two equal.

    Args:
        *sections: Names of sections or top-level keys; ``section.key`` hands out one key of a
            section, whose others may change without a new run.
        path: The parameter file.

    Raises:
        UserError: If the file is missing or invalid.
    """
    params = parse_params(read_yaml(path), relative(path))
    asked: dict[str, Any] = {}
    for section, _, key in (name.partition(".") for name in sections):
        value = getattr(params, section)
        if key:
            setattr(asked.setdefault(section, SimpleNamespace()), key, getattr(value, key))
        else:
            asked[section] = value
    return SimpleNamespace(**asked)


def apply(preset: Path, path: Path = PARAMS) -> None:
    """Writes the values of a preset over the parameter file, comments kept.

    Args:
        preset: YAML file with some of the keys.
        path: The parameter file.

    Raises:
        UserError: If either is unreadable or the result is not valid; then nothing is written.
    """
    yaml = YAML()
    yaml.preserve_quotes = True
    read_yaml(path)  # says in one line if it cannot be read
    values = yaml.load(path.read_text())

    def overlay(target: Any, source: Mapping[str, Any]) -> None:
        for key, value in source.items():
            if isinstance(value, Mapping) and isinstance(target.get(key), Mapping):
                overlay(target[key], value)
            else:
                target[key] = value

    given = read_yaml(preset) or {}
    if not isinstance(given, Mapping):
        raise UserError(f"{relative(preset)}: not a mapping of parameter sections")
    overlay(values, given)
    with atomic(path) as scratch:
        with scratch.open("w", newline="\n") as file:
            yaml.dump(values, file)
        parse_params(read_yaml(scratch), relative(preset))


def main(arguments: list[str]) -> int:
    """Checks params.yaml or applies a preset to it.

    Args:
        arguments: Nothing, or ``apply FILE``.
    """
    try:
        if arguments[:1] == ["apply"] and len(arguments) == 2:
            apply(Path(arguments[1]))
        elif arguments:
            raise UserError("usage: python -m lib.params [apply FILE]")
        else:
            load_params()
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
