"""An experiment as jobs of SLURM: one for each run and seed."""

from pathlib import Path

import yaml

from ebm_lightning.cluster import profile, snapshot
from ebm_lightning.cluster.script import Task
from ebm_lightning.cluster.submission import Submission
from ebm_lightning.cluster.sweep import root
from ebm_lightning.reproduction.claims import Expected
from ebm_lightning.reproduction.reproduce import dependencies


def submit(folder: Path, wanted: Expected, scale: str, site: Path | None, command: list[str]) -> None:
    """Submits what is wanted as one array; the jobs write their results into ``folder`` as `ebm reproduce` does.

    A job is one process on one node, where `ebm fit` starts as many ranks as the run's configuration has devices.

    Args:
        folder: the experiment's.
        wanted: the claims and curves, with the seeds to run.
        scale: that of what is wanted.
        site: the file of a profile; None leaves everything to the site and sbatch's SBATCH_... variables.
        command: the command line that this came from.

    Raises:
        ValueError: if the profile is for several nodes or for other ranks than a run has, and as
            :meth:`Submission.submit` does.
    """
    resources, place = profile.read(site), folder.absolute()
    if resources.nodes > 1:
        raise ValueError(f"`ebm reproduce` trains on one node, and {site} is for {resources.nodes}: use another")
    trained = {config for run, _ in wanted.pairs() for config in (*dependencies(folder, run), run)}
    for run in sorted(trained):
        if (ranks := _ranks(folder / run)) != resources.ranks:
            raise ValueError(
                f"{run} trains on {ranks} rank{'s' * (ranks > 1)}, and {site or 'a job without a profile'} is for "
                f"{resources.ranks}: give a profile with as many devices or gpus_per_node"
            )
    tasks = []
    for seed, runs in jobs(wanted):
        ids = [one.id for one in wanted.of_runs(runs).entries if seed in one.seeds]
        options = [word for id in ids for word in ("--claim", id)] + [word for run in runs for word in ("--run", run)]
        words = ("reproduce", str(place), *options, "--scale", scale, "--seeds", str(seed))
        tasks.append(Task(root().absolute() / place.name / f"reproduce-{Path(runs[0]).stem}-seed{seed}", words))
    source = snapshot.source(folder)
    snapshot.warn_of_changes(source)
    job = Submission(
        root(), f"{place.name}-reproduce", tuple(tasks), resources.in_one_task(), source, tuple(command)
    ).submit()
    print("\n".join([f"job     {job}", *(f"folder  {task.folder}" for task in tasks)]))


def _ranks(config: Path) -> int:
    """The ranks that a configuration trains on, one on each node if it leaves their number open."""
    trainer = (yaml.safe_load(config.read_text()) or {}).get("trainer") or {}
    devices = trainer.get("devices")
    return trainer.get("num_nodes", 1) * (devices if isinstance(devices, int) else 1)


def jobs(wanted: Expected) -> list[tuple[int, list[str]]]:
    """The seed and the runs of each job: one run, or all that differences tie together."""
    found = []
    for seed in sorted({seed for _, seed in wanted.pairs()}):
        tied = [claim.runs for claim in wanted.claims if seed in claim.seeds]
        groups: list[list[str]] = []
        for runs in [*tied, *((run,) for run, own in wanted.pairs() if own == seed)]:
            touched = [group for group in groups if set(group) & set(runs)]
            joined = dict.fromkeys(run for group in [*touched, list(runs)] for run in group)
            groups = [group for group in groups if group not in touched] + [list(joined)]
        found += [(seed, group) for group in groups]
    return found
