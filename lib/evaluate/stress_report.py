"""Stress of the robots in more depth than a run has time for -> docs/stress.md.

    python -m lib.evaluate.stress_report       about twenty minutes; `make stress` calls it

It drives the policy, its clone and the expert under every kind of stress, the policy under every
pair of kinds, and it searches the mixture that the policy bears worst. It also tells a copy of the
policy that nothing is unusual, which shows what surprise is good for. All of it runs on positions
of their own, because it is repeated while recipes are chosen.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from contextlib import closing
from itertools import combinations

import numpy as np
from scipy.stats import bootstrap

from lib.agent.agents import Agent, PolicyAgent
from lib.base.errors import UserError
from lib.base.files import write_text
from lib.base.paths import ROOT
from lib.evaluate.baselines import Unsurprised
from lib.evaluate.robot import success_rate
from lib.evaluate.suite import CONTROL, Suite, load_robots
from lib.learning.device import start
from lib.models.encoder import load_backbone
from lib.params import load_params
from lib.sim.env import episode_seed
from lib.sim.stress import stress_kinds

REPORT = ROOT / "docs" / "stress.md"
STREAM = "stress report"
POSITIONS = 50  # for each kind, and for the worst mixture
PAIR_POSITIONS, PAIR_SEVERITY = 4, 0.7
# The search: mixtures of MIXED kinds with severities that sum to BUDGET. The worst of each round is
# varied in the next one.
MIXED, BUDGET = 3, 1.5
ROUNDS, CANDIDATES, SEARCH_POSITIONS = 4, 8, 6
ROBOTS = ("policy", "cloned", "scripted")
UNSURPRISED = "never surprised"

Mixture = Mapping[str, float]
Opened = Mapping[str, Sequence[bool]]  # which drawers, by robot


def worst_mixture(suite: Suite, policy: Agent, kinds: Sequence[str]) -> Mixture:
    """Searches the mixture of stress under which the policy opens the fewest drawers.

    Random search, in which each round varies the worst mixture so far. The positions of the search
    are not those on which the result is measured.

    Args:
        suite: Positions and environments.
        policy: The policy.
        kinds: Kinds of stress.
    """
    rng = np.random.default_rng(0)
    worst: tuple[int, Mixture] = (SEARCH_POSITIONS + 1, {})
    for number in range(ROUNDS):
        mixtures: list[Mixture] = []
        for _ in range(CANDIDATES):
            chosen = list(worst[1])[: MIXED - 1] if number else []
            rest = [kind for kind in kinds if kind not in chosen]
            chosen += rng.choice(rest, MIXED - len(chosen), replace=False).tolist()
            shares = rng.dirichlet(np.ones(MIXED)) * BUDGET
            drawn = zip(chosen, np.minimum(shares, 1.0).round(2).tolist(), strict=True)
            mixtures.append(dict(sorted(drawn, key=lambda pair: -pair[1])))
        asked = [(mixture, POSITIONS, SEARCH_POSITIONS) for mixture in mixtures]
        found = suite.which_opened({"policy": policy}, asked, f", search, round {number + 1}")
        for opened, mixture in zip(found, mixtures, strict=True):
            if sum(opened["policy"]) < worst[0]:
                worst = sum(opened["policy"]), mixture
    return worst[1]


def rate(opened: Sequence[bool]) -> str:
    """Returns a success rate with its 95 % interval, as a cell of a table."""
    found = success_rate("rate", sum(opened), len(opened))
    return f"{found['rate']:.2f} ({found['rate_low']:.2f} to {found['rate_high']:.2f})"


def gain(alone: Mapping[str, Opened]) -> tuple[float, float, float]:
    """Returns what the policy opens more often than if it is never surprised.

    Args:
        alone: Which drawers each robot opened, by kind.

    Returns:
        Difference of the success rates under stress, and its 95 % interval by the bootstrap over
        positions: one position under several kinds is not several independent attempts.
    """
    kinds = [opened for kind, opened in alone.items() if kind != CONTROL]
    apart = [np.subtract(kind["policy"], kind[UNSURPRISED], dtype=float) for kind in kinds]
    each = np.mean(apart, 0)
    if (each == each[0]).all():  # the bootstrap would warn that nothing varies
        return float(each[0]), float(each[0]), float(each[0])
    rng = np.random.default_rng(0)
    bounds = bootstrap((each,), np.mean, method="percentile", rng=rng).confidence_interval
    return float(each.mean()), float(bounds.low), float(bounds.high)


def report(
    alone: Mapping[str, Opened],
    pairs: Mapping[tuple[str, str], int],
    worst: Mixture,
    of_worst: Opened,
) -> str:
    """Returns the text of docs/stress.md.

    Args:
        alone: Which of POSITIONS drawers each robot opened, by kind; ``nominal`` is without stress.
            If the policy is learned, one robot is UNSURPRISED.
        pairs: Drawers that the policy opened of PAIR_POSITIONS, by pair of kinds.
        worst: The mixture that was found.
        of_worst: Which of POSITIONS drawers each of ROBOTS opened under it.
    """
    heeds = UNSURPRISED in alone[CONTROL]

    def table(robots: Sequence[str], rows: Mapping[str, Opened]) -> str:
        head = f"| stress | {' | '.join(robots)} |\n|---|{'---|' * len(robots)}\n"
        for name, opened in rows.items():
            cells = " | ".join(rate(opened[robot]) for robot in robots)
            head += f"| {name.replace('_', ' ')} | {cells} |\n"
        return head

    surprise = ""
    if heeds:
        more, low, high = gain(alone)
        surprise = (
            f"\n`{UNSURPRISED}` is the policy, told at every step that nothing is unusual. Over "
            f"all kinds the policy opens\n{more:+.3f} of the drawers more than it ({low:+.3f} to "
            f"{high:+.3f}).\n"
        )

    hardest = sorted(pairs.items(), key=lambda item: item[1])[:12]
    listed = "".join(
        f"| {' and '.join(pair).replace('_', ' ')} | {count / PAIR_POSITIONS:.2f} |\n"
        for pair, count in hardest
    )
    mixture = ", ".join(f"{kind.replace('_', ' ')} {value:g}" for kind, value in worst.items())
    mean = sum(pairs.values()) / (PAIR_POSITIONS * max(len(pairs), 1))
    return (
        "# Stress\n\n"
        "`make stress` wrote this page from the checkpoints as they are. Success at any step, with "
        "95 % intervals,\non positions that neither training nor the test uses. What each kind is: "
        "[world.md](world.md#stress).\n\n"
        f"## Each kind alone, severity 1, {POSITIONS} positions\n\n"
        + table([*ROBOTS, UNSURPRISED] if heeds else ROBOTS, alone)
        + surprise
        + f"\n## Pairs of kinds, severity {PAIR_SEVERITY:g}, {PAIR_POSITIONS} positions\n\n"
        f"The policy opens {mean:.2f} over all {len(pairs)} pairs. The twelve hardest:\n\n"
        "| pair | policy |\n|---|---|\n"
        + listed
        + f"\n## The worst mixture that was found\n\n{ROUNDS * CANDIDATES} mixtures of {MIXED} "
        f"kinds with severities that sum to {BUDGET:g}, searched on other positions: {mixture}.\n\n"
        + table(ROBOTS, {"worst mixture": of_worst})
    )


def main() -> int:
    """Writes docs/stress.md and returns the exit code."""
    try:
        params = load_params("task", "world", "compute", "economics", "evaluate")
        loaded = load_robots(params.task, start(params.compute, params.evaluate.seed).autocast)
        size = load_backbone().image_size
    except UserError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    robots = {name: loaded[name] for name in ROBOTS}
    kinds = stress_kinds(params.world)
    count = POSITIONS + SEARCH_POSITIONS
    seeds = [episode_seed(params.evaluate.seed, i, STREAM) for i in range(count)]
    options = {"task": params.task, "world": params.world, "horizon": params.evaluate.horizon}
    with closing(Suite(params.evaluate.num_envs, seeds, image_size=size, **options)) as suite:
        policy, every = {"policy": robots["policy"]}, dict(robots)
        if isinstance(robots["policy"], PolicyAgent):
            every[UNSURPRISED] = Unsurprised(robots["policy"])
        asked = [(mixture, 0, POSITIONS) for mixture in ({}, *({kind: 1.0} for kind in kinds))]
        alone = dict(
            zip([CONTROL, *kinds], suite.which_opened(every, asked, ", each kind"), strict=True)
        )
        both = list(combinations(kinds, 2))
        asked = [(dict.fromkeys(pair, PAIR_SEVERITY), 0, PAIR_POSITIONS) for pair in both]
        found = suite.which_opened(policy, asked, ", pairs")
        pairs = {pair: sum(opened["policy"]) for pair, opened in zip(both, found, strict=True)}
        worst = worst_mixture(suite, robots["policy"], kinds)
        (of_worst,) = suite.which_opened(robots, [(worst, 0, POSITIONS)], ", worst")
    write_text(REPORT, report(alone, pairs, worst, of_worst))
    return 0


if __name__ == "__main__":
    sys.exit(main())
