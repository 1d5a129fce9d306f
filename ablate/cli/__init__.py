"""The command line: parse, call one function, render. Nothing here imports torch until a command needs it."""

# ruff: noqa: I001 (the order of the commands in --help)
from ablate.cli.app import app, main
from ablate.cli import start
from ablate.cli import study
from ablate.cli import plan
from ablate.cli import watch
from ablate.cli import verdicts
from ablate.cli import judge
from ablate.cli import results
from ablate.cli import runs
from ablate.cli import hub
from ablate.cli import measure
from ablate.cli import doctor
from ablate.cli import weights

__all__ = [
    "app",
    "doctor",
    "hub",
    "judge",
    "main",
    "measure",
    "plan",
    "results",
    "runs",
    "start",
    "study",
    "verdicts",
    "watch",
    "weights",
]
