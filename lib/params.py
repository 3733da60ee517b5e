"""Typed and validated access to params.yaml: checks every key, its type and its range.

A stage asks for the sections that dvc.yaml lists for it. It cannot read any other section::

    params = load_params("seed", "vision")
    params.vision.lr

The settings class of a component is defined in the module of that component; SECTIONS names the
module. A stage imports only the modules of the sections that it asks for. ``make repro`` checks the
whole file before the first stage.

``python -m lib.params`` checks the file. ``python -m lib.params apply FILE`` copies the values of
another YAML file (such as presets/small.yaml) into params.yaml and keeps the comments.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    model_validator,
)
from yaml.constructor import ConstructorError

from lib.base.errors import UserError
from lib.base.files import atomic
from lib.base.paths import PARAMS, relative

Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0, lt=2**31)]
Horizon = Annotated[int, Field(ge=10, le=250)]  # control steps, to MAX_HORIZON of lib/sim/env.py
Level = Literal["p3", "p4", "p5"]
Preference = Annotated[list[Share], Field(min_length=3, max_length=3)]


class Section(BaseModel):
    """Base class of all sections: unknown keys, wrong types and infinities are errors."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


def check_shares(name: str, shares: Sequence[float]) -> None:
    """Checks that the shares of a whole sum to one.

    Args:
        name: Name of the key and what its values are, for the message: ``split: the shares``.
        shares: The shares.

    Raises:
        ValueError: If they do not.
    """
    if abs(sum(shares) - 1) > 1e-6:
        raise ValueError(f"{name} sum to {sum(shares):g}, not to 1")


class Compute(Section):
    """Settings of the arithmetic: threads, instruction set and precision."""

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
    """Limits that apply to every training."""

    max_grad_norm: Positive
    nan: Literal["fail", "clip"]


class Phase1(Section):
    """Settings that all phase-1 data sources share."""

    seed: Seed
    image_size: Annotated[int, Field(ge=32, le=512, multiple_of=32)]
    split: Annotated[list[Share], Field(min_length=3, max_length=3)]

    @model_validator(mode="after")
    def _sums_to_one(self) -> Phase1:
        check_shares("split: the shares", self.split)
        return self


SCALARS = {
    "task": TypeAdapter(str),
    "world": TypeAdapter(Literal["wide", "metaworld"]),
    "seed": TypeAdapter(Seed),
}
SECTIONS = {  # module and class that define the settings of each section
    "compute": "lib.params:Compute",
    "safety": "lib.params:Safety",
    "economics": "lib.sim.economics:Economics",
    "phase1": "lib.params:Phase1",
    "phase1_sima2": "lib.sim.rollout:Phase1Sima2",
    "phase1_ros": "lib.phase1_ros:Phase1Ros",
    "phase1_isaac": "lib.phase1_isaac:Phase1Isaac",
    "phase1_manifest": "lib.phase1_manifest:Phase1Manifest",
    "vision": "lib.vision:Vision",
    "rnn": "lib.rnn:Rnn",
    "segmenter": "lib.segmenter:Segmenter",
    "policy": "lib.policy:Policy",
    "evaluate": "lib.evaluate:Evaluate",
    "gates": "lib.gates:Gates",
}

Checked = TypeVar("Checked", bound=Section)


class _Yaml(yaml.SafeLoader):
    """YAML loader with the core schema of version 1.2 that refuses duplicate keys.

    PyYAML follows version 1.1 by default. ``dvc exp run -S vision.lr=1e-5`` writes ``1e-05``, which
    version 1.1 reads as text. Version 1.1 also reads ``yes`` as a boolean, ``010`` as an octal
    number and ``1:30`` as a base-60 number.
    """

    yaml_implicit_resolvers: dict = {}

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        mapping = super().construct_mapping(node, deep)  # refuses lists and mappings as keys
        keys = [self.construct_object(key_node) for key_node, _ in node.value]
        for position, key in enumerate(keys):
            if key in keys[:position]:
                mark = node.value[position][0].start_mark
                raise ConstructorError(None, None, f"the key {key!r} is given twice", mark)
        return mapping


for _tag, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", list("-+0123456789")),
    (
        "float",
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        list("-+.0123456789"),
    ),
):
    _Yaml.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"^({_pattern})$"), _first)
_Yaml.add_constructor(
    "tag:yaml.org,2002:int",
    lambda loader, node: int(node.value, 0 if node.value[:2] in ("0o", "0x") else 10),
)


