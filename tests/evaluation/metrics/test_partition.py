"""log Z, log-probabilities and their warnings against enumeration; the protocol and the monitor that report them."""

import csv
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from support.forked import ranks
from support.oracles import (
    Z,
    assert_counts,
    assert_means,
    bits,
    identical,
    index_of,
    log_partition,
    probabilities,
)
from torch import Tensor, distributed

from ebm_lightning.core import EnergyModel, State
from ebm_lightning.data import BarsAndStripes, Digits, FixedBinarization, Toy2D
from ebm_lightning.energies import RBM, DeepEnergy
from ebm_lightning.energies.boltzmann.units import Bernoulli, Gaussian, Softmax, Units
from ebm_lightning.energies.networks import MLP
from ebm_lightning.evaluation import Findings, Likelihood, Measurement, Protocol
from ebm_lightning.evaluation.metrics import (
    AIS,
    Exact,
    Linear,
    LogPartition,
    PiecewiseLinear,
    SalakhutdinovMurray,
    ais,
    anneal,
    exact_pseudo_log_likelihood,
    pseudo_log_likelihood,
    raise_log_prob,
    reverse_ais,
)
from ebm_lightning.evaluation.metrics.binary import has_binary_units
from ebm_lightning.evaluation.metrics.partition import free_energies
from ebm_lightning.evaluation.monitors import likelihood as monitor_module
from ebm_lightning.evaluation.monitors.likelihood import LikelihoodMonitor
from ebm_lightning.objectives import ContrastiveDivergence
from ebm_lightning.runs.folder import RunFolder
from ebm_lightning.training.module import EBM
from ebm_lightning.utils.random import isolated, mix


def _rbm(visible: dict[str, Units] | None = None, hidden: int = 4, size: float = 1.0, **settings: Any) -> RBM:
    """A machine in float64 whose every parameter has its own value, of size about ``size``, whatever the seed."""
    model = RBM(visible or {"x": Bernoulli([5])}, hidden, **settings).double().eval()
    with torch.no_grad():
        for k, parameter in enumerate([*model.parameters(), *model.buffers()]):
            values = size * torch.sin(7.0 * torch.arange(1, parameter.numel() + 1) + k)
            parameter.copy_(values.view_as(parameter))
    return model


def _bernoulli() -> tuple[EnergyModel, State, float]:
    return _rbm(), {"x": bits(5)}, 0.0


def _labeled() -> tuple[EnergyModel, State, float]:
    states = {"x": bits(4).repeat(3, 1), "y": torch.arange(3).repeat_interleave(16)}
    return _rbm({"x": Bernoulli([4]), "y": Softmax(3)}), states, 0.0


def _gaussian() -> tuple[EnergyModel, State, float]:
    """Two real-valued units, on a grid fine and wide enough that its sum is the integral."""
    axis = torch.linspace(-14, 14, 500, dtype=torch.float64)
    grid = {"x": torch.cartesian_prod(axis, axis)}
    return _rbm({"x": Gaussian([2])}), grid, 2 * math.log(28 / 499)


def _centered() -> tuple[EnergyModel, State, float]:
    return _rbm(centering=0.1), {"x": bits(5)}, 0.0


CASES = [_bernoulli, _labeled, _gaussian, _centered]


def _data(states: State) -> list[State]:
    """Some training data for the base of a path: a third of the states."""
    return [{name: value[::3] for name, value in states.items()}]


@pytest.mark.parametrize("data_base", [True, False], ids=["data-base", "own-base"])
@pytest.mark.parametrize("case", CASES)
def test_ais_weights_are_unbiased_and_its_estimate_is_log_z(case, data_base: bool) -> None:
    """E[w] = Z / Z_0 whatever the number of temperatures, so already with 15 of them."""
    model, states, log_cell = case()
    exact = float(log_partition(model, states)) + log_cell
    estimator = AIS(Linear(15), 3000, data_base)
    path = estimator.path(model, _data(states))
    log_weights, end = anneal(path, Linear(15)(), 3000)
    assert log_weights.dtype == torch.float64
    assert end.keys() == set(model.variables)
    assert_means((log_weights + path.log_partition - exact).exp()[:, None], torch.ones(1))
    estimate = estimator(model, _data(states))
    assert estimate.chains == 3000
    assert estimate.warning == ""
    assert abs(estimate.log_z - exact) < Z * estimate.standard_error < 0.5


