"""Compares every metric with its threshold -> metrics/success.json, only if all gates pass."""

from lib.base.console import say
from lib.base.files import write_json
from lib.base.paths import SUCCESS
from lib.base.stage import run
from lib.gates import judge
from lib.params import load_params


def main() -> None:
    """Passes the run, or fails it if a metric is on the wrong side of its threshold."""
    result = judge(load_params("gates").gates)
    write_json(SUCCESS, result)
    for name, gate in result["gates"].items():
        told = ", ".join(f"{key.replace('_', ' ')} {number:g}" for key, number in gate.items())
        say(f"{name}: {told}")


if __name__ == "__main__":
    run("gates", main)
