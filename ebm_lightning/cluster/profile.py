"""Profiles of a cluster site: the settings of its jobs, read from YAML, and their options of sbatch."""

import dataclasses
import re
from collections.abc import Callable
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml

RESERVED_OPTIONS = (
    *("array", "chdir", "dependency", "error", "export-file", "input", "job-name", "nodes", "ntasks"),
    *("ntasks-per-node", "no-requeue", "open-mode", "output", "requeue", "signal", "test-only", "wait", "wrap"),
)
"""Options of sbatch that `ebm submit` sets itself, or that would interfere with it."""


@dataclasses.dataclass(frozen=True)
class Profile:
    """The resources and settings of jobs at one site. Values are read as text: ``time: 24:00:00`` is a day.

    Args:
        nodes: the number of nodes; ``trainer.num_nodes``.
        devices: ranks on each node, one for each GPU or, without GPUs, for each process; ``trainer.devices`` and
            ``--ntasks-per-node``. None takes the number of ``gpus_per_node``, or 1.
        gpus_per_node: GPUs of each node, as ``4`` or ``a100:4``; None requests none.
        cpus_per_task: CPU cores of each rank.
        mem: memory of each node, as ``64G``.
        time: the time limit, as for sbatch: ``30`` (minutes), ``24:00:00``, ``2-00:00:00``.
        partition: the partition, or several separated by commas.
        account: the account that is charged.
        qos: the quality of service.
        constraint: features that the nodes must have.
        exclude: nodes to leave out.
        warn_seconds: seconds before the end of its time at which a job receives USR1, so that it can save and be
            requeued: more than a training step and a checkpoint take together. SLURM may send it up to a minute early.
        max_restarts: the number of times a job may be requeued.
        python: the interpreter, or the command that runs it in a container; None takes the present one.
        setup: lines of the site's own shell at the beginning of the script, taken literally: ``module load cuda``.
        env: environment variables of the job.
        srun: further arguments of srun, one word each.
        extra: any further option of sbatch without its dashes, with its value; empty for an option without one.
    """

    nodes: int = 1
    devices: int | None = None
    gpus_per_node: str | None = None
    cpus_per_task: int | None = None
    mem: str | None = None
    time: str | None = None
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    exclude: str | None = None
    warn_seconds: int = 180
    max_restarts: int = 20
    python: str | None = None
    setup: tuple[str, ...] = ()
    env: dict[str, str] = dataclasses.field(default_factory=dict)
    srun: tuple[str, ...] = ()
    extra: dict[str, str] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        gpus = self.gpus_per_node and self.gpus_per_node.rpartition(":")[2]
        if gpus and not gpus.isdecimal():
            raise ValueError(f"gpus_per_node must end with a number, as 4 or a100:4, not {self.gpus_per_node!r}")
        if gpus and self.devices not in (None, int(gpus)):
            raise ValueError(
                f"devices is {self.devices} and gpus_per_node {self.gpus_per_node}: each GPU is one rank, so leave out "
                "devices"
            )
        if least := [name for name in ("nodes", "ranks", "warn_seconds") if getattr(self, name) < 1]:
            raise ValueError(f"{least[0]} must be at least 1, not {getattr(self, least[0])}")
        for name in self.env:
            if not re.fullmatch(r"[A-Za-z_]\w*", name, re.ASCII):
                raise ValueError(f"env: {name!r} is not a name of an environment variable: use letters, digits and _")
        for name in self.extra:
            if not re.fullmatch(r"[a-z][a-z0-9-]*", name):
                raise ValueError(
                    f"extra: {name!r} is not an option of sbatch: give its full name without leading dashes"
                )
            if name in RESERVED_OPTIONS or name.replace("-", "_") in FIELD_PARSERS:
                raise ValueError(
                    f"extra: {name} is set by `ebm submit` or by a key of the profile: leave it out of extra"
                )

    @property
    def ranks(self) -> int:
        """Ranks on each node."""
        gpus = int(self.gpus_per_node.rpartition(":")[2]) if self.gpus_per_node else 1
        return gpus if self.devices is None else self.devices

    def in_one_task(self) -> "Profile":
        """The same cores and GPUs of a node for one process, which starts its other ranks itself."""
        if self.ranks == 1:
            return self
        gpus = {"gres": f"gpu:{self.gpus_per_node}"} if self.gpus_per_node else {}
        cores = (self.cpus_per_task or 1) * self.ranks
        return dataclasses.replace(
            self, devices=1, gpus_per_node=None, cpus_per_task=cores, extra={**self.extra, **gpus}
        )

    def trainer(self) -> list[str]:
        """The options of `ebm fit` that match the resources requested from SLURM."""
        return ["--trainer.num_nodes", str(self.nodes), "--trainer.devices", str(self.ranks)]

    def sbatch(self) -> list[tuple[str, str]]:
        """The options of sbatch, each with its value; empty for an option without one."""
        options = (
            "gpus_per_node",
            "cpus_per_task",
            "mem",
            "time",
            *("partition", "account", "qos"),
            "constraint",
            "exclude",
        )
        given = [
            (name.replace("_", "-"), str(getattr(self, name))) for name in options if getattr(self, name) is not None
        ]
        ranks = [("nodes", str(self.nodes)), ("ntasks-per-node", str(self.ranks))]
        return [*ranks, *given, *self.extra.items()]


