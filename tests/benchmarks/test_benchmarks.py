"""The benchmarks: their statistics, the tables they write, and that all contenders do the same work."""

import json
import signal
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from benchmarks import common, loops, overhead, sampling
from benchmarks.__main__ import SECTIONS, main
from ebm_lightning.core import run_chain
from ebm_lightning.energies import DeepEnergy
from ebm_lightning.energies.networks import MLP

PLACES = {
    name if device == "cpu" else f"{name}_{device}": section
    for name, section in SECTIONS.items()
    for device in section.DEVICES
}
"""The names of records and of their places in README.md, and the sections that they are of."""


@pytest.fixture
def model() -> DeepEnergy:
    return DeepEnergy(MLP(6, [16])).double().eval()


@pytest.fixture
def x() -> Tensor:
    return torch.rand(5, 6, dtype=torch.float64)


@pytest.mark.parametrize("size", [1, 4, 7])
def test_a_spread_is_numpys_median_and_extremes(size: int) -> None:
    values = np.random.default_rng(size).exponential(size=size)
    found = common.spread(values.tolist())
    assert found == {"median": np.median(values), "low": values.min(), "high": values.max()}
    assert common.ratio(found, {"median": 2 * found["median"]}) == "0.50"
    assert common.ratio(None, found) == common.shown(None) == "-"


def test_contenders_take_turns_and_are_counted_in_units() -> None:
    calls: list[str] = []
    racing = {name: common.Contender(partial(calls.append, name), units) for name, units in (("a", 1), ("b", 4))}
    found = common.in_turns(racing, rounds=3, seconds=0.01)
    changes = [name for name, before in zip(calls, ["", *calls], strict=False) if name != before]
    assert changes == ["a", "b"] * 4  # the warm-up, and three rounds
    assert set(found) == {"a", "b"}
    assert all(0 < one["low"] <= one["median"] <= one["high"] for one in found.values())


def test_memory_is_what_is_held_at_once() -> None:
    def step() -> None:
        for _ in range(3):
            torch.zeros(2**18)

    assert common.peak(step) == pytest.approx(1, rel=0.01)


def test_tables_are_written_between_their_markers(tmp_path: Path) -> None:
    (begin, end), (other, _) = common.markers("ebt"), common.markers("growth")
    assert "--only ebt`" in begin
    (tmp_path / "README.md").write_text(f"before\n{begin}\nold\n{end}\nafter\n{other}\n")
    for _ in range(2):  # what was written once is written over
        common.publish("ebt", {"a": 1}, ["new", "lines"], tmp_path)
        assert (tmp_path / "README.md").read_text() == f"before\n{begin}\nnew\nlines\n{end}\nafter\n{other}\n"
    assert json.loads((tmp_path / "results" / "ebt.json").read_text()) == {"a": 1}
    with pytest.raises(ValueError, match="no markers for growth"):
        common.publish("growth", {}, [], tmp_path)
    assert not (tmp_path / "results" / "growth.json").exists()


def test_every_section_has_its_place() -> None:
    text = (common.HERE / "README.md").read_text()
    for begin, end in map(common.markers, PLACES):
        assert text.count(begin) == text.count(end) == 1
        assert text.index(begin) < text.index(end)


@pytest.mark.parametrize("place", PLACES)
def test_the_tables_in_the_readme_are_those_of_the_records(place: str) -> None:
    begin, end = common.markers(place)
    found = (common.HERE / "README.md").read_text().split(begin)[1].split(end)[0].strip()
    record = common.HERE / "results" / f"{place}.json"
    assert record.exists() == bool(found)
    if found:
        assert found == "\n".join(PLACES[place].table(json.loads(record.read_text())))


