"""`ebm submit`, and the commands for submitted jobs."""

import argparse
import dataclasses
import re
import shlex
import sys
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from ebm_lightning.cli.parser import Command, respell
from ebm_lightning.cluster import jobs, profile, slurm, snapshot, wandb_sync
from ebm_lightning.cluster.script import Task
from ebm_lightning.cluster.submission import Submission
from ebm_lightning.cluster.sweep import points, root

POLL_SECONDS = 2.0
"""Seconds between two reads of the logs by `ebm logs -f`."""


def submit(options: argparse.Namespace) -> None:
    """Submit the training of a configuration to SLURM: a job for each seed and each point of a sweep.

    The run folder is runs/<experiment>/<name>-seed<k>, with a hash of the overrides if there are any. The same command
    continues the run.
    """
    submission = _submission(options)
    if options.dry_run or options.test:
        _show(submission, options)
        if options.test:
            arguments = submission.arguments(options.after, options.max_parallel)
            print(f"SLURM   {slurm.predicted(submission.script, arguments)}")
    elif options.local:
        submission.run_here()
    else:
        job = submission.submit(options.after, options.max_parallel)
        print(f"job     {job}")
        print("\n".join(f"run     {task.folder}" for task in submission.tasks))


def list_jobs(options: argparse.Namespace) -> None:
    """Print the newest job of each submitted run: state, restarts, last step and loss, run folder."""
    print("\n".join(jobs.table(root())))


def logs(options: argparse.Namespace) -> None:
    """Print the logs of a run's jobs, oldest first."""
    if options.follow:
        id = jobs.of_run(options.run).id
        for text in jobs.follow(options.run, lambda: id in slurm.queue(), POLL_SECONDS):
            print(text, end="", flush=True)
    else:
        for log in jobs.logs(options.run):
            print(log.read_text(errors="replace"), end="")


def cancel(options: argparse.Namespace) -> None:
    """End the job of a run; it is not requeued."""
    print(f"job {jobs.cancel(options.run)} is canceled")


def resume(options: argparse.Namespace) -> None:
    """Submit the job of an unfinished run again, with the same snapshot of the source."""
    print(f"job     {jobs.resume(options.run)}")


def preempt(options: argparse.Namespace) -> None:
    """Send the job of a run the signal of a preemption, to test that the run is saved, requeued and continued."""
    print(f"job {jobs.preempt(options.run)} was sent USR1")


def sync(options: argparse.Namespace) -> None:
    """Upload the offline logs of runs to Weights & Biases, all starts of a run in order."""
    wandb_sync.sync(options.runs, options.rest)


def add_run(parser: argparse.ArgumentParser) -> None:
    """Add the argument RUN, a run folder."""
    parser.add_argument("run", type=Path, metavar="RUN", help="a run folder, as `ebm submit` printed it")


def add_logs_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `ebm logs`."""
    add_run(parser)
    parser.add_argument("-f", "--follow", action="store_true", help="also print new text, as long as the job is alive")


def add_sync_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `ebm sync`."""
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="a run folder")


def add_submit_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `ebm submit`."""
    parser.add_argument("experiment", type=Path, metavar="EXPERIMENT.yaml", help="the configuration to train")
    parser.add_argument("--profile", type=Path, metavar="FILE", help="the site's profile, such as cluster/gpu.yaml")
    parser.add_argument("--seeds", metavar="0-4", help="seeds, one run each; by default the configuration's seed")
    parser.add_argument("--sweep", type=Path, metavar="FILE", help="YAML: dotted keys with lists, or a list of points")
    parser.add_argument("--after", metavar="JOB", help="wait until this job has succeeded")
    parser.add_argument("--max-parallel", type=int, metavar="N", help="run at most N jobs of an array at a time")
    parser.add_argument("--dry-run", action="store_true", help="print the script and the paths of the runs")
    parser.add_argument("--test", action="store_true", help="a dry run that also calls sbatch --test-only")
    parser.add_argument("--local", type=int, metavar="N", help="run the same script here, without SLURM, on N ranks")


def _submission(options: argparse.Namespace) -> Submission:
    """The submission of these options; warns about uncommitted changes, and about files missing from the snapshot."""
    if options.after and not re.fullmatch(r"\d+(_\d+)?", options.after):
        raise ValueError(f"--after takes the number of a job, such as 17 or 17_3, not {options.after!r}")
    if any(number is not None and number < 1 for number in (options.max_parallel, options.local)):
        raise ValueError("--max-parallel and --local take a number of at least 1")
    chosen = points(options.experiment, options.seeds, options.sweep, respell(options.rest, "_"))
    resources = profile.read(options.profile)
    if options.local:
        resources = dataclasses.replace(resources, nodes=1, devices=options.local, gpus_per_node=None)
    source = snapshot.source(Path.cwd())
    snapshot.warn_of_changes(source)
    code = root().absolute() / ".code" / source.key
    words = _from_snapshot(["-c", str(options.experiment)], source, code)
    tasks = []
    for point in chosen:
        folder = point.folder(options.experiment, root())
        own = ["--seed_everything", str(point.seed), "--run", str(folder), *resources.trainer()]
        tasks.append(Task(folder, ("fit", *words, *_from_snapshot(point.overrides, source, code), *own)))
    stem = options.experiment.stem if len(tasks) > 1 else tasks[0].folder.name
    return Submission(
        root(), f"{tasks[0].folder.parent.name}-{stem}", tuple(tasks), resources, source, tuple(options.command)
    )


def _from_snapshot(words: Sequence[str], source: snapshot.Source, code: Path) -> list[str]:
    """The options of `ebm fit` with the snapshot's copy of each configuration file; warns if it has none."""
    found = []
    for before, word in pairwise(["", *words]):
        if before in ("-c", "--config"):
            option, file = "", word
        elif word.startswith("--config="):
            option, _, file = word.partition("=")
        else:
            found.append(word)
            continue
        path = Path(file)
        if not path.is_file():
            raise ValueError(f"there is no configuration file {path}: give the path of a YAML file")
        if not source.has(path):
            print(f"ebm: warning: {path} is not in git: a job reads its content at the start", file=sys.stderr)
        place = code / path.resolve().relative_to(source.root) if source.has(path) else path.absolute()
        found.append(f"{option}={place}" if option else str(place))
    return found


def _show(submission: Submission, options: argparse.Namespace) -> None:
    """Print what would be submitted."""
    arguments = submission.arguments(options.after, options.max_parallel)
    file = submission.tasks[0].folder / "slurm" / "job.sh"
    print(submission.script)
    print(f"command {shlex.join(['sbatch', *arguments])} < {shlex.quote(str(file))}")
    print(f"source  {submission.code}")
    print("\n".join(f"run     {task.folder}" for task in submission.tasks))


COMMANDS = {
    "submit": Command(submit, add_submit_options, rest="Arguments after -- are passed to `ebm fit`."),
    "jobs": Command(list_jobs, lambda parser: None),
    "logs": Command(logs, add_logs_options),
    "cancel": Command(cancel, add_run),
    "resume": Command(resume, add_run),
    "preempt": Command(preempt, add_run),
    "sync": Command(sync, add_sync_options, rest="Arguments after -- are passed to `wandb sync`, such as --dry-run."),
}
