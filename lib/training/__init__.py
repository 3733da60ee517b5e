"""Training: one loop, and what each model learns from."""
