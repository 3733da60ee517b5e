"""Base of every training: arithmetic, the training loop, checkpoints and closed-form algebra."""
