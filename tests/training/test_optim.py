"""SigmaClippedAdam against its formula written out, and its place among torch's optimizers."""

import copy
import io
import math

import pytest
import torch
from torch import Tensor

from ebm_lightning.training.optim import SigmaClippedAdam

Setting = dict[str, object]


def by_hand(
    start: Tensor, grads: list[Tensor], lr: float, betas: tuple[float, float], sigmas: float, slack: float
) -> Tensor:
    """Element by element, in Python's floats."""
    out = start.clone()
    for i in range(len(start)):
        theta, m, v = float(start[i]), 0.0, 0.0
        for t, grad in enumerate(grads, 1):
            bound = sigmas * math.sqrt(v / (1 - betas[1] ** t)) + slack
            g = min(max(float(grad[i]), -bound), bound)
            m, v = betas[0] * m + (1 - betas[0]) * g, betas[1] * v + (1 - betas[1]) * g * g
            theta -= lr * (m / (1 - betas[0] ** t)) / (math.sqrt(v / (1 - betas[1] ** t)) + 1e-8)
        out[i] = theta
    return out


def spiky(steps: int, size: int = 6) -> list[Tensor]:
    """Gradients of very different sizes, so that some are clipped at every step and others never."""
    scale = torch.logspace(-2, 1, size, dtype=torch.float64)
    return [scale * torch.randn(size, dtype=torch.float64).pow(3) for _ in range(steps)]


def descend(optimizer: torch.optim.Optimizer, parameter: Tensor, grads: list[Tensor]) -> None:
    for grad in grads:
        parameter.grad = grad.clone()
        optimizer.step()


@pytest.mark.parametrize(("betas", "sigmas", "slack"), [((0.0, 0.999), 3.0, 0.1), ((0.9, 0.9), 0.5, 0.01)])
def test_SigmaClippedAdam_equals_the_formula_written_out(
    betas: tuple[float, float], sigmas: float, slack: float
) -> None:
    parameter, grads = torch.randn(6, dtype=torch.float64).requires_grad_(), spiky(20)
    expected = by_hand(parameter.detach(), grads, 0.01, betas, sigmas, slack)
    descend(SigmaClippedAdam([parameter], 0.01, betas, sigmas=sigmas, slack=slack), parameter, grads)
    torch.testing.assert_close(parameter.detach(), expected, rtol=1e-10, atol=1e-12)


def test_SigmaClippedAdam_is_adam_where_nothing_is_clipped() -> None:
    ours, grads = torch.randn(6, dtype=torch.float64).requires_grad_(), spiky(10)
    theirs = ours.detach().clone().requires_grad_()
    descend(SigmaClippedAdam([ours], 0.01, slack=1e6), ours, grads)
    descend(torch.optim.Adam([theirs], 0.01, (0.0, 0.999)), theirs, grads)
    assert torch.equal(ours, theirs)


def test_SigmaClippedAdam_first_step_clips_at_slack_and_leaves_the_clipped_gradient() -> None:
    parameter = torch.zeros(3, requires_grad=True)
    optimizer = SigmaClippedAdam([parameter], slack=0.1)
    descend(optimizer, parameter, [torch.tensor([5.0, -5.0, 0.05])])
    assert torch.equal(parameter.grad, torch.tensor([0.1, -0.1, 0.05]))
    torch.testing.assert_close(optimizer.state[parameter]["exp_avg_sq"], 0.001 * parameter.grad.square())


def test_SigmaClippedAdam_gradients_of_a_closure_are_clipped_and_its_loss_returned() -> None:
    parameter, plain = torch.full((3,), 4.0, requires_grad=True), torch.full((3,), 4.0, requires_grad=True)
    optimizer, other = SigmaClippedAdam([parameter], 0.1), SigmaClippedAdam([plain], 0.1)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = parameter.square().sum()
        loss.backward()
        return loss

    for _ in range(3):
        expected = plain.square().sum()
        other.zero_grad()
        expected.backward()
        other.step()
        loss = optimizer.step(closure)
        assert torch.equal(loss, expected)
    assert torch.equal(parameter, plain)
    assert not torch.equal(parameter, torch.full((3,), 4.0))


def test_SigmaClippedAdam_resumes_exactly_from_a_checkpoint_of_plain_tensors() -> None:
    parameter, grads = torch.randn(6, dtype=torch.float64).requires_grad_(), spiky(20)
    optimizer = SigmaClippedAdam([parameter], 0.01, sigmas=0.5)
    descend(optimizer, parameter, grads[:10])
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    resumed = parameter.detach().clone().requires_grad_()
    fresh = SigmaClippedAdam([resumed])
    fresh.load_state_dict(torch.load(file, weights_only=True))
    descend(optimizer, parameter, grads[10:])
    descend(fresh, resumed, grads[10:])
    assert torch.equal(parameter, resumed)


def test_SigmaClippedAdam_groups_may_clip_differently_and_unused_parameters_stay() -> None:
    tight, loose, late, unused = (torch.zeros(2, requires_grad=True) for _ in range(4))
    optimizer = SigmaClippedAdam([{"params": [tight], "slack": 0.01}, {"params": [loose, unused]}], slack=0.5)
    optimizer.add_param_group({"params": [late], "slack": 0.2})
    for parameter in (tight, loose, late):
        parameter.grad = torch.ones(2)
    copy.deepcopy(optimizer).step()
    optimizer.step()
    assert [float(parameter.grad[0]) for parameter in (tight, loose, late)] == pytest.approx([0.01, 0.5, 0.2])
    assert torch.equal(unused, torch.zeros(2))


@pytest.mark.parametrize(("sigmas", "slack"), [(-1.0, 0.1), (3.0, 0.0)])
def test_SigmaClippedAdam_bad_values_are_refused_with_a_message(sigmas: float, slack: float) -> None:
    with pytest.raises(ValueError, match="expected sigmas >= 0 and slack > 0"):
        SigmaClippedAdam([torch.zeros(1)], sigmas=sigmas, slack=slack)
