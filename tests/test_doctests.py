"""The examples of the docstrings: every one runs, and every public class of the method has one."""

import doctest
import importlib
import inspect
import pkgutil
from types import ModuleType

import pytest

from ebm_lightning import chains, distributions, energies, objectives, runs, samplers, training


def modules_of(package: ModuleType) -> list[str]:
    found = pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
    return [package.__name__, *(module.name for module in found)]


PACKAGES = (energies, samplers, chains, objectives, distributions, training)
MODULES = [name for package in PACKAGES for name in modules_of(package)]
MODULES += [f"{runs.__name__}.{name}" for name in ("checkpoints", "load_model", "loggers")]
CLASSES = {
    f"{package.__name__}.{name}": getattr(package, name)
    for package in (energies, energies.boltzmann, energies.networks, samplers, chains, objectives)
    for name in package.__all__
    if inspect.isclass(getattr(package, name)) and not inspect.isabstract(getattr(package, name))
}


@pytest.mark.parametrize("name", MODULES)
def test_docstring_examples(name: str) -> None:
    failures, _ = doctest.testmod(importlib.import_module(name))
    assert failures == 0


@pytest.mark.parametrize("name", CLASSES)
def test_public_class_has_an_example(name: str) -> None:
    (example,) = doctest.DocTestFinder(recurse=False).find(CLASSES[name], name)
    assert example.examples, f"the docstring of {name} has no example"