def test_annealed_chains_end_as_samples_of_the_model() -> None:
    """The last transition is at beta 1, and 300 temperatures leave weights with a spread of a few per cent."""
    model = _rbm()
    log_weights, end = anneal(model.annealing_path(), Linear(300)(), 3000)
    assert log_weights.std() < 0.2
    assert_counts(torch.bincount(index_of(end["x"]), minlength=32), probabilities(model, {"x": bits(5)}))


def test_an_exact_value_is_that_of_enumeration_and_has_no_spread() -> None:
    model, states, _ = _bernoulli()
    found = Exact()(model, [])
    assert found.log_z == pytest.approx(float(log_partition(model, states)), abs=1e-10)
    assert (found.low, found.high, found.standard_error, found.warning) == (found.log_z, found.log_z, 0.0, "")
    with pytest.raises(ValueError, match=r"sums 2\^4 states .* expected at most 3 units"):
        Exact(largest=3)(model, [])


def test_the_interval_is_three_standard_deviations_of_the_mean_of_w() -> None:
    """By hand, for weights that may be exponentiated; shifted by a thousand nats, for some that may not."""
    log_w = torch.tensor([0.3, -0.2, 0.9, 0.1, -0.5, 0.4, 0.0, 0.2], dtype=torch.float64)
    w = [math.exp(value) for value in log_w.tolist()]
    mean = sum(w) / 8
    error = math.sqrt(sum((one - mean) ** 2 for one in w) / 7 / 8)
    for shift in (0.0, 1000.0, -1000.0):
        found = LogPartition.from_weights(5.0, log_w + shift)
        expected = [5.0 + shift + math.log(mean + k * error) for k in (0, -3, 3)]
        assert [found.log_z, found.low, found.high] == pytest.approx(expected, abs=1e-9)
        assert found.ess == pytest.approx(sum(w) ** 2 / sum(one**2 for one in w))
        assert found.log_weight_std == pytest.approx(float(log_w.std()))
        assert found.standard_error == pytest.approx(error / mean)
    skewed = LogPartition.from_weights(0.0, torch.tensor([0.0, 0.0, 9.0]))
    assert skewed.low == -math.inf < skewed.log_z < skewed.high < math.inf


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"log_weight_std": 1.51}, "log w has a standard deviation of 1.51 nats, more than 1.5"),
        ({"ess": 9.9}, "100 chains count as 9.9, fewer than 10"),
        ({"low": -math.inf}, "no lower end"),
        ({"log_weight_std": math.nan}, "standard deviation of nan nats"),
        ({"low": math.nan}, "no lower end"),
    ],
)
def test_each_alarm_rings_by_itself_and_not_in_a_healthy_estimate(change: dict[str, float], words: str) -> None:
    healthy = {"log_z": 10.0, "low": 9.8, "high": 10.2, "log_weight_std": 1.49, "ess": 10.1, "chains": 100}
    assert LogPartition(**healthy).warning == ""
    warning = LogPartition(**{**healthy, **change}).warning
    assert words in warning
    assert "not to be trusted" in warning
    assert "\n" not in warning
    assert len([alarm for alarm in ("deviation of", "count as", "no lower end") if alarm in warning]) == 1


def test_too_few_temperatures_are_warned_of() -> None:
    """A strongly coupled machine between two temperatures: far off, and it says so."""
    model = _rbm({"x": Bernoulli([10])}, 10, size=3.0)
    hasty = ais(model.annealing_path(), Linear(1)(), 100)
    assert "log w has a standard deviation" in hasty.warning


def test_pieces_are_evenly_spaced_between_their_ends() -> None:
    assert PiecewiseLinear([0.5, 1.0], [2, 1])().tolist() == [0.0, 0.25, 0.5, 1.0]
    torch.testing.assert_close(PiecewiseLinear([1.0], [7])(), Linear(7)())


def test_the_schedules_begin_at_0_end_at_1_and_have_the_published_spacing() -> None:
    assert Linear(4)().tolist() == [0, 0.25, 0.5, 0.75, 1]
    betas = SalakhutdinovMurray()()
    assert (betas.dtype, len(betas) - 1, float(betas[0]), float(betas[-1])) == (torch.float64, 14_500, 0.0, 1.0)
    spacing = betas.diff()
    for piece, width in ((spacing[:500], 1e-3), (spacing[500:4500], 1e-4), (spacing[4500:], 1e-5)):
        torch.testing.assert_close(piece, torch.full_like(piece, width), rtol=1e-9, atol=1e-12)


