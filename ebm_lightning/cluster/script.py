"""The batch script of a submission, for SLURM, and for `bash` without SLURM."""

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
        folder: of its logs, in ``slurm/``, and of the file ``.requeue`` by which a run requests to be requeued.
        words: the arguments of `ebm`.
    """

    folder: Path
    words: tuple[str, ...]


SCRIPT_BODY = """

# SIGTERM does not end the shell: `ebm` ends first, and then the job is requeued.
restarts=${SLURM_RESTART_COUNT:-${EBM_RESTARTS:-0}}
if [ -n "$SLURM_JOB_ID" ]; then
    export MASTER_ADDR=${MASTER_ADDR:-$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)}
    export MASTER_PORT=${MASTER_PORT:-$((20000 + SLURM_JOB_ID % 10000))}
    launch=("${srun[@]}")
    # The id of an array is also that of one of its tasks: SLURM would apply it to all of them.
    job=${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID}
    job=${job:-$SLURM_JOB_ID}
    export SRUN_CPUS_PER_TASK=${SLURM_CPUS_PER_TASK:-1}
    trap 'echo "the job received SIGTERM"' TERM
fi

echo "$(date -u +%FT%TZ) job ${job:-without SLURM}, task $task, restart $restarts, on $(hostname)"
echo "nodes ${SLURM_JOB_NODELIST:-$(hostname)}, source $code"
nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader 2>/dev/null
"${python[@]}" -c 'from ebm_lightning.runs.provenance import environment; print(environment())'

rm -f -- "$folder/.requeue"
newest() { find "$folder/checkpoints" -maxdepth 1 -name 'step=*.ckpt' 2>/dev/null | sort | tail -n 1; }
before=$(newest)
"${launch[@]}" "${python[@]}" -m ebm_lightning "${words[@]}"
status=$?

# A preempted run leaves the file .requeue, since the status of srun is that of the rank that ended first; a single
# process may also end with status 75. A killed run (status 137, such as out of memory) is requeued if it has written a
# new checkpoint: otherwise it would be killed again.
if [ "$status" -eq 137 ] && [ "$(newest)" != "$before" ]; then
    echo "a process was killed: the run continues from its newest checkpoint"
elif [ ! -e "$folder/.requeue" ] && [ "$status" -ne 75 ]; then
    exit "$status"
fi
rm -f -- "$folder/.requeue"
if [ "$restarts" -ge "$max_restarts" ]; then
    echo "not requeued: this job was restarted $restarts times, the max_restarts of its profile" >&2
    exit 1
fi
if [ -z "$SLURM_JOB_ID" ]; then
    EBM_RESTARTS=$((restarts + 1)) exec bash -- "$0" "$task"
fi
state=$(squeue --noheader --jobs="$job" --format=%T)
if [ "$state" != RUNNING ]; then
    echo "not requeued: SLURM ends this job (${state:-unknown state})" >&2
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

    No name, path or word can run a command: each is quoted for bash, and options of sbatch are one line each. Only the
    lines of the profile's ``setup`` are run as shell code.

    Args:
        profile: of the site.
        tasks: the tasks of an array by their number, or the only one.
        name: of the job.
        output: the log's file, with SLURM's patterns such as ``%j``.
        code: the snapshot of the source that the job imports.
        directory: the working directory, that of the submission, so that relative paths keep their meaning.
        environment: variables of the job in addition to the profile's, which take precedence.

    Raises:
        ValueError: if a name or path has a line break or another control character, or ``code`` a colon.
    """
    options = [
        ("job-name", name),
        ("output", output),
        *(("open-mode", "append"), ("requeue", ""), ("signal", f"USR1@{profile.warn_seconds}")),
        *profile.sbatch(),
    ]
    for _, value in options:
        if not value.isprintable():
            raise ValueError(f"{value!r} has a line break or control character: use a name or path without one")
    if ":" in str(code):
        raise ValueError(f"the path {code} has a colon, which separates the paths of PYTHONPATH: use one without it")
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
    return "\n".join(lines) + SCRIPT_BODY
