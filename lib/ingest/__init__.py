"""Turns recordings of real and simulated robots into episodes.

Every reader is a generator of ``lib.episode.Episode`` over a folder of recordings. A recording that
cannot be used is listed in a ``Report`` and does not stop the others.
"""
