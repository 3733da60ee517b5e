"""Base of every stage: paths, files, errors, console output, seeds and processor instructions."""
