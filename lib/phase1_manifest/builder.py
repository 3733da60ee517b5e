"""Builds the manifest: checks every episode of every source and lists what it may be used for."""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from typing import Any

import numpy as np

from lib import episode
from lib.base.console import track
from lib.base.errors import UserError
from lib.base.files import read_json
from lib.base.paths import relative
from lib.data.manifest import CONSUMERS, SCHEMA, SIMULATED, SOURCES
from lib.episode import PRIMITIVES, Episode
from lib.episode.check import problems
from lib.models.heuristic import HeuristicSegmenter
from lib.phase1_manifest.trust import count_pairs, doubted_segments, segment_trust, usual_shares

OUTCOMES = ("success", "failure", "recovery", "unknown")

PREFERENCE = ("test", "valid", "train")
"""Among equal episodes, the one in the first of these splits is kept. So no test episode is also
used for training."""


def why_not(item: Episode, task: str) -> dict[str, bool | str]:
    """Returns for each training stage whether it may use an episode, or why not.

    Args:
        item: The episode.
        task: The task that is trained.

    Returns:
        True, or the reason against its use, by consumer.
    """
    found = problems(item)
    image = "obs/image" if "image" in item.obs else None
    same_robot = item.tags.get("action_space") == "eef_delta"
    verdict: dict[str, bool | str] = {}
    for consumer in CONSUMERS:
        if found:
            verdict[consumer] = f"damaged: {found[0]}"
        elif image is None:
            verdict[consumer] = "has no pictures"
        elif consumer == "vision":
            verdict[consumer] = True
        elif consumer == "segmenter":
            labelled = "segmentation" in item.labels
            verdict[consumer] = labelled or "has no pixel labels"
        elif item.tags.get("views"):
            verdict[consumer] = "single steps, which do not follow each other"
        elif not same_robot:
            space = item.tags.get("action_space", "unknown")
            verdict[consumer] = f"another action space ({space})"
        elif consumer == "policy" and item.tags.get("task") != task:
            verdict[consumer] = f"another task ({item.tags.get('task', 'unknown')})"
        else:
            verdict[consumer] = True
    return verdict


def put_duplicates_aside(entries: list[dict[str, Any]], fingerprints: list[str]) -> None:
    """Keeps one of several equal episodes: one in the test split, else in valid, else in train.

    Args:
        entries: Episodes of the manifest. For every consumer, a duplicate that is put aside names
            the episode that is kept.
        fingerprints: Fingerprints of the episodes, in the same order.
    """
    groups = defaultdict(list)
    for entry, one in zip(entries, fingerprints, strict=True):
        groups[one].append(entry)
    for group in groups.values():
        kept = min(group, key=lambda entry: PREFERENCE.index(entry["split"]))
        reason = f"duplicate of {kept['source']}/{kept['key']}, which is in {kept['split']}"
        for entry in group:
            if entry is not kept:
                entry["usable"] = dict.fromkeys(CONSUMERS, reason)


def doubt(pairs: list[tuple[dict[str, Any], np.ndarray]]) -> None:
    """Writes the doubted segments of each episode into its manifest entry.

    Args:
        pairs: Episodes of the manifest, each with its ``count_pairs``. The training episodes
            determine the usual shares.
    """
    train = [counts for entry, counts in pairs if entry["split"] == "train" and counts.any()]
    usual = usual_shares(np.array(train))
    for entry, counts in pairs:
        doubted = doubted_segments(segment_trust(counts, usual))
        if doubted:
            entry["doubted"] = doubted