def _exact_draws(model: EnergyModel, states: State, n: int) -> State:
    rows = torch.multinomial(probabilities(model, states), n, replacement=True)
    return {name: value[rows] for name, value in states.items()}


def test_reverse_ais_from_exact_samples_is_unbiased_in_one_over_z_and_brackets() -> None:
    """Both ways; then in one jump with 2 chains at a time: low forward, high backward, the Jensen form higher still."""
    model, states, _ = _labeled()
    exact = float(log_partition(model, states))
    path = model.annealing_path()
    bound = reverse_ais(path, Linear(15)(), _exact_draws(model, states, 3000))
    error = math.expm1(bound.log_z - bound.low) / 3
    assert abs(bound.log_z - exact) < Z * error < 0.5
    assert bound.low < bound.log_z < min(bound.high, bound.jensen)
    assert bound.chains == 3000
    jump, n = Linear(1)(), 1000
    below = torch.tensor([ais(path, jump, 2).log_z for _ in range(n)])
    above = [reverse_ais(path, jump, _exact_draws(model, states, 2)) for _ in range(n)]
    for excess in (exact - below, torch.tensor([one.log_z for one in above]) - exact):
        assert float(excess.mean()) > Z * float(excess.std()) / math.sqrt(n)
    assert all(one.jensen >= one.log_z - 1e-12 for one in above)
    assert sum(one.jensen > one.log_z + 0.1 for one in above) > n / 4


def _annealed_law(model: RBM, betas: Tensor) -> Tensor:
    """p_ann over all states: p_0 T_1 ... T_K by enumeration of v and h, with logits that are linear in beta."""
    v, h = bits(model.units("x").rows), bits(model.hidden)
    weight, b, c = model.weight.detach(), model.units("x").bias.detach(), model.hidden_bias.detach()
    law = torch.softmax(v @ b, 0)
    for beta in betas[1:]:
        to_h = torch.softmax(beta * (v @ weight + c) @ h.T, 1)
        to_v = torch.softmax((beta * h @ weight.T + b) @ v.T, 1)
        law = law @ to_h @ to_v
    return law


@pytest.mark.parametrize(("chains", "n"), [(1, 600), (5, 120)])
def test_raise_is_unbiased_for_the_annealed_law(chains: int, n: int) -> None:
    """Even with 3 temperatures, where that law differs from the model's; its logarithm does not lie above."""
    model, v = _rbm({"x": Bernoulli([3])}, 2, size=1.5), bits(3)
    betas = Linear(3)()
    law = _annealed_law(model, betas)
    assert (law / probabilities(model, {"x": v}) - 1).abs().max() > 0.1
    log_p = raise_log_prob(model.annealing_path(), model, betas, {"x": v.repeat(n, 1)}, chains).view(n, 8)
    assert log_p.dtype == torch.float64
    assert_means(log_p.exp(), law)
    excess = (log_p - law.log()).mean(1)
    assert float(excess.mean()) < Z * float(excess.std()) / math.sqrt(n)


def test_raise_with_many_temperatures_is_the_models_log_probability() -> None:
    """From below, and within a hundredth of a nat on average."""
    model, states, _ = _labeled()
    exact = probabilities(model, states).log()
    n = 60
    many = {name: value.repeat(n, *[1] * (value.ndim - 1)) for name, value in states.items()}
    path = model.annealing_path(_data(states))
    gap = raise_log_prob(path, model, Linear(200)(), many).view(n, -1).mean(1) - exact.mean()
    error = float(gap.std()) / math.sqrt(n)
    assert float(gap.mean()) < Z * error
    assert abs(float(gap.mean())) < 0.01 + Z * error


@pytest.mark.parametrize("case", [_bernoulli, _labeled, _centered])
def test_the_pseudo_likelihood_is_the_sum_of_enumerated_conditionals(case) -> None:
    model, states, _ = case()
    p, x = probabilities(model, states), states["x"]
    expected = torch.zeros_like(p)
    for i in range(x.shape[1]):
        others = [j for j in range(x.shape[1]) if j != i]
        same = (x[:, None, others] == x[:, others]).all(2)
        if "y" in states:
            same &= states["y"][:, None] == states["y"]
        expected += (p / (same.double() @ p)).log()
    torch.testing.assert_close(exact_pseudo_log_likelihood(model, "x", states), expected, rtol=1e-9, atol=1e-9)
    draws = torch.stack([pseudo_log_likelihood(model, "x", states) for _ in range(4000)])
    assert_means(draws, expected)


