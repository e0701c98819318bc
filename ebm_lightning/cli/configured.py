"""The torch-free part of the commands that take a configuration: files, the run folder, preemption."""

import argparse
import gc
import sys
from contextlib import nullcontext
from pathlib import Path

from ebm_lightning.cli.parser import Command, Parser, respell
from ebm_lightning.runs.folder import RunFolder
from ebm_lightning.runs.preemption import exit_on_preemption


def run(options: argparse.Namespace) -> None:
    """Check the files and the run folder of a command, import torch and run it."""
    _, name, *words = options.command
    if "--" in words:
        words.remove("--")
    words = name_source(name, respell(words, "_"))
    known, _ = _shared_parser().parse_known_args(words)
    check_source(name, known)
    folder = RunFolder(known.run) if known.run else None
    with exit_on_preemption(folder) if name == "fit" else nullcontext():
        _import_commands()
        from ebm_lightning.cli import commands

        commands.run(name, words)


COMMANDS = dict.fromkeys(("fit", "validate", "test", "sample", "generate", "plan"), Command(run))


def name_source(name: str, words: list[str]) -> list[str]:
    """The arguments with options instead of a leading RUN or FILE.

    `ebm plan FILE` becomes `ebm plan -c FILE`, and RUN of another command `-c RUN/config.yaml --run RUN`.
    """
    if not words or words[0].startswith("-"):
        return words
    source, *rest = words
    if name == "plan":
        return ["-c", source, *rest]
    folder = RunFolder(source)
    folder.config()
    return ["-c", str(folder.config_file), "--run", str(folder.path), *rest]


def check_source(name: str, known: argparse.Namespace) -> None:
    """Raise ValueError if a configuration file does not exist, or if the command needs a run or file and has none."""
    missing = [file for file in known.config if not Path(file).is_file()]
    if missing:
        raise ValueError(f"there is no configuration file {missing[0]}: give the path of a YAML file")
    if name == "plan" and not (known.config or known.help):
        raise ValueError("`ebm plan` needs an experiment: give the path of a YAML file")
    if name not in ("fit", "plan") and not (known.run or known.help):
        raise ValueError(f"`ebm {name}` needs a run folder: give the one that `ebm fit` printed")


def _shared_parser() -> Parser:
    """A parser of the options needed before the configuration is read; all others are ignored."""
    parser = Parser(prog="ebm", add_help=False)
    parser.add_argument("-c", "--config", action="append", default=[])
    parser.add_argument("--run")
    parser.add_argument("-h", "--help", action="store_true")
    return parser


def _import_commands() -> None:
    """Import torch and all commands, without garbage collection, which would take a quarter of the time."""
    if "ebm_lightning.cli.commands" not in sys.modules:
        gc.disable()
        import ebm_lightning.cli.commands  # noqa: F401

        gc.enable()
        gc.freeze()
