"""A SLURM that only writes down what it is asked: sbatch, srun, squeue, scontrol and scancel as shell scripts."""

import shlex
from pathlib import Path

SBATCH = """
if [ -e {home}/refuses ]; then echo 'sbatch: error: invalid partition specified: moon' >&2; exit 1; fi
for word in "$@"; do
    case $word in
    --test-only) echo 'sbatch: Job 7 to start at 2030-01-01T00:00:00 on n1' >&2; exit 0 ;;
    --array=*) tasks=${{word#--array=}} ;;
    esac
done
number=$(($(cat {home}/jobs 2>/dev/null || echo 16) + 1))
echo "$number" >{home}/jobs
printf '%s\\n' "$*" >{home}/$number.arguments
cat >{home}/$number.sh
tasks=${{tasks%%%*}}
if [ -n "$tasks" ]; then
    for task in $(seq "${{tasks%-*}}" "${{tasks#*-}}"); do echo "$number|$task|PENDING|0|Priority|" >>{home}/queue; done
else
    echo "$number|N/A|PENDING|0|Priority|" >>{home}/queue
fi
echo "$number"
"""

SQUEUE = """
case "$*" in
*--jobs=*) printf '%s\\n' "$*" >>{home}/squeue; cat {home}/state ;;
*) cat {home}/queue 2>/dev/null || true ;;
esac
"""

SCONTROL = """
printf '%s\\n' "$*" >>{home}/scontrol
case "$1 $2" in
"show hostnames") echo n1; echo n2 ;;
"show job") cat {home}/"$3".job 2>/dev/null || {{ echo 'slurm_load_jobs error: Invalid job id' >&2; exit 1; }} ;;
esac
"""

SCANCEL = """
printf '%s\\n' "$*" >>{home}/scancel
"""

SRUN = """
while case $1 in -*) true ;; *) false ;; esac; do shift; done
exec "$@"
"""


class StandIn:
    """The scripts in ``home/bin``, and what they wrote down or will say."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.bin = home / "bin"
        self.bin.mkdir(parents=True)
        for name in ("sbatch", "squeue", "scontrol", "scancel", "srun"):
            self.write(name, globals()[name.upper()])

    def write(self, name: str, code: str) -> Path:
        """A command of this name; ``{home}`` in its code is this SLURM's folder."""
        file = self.bin / name
        file.write_text("#!/bin/bash\n" + code.format(home=shlex.quote(str(self.home))))
        file.chmod(0o755)
        return file

    def script(self, job: int) -> str:
        return (self.home / f"{job}.sh").read_text()

    def arguments(self, job: int) -> list[str]:
        return (self.home / f"{job}.arguments").read_text().split()

    def said(self, command: str) -> list[str]:
        """The calls of scontrol, scancel, or squeue about one job."""
        file = self.home / command
        return file.read_text().splitlines() if file.exists() else []

    def queue(self, *lines: str) -> None:
        """What waits or runs, as ``17|N/A|RUNNING|0|None|``."""
        (self.home / "queue").write_text("".join(f"{line}\n" for line in lines))
