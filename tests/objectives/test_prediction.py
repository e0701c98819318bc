"""Predictions against torch's losses, against descent written out by hand, and on a text that can be learned."""

import math

import pytest
import torch
from support.oracles import perturbed
from torch import Tensor, nn
from torch.nn import functional as F

from ebm_lightning import EBM
from ebm_lightning.chains import NoiseChains, SampleBuffer
from ebm_lightning.core import EnergyModel, State
from ebm_lightning.distributions import GaussianNoise
from ebm_lightning.energies import Denoiser, ImageEBT, NextToken, StepToken, TextEBT
from ebm_lightning.energies.networks import CausalTransformer, DiTDenoiser
from ebm_lightning.objectives import ImagePrediction, TokenPrediction
from ebm_lightning.samplers import Descent
from ebm_lightning.training.optim import SamplerParamGroup

F64 = torch.float64


class Flat(EnergyModel):
    def forward(self, y: Tensor) -> Tensor:
        return 0 * y.flatten(1).sum(1)


def _batch(n: int = 3, positions: int = 4, vocabulary: int = 5) -> State:
    tokens = torch.randint(0, vocabulary, (n, positions + 1))
    return {"x": tokens[:, :-1], "target": tokens[:, 1:]}


def test_TokenPrediction_is_the_mean_over_the_steps_kept() -> None:
    path, target = torch.randn(3, 2, 4, 5, dtype=F64), torch.randint(0, 5, (3, 4))
    energies = torch.randn(3, 2, dtype=F64)
    neg = {"y": path[:, -1], "y.trajectory": path, "y.energies": energies, "target": target}
    terms = TokenPrediction()(Flat(), {}, neg)
    log_p = path.log_softmax(-1)
    by_hand = -torch.stack(
        [torch.stack([log_p[i, k, t, target[i, t]] for i in range(3) for t in range(4)]).mean() for k in range(2)]
    )
    torch.testing.assert_close(terms["loss"], by_hand.mean())
    torch.testing.assert_close(terms["initial_loss"], by_hand[0])
    torch.testing.assert_close(terms["final_loss"], by_hand[1])
    torch.testing.assert_close(terms["batch_perplexity"], by_hand[1].exp())
    torch.testing.assert_close(terms["energy_gap"], (energies[:, 0] - energies[:, 1]).mean())


def test_TokenPrediction_without_a_path_counts_the_end_and_no_padding() -> None:
    y, target = torch.randn(3, 4, 5, dtype=F64), torch.randint(0, 5, (3, 4))
    terms = TokenPrediction(ignore=2)(Flat(), {"y": y, "target": target}, None)
    kept = target != 2
    by_hand = -y.log_softmax(-1)[kept].gather(1, target[kept][:, None]).mean()
    torch.testing.assert_close(terms["loss"], by_hand)
    assert set(terms) == {"loss", "final_loss", "batch_perplexity"}


@pytest.mark.parametrize("beta", [1.0, 0.3, None])
def test_ImagePrediction_is_the_loss_of_torch(beta: float | None) -> None:
    path, target = 2 * torch.randn(3, 2, 1, 4, 4, dtype=F64), torch.randn(3, 1, 4, 4, dtype=F64)
    neg = {"y": path[:, -1], "y.trajectory": path, "y.energies": torch.zeros(3, 2), "target": target}
    terms = ImagePrediction(beta=beta)(Flat(), {}, neg)
    error = nn.MSELoss() if beta is None else nn.SmoothL1Loss(beta=beta)
    losses = [error(path[:, k], target) for k in range(2)]
    torch.testing.assert_close(terms["loss"], (losses[0] + losses[1]) / 2)
    torch.testing.assert_close(terms["final_loss"], losses[1])
    torch.testing.assert_close(terms["mse"], (path[:, 1] - target).square().mean())


@pytest.mark.parametrize("objective", [TokenPrediction(), ImagePrediction()])
def test_TokenPrediction_and_ImagePrediction_name_what_is_missing(objective: TokenPrediction | ImagePrediction) -> None:
    with pytest.raises(ValueError, match=r"\['target'\] is not in the state \['y'\]"):
        objective(Flat(), {"y": torch.zeros(1, 2, 3)}, None)
    with pytest.raises(ValueError, match="expected a number > 0"):
        ImagePrediction(beta=0.0)


def _text(descent: Descent, steps: int, backprop: int) -> EBM:
    model = perturbed(TextEBT(5, layers=2, heads=2, dim=8, condition=StepToken(2)))
    chains = NoiseChains(GaussianNoise())
    return EBM(model, TokenPrediction(), descent.double(), steps=steps, backprop=backprop, chains=chains)


