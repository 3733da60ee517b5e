"""One script a stage of ``dvc.yaml``: read parameters, call ``lib``, write outs."""

from lib import arithmetic
from lib.errors import UserError
from lib.params import load_params


def _arithmetic() -> str:
    try:
        return load_params("compute").compute.arithmetic
    except UserError:
        return "portable"  # the stage itself reads the parameters again, and says what is wrong


arithmetic.pin(_arithmetic())
