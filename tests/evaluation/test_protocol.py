"""What is written of the result of a protocol, and how protocols are selected."""

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from support.annealed import wavy_rbm
from support.likelihood_run import refuse_constant
from support.measured import Brightness, TrainAndTest

from ebm_lightning.data import BarsAndStripes
from ebm_lightning.data.base import DataModule
from ebm_lightning.evaluation import MMD, Measurement, OutOfDistribution, Protocol, ProtocolResult, UniformPixels
from ebm_lightning.evaluation.metrics import LogPartition
from ebm_lightning.evaluation.protocol import select_protocols
from ebm_lightning.objectives import ContrastiveDivergence
from ebm_lightning.runs.folder import RunFolder
from ebm_lightning.training.module import EBM


@dataclass(eq=False)
class Dice(Protocol):
    """Throws dice: to see what a protocol keeps."""

    throws: int = 3
    sides: list[Measurement] = field(default_factory=lambda: [Measurement(6.0)])

    def measure(self, module: EBM, data: DataModule) -> ProtocolResult:
        mean = float(torch.rand(self.throws).mean())
        return ProtocolResult(
            {"mean": Measurement(mean, 0.1), "bare": Measurement(1.0)}, {"dice": Image.new("L", (3, 2))}
        )


def test_Protocol_keeps_its_ProtocolResult_its_settings_and_where_they_come_from(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    run.config_file.write_text(yaml.safe_dump({"seed_everything": 17}))
    (tmp_path / "events.jsonl").write_text('{"time": 0, "event": "start"}\n{"time": 90, "event": "end"}\n')
    module = EBM(Brightness(), ContrastiveDivergence())
    data = TrainAndTest(torch.zeros(1, 1), torch.zeros(1, 1))
    trainer = SimpleNamespace(is_global_zero=True, global_rank=0, default_root_dir=str(tmp_path), datamodule=data)
    stream = torch.get_rng_state()
    Dice().on_test_end(trainer, module)
    assert torch.equal(torch.get_rng_state(), stream)
    record = json.loads((tmp_path / "evaluation" / "Dice.json").read_text())
    torch.manual_seed(0)
    bare = {"value": 1.0, "standard_error": None, "interval": None, "warning": "", "label": ""}
    expected = {**bare, "value": float(torch.rand(3).mean()), "standard_error": 0.1}
    assert record["measurements"] == {"mean": expected, "bare": bare}
    six = "Measurement(value=6.0, standard_error=None, interval=None, warning='', label='')"
    assert record["settings"] == {"throws": 3, "sides": [six]}
    assert record["protocol"] == f"Dice(throws=3, sides={[six]})"
    assert record["preprocessing"] is None
    assert (record["seed"], record["split"], record["training_minutes"]) == (17, "test", 1.5)
    assert record["environment"]["versions"].keys() >= {"torch", "lightning"}
    assert np.asarray(Image.open(tmp_path / "evaluation" / "Dice-dice.png")).shape == (2, 3)


def test_Protocol_is_selected_by_class_or_file() -> None:
    every = [MMD(), OutOfDistribution([UniformPixels()]), Dice()]
    assert select_protocols(every, None) == every
    assert select_protocols(every, "ood, two_sample") == every[:2]
    assert select_protocols(every, "dice") == select_protocols(every, "Dice") == every[2:]
    with pytest.raises(ValueError, match="no protocol calibration, mixing: expected some of MMD, OutOfDistribu"):
        select_protocols(every, "ood,mixing,calibration")
    with pytest.raises(ValueError, match="no protocol ood: expected some of none, since it names none"):
        select_protocols([], "ood")


def test_Protocol_on_another_rank_writes_nothing(tmp_path: Path) -> None:
    trainer = SimpleNamespace(is_global_zero=False, default_root_dir=str(tmp_path))
    Dice().on_test_end(trainer, EBM(Brightness(), ContrastiveDivergence()))
    assert list(tmp_path.iterdir()) == []


@dataclass(eq=False)
class Doubtful(Protocol):
    """Has an estimate that is unreliable."""

    def measure(self, module: EBM, data: object) -> ProtocolResult:
        estimate = LogPartition(3.0, -math.inf, 4.0, 2.5, 1.2, 100)
        interval = (-estimate.high, -estimate.low)
        return ProtocolResult({"test_log_prob_nats": Measurement(-3.0, 0.1, interval, estimate.warning)})


def test_Measurement_that_is_doubtful_is_kept_and_printed_with_its_warning(tmp_path: Path, capsys) -> None:
    """An infinite end is null in JSON, which has no word for it, and inf on the terminal; the warning is in both."""
    RunFolder(tmp_path).config_file.write_text(yaml.safe_dump({"seed_everything": 0}))
    trainer = SimpleNamespace(
        is_global_zero=True, global_rank=0, default_root_dir=str(tmp_path), datamodule=BarsAndStripes(2)
    )
    module = EBM(wavy_rbm(), ContrastiveDivergence())
    Doubtful().on_test_end(trainer, module)
    text = (tmp_path / "evaluation" / "Doubtful.json").read_text()
    record = json.loads(text, parse_constant=refuse_constant)
    assert record["preprocessing"] == "binary"
    found, said = record["measurements"]["test_log_prob_nats"], capsys.readouterr().out
    assert found["interval"] == [-4.0, None]
    assert "log Z is unreliable" in found["warning"]
    assert "-3.0000 +- 0.1 [-4.0000, inf]  under binary" in said
    assert f"warning: {found['warning']}" in said
