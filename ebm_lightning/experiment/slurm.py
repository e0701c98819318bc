"""Handing an experiment to SLURM: one job for each run and seed."""

import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from ebm_lightning.experiment.claims import Expected


def submit(folder: Path, wanted: Expected, scale: str) -> None:
    """Submits what is wanted to `sbatch`; the jobs write their results as `ebm reproduce` does.

    Each part of a job's command is quoted, so that no path can run another one. Partition, time and devices are those
    of sbatch's environment variables (SBATCH_PARTITION, SBATCH_TIMELIMIT, ...). Raises ValueError where there is no
    SLURM, and where it takes no job.
    """
    sbatch = shutil.which("sbatch")
    if sbatch is None:
        raise ValueError("--submit needs SLURM, but there is no sbatch on PATH: leave out --submit to run it here")
    for seed, runs in jobs(wanted):
        part = wanted.of_runs(runs)
        ids = [one.id for one in part.promises if seed in one.seeds]
        options = [word for id in ids for word in ("--claim", id)] + [word for run in runs for word in ("--run", run)]
        place = [sys.executable, "-m", "ebm_lightning", "reproduce", str(folder.absolute())]
        command = shlex.join([*place, *options, "--scale", scale, "--seeds", str(seed)])
        name = f"{folder.absolute().name}-{Path(runs[0]).stem}-seed{seed}"
        done = subprocess.run(
            [sbatch, "--job-name", name, "--wrap", command], capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise ValueError(f"sbatch refused the job {name}: {done.stderr or done.stdout}")
        print(f"{name}: {done.stdout.strip()}")


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
