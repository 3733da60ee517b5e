"""Settings of the manifest's builder, which judges the use and the labels of every episode."""

from __future__ import annotations

from lib.params import Count, Section, Share


class Phase1Manifest(Section):
    """Settings of the trust in labels."""

    trust_frames: Count
    trust_prior: Share
