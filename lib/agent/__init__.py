"""Whoever drives the robot, and the loop in which it does."""
