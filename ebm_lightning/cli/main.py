"""The command `ebm`. This file imports no torch, so that help and mistakes in the command answer at once."""

import gc
import os
import sys
from contextlib import nullcontext
from itertools import pairwise
from pathlib import Path

USAGE = """\
usage: ebm COMMAND [RUN] [-c CONFIG.yaml ...] [--key value ...]

  ebm fit -c CONFIG.yaml            train; the same command continues a run that was interrupted
  ebm validate RUN                  energies of the validation data under a trained run
  ebm test RUN [--protocols ood,calibration]
                                    the run's evaluation protocols on the test data, or some of them
  ebm sample RUN --number 64 --steps 500
                                    draw fresh samples: a PNG grid and an .npz
  ebm generate RUN --prompt TEXT --tokens 200 --think 8 --candidates 4
                                    write text, thinking as long and choosing as often as asked
  ebm reproduce EXPERIMENT          run an experiment's claims and write its results and table
  ebm reproduce --all --check       compare what all experiments promise with their results
  ebm plan CONFIG.yaml --gpus 64 --gpu h100 [--gpus-per-node 8] [--network infiniband-400] [-- --key value ...]
                                    time, memory and scaling of a training run; without --gpu of this machine

  ebm submit CONFIG.yaml [--profile cluster/gpu.yaml] [--seeds 0-4] [--sweep FILE] [-- --key value ...]
                                    train as jobs of SLURM; --dry-run shows them, --local 1 needs no SLURM
  ebm jobs                          what became of them
  ebm logs RUN [-f]                 what one of them says
  ebm cancel|resume|preempt RUN     end its job; submit it again; warn it as if its time were up
  ebm sync RUN ...                  send what they logged offline to Weights & Biases
  ebm report runs/EXPERIMENT        means and deviations over seeds, and a picture

RUN is a run folder, as `ebm fit` prints it: runs/<experiment>/<name>.
Any value of the configuration can be given after -c, as in --model.sampler.init_args.step_size 0.1;
--print_config prints the whole configuration, COMMAND --help every option.
EBM_DATA names a folder of data sets, EBM_RUNS another place than runs/, WANDB_MODE=online sends to W&B,
EBM_DEBUG=1 shows the traceback of an error.
"""

JOBS = ("submit", "jobs", "logs", "cancel", "resume", "preempt", "sync")
COMMANDS = ("fit", "validate", "test", "sample", "generate", "plan", "reproduce", "report", *JOBS)


def main(arguments: list[str] | None = None) -> None:
    """Runs one command; a mistake ends it with one sentence on standard error and a non-zero exit status."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(USAGE, end="")
    elif arguments[0] == "--version":
        from ebm_lightning import __version__

        print(f"ebm_lightning {__version__}")
    elif arguments[0] not in COMMANDS:
        _fail(f"there is no command {arguments[0]!r}: expected one of {', '.join(COMMANDS)}")
    else:
        _run(arguments)


def _run(arguments: list[str]) -> None:
    try:
        if arguments[0] == "reproduce":
            from ebm_lightning.cli import reproduce
            from ebm_lightning.runs.preemption import makes_room

            with makes_room(arguments):
                reproduce.main(arguments[1:])
        elif arguments[0] == "report":
            from ebm_lightning.reproduction import report

            report.main(arguments[1:])
        elif arguments[0] in JOBS:
            from ebm_lightning.cli import cluster

            cluster.main(arguments)
        else:
            arguments = _name_the_file(arguments) if arguments[0] == "plan" else _name_the_run(arguments)
            from ebm_lightning.runs.preemption import makes_room

            with makes_room(arguments) if arguments[0] == "fit" else nullcontext():
                _import_commands()
                from ebm_lightning.cli import lightning

                lightning.main(arguments)
    except (ValueError, OSError, RuntimeError) as fault:
        if os.environ.get("EBM_DEBUG") or not _is_for_users(fault):
            raise
        _fail(str(fault))


def _import_commands() -> None:
    """Imports torch and all that needs it. It stays, so not to look for garbage in it saves a quarter of the time."""
    if "ebm_lightning.cli.lightning" not in sys.modules:
        gc.disable()
        import ebm_lightning.cli.lightning  # noqa: F401

        gc.enable()
        gc.freeze()


def _name_the_run(arguments: list[str]) -> list[str]:
    """`ebm test RUN ...` is `ebm test -c RUN/config.yaml --run RUN ...`."""
    from ebm_lightning.runs.folder import RunFolder

    command, *rest = arguments
    if rest and not rest[0].startswith("-"):
        folder = RunFolder(rest[0])
        folder.config()
        return [command, "-c", str(folder.config_file), "--run", str(folder.path), *rest[1:]]
    _check_files(rest)
    if command != "fit" and not {"--run", "-h", "--help"} & set(rest):  # --run: a rank that Lightning starts
        raise ValueError(f"`ebm {command}` needs a run folder: give the one that `ebm fit` printed")
    return arguments


def _name_the_file(arguments: list[str]) -> list[str]:
    """`ebm plan FILE --gpus-per-node 8 -- ...` is `ebm plan -c FILE --gpus_per_node 8 ...`."""
    command, *rest = arguments
    place = rest.index("--") if "--" in rest else len(rest)
    options = [_underscored(word) for word in rest[:place]]
    named = ["-c"] if options and not options[0].startswith("-") else []
    arguments = [command, *named, *options, *rest[place + 1 :]]
    _check_files(arguments)
    if not {"-c", "--config", "-h", "--help"} & set(arguments):
        raise ValueError("`ebm plan` needs an experiment: give the path of a YAML file")
    return arguments


def _underscored(word: str) -> str:
    """An option of `ebm plan` as the configuration writes it."""
    name, equals, value = word.partition("=")
    return f"--{name[2:].replace('-', '_')}{equals}{value}" if name.startswith("--") else word


def _check_files(arguments: list[str]) -> None:
    configs = [file for flag, file in pairwise(arguments) if flag in ("-c", "--config")]
    missing = [file for file in configs if not Path(file).is_file()]
    if missing:
        raise ValueError(f"there is no configuration file {missing[0]}: give the path of a YAML file")


def _is_for_users(fault: Exception) -> bool:
    """ValueError and OSError speak to users; of the RuntimeErrors only a divergence does."""
    return isinstance(fault, ValueError | OSError) or type(fault).__name__ == "Diverged"


def _fail(sentence: str) -> None:
    if os.environ.get("LOCAL_RANK", "0") == "0":  # one sentence for all ranks of a machine
        print(f"ebm: error: {' '.join(sentence.split())}", file=sys.stderr)
    sys.exit(1)
