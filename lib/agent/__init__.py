"""Agents that control the robot, and the closed loop in which they run."""
