"""Everything shared: data, simulator, models, losses, training, evaluation."""
