"""Networks of every stage: backbone, spatial RNN, segmenter and policy.

The public names resolve on first use (PEP 562), so ``lib.models.UNet`` works without loading the
other networks. Code inside the project imports from the submodules instead, which lets each
pipeline stage depend on exactly the files it runs.
"""

from importlib import import_module

_HOME = {
    "Backbone": "backbone",
    "ConvGRU": "convgru",
    "HydraActor": "hydra",
    "HydraCritic": "hydra",
    "UNet": "unet",
}

__all__ = ["Backbone", "ConvGRU", "HydraActor", "HydraCritic", "UNet"]


def __getattr__(name: str) -> object:
    """Loads the submodule that defines ``name`` and returns the named class."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    """Lists the lazy names and the names that are already loaded."""
    return sorted({*globals(), *__all__})
