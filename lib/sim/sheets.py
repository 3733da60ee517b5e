"""Draws the pictures of docs/world.md: starts of the wide world, and each kind of stress.

``python -m lib.sim.sheets`` draws them again.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from lib.base.paths import ROOT
from lib.media import contact_sheet
from lib.sim.env import ManipulationEnv, episode_seed
from lib.sim.experts import ScriptedExpert
from lib.sim.stress import STRESS_KINDS, Stress

FOLDER = ROOT / "docs" / "pictures"
ROWS, COLUMNS = 4, 6  # of the sheet of starts
SEVERITIES = (0.0, 0.25, 0.5, 0.75, 1.0)
STREAM, SEED = "sheets", 0
MOMENT = 24  # control step that shows what stress has done to the motion


def starts_sheet(path: Path, env: ManipulationEnv) -> None:
    """Draws the first pictures of some episodes.

    Args:
        path: PNG file to write.
        env: An environment with pictures.
    """
    pictures = [
        env.reset(seed=episode_seed(SEED, i, STREAM), options={"stress": Stress()})[0]["image"]
        for i in range(ROWS * COLUMNS)
    ]
    rows = {
        f"{1 + i} to {i + COLUMNS}": pictures[i : i + COLUMNS]
        for i in range(0, ROWS * COLUMNS, COLUMNS)
    }
    title = f"{ROWS * COLUMNS} starts of the wide world"
    contact_sheet(path, {name: np.array(row) for name, row in rows.items()}, title)


def stress_sheet(path: Path, env: ManipulationEnv) -> None:
    """Draws the same moment of one episode under each kind of stress by severity.

    Args:
        path: PNG file to write.
        env: An environment with pictures.
    """
    rows = {}
    for kind in STRESS_KINDS:
        row = []
        for severity in SEVERITIES:
            stress = Stress(**{kind: severity})
            seed = episode_seed(SEED, 3, STREAM)
            observation, info = env.reset(seed=seed, options={"stress": stress})
            expert = ScriptedExpert(env.task)
            for _ in range(MOMENT):
                observation, *_, info = env.step(expert(info["expert_obs"]))
            row.append(observation["image"])
        rows[kind.replace("_", " ")] = np.array(row)
    shown = ", ".join(f"{severity:g}" for severity in SEVERITIES)
    contact_sheet(path, rows, f"The expert after {MOMENT} steps, severity {shown}")


def main() -> None:
    """Draws both sheets."""
    env = ManipulationEnv(world="wide", linger=None)
    FOLDER.mkdir(exist_ok=True)
    starts_sheet(FOLDER / "world_starts.png", env)
    stress_sheet(FOLDER / "world_stress.png", env)
    env.close()


if __name__ == "__main__":
    main()