@pytest.mark.parametrize(
    ("case", "name", "binary"),
    [(_bernoulli, "x", True), (_labeled, "x", True), (_labeled, "y", False), (_gaussian, "x", False)],
)
def test_binary_units_are_told_from_others(case, name: str, binary: bool) -> None:
    model, states, _ = case()
    assert has_binary_units(model, states, name) is binary
    assert not has_binary_units(DeepEnergy(MLP(5, [3])).double(), {"x": bits(5)}, "x")


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda path: ais(path, Linear(3)(), 1), r"ais\(chains=1\): expected at least 2"),
        (lambda path: anneal(path, Linear(3)(), 0), r"anneal\(chains=0\)"),
        (lambda path: ais(path, torch.tensor([0.0, 0.7, 0.3, 1.0]), 2), "increase from 0 to 1"),
        (lambda path: ais(path, torch.tensor([0.1, 1.0]), 2), "increase from 0 to 1"),
        (lambda path: reverse_ais(path, Linear(3)(), {"x": bits(5)[:1]}), "use at least 2 chains"),
        (lambda path: raise_log_prob(path, _bernoulli()[0], Linear(3)(), {"x": bits(5)}, 0), "at least 1 chain"),
        (lambda path: Linear(0), r"Linear\(num_temperatures=0\)"),
        (lambda path: PiecewiseLinear([0.5, 1.0], [3]), "as many ends"),
        (lambda path: PiecewiseLinear([0.5, 0.9], [3, 3]), "from above 0 to 1"),
        (lambda path: PiecewiseLinear([0.0, 1.0], [3, 3]), "from above 0 to 1"),
        (lambda path: PiecewiseLinear([1.0], [0]), "each at least 1"),
        (lambda path: AIS(Linear(3), 1), r"AIS\(betas=Linear\(num_temperatures=3\), chains=1, data_base=True\)"),
        (lambda path: Likelihood(Exact(), raise_vectors=3), "an AIS as `estimator` or `compare`"),
        (lambda path: LikelihoodMonitor(Exact(), first=0), "first=0"),
        (lambda path: LikelihoodMonitor(Exact(), every_n_steps=0), "every_n_steps=0"),
        (lambda path: AIS(Linear(3))(DeepEnergy(MLP(2, [3])), []), "DeepEnergy has no annealing path"),
    ],
)
def test_what_cannot_work_is_refused_in_words(call: Callable[[Any], object], words: str) -> None:
    path = _rbm().annealing_path()
    with pytest.raises(ValueError, match=words):
        call(path)


def _one_of_two(rank: int, folder: str) -> None:
    """What each of two processes does: its share of the chains, from a stream of its own."""
    torch.set_num_threads(1)
    limit = timedelta(seconds=60)
    distributed.init_process_group("gloo", f"file://{folder}/meeting", limit, 2, rank)
    torch.manual_seed(0)
    path = _rbm().annealing_path()
    with isolated(rank):
        torch.save(vars(ais(path, Linear(20)(), 99)), f"{folder}/{rank}.pt")
    distributed.destroy_process_group()


def test_two_ranks_share_the_chains_and_agree_on_the_estimate(tmp_path: Path) -> None:
    torch.multiprocessing.start_processes(_one_of_two, (str(tmp_path),), 2, start_method="fork")
    path = _rbm().annealing_path()
    shares = []
    for rank in range(2):
        with isolated(rank):
            shares.append(anneal(path, Linear(20)(), 50)[0])
    assert not torch.equal(*shares)
    expected = vars(LogPartition.from_weights(path.log_partition, torch.cat(shares)))
    assert expected["chains"] == 100
    for rank in range(2):
        assert torch.load(tmp_path / f"{rank}.pt") == pytest.approx(expected)


