"""Interrupt runs on the two nodes of cluster/local/up, and compare their ends with that of an uninterrupted run.

    eval "$(cluster/local/up)" && python cluster/local/interruptions.py

Each run is interrupted by USR1, TERM, `scontrol requeue`, kill -9 of one rank and a time limit, in a random order and
at random steps. Prints a table; ``--write`` also writes it to cluster/README.md, and the results to results.json.
"""

import argparse
import csv
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

from ebm_lightning.cluster import jobs, slurm
from ebm_lightning.runs import checkpoints
from ebm_lightning.runs.files import write_atomically, write_between
from ebm_lightning.runs.folder import RunFolder
from ebm_lightning.runs.provenance import environment

HERE = Path(__file__).parent
README, RESULTS = HERE.parent / "README.md", HERE / "results.json"
BEGIN, END = "<!-- interruptions: written by `interruptions.py --write` -->", "<!-- end of interruptions -->"
IMAGES = 300
LIMIT_S = 600
"""The longest wait for an event, in seconds: a start takes a quarter of a minute if cores are free."""
SOON, LATE = 25, 100
"""Bounds of the number of steps, drawn at random, from a start to an interruption: later than a new checkpoint."""


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--number", type=int, default=10, help="total number of interruptions (10)")
    parser.add_argument("--seed", type=int, default=0, help="seed of their order and steps (0)")
    parser.add_argument("--steps", type=int, default=800, help="training steps of each run (800)")
    parser.add_argument("--folder", type=Path, default=Path("runs/interruptions"), help="a new folder for the runs")
    parser.add_argument("--write", action="store_true", help="write to cluster/README.md and results.json")
    options = parser.parse_args(arguments)
    if options.folder.exists():
        parser.error(f"the folder {options.folder} exists: give a new --folder")
    if options.number < 1:
        parser.error("expected --number of at least 1")
    if set(slurm.nodes()) != {"n1", "n2"}:
        parser.error('expected the two nodes of cluster/local/up: eval "$(cluster/local/up)" first')
    draw = random.Random(options.seed)
    write_images(options.folder / "images")
    alone = submit(options.folder / "alone", options.steps)
    wait(lambda: jobs.of_run(alone).id not in slurm.queue(), alone, "its end")
    rows, left = [], options.number
    while left > 0:
        kinds = draw.sample(list(KINDS), min(left, len(KINDS)))
        left -= len(kinds)
        run = submit(options.folder / f"interrupted-{len(rows)}", options.steps)
        for kind in kinds:
            interrupt(run, kind, draw.randrange(SOON, LATE))
        wait(lambda run=run: jobs.of_run(run).id not in slurm.queue(), run, "its end")  # type: ignore[misc]
        rows.append(compared(run, alone, kinds))
        print(json.dumps(rows[-1]), flush=True)
    facts = environment()
    source = {"commit": facts["commit"], "dirty": facts["dirty"], "torch": facts["versions"]["torch"]}
    record = {"seed": options.seed, "steps": options.steps, **source, "runs": rows}
    print("\n".join(table(record)))
    if options.write:
        write_atomically(RESULTS, json.dumps(record, indent=1) + "\n")
        write_between(README, BEGIN, table(record), END)
    sys.exit(0 if all(row["held"] for row in rows) else 1)


def write_images(folder: Path) -> None:
    """Write the digits of scikit-learn as files, to be read by a worker process."""
    pixels = (load_digits().images * 15.9).astype(np.uint8)
    for split, chosen in (("train", pixels[:IMAGES]), ("test", pixels[IMAGES : IMAGES + 50])):
        (folder / split).mkdir(parents=True)
        for number, image in enumerate(chosen):
            Image.fromarray(image).save(folder / split / f"{number:04d}.png")


def submit(root: Path, max_steps: int) -> Path:
    """Submit the run on two nodes and return its folder."""
    images = (root.parent / "images").absolute()
    data = [f"--data.init_args.{split}.path={images}" for split in ("train", "test")]
    command = [sys.executable, "-m", "ebm_lightning", "submit", str(HERE / "interrupted.yaml")]
    command += ["--profile", str(HERE / "two_nodes.yaml"), "--", *data, "--trainer.max_steps", str(max_steps)]
    place = os.environ | {"EBM_RUNS": str(root.absolute()), "HF_DATASETS_CACHE": str(images.parent / "cache")}
    done = subprocess.run(command, env=place, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr)
    return next(Path(line.split(maxsplit=1)[1]) for line in done.stdout.splitlines() if line.startswith("run "))


def interrupt(run: Path, kind: str, after: int) -> None:
    """Interrupt the job of a run ``after`` steps from its start, and release it to start again."""
    id, step = jobs.of_run(run).id, last_step(run) + after
    wait(lambda: last_step(run) >= step, run, f"step {step}")
    restarts = slurm.queue()[id].restarts
    print(f"{run.parent.parent.name}: {kind} at step {last_step(run)}", flush=True)
    KINDS[kind](id, run)
    wait(lambda: is_waiting(id, restarts), run, f"job {id} to be requeued after {kind}")
    # Earlier, SLURM would revoke the credential of the job, or the end of this start would affect the next one.
    wait(lambda: set(slurm.nodes().values()) == {"idle"}, run, "idle nodes after the last start")
    time.sleep(3)
    subprocess.run(["scontrol", "update", f"JobId={id}", "StartTime=now", "TimeLimit=60"], check=True)


def is_waiting(id: str, restarts: int) -> bool:
    """Whether a job was requeued more than ``restarts`` times, and waits for its start."""
    job = slurm.queue().get(id)
    return job is not None and job.state == "PENDING" and job.restarts > restarts


