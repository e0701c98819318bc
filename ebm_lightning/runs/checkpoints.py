"""Checkpoints: written atomically, one file per rank beside the main file, loaded without running code."""

import os
import pickle
import shutil
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch.utilities import rank_zero_warn


def rank_folder(path: str | Path) -> Path:
    """The folder of the rank files of a checkpoint."""
    return Path(f"{path}.ranks")


def rank_file(path: str | Path, rank: int, world_size: int) -> Path:
    """The file of one rank: ``<checkpoint>.ranks/<rank>-of-<world size>.pt``."""
    return rank_folder(path) / f"{rank:05d}-of-{world_size:05d}.pt"


def rank_files(path: str | Path) -> list[Path]:
    """The rank files of a checkpoint, one of each rank in order; none if one is missing."""
    found = sorted(rank_folder(path).glob("*-of-*.pt"))
    complete = [rank_file(path, rank, len(found)) for rank in range(len(found))]
    return found if found == complete else []


def remove_stale(path: str | Path, world_size: int) -> None:
    """Remove rank files of this checkpoint's name from a killed run with another number of ranks."""
    for file in rank_folder(path).glob("*.pt"):
        if not file.stem.endswith(f"-of-{world_size:05d}"):
            file.unlink()


def save_atomically(content: Any, path: Path) -> None:
    """Write a temporary file, flush it to the disk and rename it: ``path`` has the old content or all of the new one.

    Raises OSError with an explanatory message if the disk is full; the incomplete file is removed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    try:
        with partial.open("wb") as file:
            torch.save(content, file)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except (OSError, RuntimeError) as fault:
        partial.unlink(missing_ok=True)
        raise OSError(
            f"could not write the checkpoint {path} ({_reason(fault)}); earlier checkpoints are valid: "
            "free disk space and run the same command again"
        ) from fault


def load(path: str | Path, map_location: Any = None) -> dict[str, Any]:
    """Load a checkpoint of this library: tensors and plain values only (``weights_only=True``).

    Raises ValueError if the file is absent, damaged, or not a checkpoint.
    """
    if not Path(path).is_file():
        raise ValueError(f"there is no checkpoint {path}: expected a file written by a run of this library")
    try:
        content = torch.load(path, map_location=map_location, weights_only=True)
    except (RuntimeError, pickle.UnpicklingError, EOFError, zipfile.BadZipFile, ValueError) as fault:
        raise ValueError(
            f"{path} is damaged or not a checkpoint of tensors ({_reason(fault)}): use another one"
        ) from fault
    if not isinstance(content, dict) or "state_dict" not in content:
        raise ValueError(f"{path} is not a checkpoint of this library: it has no state_dict; use another one")
    return content


def check_weights(module: torch.nn.Module, state: Mapping[str, Any]) -> None:
    """Raise ValueError with the differences if a state dict belongs to another module."""
    own = module.state_dict()
    faults = [f"{name} is missing" for name in own if name not in state]
    faults += [f"{name} is not in this model" for name in state if name not in own]
    faults += [
        f"{name} has shape {tuple(state[name].shape)} instead of {tuple(value.shape)}"
        for name, value in own.items()
        if name in state and isinstance(value, torch.Tensor) and state[name].shape != value.shape
    ]
    if faults:
        more = f" and {len(faults) - 3} more" if len(faults) > 3 else ""
        raise ValueError(
            f"the checkpoint belongs to another model ({'; '.join(faults[:3])}{more}): "
            "use one written by a run of this configuration"
        )


def step_of(path: Path) -> int:
    """The training step of a checkpoint ``step=<step>.ckpt``."""
    return int(path.stem.removeprefix("step="))


def is_valid(path: Path) -> bool:
    """Whether every byte of a checkpoint and of the files of all its ranks can be read."""
    files = rank_files(path)
    return bool(files) and all(map(_readable, (path, *files)))


def valid_checkpoints(paths: Iterable[Path]) -> Iterator[Path]:
    """The valid checkpoints among ``paths``, which are sorted by step, newest first; warns about each damaged one."""
    for path in reversed(list(paths)):
        if is_valid(path):
            yield path
        else:
            rank_zero_warn(f"the checkpoint {path} is damaged and skipped")


def remove(path: str | Path) -> None:
    """Remove a checkpoint together with its rank files."""
    Path(path).unlink(missing_ok=True)
    shutil.rmtree(rank_folder(path), ignore_errors=True)


def set_aside(path: Path) -> None:
    """Move a checkpoint and its rank files to the subfolder ``abandoned/``, from which no run continues."""
    target = path.parent / "abandoned" / path.name
    remove(target)
    target.parent.mkdir(exist_ok=True)
    path.rename(target)
    if rank_folder(path).is_dir():
        rank_folder(path).rename(rank_folder(target))


class RankCheckpointIO(TorchCheckpointIO):
    """Lightning's checkpoint I/O: writes the main file atomically, and loads the rank files that the Trainer wrote."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        save_atomically(checkpoint, Path(path))

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = True) -> dict[str, Any]:
        checkpoint = load(path, map_location)
        files = rank_files(path)
        checkpoint["rank_states"] = [torch.load(file, map_location="cpu", weights_only=True) for file in files]
        return checkpoint

    def remove_checkpoint(self, path: Any) -> None:
        remove(path)


def _readable(file: Path) -> bool:
    try:
        with zipfile.ZipFile(file) as archive:
            return archive.testzip() is None
    except (OSError, zipfile.BadZipFile):
        return False


def _reason(fault: BaseException) -> str:
    """The first line of an error's message, or the error's class if the message is empty."""
    text = str(fault).strip().split("\n")[0].rstrip(".")
    return text[:160] or type(fault).__name__
