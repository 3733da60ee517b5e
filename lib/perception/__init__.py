"""The frozen eyes and memory of the policy, as one stack from pixels to an observation."""
