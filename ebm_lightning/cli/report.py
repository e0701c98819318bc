"""`ebm report`."""

import argparse
import os
from pathlib import Path

from ebm_lightning.cli.parser import Command
from ebm_lightning.reproduction.report import default_curve, draw, groups, table


def run(options: argparse.Namespace) -> None:
    """Print mean and standard deviation over seeds of the measurements and last logged metrics of an experiment."""
    folder = options.group if options.group.is_dir() else Path(os.environ.get("EBM_RUNS", "runs")) / options.group
    found = groups(folder)
    print("\n".join(table(found, options.value)))
    if name := options.plot or default_curve(found):
        print(f"\n{name} over steps: {draw(found, name, folder / 'report.png')}")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `ebm report`."""
    parser.add_argument("group", type=Path, metavar="GROUP", help="the folder of an experiment's runs, or its name")
    parser.add_argument(
        "--value", action="append", metavar="NAME", help="only values whose name contains this; repeatable"
    )
    parser.add_argument(
        "--plot", metavar="NAME", help="metric to draw over steps in GROUP/report.png, such as train/loss"
    )


COMMANDS = {"report": Command(run, add_options)}
