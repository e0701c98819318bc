"""Plans: the counted step by hand, rings by simulation, clusters by closed form, and the command."""

import re
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from support.oracles import Examples, Linear
from torch import Tensor

from ebm_lightning import EBM, Trainer
from ebm_lightning.chains import SampleBuffer
from ebm_lightning.cli.main import main
from ebm_lightning.cli.planning import cluster_of
from ebm_lightning.energies import RBM, ConditionalDeepEnergy, DeepEnergy
from ebm_lightning.energies.boltzmann.units import Bernoulli
from ebm_lightning.energies.networks import IGEBMNet
from ebm_lightning.evaluation.protocols.training_cost import work
from ebm_lightning.objectives import ContrastiveDivergence
from ebm_lightning.planning import GPUS, Cluster, Plan, Row, Step, all_reduce, calibration, comparison, count, measure
from ebm_lightning.planning.roofline import table
from ebm_lightning.planning.step_counter import arithmetic_of, saved
from ebm_lightning.samplers import SGLD, Gibbs

EXAMPLES, INPUTS, OUTPUTS = 16, 6, 5


def _data(x: Tensor, y: Tensor | None = None) -> Examples:
    data = Examples(x, y)
    data.batch_size = len(x)
    return data


@pytest.fixture(scope="module")
def linear() -> Step:
    module = EBM(
        Linear(INPUTS, OUTPUTS), ContrastiveDivergence(), SGLD(0.1, noise=0.0), steps=3, chains=SampleBuffer(20)
    )
    return count(module, _data(torch.rand(EXAMPLES, INPUTS)))


def test_the_operations_are_those_of_the_whole_batch(linear: Step) -> None:
    """A product costs 2 B inputs outputs. A step of SGLD takes two, and each phase of the comparison takes two."""
    assert linear.flop == 2 * EXAMPLES * INPUTS * OUTPUTS * (3 * 2 + 4)
    assert linear.examples == EXAMPLES
    assert linear.counted == "counted with 2 and 4, and extrapolated to all"


def test_the_memory_is_that_of_weights_adam_chains_and_what_the_gradient_needs(linear: Step) -> None:
    """Adam has two moments of each weight and a counter of each tensor. A slot of the buffer has x, an age and whether
    it is alive, and the buffer a counter. The gradient needs, in each phase, x for that of W and W x for the square."""
    weights = 4 * INPUTS * OUTPUTS
    assert linear.memory == {
        "weights": weights,
        "gradients": weights,
        "optimizer": 2 * weights + 4,
        "chains": 20 * (4 * INPUTS + 8 + 1) + 8,
        "saved for the gradient": 2 * 4 * EXAMPLES * (INPUTS + OUTPUTS),
    }
    assert (linear.parameters, linear.gradient) == (INPUTS * OUTPUTS, weights)


def test_a_boltzmann_machine_takes_six_products() -> None:
    """h given v and v given h; then W v in each phase, and its gradient in W."""
    visible, hidden = 7, 3
    module = EBM(RBM({"x": Bernoulli([visible])}, hidden), ContrastiveDivergence(), Gibbs(("h", "x")))
    step = count(module, _data(torch.randint(0, 2, (EXAMPLES, visible)).float()))
    assert step.flop == 6 * 2 * EXAMPLES * visible * hidden
    assert step.memory["chains"] == 0


def test_accumulated_batches_are_one_step(linear: Step) -> None:
    module = EBM(Linear(INPUTS, OUTPUTS), ContrastiveDivergence(), SGLD(0.1, noise=0.0), steps=3)
    step = count(module, _data(torch.rand(EXAMPLES, INPUTS)), accumulated=4)
    assert (step.flop, step.examples) == (4 * linear.flop, 4 * EXAMPLES)
    assert step.gradient == linear.gradient
    assert step.memory["saved for the gradient"] == linear.memory["saved for the gradient"]