def wait(until: Callable[[], bool], run: Path, what: str) -> None:
    end = time.monotonic() + LIMIT_S
    while not until():
        if time.monotonic() > end:
            logs = "".join(log.read_text() for log in (run / "slurm").glob("*.out"))
            sys.exit(f"waited {LIMIT_S} s for {what}; the log of {run}:\n{logs}")
        time.sleep(0.1)


def last_step(run: Path) -> int:
    rows = jobs.logged_last(run / "metrics.csv")
    return int(rows[-1][1]) if rows else 0


def kill_a_rank(id: str, run: Path) -> None:
    """Kill the training process of the last rank with signal 9, but not its worker process."""
    found = {}
    for place in Path("/proc").glob("[0-9]*"):
        try:
            words, state = (place / "cmdline").read_bytes(), (place / "stat").read_text()
            variables = (place / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        if f"SLURM_JOB_ID={id}".encode() in variables and b"SLURM_PROCID=1" in variables and b"ebm_lightning" in words:
            found[int(place.name)] = int(state.rpartition(")")[2].split()[1])
    (rank,) = (pid for pid, parent in found.items() if parent not in found)
    os.kill(rank, signal.SIGKILL)


def limit_its_time(id: str, run: Path) -> None:
    """Set a time limit that is closer than the profile's warn_seconds: SLURM sends USR1 within half a minute."""
    started = max(event["time"] for event in RunFolder(run).events() if event["event"] == "start")
    minutes = int((time.time() - started) / 60) + 2
    subprocess.run(["scontrol", "update", f"JobId={id}", f"TimeLimit={minutes}"], check=True)


KINDS: dict[str, Callable[[str, Path], Any]] = {
    "USR1": lambda id, run: jobs.preempt(run),
    "TERM": lambda id, run: slurm.cancel(id, "--signal=TERM"),
    "requeue": lambda id, run: subprocess.run(["scontrol", "requeue", id], check=True),
    "kill -9": kill_a_rank,
    "time limit": limit_its_time,
}


def compared(run: Path, alone: Path, kinds: list[str]) -> dict[str, Any]:
    """The row of the table for an interrupted run, compared with the uninterrupted one."""
    ours, theirs = rows_of(run), rows_of(alone)
    job, folder = jobs.of_run(run), RunFolder(run)
    ids = {event["id"] for event in folder.events() if event["event"] == "start"}
    ids |= {place.name.rpartition("-")[2] for place in (run / "wandb").glob("offline-run-*")}
    row = {
        "interrupted by": ", ".join(kinds),
        "starts": sum(event["event"] == "start" for event in folder.events()),
        "state": job.job(slurm.queue()).state,
        "same end": digest(run) == digest(alone),
        "same rows": folder.metrics() == RunFolder(alone).metrics(),
        "rows missing": len(theirs.keys() - ours.keys()),
        "rows taken again": sum(count - 1 for count in ours.values()),
        "ids": len(ids),
        "processes left": left_of(run),
    }
    # Only a run that was killed without a signal may repeat steps: those since its last checkpoint.
    again = row["rows taken again"] == 0 or not {"kill -9", "requeue"}.isdisjoint(kinds)
    alike = row["same end"] and row["same rows"] and row["rows missing"] == 0
    once = again and row["ids"] == 1 and row["processes left"] == 0
    return {**row, "held": row["state"] == "COMPLETED" and alike and once}


def rows_of(run: Path) -> Counter[tuple[str, str]]:
    """The number of rows of each step and metric."""
    with (run / "metrics.csv").open(newline="") as file:
        return Counter((row["step"], row["name"]) for row in csv.DictReader(file))


def digest(run: Path) -> str:
    """A hash of the last checkpoint: weights, their average, optimizer, chains and random streams of both ranks."""
    content = checkpoints.RankCheckpointIO().load_checkpoint(RunFolder(run).checkpoints()[-1])
    state = hashlib.sha256()
    for key in ("state_dict", "current_model_state", "optimizer_states", "rank_states", "global_step"):
        for leaf in leaves(content[key]):
            state.update(leaf)
    return state.hexdigest()


def leaves(tree: Any) -> Iterator[bytes]:
    if isinstance(tree, dict):
        tree = [part for key in sorted(tree, key=str) for part in (str(key), tree[key])]
    if isinstance(tree, list | tuple):
        for part in tree:
            yield from leaves(part)
    else:
        yield tree.cpu().numpy().tobytes() if hasattr(tree, "numpy") else repr(tree).encode()


def left_of(run: Path) -> int:
    """The number of processes with the run among their arguments."""
    count = 0
    for place in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            count += str(run).encode() in place.read_bytes()
        except OSError:
            continue
    return count


def table(record: dict[str, Any]) -> list[str]:
    """The table of the results, one row for each run."""
    rows = record["runs"]
    columns = [column for column in rows[0] if column != "held"]
    text = {True: "yes", False: "**no**"}
    lines = [f"| {' | '.join(columns)} |", "|" + "---|" * len(columns)]
    lines += [
        f"| {' | '.join(str(text.get(row[c], row[c]) if c.startswith('same') else row[c]) for c in columns)} |"
        for row in rows
    ]
    number = sum(len(row["interrupted by"].split(", ")) for row in rows)
    held = sum(row["held"] for row in rows)
    commit = (record["commit"] or "unknown")[:7] + (", with changes" if record["dirty"] else "")
    return [
        f"{held} of {len(rows)} runs of {record['steps']} steps passed, with {number} interruptions in total; "
        f"seed {record['seed']}, commit {commit}, torch {record['torch']}.",
        "",
        *lines,
    ]


if __name__ == "__main__":
    main()
