"""Loads the episodes of phase 1: the manifest, arrays of steps, outputs of frozen networks."""
