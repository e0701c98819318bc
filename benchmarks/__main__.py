"""`python -m benchmarks`: measures our code and what a user would pick instead, and writes the tables of README.md."""

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
    """Measures some sections; a mistake ends it with one sentence on standard error and a non-zero exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--only", nargs="+", metavar="SECTION", help=f"some of {', '.join(SECTIONS)}; all by default")
    parser.add_argument("--rounds", type=int, help="turns of every contender; the median counts")
    parser.add_argument("--quick", action="store_true", help="one round of small sizes, to see that everything runs")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="cuda: what of it a GPU computes")
    parser.add_argument("--large", action="store_true", help="of ebt: a model of 6 layers of 384 too")
    parser.add_argument(
        "--write",
        action=argparse.BooleanOptionalAction,
        help="results/ and README.md; by default unless --quick",
    )
    given = parser.parse_args(arguments)
    try:
        run(given.only, Options(given.rounds, given.quick, given.device, given.large), given.write)
    except ValueError as fault:
        sys.exit(f"benchmarks: error: {fault}")


def run(only: list[str] | None, options: Options, write: bool | None) -> None:
    """Measures the sections named, or all, and writes what they have found after each of their parts.

    Raises ValueError where a section is unknown or not for the device, there is no such device, or rounds are below 1.
    """
    if unknown := [name for name in only or () if name not in SECTIONS]:
        raise ValueError(f"there is no section {', '.join(unknown)}: expected some of {', '.join(SECTIONS)}")
    able = [name for name, section in SECTIONS.items() if options.device in section.DEVICES]
    if unable := [name for name in only or () if name not in able]:
        raise ValueError(f"{', '.join(unable)} is not measured on {options.device}: there are {', '.join(able)}")
    if options.rounds is not None and options.rounds < 1:
        raise ValueError(f"--rounds {options.rounds}: expected at least 1")
    if options.device == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"torch sees no GPU; on one, {', '.join(able)} would be measured: leave out --device cuda")
    for name in only or able:
        section, lines = SECTIONS[name], list[str]()
        for record in section.measure(options):
            lines = section.table(record)
            if write if write is not None else not options.quick:
                publish(name if options.device == "cpu" else f"{name}_{options.device}", record, lines)
        print(f"\n{name}\n" + "\n".join(lines), flush=True)


if __name__ == "__main__":
    main()
