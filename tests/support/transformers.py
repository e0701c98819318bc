"""A small energy-based transformer on text, under every way to tell it the step."""

import pytest

from ebm_lightning.energies import StepAdaLN, StepToken, TextEBT
from support.oracles import perturbed

CONDITIONS = {"none": None, "token": StepToken(2), "adaln": StepAdaLN(2)}

every_condition = pytest.mark.parametrize("condition", CONDITIONS.values(), ids=CONDITIONS)
"""For a test with an argument ``condition``."""


def small_text_ebt(condition: StepToken | StepAdaLN | None = None) -> TextEBT:
    """A TextEBT of five tokens and two layers, every parameter moved."""
    model = perturbed(TextEBT(5, layers=2, heads=2, dim=8, condition=condition))
    assert isinstance(model, TextEBT)
    return model