RUN = {
    "seed_everything": 3,
    "trainer": {
        "max_steps": 12,
        "accelerator": "cpu",
        "devices": 1,
        "log_every_n_steps": 1,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "callbacks": [
            {
                "class_path": "ebm_lightning.evaluation.monitors.likelihood.LikelihoodMonitor",
                "init_args": {
                    "estimator": {
                        "class_path": "AIS",
                        "init_args": {
                            "betas": {"class_path": "Linear", "init_args": {"num_temperatures": 20}},
                            "chains": 20,
                        },
                    },
                    "num_examples": 50,
                },
            }
        ],
    },
    "model": {
        "class_path": "EBM",
        "init_args": {
            "model": {
                "class_path": "RBM",
                "init_args": {
                    "visible": {"x": {"class_path": "Bernoulli", "init_args": {"shape": [1, 8, 8]}}},
                    "hidden": 6,
                    "weight_std": 0.1,
                },
            },
            "objective": {"class_path": "ContrastiveDivergence"},
            "sampler": {"class_path": "Gibbs", "init_args": {"free": ["h", "x"]}},
            "optimizer": {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.05}},
        },
    },
    "data": {
        "class_path": "Digits",
        "init_args": {"batch_size": 50, "pixels": {"class_path": "FixedBinarization", "init_args": {"seed": 4}}},
    },
    "samples": {"every_n_steps": 0},
    "evaluation": [
        {
            "class_path": "Likelihood",
            "init_args": {
                "estimator": {
                    "class_path": "AIS",
                    "init_args": {
                        "betas": {"class_path": "Linear", "init_args": {"num_temperatures": 200}},
                        "chains": 60,
                    },
                },
                "compare": {"class_path": "Exact", "init_args": {"largest": 8}},
                "raise_vectors": 40,
            },
        }
    ],
}
"""A machine that is small enough to be enumerated, on binarized digits, watched and measured."""

MONITOR = RUN["trainer"]["callbacks"][0]["init_args"]


def _config(folder: Path, **trainer: object) -> Path:
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump({**RUN, "trainer": {**RUN["trainer"], **trainer}}))
    return path


def _rows(run: Path) -> dict[str, dict[int, float]]:
    """What the monitor wrote: name, step, value."""
    found: dict[str, dict[int, float]] = {}
    with (run / "metrics.csv").open() as file:
        for row in csv.DictReader(file):
            _, _, name = row["name"].partition("likelihood/")
            if name:
                assert int(row["step"]) not in found.setdefault(name, {}), "each row once"
                found[name][int(row["step"])] = float(row["value"])
    return found


def _trained(run: Path, step: int) -> tuple[RBM, dict[str, Any]]:
    """The machine of a checkpoint, and the checkpoint."""
    content = torch.load(RunFolder(run).checkpoint(step), weights_only=True)
    model = RBM({"x": Bernoulli([1, 8, 8])}, 6)
    model.load_state_dict({name.removeprefix("model."): value for name, value in content["state_dict"].items()})
    return model, content


def test_a_monitored_run_its_continuation_and_its_test(ebm, tmp_path: Path) -> None:
    """Rows at doubling steps and the last one; seconds that go on; the same weights without it; then `ebm test`."""
    config, run, bare = _config(tmp_path), tmp_path / "x" / "run", tmp_path / "x" / "bare"
    assert ebm("fit", "-c", config, "--run", run)[0] == 0
    rows = _rows(run)
    names = {"test_log_prob", "log_z", "log_w_std", "ess", "train_seconds"}
    assert rows.keys() == names
    assert all(list(rows[name]) == [0, 1, 2, 4, 8, 12] for name in names)
    seconds = rows["train_seconds"]
    assert seconds[0] == 0
    assert list(seconds.values()) == sorted(seconds.values())

    model, content = _trained(run, 12)
    (kept,) = (state for key, state in content["callbacks"].items() if "LikelihoodMonitor" in key)
    assert kept == {"train_seconds": seconds[12]}
    data = Digits(50, pixels=FixedBinarization(4))
    with isolated(mix(12, 0)):
        estimate = AIS(Linear(20), 20)(model, data.eval_loader("train"))
    assert rows["log_z"][12] == estimate.log_z
    assert (rows["log_w_std"][12], rows["ess"][12]) == (estimate.log_weight_std, estimate.ess)
    expected = -float(free_energies(model, data.eval_loader("test"), 50).mean()) - estimate.log_z
    assert rows["test_log_prob"][12] == expected
    few = data.tensors("test")["x"][:50]
    assert expected + estimate.log_z == pytest.approx(-float(model(x=few).detach().double().mean()), rel=1e-6)

    assert ebm("fit", "-c", config, "--run", run, "--trainer.max_steps", 24)[0] == 0
    rows = _rows(run)
    assert list(rows["log_z"]) == [0, 1, 2, 4, 8, 12, 16, 24]
    assert seconds[12] < rows["train_seconds"][16] < rows["train_seconds"][24]
    assert rows["train_seconds"][16] - seconds[12] > 0

    (tmp_path / "bare").mkdir()
    plain = _config(tmp_path / "bare", callbacks=[])
    assert ebm("fit", "-c", plain, "--run", bare)[0] == 0
    assert identical(_trained(bare, 12)[1]["state_dict"], content["state_dict"])

    status, said = ebm("test", run)
    assert status == 0
    _check_test(run, said, data)