def _assert_same_gradients(module: EBM, batch: State, loss: Tensor, by_hand: Tensor) -> None:
    parameters = [p for p in module.parameters() if p.requires_grad]
    torch.testing.assert_close(loss, by_hand)
    ours, theirs = (torch.autograd.grad(value, parameters) for value in (loss, by_hand))
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)
    assert all(grad.abs().max() > 0 for grad in ours)


def test_TokenPrediction_of_system_one_is_the_published_loop() -> None:
    """Two steps from noise, a constant at the start of each, both compared with the target, the step size learned."""
    module = _text(Descent(2.0, learned=True, detach=True, softmax=True, return_trajectory=True), steps=2, backprop=2)
    batch, alpha = _batch(), module.sampler.alpha
    torch.manual_seed(1)
    loss = module.training_step(batch, 0)["loss"]
    torch.manual_seed(1)
    y, by_hand = torch.randn(3, 4, 5, dtype=F64), torch.zeros((), dtype=F64)
    for k in range(2):
        p = y.detach().softmax(-1).requires_grad_()
        energy = module.model(batch["x"], p, torch.full((3,), k))
        (grad,) = torch.autograd.grad(energy.sum(), p, create_graph=True)
        y = p - alpha * grad
        by_hand = by_hand + F.nll_loss(y.log_softmax(-1).flatten(0, 1), batch["target"].flatten()) / 2
    _assert_same_gradients(module, batch, loss, by_hand)


def test_TokenPrediction_of_system_two_is_the_published_loop() -> None:
    """Three noisy steps, of which the last alone is differentiated and compared with the target."""
    module = _text(Descent(2.0, softmax=True, noise=0.5), steps=3, backprop=1)
    batch = _batch()
    torch.manual_seed(1)
    loss = module.training_step(batch, 0)["loss"]
    torch.manual_seed(1)
    y = torch.randn(3, 4, 5, dtype=F64)
    for k in range(3):
        p = (y + 0.5 * torch.randn_like(y)).softmax(-1).detach().requires_grad_()
        energy = module.model(batch["x"], p, torch.full((3,), k))
        (grad,) = torch.autograd.grad(energy.sum(), p, create_graph=k == 2)
        y = p - 2.0 * grad
    by_hand = F.cross_entropy(y.flatten(0, 1), batch["target"].flatten())
    _assert_same_gradients(module, batch, loss, by_hand)


def test_TokenPrediction_of_steps_through_one_another_is_differentiated_as_autograd_does() -> None:
    module = _text(Descent(2.0, learned=True, softmax=True), steps=2, backprop=2)
    batch = _batch()
    torch.manual_seed(1)
    loss = module.training_step(batch, 0)["loss"]
    torch.manual_seed(1)
    y = torch.randn(3, 4, 5, dtype=F64).requires_grad_()
    for k in range(2):
        p = y.softmax(-1)
        energy = module.model(batch["x"], p, torch.full((3,), k))
        y = p - module.sampler.alpha * torch.autograd.grad(energy.sum(), p, create_graph=True)[0]
    by_hand = F.cross_entropy(y.flatten(0, 1), batch["target"].flatten())
    _assert_same_gradients(module, batch, loss, by_hand)


def test_ImagePrediction_is_one_step_from_the_noised_image() -> None:
    model = perturbed(ImageEBT(4, patch=2, channels=1, layers=1, heads=2, dim=8))
    descent = Descent(3.0, learned=True, detach=True).double()
    module = EBM(model, ImagePrediction(), descent, steps=1, backprop=1)
    clean = torch.randn(3, 1, 4, 4, dtype=F64)
    batch = {"x": clean + 0.3 * torch.randn_like(clean), "target": clean}
    loss = module.training_step(batch, 0)["loss"]
    y = batch["x"].clone().requires_grad_()
    reached = y - descent.alpha * torch.autograd.grad(model(y).sum(), y, create_graph=True)[0]
    _assert_same_gradients(module, batch, loss, F.smooth_l1_loss(reached, clean))


def test_TokenPrediction_compares_chains_that_persist_with_their_own_targets() -> None:
    """A chain drawn from a buffer brings back its context and target, whatever the batch is now."""
    buffer = SampleBuffer(3, init=GaussianNoise(), keep=("x", "target"))
    model = TextEBT(5, layers=1, heads=1, dim=4)
    module = EBM(model, TokenPrediction(), Descent(1.0, softmax=True), backprop=1, chains=buffer)
    first = _batch()
    module.training_step(first, 0)
    neg = module.sample_negatives(model.positive_phase(_batch()))
    order = (neg["x"][:, None] == first["x"][None]).all(-1).long().argmax(1)
    assert torch.equal(neg["x"], first["x"][order])
    assert torch.equal(neg["target"], first["target"][order])


