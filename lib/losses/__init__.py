"""Losses of every stage, as plain functions of tensors.

The public names resolve on first use (PEP 562), so ``lib.losses.nt_xent`` works without loading
the other losses. Code inside the project imports from the submodules instead, which lets each
pipeline stage depend on exactly the files it runs.
"""

from importlib import import_module

_HOME = {
    "dice_loss": "segmentation",
    "dynamics_loss": "dynamics",
    "focal_loss": "segmentation",
    "nt_xent": "contrastive",
}

__all__ = ["dice_loss", "dynamics_loss", "focal_loss", "nt_xent", "sac"]


def __getattr__(name: str) -> object:
    """Loads the submodule that is or defines ``name`` and returns the named object."""
    if name == "sac":
        return import_module(f"{__name__}.sac")
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    """Lists the lazy names and the names that are already loaded."""
    return sorted({*globals(), *__all__})