def _refuse_constant(name: str) -> None:
    raise AssertionError(f"{name} is no JSON")


def _check_test(run: Path, said: str, data: Digits) -> None:
    record = json.loads((run / "evaluation" / "Likelihood.json").read_text(), parse_constant=_refuse_constant)
    assert record["convention"] == "FixedBinarization(seed=4)"
    found = record["measurements"]
    assert list(found) == [
        "log Z AIS",
        "log Z exact",
        "log Z difference",
        "sd of log w",
        "ESS",
        "log-probability test",
        "log-probability train",
        "free-energy gap",
        "pseudo-log-likelihood test",
        "RAISE log-probability",
    ]
    model, _ = _trained(run, 24)
    exact = float(model.log_partition())
    assert found["log Z exact"] == {"value": exact, "standard_error": 0.0, "interval": None, "warning": ""}
    log_z, difference = found["log Z AIS"], found["log Z difference"]
    assert log_z["interval"][0] < log_z["value"] < log_z["interval"][1]
    assert difference["value"] == log_z["value"] - exact
    assert abs(difference["value"]) < Z * difference["standard_error"] < 0.5
    with torch.no_grad():
        energy = {split: model(x=data.tensors(split)["x"]).double() for split in ("train", "valid", "test")}
    for split in ("test", "train"):
        one, e = found[f"log-probability {split}"], energy[split]
        assert one["value"] == pytest.approx(-float(e.mean()) - log_z["value"], abs=1e-3)
        assert one["standard_error"] == pytest.approx(float(e.std()) / math.sqrt(len(e)), rel=1e-3)
        ends = [-float(e.mean()) - end for end in reversed(log_z["interval"])]
        assert one["interval"] == pytest.approx(ends, abs=1e-3)
    gap = float(energy["train"][: len(energy["valid"])].mean() - energy["valid"].mean())
    assert found["free-energy gap"]["value"] == pytest.approx(gap, abs=1e-3)
    pseudo = exact_pseudo_log_likelihood(model, "x", data.tensors("test")).mean()
    one = found["pseudo-log-likelihood test"]
    assert abs(one["value"] - pseudo) < Z * one["standard_error"]
    one, truth = found["RAISE log-probability"], -float(energy["test"].mean()) - exact
    assert abs(one["value"] - truth) < Z * one["standard_error"]
    assert "under FixedBinarization(seed=4)" in said
    assert "warning" not in said


def test_gray_levels_have_no_log_probability_and_both_say_so_in_one_sentence(ebm, tmp_path: Path) -> None:
    """A machine that takes gray levels as probabilities trains, but is neither monitored nor measured."""
    watched = yaml.safe_load(_config(tmp_path).read_text())
    watched["data"]["init_args"]["pixels"] = {"class_path": "Gray"}
    visible = watched["model"]["init_args"]["model"]["init_args"]["visible"]["x"]["init_args"]
    visible["probabilities"] = True
    file, run = tmp_path / "run.yaml", tmp_path / "x" / "run"
    file.write_text(yaml.safe_dump(watched))
    sentence = (
        "ebm: error: no log-probability is defined for gray values of binary units ('x'): expected data under "
        "DynamicBinarization, FixedBinarization or Threshold, got Gray()"
    )
    status, said = ebm("fit", "-c", file, "--run", tmp_path / "x" / "watched")
    assert status == 1
    assert sentence in said
    assert "Traceback" not in said
    watched["trainer"] |= {"callbacks": [], "max_steps": 1}
    file.write_text(yaml.safe_dump(watched))
    assert ebm("fit", "-c", file, "--run", run)[0] == 0
    status, said = ebm("test", run)
    assert status == 1
    assert sentence in said
    assert not (run / "evaluation").exists()


