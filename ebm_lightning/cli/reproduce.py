"""`ebm reproduce`."""

import argparse
import dataclasses
from collections.abc import Sequence
from pathlib import Path

from ebm_lightning.cli.parser import Command
from ebm_lightning.cluster.sweep import seeds
from ebm_lightning.reproduction import slurm
from ebm_lightning.reproduction.claims import SCALES, Claim, Entry, Expected, expected
from ebm_lightning.reproduction.reproduce import reproduce
from ebm_lightning.reproduction.results import load, of_claim
from ebm_lightning.reproduction.status import status, statuses, summary
from ebm_lightning.reproduction.tables import joint_table, write_tables
from ebm_lightning.runs.preemption import exit_on_preemption


@exit_on_preemption()
def main(options: argparse.Namespace) -> None:
    """Reproduce the claims of experiments, write results/ and the tables, and fail if a claim is not reproduced."""
    if options.profile and not options.submit:
        raise ValueError("--profile is a profile of jobs: give --submit too")
    if options.submit and (options.check or options.tables):
        raise ValueError("--check and --tables run nothing, and --submit submits runs: give only one of them")
    chosen = _chosen(options)
    if options.submit:
        for folder, selected in chosen.items():
            slurm.submit(folder, selected, options.scale or SCALES[0], options.profile, options.command)
        return
    for folder, selected in chosen.items():
        if options.tables:
            write_tables(folder)
        elif not options.check:
            reproduce(folder, selected, options.run)
    _conclude({folder: selected.claims for folder, selected in chosen.items()}, options)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `ebm reproduce`."""
    parser.add_argument("experiments", type=Path, nargs="*", metavar="EXPERIMENT", help="an experiment's folder")
    parser.add_argument("--all", action="store_true", help="every experiment below EXPERIMENT, or below experiments/")
    parser.add_argument("--claim", action="append", metavar="ID", help="only the claim or curve of this id; repeatable")
    parser.add_argument("--run", action="append", metavar="FILE", help="only claims and curves of this run; repeatable")
    parser.add_argument("--scale", choices=SCALES, help="only this scale; by default laptop, or all if nothing is run")
    parser.add_argument("--seeds", metavar="0-2", help="these seeds, as 0-2 or 0,3, instead of those of each claim")
    parser.add_argument("--submit", action="store_true", help="submit the runs to SLURM, as jobs of an array")
    parser.add_argument("--profile", type=Path, metavar="FILE", help="the site's profile, such as cluster/gpu.yaml")
    parser.add_argument("--check", action="store_true", help="run nothing: compare the results in results/")
    parser.add_argument("--tables", action="store_true", help="run nothing: write the tables and details again")


def _chosen(options: argparse.Namespace) -> dict[Path, Expected]:
    """The chosen claims and curves by experiment. Raises ValueError if there are none, or one is missing."""
    seeds_given = seeds(options.seeds) if options.seeds is not None else None
    runs_nothing = options.check or options.tables
    scales = SCALES if runs_nothing and not options.scale else (options.scale or SCALES[0],)

    def choose(entries: Sequence[Entry]) -> tuple[Entry, ...]:
        found = [one for one in entries if one.scale in scales and (not options.claim or one.id in options.claim)]
        return tuple(dataclasses.replace(one, seeds=seeds_given or one.seeds) for one in found)

    chosen = {}
    for folder in _folders(options):
        found = expected(folder)
        selected = Expected(choose(found.claims), () if runs_nothing else choose(found.curves))
        selected = selected.of_runs(options.run) if options.run else selected
        if selected.entries:
            chosen[folder] = selected
    ids = {one.id for selected in chosen.values() for one in selected.entries}
    absent = [name for name in options.claim or [] if name not in ids]
    if absent or not chosen:
        place, missing = ", ".join(map(str, options.experiments)) or "experiments", " ".join(["claim", *absent])
        raise ValueError(f"{place} has no {missing} of scale {' or '.join(scales)}")
    return chosen


def _folders(options: argparse.Namespace) -> list[Path]:
    if not options.all:
        if not options.experiments:
            raise ValueError("`ebm reproduce` needs an experiment's folder, or --all for every one below experiments/")
        return options.experiments
    roots = options.experiments or [Path("experiments")]
    found = [file.parent for root in roots for file in sorted(root.glob("*/expected.yaml"))]
    if not found:
        raise ValueError(f"there is no experiment below {', '.join(map(str, roots))}: no folder has an expected.yaml")
    return found


def _conclude(chosen: dict[Path, tuple[Claim, ...]], options: argparse.Namespace) -> None:
    """Print the tables and the counts. Raises ValueError if one of the claims run fails, or if none was run, any."""
    print("\n".join(joint_table(chosen)))
    print(f"\n{summary(one for folder, claims in chosen.items() for one in statuses(folder, claims))}")
    failed = []
    for folder, claims in chosen.items():
        records = load(folder)
        for claim in claims:
            every = (options.check or options.tables) and options.seeds is None
            compared = [one for one in of_claim(records, claim) if every or one["seed"] in claim.seeds]
            found = status(claim, compared)
            if found.fails:
                name = f"{folder.absolute().name}/{claim.id}" if options.all or len(chosen) > 1 else claim.id
                failed.append(f"{name} ({found.text.replace('**', '')})")
    if failed:
        raise ValueError(f"not reproduced: {', '.join(failed)}")


COMMANDS = {"reproduce": Command(main, add_options)}
