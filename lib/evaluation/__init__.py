"""Evaluation: what the trained models know, and what the robot does with it."""