def test_real_valued_units_may_judge_gray_levels_and_have_no_pseudo_likelihood() -> None:
    module = EBM(RBM({"x": Gaussian([1, 8, 8])}, 3), ContrastiveDivergence())
    found = Likelihood(Exact(), train=False).measure(module, Digits(50, valid=0)).measurements
    assert found.keys() == {"log Z", "log-probability test", "free-energy gap"}
    assert found["log-probability test"].interval is None


@dataclass(eq=False)
class Doubtful(Protocol):
    """Finds an estimate that is not to be trusted."""

    def measure(self, module: EBM, data: object) -> Findings:
        estimate = LogPartition(3.0, -math.inf, 4.0, 2.5, 1.2, 100)
        interval = (-estimate.high, -estimate.low)
        return Findings({"log-probability test": Measurement(-3.0, 0.1, interval, estimate.warning)})


def test_a_doubtful_number_is_kept_and_printed_with_its_warning(tmp_path: Path, capsys) -> None:
    """An infinite end is null in JSON, which has no word for it, and inf on the terminal; the warning is in both."""
    RunFolder(tmp_path).config_file.write_text(yaml.safe_dump({"seed_everything": 0}))
    trainer = SimpleNamespace(
        is_global_zero=True, global_rank=0, default_root_dir=str(tmp_path), datamodule=BarsAndStripes(2)
    )
    module = EBM(_rbm(), ContrastiveDivergence())
    Doubtful().on_test_end(trainer, module)
    text = (tmp_path / "evaluation" / "Doubtful.json").read_text()
    record = json.loads(text, parse_constant=_refuse_constant)
    assert record["convention"] == "binary"
    found, said = record["measurements"]["log-probability test"], capsys.readouterr().out
    assert found["interval"] == [-4.0, None]
    assert "not to be trusted" in found["warning"]
    assert "-3.0000 +- 0.1 [-4.0000, inf]  under binary" in said
    assert f"warning: {found['warning']}" in said


def test_conventions_are_named_by_the_data() -> None:
    assert (Digits().convention, Digits().binary) == ("Gray()", False)
    fixed = Digits(pixels=FixedBinarization(2), valid=100)
    assert (fixed.convention, fixed.binary) == ("FixedBinarization(seed=2)", True)
    assert (BarsAndStripes().convention, BarsAndStripes().binary) == ("binary", True)
    assert (Toy2D("moons").convention, Toy2D("moons").binary) == (None, None)
    assert [fixed.size(split) for split in ("train", "valid", "test")] == [1400, 100, 297]


def test_the_seconds_are_those_of_the_batches_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock on which a batch takes 2 and an estimate 100."""
    clock = [0.0]
    monkeypatch.setattr(monitor_module.time, "perf_counter", lambda: clock[0])
    monitor = LikelihoodMonitor(Exact(), every_n_steps=2)
    trainer = SimpleNamespace(global_step=0, max_steps=5, loggers=[])
    measured = []

    def measure(trainer: Any, module: EBM) -> None:
        measured.append((trainer.global_step, monitor.train_seconds))
        monitor._measured_at = trainer.global_step
        clock[0] += 100

    monkeypatch.setattr(monitor, "measure", measure)
    module = EBM(_rbm(), ContrastiveDivergence())
    for step in range(1, 6):
        monitor.on_train_batch_start(trainer, module, None, 0)
        clock[0] += 2
        trainer.global_step = step
        monitor.on_train_batch_end(trainer, module, None, None, 0)
        clock[0] += 30
    monitor.on_train_end(trainer, module)
    assert measured == [(2, 4), (4, 8), (5, 10)]
    trainer.global_step = 7
    monitor.on_train_end(trainer, module)
    assert measured[-1] == (7, 10), "a run that ends early is measured where it ends"


def test_two_ranks_measure_together_and_one_writes(ebm, tmp_path: Path) -> None:
    """60 chains on two ranks: the effective sample size exceeds what either of them has."""
    config, run = _config(tmp_path, callbacks=[], max_steps=2), tmp_path / "x" / "run"
    assert ebm("fit", "-c", config, "--run", run)[0] == 0
    statuses, said = zip(*ranks(["test", run], tmp_path / "logs"), strict=True)
    assert statuses == (0, 0), "\n".join(said)
    assert "log-probability test" in said[0]
    assert "log-probability test" not in said[1]
    found = json.loads((run / "evaluation" / "Likelihood.json").read_text())["measurements"]
    assert 40 < found["ESS"]["value"] <= 60
    difference = found["log Z difference"]
    assert abs(difference["value"]) < Z * difference["standard_error"] < 0.5
