"""The command `ebm`. This file imports no torch, so that help and errors of usage appear at once."""

import argparse
import os
import sys
from functools import partial
from importlib import import_module

from ebm_lightning.cli.parser import Command, CommandParser, Parser
from ebm_lightning.runs.errors import UserError

COMMANDS = {
    # name: the module of ebm_lightning.cli that defines the command, and one line of help
    "fit": ("configured", "train; the same command continues an interrupted run"),
    "validate": ("configured", "energies of the validation data under a trained run"),
    "test": ("configured", "the run's evaluation protocols on the test data, or some of them: --protocols ood,mixing"),
    "sample": ("configured", "draw fresh samples of a run, as a picture and an .npz: --num-samples 64 --steps 500"),
    "generate": ("configured", "generate text: --prompt TEXT --tokens 200 --think 8 --candidates 4"),
    "plan": ("configured", "time, memory and scaling of a training run: --gpus 64 --gpu h100, or of this machine"),
    "reproduce": ("reproduce", "reproduce an experiment's claims and write its results; --all --check compares all"),
    "report": ("report", "means and deviations of an experiment's runs over seeds, and a picture"),
    "submit": ("cluster", "submit training to SLURM as jobs; --dry-run prints them, --local 1 needs no SLURM"),
    "jobs": ("cluster", "the state of the submitted runs"),
    "logs": ("cluster", "print the logs of a run's jobs; -f also prints new text"),
    "cancel": ("cluster", "end the job of a run"),
    "resume": ("cluster", "submit the job of an unfinished run again"),
    "preempt": ("cluster", "send the job of a run the signal of a preemption, as a test"),
    "sync": ("cluster", "upload the offline logs of runs to Weights & Biases"),
}

EPILOG = """\
RUN is a run folder, as printed by `ebm fit`: runs/<experiment>/<name>.
Every value of the configuration is an option too, as in --model.sampler.init_args.step_size 0.1. Options may be written
with dashes or underscores. --print_config prints the complete configuration, `ebm COMMAND --help` all options.
Environment variables: EBM_DATA is the folder of data sets, EBM_RUNS replaces runs/, WANDB_MODE=online uploads to W&B,
EBM_DEBUG=1 prints the traceback of an error.
"""


def main(arguments: list[str] | None = None) -> None:
    """Run one command; an error prints one sentence to standard error and exits with a non-zero status."""
    try:
        run(sys.argv[1:] if arguments is None else arguments)
    except (ValueError, OSError, UserError) as fault:
        if os.environ.get("EBM_DEBUG"):
            raise
        _fail(str(fault))


def run(words: list[str]) -> None:
    """Run the command of these arguments; without any, print the help.

    Raises ValueError if there is no such command.
    """
    if words and not words[0].startswith("-") and words[0] not in COMMANDS:
        raise ValueError(f"there is no command {words[0]!r}: expected one of {', '.join(COMMANDS)}")
    options = program_parser().parse_args(words or ["--help"])
    options.function(options)


def program_parser() -> argparse.ArgumentParser:
    """The parser of the program."""
    parser = Parser(
        prog="ebm",
        usage="ebm COMMAND [RUN] [-c CONFIG.yaml ...] [--key value ...]",
        description="Energy-based models: training, evaluation, generation and reproduction.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version")
    commands = parser.add_subparsers(metavar="COMMAND", required=True, parser_class=CommandParser, prog="ebm")
    for name, (module, text) in COMMANDS.items():
        own_help = module != "configured"
        commands.add_parser(name, help=text.replace("%", "%%"), add_help=own_help, load=partial(_load, module, name))
    return parser


def _load(module: str, name: str) -> Command:
    commands: dict[str, Command] = import_module(f"ebm_lightning.cli.{module}").COMMANDS
    return commands[name]


class _Version(argparse.Action):
    """Print the version and exit."""

    def __call__(self, parser: argparse.ArgumentParser, *rest: object) -> None:
        from ebm_lightning import __version__

        print(f"ebm_lightning {__version__}")
        parser.exit()


def _fail(sentence: str) -> None:
    if os.environ.get("LOCAL_RANK", "0") == "0":  # one sentence for all ranks of a machine
        print(f"ebm: error: {' '.join(sentence.split())}", file=sys.stderr)
    sys.exit(1)