def test_data_that_are_not_there_may_be_replaced(tiny: Path, ebm, tmp_path: Path) -> None:
    """The hub is a folder that is empty; the counts are those of the shape."""
    stream = ("TextStream", "--data.init_args.corpus.path", tmp_path, "--data.init_args.tokenizer", "Bytes")
    stream += ('--data.init_args.loading={"max_train": null}',)  # a stream has no number of windows to limit
    status, said = ebm("plan", tiny, "--gpu", "h100", "--", "--data", *stream)
    assert status == 1
    assert re.search(r"ebm: error: HubText\(.*cannot be read .*; a plan may use any data of this shape", said)
    module = EBM(Linear(INPUTS, OUTPUTS), ContrastiveDivergence(), SGLD(0.1, noise=0.0))
    steps = [count(module, _data(x)) for x in (torch.rand(8, INPUTS), torch.zeros(8, INPUTS))]
    assert steps[0] == steps[1]


def test_what_is_extrapolated_is_what_the_whole_batch_takes() -> None:
    """A convolutional energy with spectral norms, whose power iterations are the same for any batch."""
    net = IGEBMNet(2, 4, ((4, 2), (6, 1)), classes=3)
    module = EBM(
        ConditionalDeepEnergy(net), ContrastiveDivergence(l2=1.0), SGLD(0.1, noise=0.0), steps=2, eval_sampling=False
    )
    batch = {"x": torch.rand(9, 2, 8, 8), "y": torch.arange(9) % 3}
    step = count(module, _data(**batch))
    whole = work(module, batch)
    assert (step.flop, step.convolved) == (whole.flop, whole.convolved)
    assert (step.moved, step.calls) == (whole.moved, whole.calls)
    assert step.memory["saved for the gradient"] == saved(module, batch)


def test_what_the_last_steps_keep_for_the_gradient_is_kept_at_once() -> None:
    """Each step that stays in the graph needs as much again, but for the first, whose start has no gradient."""

    def kept(backprop: int) -> int:
        module = EBM(Linear(INPUTS, OUTPUTS), ContrastiveDivergence(), SGLD(0.1, noise=0.0), steps=4, backprop=backprop)
        return saved(module, {"x": torch.rand(EXAMPLES, INPUTS)})

    assert kept(3) - kept(2) == kept(2) - kept(1) > kept(4) - kept(3) > 0


@pytest.mark.parametrize("ranks", [1, 2, 5])
def test_a_ring_sends_what_its_formula_says(ranks: int) -> None:
    """The ring, part by part: each rank passes a part on and adds what it is given, then passes the sums on."""
    parts = torch.rand(ranks, ranks, 3)  # (rank, part, numbers)
    wanted, sent = parts.sum(0), torch.zeros(ranks)
    for turn in range(2 * (ranks - 1)):
        before = parts.clone()
        for rank in range(ranks):
            to, part = (rank + 1) % ranks, (rank - turn) % ranks
            parts[to, part] = before[rank, part] + (before[to, part] if turn < ranks - 1 else 0)
            sent[rank] += before[rank, part].numel() * 4
    torch.testing.assert_close(parts, wanted.expand_as(parts))
    size, bandwidth = ranks * 3 * 4, 7.0
    assert all_reduce(size, ranks, bandwidth) == pytest.approx(float(sent.max()) / bandwidth)


STEP = Step(
    32, flop=7e12, moved=3.35e10, calls=100, parameters=10**9, gradient=4 * 10**9, memory={"all": 7e10}, counted=""
)


def test_the_longest_limit_counts() -> None:
    cluster = Cluster("h100", arithmetic="bf16", share=0.5)
    assert list(cluster.limits(STEP).values()) == pytest.approx([7e12 / 0.5 / 989.4e12, 0.01, 0.0005])
    assert cluster.rows(STEP)[0].slowest == pytest.approx(7e12 / 0.5 / 989.4e12)
    assert Cluster("h100", arithmetic="bf16", share=1.0).rows(STEP)[0].slowest == pytest.approx(0.01)
    assert GPUS["a100"].peak("tf32") == 156e12