def read_yaml(path: Path) -> Any:
    """Reads a YAML 1.2 file as plain Python values.

    Args:
        path: Path of the file.

    Raises:
        UserError: If the file is missing, not readable or not valid YAML.
    """
    try:
        return yaml.load(Path(path).read_text(encoding="utf-8"), _Yaml)  # a safe loader
    except FileNotFoundError:
        raise UserError(f"{relative(path)}: not found") from None
    except OSError as error:
        raise UserError(f"{relative(path)}: not readable: {error.strerror}") from None
    except RecursionError:
        raise UserError(f"{relative(path)}: not valid YAML: nested too deeply") from None
    except (yaml.YAMLError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{relative(path)}: not valid YAML: {reason}") from None


def validate(
    model: type[Checked], values: Mapping[str, Any], name: str, section: str = ""
) -> Checked:
    """Validates a mapping that was read from a file.

    Args:
        model: Settings class that the mapping must match.
        values: Values from the YAML reader.
        name: File name for the error message.
        section: Key of the mapping in the file; empty for the top level.

    Raises:
        UserError: On the first unknown key, wrong type or value out of range.
    """
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise _refusal(error, name, section) from None


def _refusal(error: ValidationError, name: str, section: str) -> UserError:
    first = error.errors(include_url=False)[0]
    key = ".".join(str(part) for part in (section, *first["loc"]) if part != "")
    if first["type"] == "extra_forbidden":
        return UserError(f"{name}: {key}: unknown key; remove it or correct its name")
    if first["type"] == "missing":
        return UserError(f"{name}: {key}: missing; add it")
    message = first["msg"].removeprefix("Value error, ")
    given = "" if first["type"] == "value_error" else f" (given: {first['input']!r})"
    return UserError(f"{name}: {key + ': ' if key else ''}{message}{given}")


def settings_of(section: str) -> type[Section]:
    """Returns the settings class of a section, imported from the module of its component.

    Args:
        section: A key of SECTIONS.
    """
    module, _, name = SECTIONS[section].partition(":")
    return getattr(import_module(module), name)


def _read(values: Mapping[str, Any], key: str, name: str) -> Any:
    """Validates one top-level scalar or section of the file."""
    if key not in values:
        raise UserError(f"{name}: {key}: missing; add it")
    if key in SECTIONS:
        return validate(settings_of(key), values[key], name, key)
    try:
        return SCALARS[key].validate_python(values[key], strict=True)
    except ValidationError as error:
        raise _refusal(error, name, key) from None


def _check_top(values: Any, name: str) -> None:
    """Checks the top-level keys, and that the test seed differs from the training seeds."""
    if not isinstance(values, Mapping):
        raise UserError(f"{name}: not a mapping of parameter sections")
    for key in values:
        if key not in SCALARS and key not in SECTIONS:
            raise UserError(f"{name}: {key}: unknown key; remove it or correct its name")
    seeds = [values.get("seed")]
    for section in ("phase1", "evaluate"):
        keys = values.get(section)
        seeds.append(keys.get("seed") if isinstance(keys, Mapping) else None)
    *training, test = seeds
    if test is not None and test in training:
        raise UserError(
            f"{name}: evaluate.seed: {test} is also a seed of the training; choose another one, so "
            "that the test positions are not those of the training"
        )


def parse_params(values: Any, name: str = "params.yaml") -> SimpleNamespace:
    """Validates all values of a parameter file.

    Args:
        values: Values from the YAML reader.
        name: File name for the error message.

    Returns:
        A namespace with every scalar and section.

    Raises:
        UserError: On the first unknown key, wrong type or value out of range.
    """
    _check_top(values, name)
    return SimpleNamespace(**{key: _read(values, key, name) for key in (*SCALARS, *SECTIONS)})


def load_params(*sections: str, path: Path = PARAMS) -> SimpleNamespace:
    """Reads and validates the requested sections and returns nothing else.

    dvc.yaml must list the same sections for the stage; a test checks that the two are equal.

    Args:
        *sections: Names of sections or top-level keys. ``section.key`` returns a single key of a
            section; the other keys of this section may then change without a new run.
        path: Path of the parameter file.

    Raises:
        UserError: If the file is missing or invalid.
    """
    name, values = relative(path), read_yaml(path)
    _check_top(values, name)
    asked: dict[str, Any] = {}
    for section, _, key in (item.partition(".") for item in sections):
        value = _read(values, section, name)
        if key:
            setattr(asked.setdefault(section, SimpleNamespace()), key, getattr(value, key))
        else:
            asked[section] = value
    return SimpleNamespace(**asked)


def apply(preset: Path, path: Path = PARAMS) -> None:
    """Copies the values of a preset into the parameter file and keeps its comments.

    Args:
        preset: YAML file with some of the keys.
        path: Path of the parameter file.

    Raises:
        UserError: If one of the files is unreadable or the result is not valid. Nothing is
            written in these cases.
    """
    from ruamel.yaml import YAML  # keeps comments, which PyYAML drops

    rewriter = YAML()
    rewriter.preserve_quotes = True
    read_yaml(path)  # raises a one-line error if the file cannot be read
    values = rewriter.load(path.read_text(encoding="utf-8"))

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
        with scratch.open("w", encoding="utf-8", newline="\n") as file:
            rewriter.dump(values, file)
        parse_params(read_yaml(scratch), relative(preset))


def main(arguments: list[str]) -> int:
    """Checks params.yaml or applies a preset to it.

    Args:
        arguments: Command-line arguments: empty, or ``apply FILE``.
    """
    try:
        if arguments[:1] == ["apply"] and len(arguments) == 2:
            apply(Path(arguments[1]))
        elif arguments:
            raise UserError("usage: python -m lib.params [apply FILE]")
        else:
            parse_params(read_yaml(PARAMS))
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
