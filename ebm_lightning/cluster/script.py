"""The batch script of a submission: what SLURM runs, and `bash` where there is no SLURM."""

import dataclasses
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from ebm_lightning.cluster.profile import Profile


@dataclasses.dataclass(frozen=True)
class Task:
    """One job, or one task of an array.

    Args:
        folder: where its logs go, into ``slurm/``, and where a run asks to be requeued, by a file ``.requeue``.
        words: the arguments of `ebm`.
    """

    folder: Path
    words: tuple[str, ...]


HEAD = """

# A job that is told to end leaves its end to `ebm`: a shell that dies first would not requeue it.
restarts=${SLURM_RESTART_COUNT:-${EBM_RESTARTS:-0}}
if [ -n "$SLURM_JOB_ID" ]; then
    export MASTER_ADDR=${MASTER_ADDR:-$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)}
    export MASTER_PORT=${MASTER_PORT:-$((20000 + SLURM_JOB_ID % 10000))}
    launch=("${srun[@]}")
    # The number of an array is also that of one of its tasks: by it, SLURM would take all of them.
    job=${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID}
    job=${job:-$SLURM_JOB_ID}
    export SRUN_CPUS_PER_TASK=${SLURM_CPUS_PER_TASK:-1}
    trap 'echo "the job is told to end"' TERM
fi

echo "$(date -u +%FT%TZ) job ${job:-without SLURM}, task $task, restart $restarts, on $(hostname)"
echo "nodes ${SLURM_JOB_NODELIST:-$(hostname)}, source $code"
nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader 2>/dev/null
"${python[@]}" -c 'from ebm_lightning import runs; print(runs.environment())'

rm -f -- "$folder/.requeue"
newest() { find "$folder/checkpoints" -maxdepth 1 -name 'step=*.ckpt' 2>/dev/null | sort | tail -n 1; }
before=$(newest)
"${launch[@]}" "${python[@]}" -m ebm_lightning "${words[@]}"
status=$?

# A run that wants to go on leaves a file, since the status of srun is that of whichever rank ended first; a single
# process may also end with 75. One that was killed (137, as for want of memory) goes on if it had come any further:
# otherwise it would be killed again.
if [ "$status" -eq 137 ] && [ "$(newest)" != "$before" ]; then
    echo "a process was killed: the run goes on from its newest checkpoint"
elif [ ! -e "$folder/.requeue" ] && [ "$status" -ne 75 ]; then
    exit "$status"
fi
rm -f -- "$folder/.requeue"
if [ "$restarts" -ge "$max_restarts" ]; then
    echo "not requeued: this job was restarted $restarts times, as often as its profile's max_restarts allows" >&2
    exit 1
fi
if [ -z "$SLURM_JOB_ID" ]; then
    EBM_RESTARTS=$((restarts + 1)) exec bash -- "$0" "$task"
fi
state=$(squeue --noheader --jobs="$job" --format=%T)
if [ "$state" != RUNNING ]; then
    echo "not requeued: SLURM ends this job itself (${state:-it is gone})" >&2
    exit "$status"
fi
echo "requeued for restart $((restarts + 1))"
scontrol requeue "$job"
"""


def script(
    profile: Profile,
    tasks: Sequence[Task],
    *,
    name: str,
    output: str,
    code: Path,
    directory: Path,
    environment: Mapping[str, str],
) -> str:
    """The script of a job, or of an array of several tasks.

    No name, path or word can run a command: each is quoted where bash reads it, and options of sbatch are one line
    each. The lines of the profile's ``setup`` alone are the site's own shell.

    Args:
        profile: what the site wants to be told.
        tasks: what is run: the task of an array, or the only one, by its place.
        name: of the job.
        output: the log's file, with SLURM's patterns such as ``%j``.
        code: the snapshot of the source that the job imports.
        directory: where it runs, so that relative paths mean what they meant when it was submitted.
        environment: variables of the job beside the profile's, which count more.

    Raises:
        ValueError: where a name or path holds a line break or another control character, or ``code`` a colon.
    """
    options = [
        ("job-name", name),
        ("output", output),
        *(("open-mode", "append"), ("requeue", ""), ("signal", f"USR1@{profile.warn_seconds}")),
        *profile.sbatch(),
    ]
    for _, value in options:
        if not value.isprintable():
            raise ValueError(f"{value!r} holds a line break or control character: use a name or path without one")
    if ":" in str(code):
        raise ValueError(f"the path {code} holds a colon, which separates the paths of PYTHONPATH: use one without it")
    python = shlex.split(profile.python) if profile.python else [sys.executable]
    exports = {**environment, **profile.env}
    lines = [
        "#!/bin/bash",
        *(f"#SBATCH --{option}" + (f"={shlex.quote(value)}" if value else "") for option, value in options),
        "# Written by `ebm submit`. `bash job.sh TASK` runs one task of it without SLURM.",
        "",
        "task=${SLURM_ARRAY_TASK_ID:-${1:-0}}",
        "case $task in",
        *(
            f"{number}) folder={shlex.quote(str(task.folder))} words=({shlex.join(task.words)}) ;;"
            for number, task in enumerate(tasks)
        ),
        '*) echo "this job has no task $task" >&2; exit 2 ;;',
        "esac",
        f"cd -- {shlex.quote(str(directory))} || exit 1",
        "",
        *profile.setup,
        "",
        *(f"export {key}={shlex.quote(value)}" for key, value in exports.items()),
        f"code={shlex.quote(str(code))} python=({shlex.join(python)}) max_restarts={profile.max_restarts}",
        "export PYTHONPATH=$code${PYTHONPATH:+:$PYTHONPATH} PYTHONSAFEPATH=1  # not the directory it runs in",
        f"launch=() srun=({shlex.join(['srun', '--kill-on-bad-exit=1', *profile.srun])})",
    ]
    return "\n".join(lines) + HEAD