def test_TokenPrediction_and_ImagePrediction_of_baselines_need_no_sampler() -> None:
    net = CausalTransformer(5, layers=1, heads=2, dim=8)
    batch = _batch()
    terms = EBM(NextToken(net), TokenPrediction()).training_step(batch, 0)
    expected = F.cross_entropy(net(batch["x"]).flatten(0, 1), batch["target"].flatten())
    torch.testing.assert_close(terms["loss"], expected)
    parameters = list(net.parameters())
    ours, theirs = (torch.autograd.grad(value, parameters) for value in (terms["loss"], expected))
    torch.testing.assert_close(ours, theirs)
    images = {"x": torch.randn(2, 1, 4, 4), "target": torch.randn(2, 1, 4, 4)}
    denoiser = DiTDenoiser(4, patch=2, channels=1, layers=1, heads=1, dim=4)
    terms = EBM(Denoiser(denoiser), ImagePrediction(beta=None)).training_step(images, 0)
    torch.testing.assert_close(terms["loss"], F.mse_loss(images["x"], images["target"]))


def _learned(module: EBM, batch: State, updates: int) -> float:
    """The loss at the end of so many updates on one batch."""
    optimizer = module.configure_optimizers()
    for _ in range(updates):
        optimizer.zero_grad()
        module.training_step(batch, 0)["loss"].backward()
        optimizer.step()
    return float(module.training_step(batch, 0)["final_loss"])


def _cycle() -> State:
    """Sixteen windows of a text that runs through four tokens in turn: what follows is certain, its entropy log 4."""
    tokens = (torch.arange(16)[:, None] + torch.arange(9)) % 4
    return {"x": tokens[:, :-1], "target": tokens[:, 1:]}


@pytest.mark.parametrize("system", [1, 2])
def test_TokenPrediction_learns_more_than_how_often_a_token_occurs(system: int) -> None:
    model = TextEBT(4, layers=1, heads=2, dim=32)
    first = Descent(5.0, learned=True, detach=True, softmax=True, return_trajectory=True)
    module = EBM(
        model,
        TokenPrediction(),
        first if system == 1 else Descent(5.0, softmax=True, step_size_jitter=2.0, step_size_jitter_axes=2),
        steps=2,
        backprop=2 if system == 1 else 1,
        chains=NoiseChains(GaussianNoise()),
        optimizer=lambda parameters: torch.optim.AdamW(parameters, lr=1e-2),
        sampler_param_group=SamplerParamGroup(lr_multiplier=15.0),
    )
    assert _learned(module, _cycle(), 60) < math.log(4)


def test_TokenPrediction_of_a_language_model_learns_by_the_same_module() -> None:
    module = EBM(
        NextToken(CausalTransformer(4, layers=1, heads=2, dim=32)),
        TokenPrediction(),
        optimizer=lambda parameters: torch.optim.AdamW(parameters, lr=1e-2),
        sampler_param_group=SamplerParamGroup(lr_multiplier=15.0),
    )
    assert _learned(module, _cycle(), 60) < math.log(4)


def test_TokenPrediction_in_validation_moves_no_chain() -> None:
    """Terms of what eval-mode descent reaches from where chains are initialized, with no graph and no path."""
    torch.manual_seed(0)
    module = _text(Descent(0.5, softmax=True, return_trajectory=True), steps=2, backprop=2)
    module.chains = buffer = SampleBuffer(8, init=GaussianNoise(), keep=("x", "target"))
    module.eval()
    logged: dict[str, Tensor] = {}
    module.log_dict = lambda terms, **_: logged.update(terms)
    module.log = lambda name, value, **_: logged.update({name: value})
    batch = _batch()
    with torch.no_grad():
        state = torch.get_rng_state()
        module.validation_step(batch, 0)
        torch.set_rng_state(state)
        initial = NoiseChains(GaussianNoise()).start(module.model.positive_phase(batch), ("y",))
        end, _ = module.run_negative_chains(initial, 2)
    expected = F.cross_entropy(end["y"].flatten(0, 1), batch["target"].flatten())
    torch.testing.assert_close(logged["val/loss"], expected)
    assert set(logged) == {"val/loss", "val/final_loss", "val/batch_perplexity", "val/energy_data"}
    assert buffer.state_dict() == {}
    assert not logged["val/loss"].requires_grad
