"""Upstream runs, on whose models a run builds: found by name and seed; an error if their data differ."""

from collections.abc import Iterable, Iterator
from typing import Any

from ebm_lightning.runs.folder import RunFolder
from ebm_lightning.runs.identity import Config, flatten, shorten_class_paths


def upstream_runs(config: Any) -> Iterator[dict[str, Any]]:
    """The arguments of everything that loads a run in a configuration, plain or parsed; they may be changed in place.

    These are the arguments of ``load_model``, and of the ``TrainedClassifier`` of a protocol.
    """
    if isinstance(config, list):
        for part in config:
            yield from upstream_runs(part)
    node = config if isinstance(config, dict) else getattr(config, "__dict__", {})
    if str(node.get("class_path")).rpartition(".")[2] in ("load_model", "TrainedClassifier"):
        arguments = node["init_args"]
        yield arguments if isinstance(arguments, dict) else arguments.__dict__
    else:
        for part in node.values():
            yield from upstream_runs(part)


def resolve_upstream(config: Any, folder: RunFolder, seed: Any) -> None:
    """Replace the names of upstream runs by their folders, for a run in this folder: see :meth:`RunFolder.sibling`."""
    for arguments in upstream_runs(config):
        if "/" not in arguments["run"]:
            arguments["run"] = str(folder.sibling(arguments["run"], seed).path)


def check_upstream_data(config: Config, folders: Iterable[RunFolder]) -> None:
    """Raise ValueError if an upstream run was trained on other data, or on the same data with other preprocessing.

    Gray levels may follow a model that was trained on their binarization: they are the probabilities of its pixels.
    """
    for folder in folders:
        own, upstream = _data_of(config), _data_of(folder.config())
        if own.get("data.init_args.pixels.class_path") == "Gray":
            own, upstream = ({key: data[key] for key in data if ".pixels." not in key} for data in (own, upstream))
        if different := [key for key in own.keys() | upstream.keys() if own.get(key) != upstream.get(key)]:
            key = min(different)
            raise ValueError(
                f"the run {folder.path}, on which this one builds, was trained on other data ({key}: "
                f"{upstream.get(key)}, here {own.get(key)}): pretrain on the same data with the same preprocessing"
            )


def _data_of(config: Config) -> dict[str, Any]:
    """The identity of the data: the flattened section ``data`` without sizes of batches and splits, and ``loading``.

    The subset ``only`` is left out too, since models of different subsets of the same data are composed.
    """
    free = {"batch_size", "val_size", "loading", "only"}
    return {
        key: value
        for key, value in flatten(shorten_class_paths({"data": config.get("data") or {}})).items()
        if key.removeprefix("data.init_args.").partition(".")[0] not in free
    }
