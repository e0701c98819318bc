"""The runs that a run builds on: found by name and seed, and refused if their data differ."""

from collections.abc import Iterable, Iterator
from typing import Any

from ebm_lightning.runs.folder import RunFolder
from ebm_lightning.runs.identity import Config, flatten, shorten_class_paths


def upstream_runs(config: Any) -> Iterator[dict[str, Any]]:
    """The arguments of whatever loads a run in a configuration, as a tree or as parsed, to be read or changed.

    That is ``load_model``, and the ``TrainedClassifier`` of a protocol.
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
    """Puts folders in place of the names of runs on which a run in this folder builds: see :meth:`RunFolder.beside`."""
    for arguments in upstream_runs(config):
        if "/" not in arguments["run"]:
            arguments["run"] = str(folder.beside(arguments["run"], seed).path)


def check_upstream_data(config: Config, folders: Iterable[RunFolder]) -> None:
    """Raises ValueError where a run that this one builds on saw other data, or the same with other preprocessing.

    Gray levels are taken by whatever was trained on their binarization: they are the probabilities of its pixels.
    """
    for folder in folders:
        own, below = _data_of(config), _data_of(folder.config())
        if own.get("data.init_args.pixels.class_path") == "Gray":
            own, below = ({key: data[key] for key in data if ".pixels." not in key} for data in (own, below))
        if different := [key for key in own.keys() | below.keys() if own.get(key) != below.get(key)]:
            key = min(different)
            raise ValueError(
                f"the run {folder.path}, on which this one builds, was trained on other data ({key}: {below.get(key)}, "
                f"here {own.get(key)}): pretrain on the same data with the same preprocessing"
            )


def _data_of(config: Config) -> dict[str, Any]:
    """What makes data these data: the flattened ``data`` section without sizes of batches and splits, and ``loading``.

    Nor does it matter which of them a run is trained on: models of different parts of the same data are composed.
    """
    free = {"batch_size", "val_size", "loading", "only"}
    return {
        key: value
        for key, value in flatten(shorten_class_paths({"data": config.get("data") or {}})).items()
        if key.removeprefix("data.init_args.").partition(".")[0] not in free
    }
