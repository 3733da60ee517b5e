"""Every threshold against its metric -> metrics/success.json, only if all pass."""

from lib.console import say
from lib.evaluation.gates import judge
from lib.files import write_json
from lib.params import load_params
from lib.paths import SUCCESS
from lib.stage import run


def main() -> None:
    """Passes or fails the run."""
    result = judge(load_params("gates").gates)
    write_json(SUCCESS, result)
    for name, gate in result["gates"].items():
        say(f"{name}: {gate['value']:g} (at least {gate['threshold']:g})")


if __name__ == "__main__":
    run("gates", main)
