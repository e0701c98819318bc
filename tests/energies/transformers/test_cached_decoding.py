"""Texts read once, token by token, against the whole pass over all positions."""

import pytest
import torch
from support.oracles import text
from support.transformers import every_condition, small_text_ebt
from torch import Tensor

from ebm_lightning.core import energy_grad, run_chain
from ebm_lightning.energies import NextCandidate, StepAdaLN, StepToken, TextEBT
from ebm_lightning.energies.networks import Cache, CausalTransformer, Trunk
from ebm_lightning.samplers import Descent

F64 = torch.float64
EXACT = {"rtol": 0, "atol": 1e-10}


def _extended_step_by_step(model: TextEBT, x: Tensor) -> list[NextCandidate]:
    """The energies after every prefix of a text (S,), each made of the one before."""
    found = [NextCandidate(model, x[:1])]
    for token in x[1:]:
        found.append(found[-1].extend(token[None]))
    return found


@every_condition
@pytest.mark.parametrize("step", [0, 1, 4])
def test_NextCandidate_energies_and_gradients_are_those_of_the_whole_pass_at_every_position(
    condition, step: int
) -> None:
    """Three candidates for the token after each prefix, as three copies of the text have them in one pass."""
    model, state = small_text_ebt(condition), text(6, 5)(3)
    state |= {"x": state["x"][:1].expand(3, -1), "descent.step": torch.full((3,), step)}
    whole, energies = energy_grad(model, state, "y")[0], model.local_energies(state)
    for t, candidates in enumerate(_extended_step_by_step(model, state["x"][0])):
        alone = {"y": state["y"][:, t], "descent.step": state["descent.step"]}
        grad, energy = energy_grad(candidates, alone, "y")
        torch.testing.assert_close(energy, energies[:, t].detach(), **EXACT)
        torch.testing.assert_close(grad, whole[:, t], **EXACT)


@every_condition
def test_NextCandidate_whole_predictions_are_those_of_the_whole_pass(condition) -> None:
    """Four steps over two landscapes after every prefix, each landscape with keys of its own."""
    model, state = small_text_ebt(condition), text(6, 5)(3)
    state |= {"x": state["x"][:1].expand(3, -1), "descent.step": torch.zeros(3, dtype=torch.int64)}
    descent = Descent(2.0, softmax=True).double().eval()
    whole = run_chain(descent, model, state, 4)[0]["y"]
    for t, candidates in enumerate(_extended_step_by_step(model, state["x"][0])):
        start = {**candidates.empty_candidates(3), "y": state["y"][:, t]}
        end, _ = run_chain(descent, candidates, start, 4)
        torch.testing.assert_close(end["y"], whole[:, t], **EXACT)
        assert not end["y"].requires_grad


@every_condition
def test_NextCandidate_what_was_read_is_kept_and_what_it_was_made_of_stays(condition) -> None:
    """Reading one token at a time, several at once, or a landscape only at the end makes no difference."""
    model, x = small_text_ebt(condition), torch.randint(0, 5, (7,))
    y = torch.randn(2, 5, dtype=F64)
    states = [{"y": y, "descent.step": torch.full((2,), step)} for step in (0, 1)]
    shorter = NextCandidate(model, x[:3])
    before = shorter.energy(states[0])
    longer = shorter.extend(x[3:])
    for state in states:
        torch.testing.assert_close(longer.energy(state), NextCandidate(model, x).energy(state), **EXACT)
    assert torch.equal(shorter.energy(states[0]), before)


def test_NextCandidate_a_second_derivative_passes_the_candidates() -> None:
    candidates = NextCandidate(small_text_ebt(StepAdaLN(2)), torch.randint(0, 5, (4,)))
    y = torch.randn(2, 5, dtype=F64, requires_grad=True)
    assert torch.autograd.gradgradcheck(lambda y: candidates(y, torch.ones(2, dtype=torch.int64)), y)


@pytest.mark.parametrize("conditioned", [False, True])
def test_Trunk_that_reads_in_pieces_is_one_that_reads_the_whole(conditioned: bool) -> None:
    trunk = Trunk(2, 2, 8, conditioned).double()
    with torch.no_grad():
        for parameter in trunk.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    x, condition = torch.randn(3, 9, 8, dtype=F64), torch.randn(3, 8, dtype=F64) if conditioned else None
    cache, outs = Cache(), []
    for part in x.split([4, 1, 3, 1], 1):
        out, cache = trunk.read(part, cache, condition)
        outs.append(out)
    torch.testing.assert_close(torch.cat(outs, 1), trunk(x, condition), **EXACT)
    assert cache.length == 9


def test_CausalTransformer_that_reads_on_is_one_that_reads_the_whole() -> None:
    model = CausalTransformer(5, layers=2, heads=2, dim=8).double()
    x = torch.randint(0, 5, (3, 7))
    cache, outs = Cache(), []
    for part in x.split([3, 1, 1, 2], 1):
        logits, cache = model.read(part, cache)
        outs.append(logits)
    torch.testing.assert_close(torch.cat(outs, 1), model(x), **EXACT)


def test_NextCandidate_what_is_no_text_and_steps_that_differ_are_refused() -> None:
    model = small_text_ebt(StepToken(2))
    for x in (torch.zeros(0, dtype=torch.int64), torch.zeros(1, 3, dtype=torch.int64)):
        with pytest.raises(ValueError, match="follows one text, tokens of shape"):
            NextCandidate(model, x)
    with pytest.raises(ValueError, match=r"takes tokens 0\.\.4"):
        NextCandidate(model, torch.tensor([5]))
    candidates = NextCandidate(model, torch.tensor([1, 2]))
    with pytest.raises(ValueError, match=r"at one step, got the steps \[0, 1\]"):
        candidates.energy({"y": torch.zeros(2, 5, dtype=F64), "descent.step": torch.tensor([0, 1])})
