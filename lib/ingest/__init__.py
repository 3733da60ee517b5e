"""Recordings of real and simulated robots, turned into episodes.

Every reader is a generator of ``lib.episode.Episode`` over a folder of recordings. One that cannot
be used is named in a ``Report`` and does not stop the others.
"""
