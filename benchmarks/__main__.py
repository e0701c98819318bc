"""Benchmarks of this library and of its alternatives: `python -m benchmarks` writes the tables of README.md."""

import argparse
import sys
from collections.abc import Sequence

import torch

from benchmarks import boltzmann, ebt, growth, overhead, papers, plans, profiles, sampling
from benchmarks.common import Options, publish

SECTIONS = {
    one.__name__.rpartition(".")[2]: one
    for one in (sampling, overhead, growth, boltzmann, ebt, papers, plans, profiles)
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run some sections; an error prints one sentence to standard error and exits with a non-zero status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--only", nargs="+", metavar="SECTION", help=f"sections: {', '.join(SECTIONS)}; by default all")
    parser.add_argument("--rounds", type=int, help="number of rounds, of which the median is reported")
    parser.add_argument("--quick", action="store_true", help="one round with small sizes, as a test")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="cuda runs the sections for GPUs")
    parser.add_argument("--large", action="store_true", help="ebt: also a model of 6 layers of width 384")
    parser.add_argument(
        "--write",
        action=argparse.BooleanOptionalAction,
        help="write results/ and README.md; by default unless --quick",
    )
    given = parser.parse_args(arguments)
    try:
        run(given.only, Options(given.rounds, given.quick, given.device, given.large), given.write)
    except ValueError as fault:
        sys.exit(f"benchmarks: error: {fault}")


def run(only: list[str] | None, options: Options, write: bool | None) -> None:
    """Run the given sections, or all, and write their results after each of their parts.

    Raises ValueError if a section is unknown or not for the device, the device is missing, or rounds are below 1.
    """
    if unknown := [name for name in only or () if name not in SECTIONS]:
        raise ValueError(f"there is no section {', '.join(unknown)}: expected some of {', '.join(SECTIONS)}")
    able = [name for name, section in SECTIONS.items() if options.device in section.DEVICES]
    if unable := [name for name in only or () if name not in able]:
        raise ValueError(f"{', '.join(unable)} is not measured on {options.device}: expected some of {', '.join(able)}")
    if options.rounds is not None and options.rounds < 1:
        raise ValueError(f"--rounds {options.rounds}: expected at least 1")
    if options.device == "cuda" and not torch.cuda.is_available():
        raise ValueError("torch finds no GPU: leave out --device cuda")
    for name in only or able:
        section, lines = SECTIONS[name], list[str]()
        for record in section.measure(options):
            lines = section.table(record)
            if write if write is not None else not options.quick:
                publish(name if options.device == "cpu" else f"{name}_{options.device}", record, lines)
        print(f"\n{name}\n" + "\n".join(lines), flush=True)


if __name__ == "__main__":
    main()