def test_convolutions_in_float32_are_made_in_tf32() -> None:
    step, peaks = replace(STEP, convolved=5e12), GPUS["h100"]
    seconds = (2e12 / peaks.peak("fp32") + 5e12 / peaks.peak("tf32")) / 0.35
    (words, limit), *_ = Cluster("h100").limits(step).items()
    assert limit == pytest.approx(seconds)
    assert words == "0.35 of 494.7 TFLOP/s (tf32) and 66.9 TFLOP/s (fp32)"
    assert next(iter(Cluster("h100", arithmetic="bf16").limits(step).values())) == pytest.approx(
        7e12 / 0.35 / peaks.peak("bf16")
    )
    net = torch.nn.Sequential(torch.nn.Conv2d(2, 3, 3), torch.nn.Flatten(), torch.nn.Linear(3 * 4 * 4, 1))
    module = EBM(DeepEnergy(net), ContrastiveDivergence(), SGLD(0.1, noise=0.0))
    counted = work(module, {"x": torch.rand(5, 2, 6, 6)})
    # Forward and to the input in the transition; forward, to the weights and to the input in either phase.
    assert counted.flop - counted.convolved == 2 * 5 * 48 * (2 + 2 * 3)


def test_a_cluster_grows_by_whole_nodes_and_pays_for_two_rings() -> None:
    """Within a node of 8, 7/4 of the gradient at 450 GB/s; out of it, 2 (n - 1) / n of it at 50 GB/s."""
    rows = Cluster("h100", 48, 8, "infiniband-400", "bf16", 0.5).rows(STEP)
    assert [(row.nodes, row.ranks, row.examples) for row in rows] == [
        *((1, 1, 32), (1, 8, 256), (2, 16, 512), (4, 32, 1024), (6, 48, 1536))
    ]
    within = 7 / 4 * 4 / 450
    outside = [2 * (row.nodes - 1) / row.nodes * 4 / 50 for row in rows]
    assert [row.communicating for row in rows] == pytest.approx([0, *(within + each for each in outside[1:])])
    assert len({row.computing for row in rows}) == 1
    assert [row.ranks for row in Cluster("l40s", 3).rows(STEP)] == [1, 3]


def test_a_row_is_two_bounds_and_its_efficiency_that_of_a_rank() -> None:
    rows = [Row(1, 1, 10, 2.0, 0.0), Row(1, 4, 40, 2.0, 0.5), Row(2, 8, 80, 2.0, 3.0)]
    assert [(row.slowest, row.fastest, row.rate) for row in rows] == [(2, 2, 5), (2.5, 2, 16), (5, 3, 16)]
    assert table(rows)[3:] == [
        "| 1 | 4 | 40 | 2500 | 500 | 2000 | 80% | 16 |",
        "| 2 | 8 | 80 | 5000 | 3e+03 | 3000 | 40% | 16 |",
    ]


def test_a_plan_says_hours_and_whether_it_fits() -> None:
    plan = Plan(STEP, (Row(1, 1, 32, 1.8, 0), Row(1, 2, 64, 1.8, 0.2)), 3600, "", (), capacity=8e10)
    assert (plan.hours, plan.rank_hours) == (2.0, 4.0)
    assert plan.memory == {"all": 7e10, "gradients to be sent": 4e9}
    assert "74 GB of a rank, which has 80 GB: all 70 GB, gradients to be sent 4 GB" in plan.lines()[2]
    tight = Plan(STEP, plan.rows, 3600, "", (), capacity=7.2e10)
    assert "74 GB of a rank, which has 72 GB and is too small" in tight.lines()[2]
    assert comparison(plan, {2: 3.0})[2:] == ["| 2 | 64 | 2000 | 3000 | 1.50 |"]


@pytest.mark.parametrize(
    ("precision", "matmul", "expected"),
    [("bf16-mixed", "highest", "bf16"), ("32-true", "highest", "fp32"), ("32-true", "high", "tf32")],
)
def test_the_precision_of_the_run_says_which_peak_counts(
    precision: str, matmul: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "get_float32_matmul_precision", lambda: matmul)
    assert arithmetic_of(precision) == expected


