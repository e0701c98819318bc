"""The command lines of `ebm submit` and of what looks after submitted jobs."""

import argparse
import dataclasses
import re
import shlex
import sys
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

from ebm_lightning.cluster import jobs, profile, slurm, snapshot, wandb_sync
from ebm_lightning.cluster.script import Task
from ebm_lightning.cluster.submission import Submission
from ebm_lightning.cluster.sweep import points, root

POLL_SECONDS = 2.0
"""How often `ebm logs -f` looks."""


def main(arguments: list[str]) -> None:
    """Runs one of the commands."""
    COMMANDS[arguments[0]](arguments[1:])


def submit(arguments: list[str]) -> None:
    """Hands the training of a configuration to SLURM: a job for each seed and each point of a sweep.

    A run's folder is known before: runs/<experiment>/<name>-seed<k>, with a hash of the overrides where there are any.
    The same command continues it.
    """
    own, overrides = _split(arguments)
    options = _submit_parser().parse_args(own)
    made = _submission(options, overrides, ["ebm", "submit", *arguments])
    if options.dry_run or options.test:
        _show(made, options)
        if options.test:
            print(f"SLURM   {slurm.predicted(made.script, made.arguments(options.after, options.max_parallel))}")
    elif options.local:
        made.run_here()
    else:
        job = made.submit(options.after, options.max_parallel)
        print(f"job     {job}")
        print("\n".join(f"run     {task.folder}" for task in made.tasks))


def list_jobs(arguments: list[str]) -> None:
    """Prints the newest job of each run that was submitted: state, restarts, last step and loss, run folder."""
    argparse.ArgumentParser(prog="ebm jobs", description=list_jobs.__doc__).parse_args(arguments)
    print("\n".join(jobs.table(root())))


def logs(arguments: list[str]) -> None:
    """Prints the logs of a run's jobs, oldest first."""
    parser = _run_parser("logs", logs)
    parser.add_argument("-f", "--follow", action="store_true", help="and what is added, as long as the job is alive")
    options = parser.parse_args(arguments)
    if options.follow:
        id = jobs.of_run(options.run).id
        for text in jobs.follow(options.run, lambda: id in slurm.queue(), POLL_SECONDS):
            print(text, end="", flush=True)
    else:
        for log in jobs.logs(options.run):
            print(log.read_text(errors="replace"), end="")


def cancel(arguments: list[str]) -> None:
    """Ends the job of a run; it is not requeued."""
    print(f"job {jobs.cancel(_run_parser('cancel', cancel).parse_args(arguments).run)} is canceled")


def resume(arguments: list[str]) -> None:
    """Submits the job of a run that did not finish again, from the source that it had."""
    print(f"job     {jobs.resume(_run_parser('resume', resume).parse_args(arguments).run)}")


def preempt(arguments: list[str]) -> None:
    """Warns the job of a run as if its time were up, to try out that it saves, is requeued and goes on."""
    print(f"job {jobs.preempt(_run_parser('preempt', preempt).parse_args(arguments).run)} was sent USR1")


def sync(arguments: list[str]) -> None:
    """Sends what runs logged offline to Weights & Biases, all starts of a run in order."""
    parser = argparse.ArgumentParser(
        prog="ebm sync", description=sync.__doc__, epilog="What follows -- is given to `wandb sync`, as --dry-run is."
    )
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="a run folder")
    own, given = _split(arguments)
    wandb_sync.sync(parser.parse_args(own).runs, given)


def _run_parser(name: str, command: Callable[[list[str]], None]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=f"ebm {name}", description=command.__doc__)
    parser.add_argument("run", type=Path, metavar="RUN", help="a run folder, as `ebm submit` printed it")
    return parser


def _submission(options: argparse.Namespace, overrides: Sequence[str], command: Sequence[str]) -> Submission:
    """What the options ask for; warns of whatever the snapshot lacks or has beyond its commit."""
    if options.after and not re.fullmatch(r"\d+(_\d+)?", options.after):
        raise ValueError(f"--after takes the number of a job, such as 17 or 17_3, not {options.after!r}")
    if any(number is not None and number < 1 for number in (options.max_parallel, options.local)):
        raise ValueError("--max-parallel and --local take a number of at least 1")
    wanted = points(options.experiment, options.seeds, options.sweep, overrides)
    asked = profile.read(options.profile)
    if options.local:
        asked = dataclasses.replace(asked, nodes=1, devices=options.local, gpus_per_node=None)
    source = snapshot.source(Path.cwd())
    snapshot.warn_of_changes(source)
    code = root().absolute() / ".code" / source.key
    words = _from_snapshot(["-c", str(options.experiment)], source, code)
    tasks = []
    for point in wanted:
        folder = point.folder(options.experiment, root())
        chosen = ["--seed_everything", str(point.seed), "--run", str(folder), *asked.trainer()]
        tasks.append(Task(folder, ("fit", *words, *_from_snapshot(point.overrides, source, code), *chosen)))
    stem = options.experiment.stem if len(tasks) > 1 else tasks[0].folder.name
    return Submission(root(), f"{tasks[0].folder.parent.name}-{stem}", tuple(tasks), asked, source, tuple(command))


def _from_snapshot(words: Sequence[str], source: snapshot.Source, code: Path) -> list[str]:
    """The options of `ebm fit` with the snapshot's copy of each configuration file; warns where it has none."""
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
            print(f"ebm: warning: {path} is not in git: a job reads it as it stands when it starts", file=sys.stderr)
        place = code / path.resolve().relative_to(source.root) if source.has(path) else path.absolute()
        found.append(f"{option}={place}" if option else str(place))
    return found


def _show(made: Submission, options: argparse.Namespace) -> None:
    """What would be done."""
    arguments = made.arguments(options.after, options.max_parallel)
    print(made.script)
    print(
        f"command {shlex.join(['sbatch', *arguments])} < {shlex.quote(str(made.tasks[0].folder / 'slurm' / 'job.sh'))}"
    )
    print(f"source  {made.code}")
    print("\n".join(f"run     {task.folder}" for task in made.tasks))


def _submit_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ebm submit", description=submit.__doc__, epilog="What follows -- is given to `ebm fit` as it stands."
    )
    parser.add_argument("experiment", type=Path, metavar="EXPERIMENT.yaml", help="the configuration to train")
    parser.add_argument("--profile", type=Path, metavar="FILE", help="the site's profile, such as cluster/gpu.yaml")
    parser.add_argument("--seeds", metavar="0-4", help="one run for each; without, the configuration's own seed")
    parser.add_argument("--sweep", type=Path, metavar="FILE", help="YAML: dotted keys with lists, or a list of points")
    parser.add_argument("--after", metavar="JOB", help="wait until this job has succeeded")
    parser.add_argument("--max-parallel", type=int, metavar="N", help="run at most N jobs of an array at a time")
    parser.add_argument("--dry-run", action="store_true", help="print the script and where everything would be")
    parser.add_argument("--test", action="store_true", help="a dry run that also asks SLURM: sbatch --test-only")
    parser.add_argument("--local", type=int, metavar="N", help="run the same script here, without SLURM, on N ranks")
    return parser


def _split(arguments: list[str]) -> tuple[list[str], list[str]]:
    """The options of a command, and what follows the --."""
    place = arguments.index("--") if "--" in arguments else len(arguments)
    return arguments[:place], arguments[place + 1 :]


COMMANDS = {
    "submit": submit,
    "jobs": list_jobs,
    "logs": logs,
    "cancel": cancel,
    "resume": resume,
    "preempt": preempt,
    "sync": sync,
}
