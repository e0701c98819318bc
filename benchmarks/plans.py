"""`python -m benchmarks --only plans`: predicted and measured times of `ebm plan --measure 2` on this machine.

Each round runs the command and reads its last table.
"""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import torch

from benchmarks.common import HERE, Options, Record, facts, facts_text, ratio, require_mnist, shown, spread

DEVICES = ("cpu",)
ROUNDS = 3
CONFIG = Path("experiments") / "tieleman2008_pcd" / "pcd_500.yaml"
PROCESSES = 2


def measure(options: Options) -> Iterator[Record]:
    """Yield the record after all rounds. Raises ValueError if MNIST is missing or the command fails."""
    require_mnist("plans")
    rounds = [_planned(1 if options.quick else PROCESSES) for _ in range(options.turns(ROUNDS))]
    yield facts(torch.get_num_threads(), len(rounds), "lightning") | {
        "processes": {
            processes: {
                name: spread([each[processes][column] for each in rounds])
                for column, name in ((2, "predicted"), (3, "measured"))
            }
            for processes in rounds[0]
        }
    }


def table(record: Record) -> list[str]:
    """Milliseconds per step, by number of processes."""
    lines = [facts_text(record), "", f"`ebm plan {CONFIG} --measure {PROCESSES}`:", ""]
    lines += [
        "| processes | predicted, ms per step | measured, ms per step | measured / predicted |",
        "|---|---|---|---|",
    ]
    for processes, found in record["processes"].items():
        predicted, measured = found["predicted"], found["measured"]
        lines.append(f"| {processes} | {shown(predicted)} | {shown(measured)} | {ratio(measured, predicted)} |")
    return lines


def _planned(processes: int) -> dict[str, list[float]]:
    """The rows of the command's last table by number of processes."""
    command = [sys.executable, "-m", "ebm_lightning", "plan", CONFIG, "--measure", str(processes)]
    done = subprocess.run(command, cwd=HERE.parent, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ValueError(f"ebm plan failed: {done.stderr.strip().splitlines()[-1]}")
    rows = [line.strip("| ").split(" | ") for line in done.stdout.strip().rpartition("\n\n")[2].splitlines()[2:]]
    return {row[0]: [float(cell) for cell in row] for row in rows}