def test_the_command_plans_a_cluster(ebm, tiny: Path, tmp_path: Path) -> None:
    """12 steps of tiny.yaml, which trains an MLP 64-16-1 on batches of 16; nothing is written."""
    options = ("--gpus", 16, "--gpu", "a100", "--gpus-per-node=4", "--network", "ethernet-100")
    status, said = ebm("plan", tiny, *options, "--", "--trainer.accelerator", "gpu", "--trainer.devices", 8)
    assert status == 0, said
    assert "parameters  1,057, whose gradient has 4.23 kB" in said
    rows = re.findall(r"^\| (\d+) \| (\d+) \| (\d+) ", said, re.MULTILINE)
    assert rows == [("1", "1", "16"), ("1", "4", "64"), ("2", "8", "128"), ("4", "16", "256")]
    assert "run         12 steps on 16 in" in said
    assert not (tmp_path / "runs").exists()


def test_the_command_plans_this_machine(ebm, tiny: Path) -> None:
    status, said = ebm("plan", tiny)
    assert status == 0, said
    assert len(re.findall(r"ms measured with 1 CPU thread,", said)) == 2
    assert re.findall(r"^\| 1 \| (\d) \| (\d+) ", said, re.MULTILINE) == [("1", "16"), ("2", "32")]


def test_a_measured_step_is_that_of_a_run(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In this process in place of another; the 21 steps of the run take longer than 20 of those it measures."""

    def run_here(command: list[str], **rest: object) -> SimpleNamespace:
        main(command[command.index("fit") :])
        return SimpleNamespace(returncode=0)

    monkeypatch.setattr("sys.argv", ["ebm"])
    monkeypatch.setattr(calibration, "subprocess", SimpleNamespace(run=run_here))
    begun = time.monotonic()
    seconds = measure(yaml.safe_load(tiny.read_text()), 1, 10.0)
    assert 0 < 20 * seconds < time.monotonic() - begun


def test_a_run_that_cannot_be_measured_says_why(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failed = SimpleNamespace(returncode=1, stderr="much\nebm: error: no")
    monkeypatch.setattr(calibration, "subprocess", SimpleNamespace(run=lambda *a, **k: failed))
    with pytest.raises(ValueError, match="failed on 2 processes: ebm: error: no"):
        measure(yaml.safe_load(tiny.read_text()), 2, 1.0)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "`ebm plan` needs an experiment"),
        (("absent.yaml",), "there is no configuration file absent.yaml"),
        (("{expected}",), "there is no option 'claims'"),
        (("{tiny}", "--gpu", "h10"), "there is no GPU 'h10': expected one of v100, a100, h100, h200, l40s, rtx4090"),
        (("{tiny}", "--", "--data", "Images", "--data.init_args.name", "mnist"), "EBM_DATA"),
    ],
)
def test_a_mistake_is_one_sentence(
    arguments: tuple, words: str, ebm, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EBM_DATA", str(tmp_path))
    expected = Path(__file__).parents[2] / "experiments" / "quickstart" / "expected.yaml"
    status, said = ebm("plan", *(word.format(tiny=tiny, expected=expected) for word in arguments))
    assert status == 1
    assert said.splitlines()[-1].startswith("ebm: error: ")
    assert words in said


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"gpu": "h100", "network": "token-ring"}, "there is no network 'token-ring': expected one of ethernet-100"),
        ({"gpu": "h100", "gpus": 12}, "12 GPUs do not fill nodes of 8: give a multiple"),
        ({"gpu": "h100", "gpus": 0}, "expected both to be at least 1"),
        ({"gpu": "h100", "share": 0.0}, "expected more than 0 and at most 1"),
    ],
)
def test_a_cluster_that_cannot_be_is_refused(arguments: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Cluster(**arguments)


def test_this_machine_is_not_planned_for_many_gpus_nor_without_an_end() -> None:
    with pytest.raises(ValueError, match="planned for 1 and 2 processes, not for 64 GPUs"):
        cluster_of(Trainer(accelerator="cpu", logger=False, max_steps=1), "this", 64)
    with pytest.raises(ValueError, match=r"runs are counted in steps: set trainer\.max_steps"):
        cluster_of(Trainer(accelerator="cpu", logger=False, max_epochs=1), "this", 1)