@pytest.mark.parametrize(
    ("loop", "sampler"), [(loops.jem, sampling.AS_JEM), (loops.igebm, sampling.AS_IGEBM)], ids=["jem", "igebm"]
)
def test_the_loops_of_the_papers_take_our_transitions(loop, sampler, model: DeepEnergy, x: Tensor) -> None:
    before = x.clone()
    torch.manual_seed(1)
    end, _ = run_chain(sampler, model, {"x": x}, 3)
    torch.manual_seed(1)
    torch.testing.assert_close(loop(model, x, 3), end["x"])
    assert torch.equal(x, before)
    assert all(p.requires_grad and p.grad is None for p in model.parameters())


@pytest.mark.parametrize(
    ("package", "make"),
    [("torchebm", loops.torchebm_langevin), ("ebm", partial(loops.ebmkit_langevin, clip=None))],
    ids=["torchebm", "ebmkit"],
)
def test_the_packages_take_our_transitions(package: str, make, model: DeepEnergy, x: Tensor) -> None:
    pytest.importorskip(package)
    model, x = model.float(), x.float()
    torch.manual_seed(1)
    end, _ = run_chain(sampling.AS_JEM, model, {"x": x}, 3)
    torch.manual_seed(1)
    walk = make(model, step_size=1.0, noise=0.01, bounds=None)
    torch.testing.assert_close(walk(x, 3), end["x"])


def test_our_ways_of_running_differ_by_rounding_alone() -> None:
    case = sampling.SMALL[-1]
    model = case.model().eval()
    x = torch.rand(case.batch, *case.shape)
    ends = []
    for way in (sampling.OURS["ours"], sampling.OURS["channels_last"]):
        torch.manual_seed(1)
        ends.append(sampling.ours(way, case.sampler, model.to(memory_format=torch.channels_last), x, 2)())
    torch.testing.assert_close(*ends)
    held = sampling.memory(case, "cpu")
    before = x.nbytes  # the positions of the transition before
    assert held["60"] - held["1"] == pytest.approx(before / 2**20)


def test_the_table_compares_the_agreement_on_a_signal_with_the_step() -> None:
    record = json.loads((common.HERE / "results" / "overhead.json").read_text())
    agreed = {name: {"median": ms, "low": ms / 2, "high": 2 * ms} for name, ms in (("1", 2e-4), ("2", 0.25))}
    record["lightning"]["quickstart"]["fit"] = {"median": 50.0, "low": 49.0, "high": 51.0}
    rows = ["| 1 | 0.2 (0.1 to 0.4) | 0.0004 |", "| 2 | 250 (125 to 500) | 0.5 |"]
    assert overhead.table({**record, "agreement": agreed})[-3:-1] == rows
    del record["lightning"]
    assert overhead.table({**record, "agreement": agreed})[-2:] == [f"{row.rsplit('| ', 1)[0]}| - |" for row in rows]


def test_the_hook_is_called_as_in_training() -> None:
    before = signal.getsignal(signal.SIGTERM)
    times = overhead.hook_ms(0, 1, 0, rounds=3, calls=10)
    assert len(times) == 3
    assert 0 < max(times) < 50  # a training step
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_quick_run_shows_all_rows_and_writes_nothing(capsys: pytest.CaptureFixture, monkeypatch) -> None:
    monkeypatch.setattr("benchmarks.__main__.publish", lambda *_: pytest.fail("a quick run has written"))
    main(["--only", "sampling", "--quick"])
    said = capsys.readouterr().out
    for words in ("lower bound", "ours, bfloat16", "JEM's loop", "IGEBM's loop", "A leapfrog step of HMC"):
        assert words in said


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--only", "sampling", "nothing"], "no section nothing: expected some of sampling"),
        (["--only", "boltzmann", "--device", "cuda"], "boltzmann is not measured on cuda: expected some of sampling"),
        (["--only", "papers"], "papers is not measured on cpu"),
        (["--rounds", "0"], "expected at least 1"),
        (["--device", "cuda"], "torch finds no GPU"),
    ],
)
def test_mistakes_are_said_in_one_sentence(arguments: list[str], words: str, monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert words in str(stop.value)
    assert "\n" not in str(stop.value)
