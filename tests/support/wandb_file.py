"""Reads an offline run file of Weights & Biases: protobuf records in the framing of a LevelDB log."""

import json
import struct
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from wandb.proto.wandb_internal_pb2 import Record

_BLOCK = 32768
_FILE_HEADER, _RECORD_HEADER = 7, struct.Struct("<IHB")  # of a record: crc32, length, type
_FULL, _FIRST, _LAST = 1, 2, 4


class Segment(NamedTuple):
    """One start of a run: who it is, its configuration, its x-axes, what it logged, and whether it was preempted.

    The history has one mapping for each call of log.
    """

    id: str
    group: str
    job_type: str
    tags: list[str]
    axes: dict[str, str]
    config: dict[str, Any]
    history: list[dict[str, Any]]
    preempted: bool


def read(path: Path) -> Segment:
    """The content of ``run-<id>.wandb``. Nested keys are joined by "/"."""
    records = list(_records(path.read_bytes()))
    run = next(record.run for record in records if record.WhichOneof("record_type") == "run")
    config = _values(run.config.update)
    for record in records:
        config |= _values(record.config.update)
    history = [_values(record.history.item) for record in records if record.history.item]
    preempted = any(record.WhichOneof("record_type") == "preempting" for record in records)
    metrics = [record.metric for record in records if record.WhichOneof("record_type") == "metric"]
    axes = {one.name or one.glob_name: one.step_metric for one in metrics if one.step_metric}
    return Segment(run.run_id, run.run_group, run.job_type, list(run.tags), axes, config, history, preempted)


def _values(items: Iterable[Any]) -> dict[str, Any]:
    return {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items}


def _records(data: bytes) -> Iterator[Record]:
    """The records in order. A tail that was cut off is left out; raises ValueError where anything else is damaged."""
    if not data.startswith(b":W&B"):
        raise ValueError("no file of Weights & Biases: it does not begin with :W&B")
    at, payload = _FILE_HEADER, b""
    while at + _RECORD_HEADER.size <= len(data):
        left = _BLOCK - at % _BLOCK
        if left < _RECORD_HEADER.size:  # padding up to the next block
            at += left
            continue
        checksum, length, kind = _RECORD_HEADER.unpack_from(data, at)
        start = at + _RECORD_HEADER.size
        part, at = data[start : start + length], start + length
        if len(part) < length:
            return
        if zlib.crc32(part, zlib.crc32(bytes([kind]))) != checksum:
            raise ValueError(f"the record at byte {start} is damaged")
        payload = part if kind in (_FULL, _FIRST) else payload + part
        if kind in (_FULL, _LAST):
            yield Record.FromString(payload)