def read(file: Path | None) -> Profile:
    """The profile of a YAML file; None gives one rank on one node and otherwise the defaults of the site.

    Raises:
        ValueError: if there is no such file, it is not YAML, or it has an unknown key or an invalid value.
    """
    if file is None:
        return Profile()
    if not file.is_file():
        raise ValueError(f"there is no profile {file}: give the path of a YAML file, such as cluster/gpu.yaml")
    try:
        loaded = yaml.load(file.read_text(), yaml.BaseLoader)  # text only: YAML would read 24:00:00 as 86400
    except yaml.YAMLError as fault:
        raise ValueError(f"{file} is not YAML: {fault}") from fault
    if not isinstance(loaded, dict | None):
        raise ValueError(f"{file} is not a profile: expected keys with values, such as `partition: gpu`")
    try:
        return Profile(**{key: _value(key, given) for key, given in (loaded or {}).items()})
    except ValueError as fault:
        raise ValueError(f"{file}: {fault}") from fault


def _value(key: str, given: Any) -> Any:
    if key not in FIELD_PARSERS:
        near = get_close_matches(key, FIELD_PARSERS, n=1)
        meant = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"there is no key {key!r}: expected some of {', '.join(FIELD_PARSERS)}{meant}")
    form, is_valid, parse = FIELD_PARSERS[key]
    if not is_valid(given):
        raise ValueError(f"{key} must be {form}, not {given!r}")
    return parse(given)


def _is_line(given: Any) -> bool:
    return isinstance(given, str) and given.isprintable()


def _is_list(given: Any) -> bool:
    return isinstance(given, list) and all(map(_is_line, given))


def _is_mapping(given: Any) -> bool:
    return isinstance(given, dict) and all(_is_line(key) and _is_line(value) for key, value in given.items())


def _is_number(given: Any) -> bool:
    return isinstance(given, str) and given.isdecimal()


def _is_text(given: Any) -> bool:
    return _is_line(given) and given != ""


TYPE_PARSERS: dict[Any, tuple[str, Callable[[Any], bool], Callable[[Any], Any]]] = {
    int: ("an integer", _is_number, int),
    int | None: ("an integer", _is_number, int),
    str | None: ("text in one line", _is_text, str),
    tuple[str, ...]: ("a list of texts in one line each", _is_list, tuple),
    dict[str, str]: ("keys with texts in one line each", _is_mapping, dict),
}
FIELD_PARSERS = {field.name: TYPE_PARSERS[field.type] for field in dataclasses.fields(Profile)}
"""For each key the description of its values, the check of a YAML value, and the function that parses it."""