def build_manifest(
    task: str, shares: list[float], trust_frames: int, trust_prior: float
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Reads every episode once and builds the manifest.

    Args:
        task: The task that is trained.
        shares: Shares of train, valid and test.
        trust_frames: Number of exactly labelled frames on which the heuristic is judged.
        trust_prior: Trust in the labels of a primitive for which nothing was measured.

    Returns:
        The manifest and the metrics.

    Raises:
        UserError: If no source holds an episode.
    """
    entries: list[dict[str, Any]] = []
    fingerprints: list[str] = []
    judge = HeuristicJudge(trust_frames)
    label_kinds: dict[str, set[str]] = {source: set() for source in SOURCES}
    pairs: list[tuple[dict[str, Any], np.ndarray]] = []
    stream = itertools.chain.from_iterable(
        ((source, item) for item in episode.read(path)) for source, path in SOURCES.items()
    )
    total = sum(_count(path) for path in SOURCES.values())
    for source, item in track(stream, "checking episodes", total, "episodes"):
        split = episode.split_of(source, item.key, shares)
        usable = why_not(item, task)
        entries.append(
            {
                "source": source,
                "key": item.key,
                "split": split,
                "steps": len(item),
                "checksum": episode.checksum(item),
                "usable": usable,
                "tags": item.tags,
            }
        )
        fingerprints.append(episode.fingerprint(item))
        if "segmentation" in item.labels:
            said, kind = item.labels["segmentation"], item.tags.get("labels", "unknown")
            label_kinds[source].add(kind)
            if kind == "exact" and split == "train" and not item.tags.get("visual"):
                judge.see(item)
            # The heuristic cannot judge its own labels, and no stage uses a damaged episode.
            if kind != "heuristic" and usable["segmenter"] is True:
                pairs.append((entries[-1], count_pairs(item.obs["image"], said)))
    put_duplicates_aside(entries, fingerprints)
    if not entries:
        raise UserError("data/phase1: no source holds an episode; raise phase1_sima2.episodes")
    doubt(pairs)
    trust = {
        source: judge.exact() if kinds == {"exact"} else judge.silver(trust_prior)
        for source, kinds in label_kinds.items()
        if kinds
    }
    reports = {
        source: read_json(path.with_name(f"{source}_skipped.json"))
        for source, path in SOURCES.items()
        if source not in SIMULATED
    }
    skipped = {source: report.get("skipped", []) for source, report in reports.items()}
    manifest = {
        "schema": SCHEMA,
        "task": task,
        "files": {source: relative(path) for source, path in SOURCES.items()},
        "trust": trust,
        "skipped": skipped,
        "notes": {source: report.get("notes", []) for source, report in reports.items()},
        "episodes": entries,
    }
    return manifest, _metrics(entries, skipped, trust)


def _count(path: Any) -> int:
    with episode.open_file(path) as file:
        return len(file["data"])


def _metrics(
    entries: list[dict[str, Any]],
    skipped: dict[str, list],
    trust: dict[str, dict[str, dict[str, float]]],
) -> dict[str, Any]:
    judged = [e for e in entries if "success" in e["tags"]]
    simulated = [e for e in entries if "template" in e["tags"]]
    outcomes = Counter((e["tags"]["template"], e["tags"]["outcome"]) for e in simulated)
    templates = sorted({template for template, _ in outcomes})
    return {
        "episodes": len(entries),
        "frames": sum(e["steps"] for e in entries),
        "success_rate": sum(e["tags"]["success"] for e in judged) / max(len(judged), 1),
        "split": dict(sorted(Counter(e["split"] for e in entries).items())),
        "source": {
            source: {
                "episodes": sum(e["source"] == source for e in entries),
                "frames": sum(e["steps"] for e in entries if e["source"] == source),
                "skipped": len(skipped.get(source, [])),
            }
            for source in SOURCES
        },
        "trust": {
            "doubted_segments": sum(
                len(row) for e in entries for row in e.get("doubted", {}).values()
            ),
            **{
                source: {primitive: cell["trust"] for primitive, cell in cells.items()}
                for source, cells in trust.items()
            },
        },
        "usable": {c: sum(e["usable"][c] is True for e in entries) for c in CONSUMERS},
        "template": {
            template: {name: outcomes[template, name] for name in OUTCOMES[:3]}
            for template in templates
        },
    }


class HeuristicJudge:
    """Compares the heuristic's labels with exact labels, class by class."""

    def __init__(self, frames: int) -> None:
        """Starts with nothing seen.

        Args:
            frames: Number of frames to compare.
        """
        self._left = frames
        self._segmenter = HeuristicSegmenter()
        self._said = np.zeros(len(PRIMITIVES), np.int64)
        self._right = np.zeros(len(PRIMITIVES), np.int64)
        self._exact = np.zeros(len(PRIMITIVES), np.int64)

    def see(self, item: Episode) -> None:
        """Compares a few frames, spread over the episode, until enough frames were compared.

        Args:
            item: An episode with pictures and exact pixel labels.
        """
        rows = np.linspace(0, len(item) - 1, min(4, self._left), dtype=int)
        if len(rows) == 0:
            return
        self._left -= len(rows)
        exact = item.labels["segmentation"][rows]
        said = self._segmenter.primitives(item.obs["image"][rows])
        for index in range(len(PRIMITIVES)):
            self._said[index] += (said == index).sum()
            self._right[index] += ((said == index) & (exact == index)).sum()
            self._exact[index] += (exact == index).sum()

    def exact(self) -> dict[str, dict[str, float]]:
        """Returns the trust in exact labels, which is 1, and the number of pixels compared."""
        return {
            name: {"trust": 1.0, "pixels": int(self._exact[i])} for i, name in enumerate(PRIMITIVES)
        }

    def silver(self, prior: float) -> dict[str, dict[str, float]]:
        """Returns the trust in the heuristic: the precision of each class that it predicts.

        Args:
            prior: Trust in a class that it never predicted.
        """
        return {
            name: {
                "trust": round(float(self._right[i] / self._said[i]), 4)
                if self._said[i]
                else prior,
                "pixels": int(self._said[i]),
            }
            for i, name in enumerate(PRIMITIVES)
        }
