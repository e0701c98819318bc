"""One parser for the program: each command has help, spells its options as the others do, and keeps sys.argv."""

import ast
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support import ROOT

from ebm_lightning.cli.main import COMMANDS
from ebm_lightning.cli.parser import respell, split_rest
from ebm_lightning.runs.errors import UserError
from ebm_lightning.training.callbacks.guard import DivergenceError

NET = "experiments/paper/net.yaml"
MAX_HELP_S = 0.2


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_has_generated_help(name: str, ebm) -> None:
    status, said = ebm(name, "--help")
    assert status == 0
    assert said.startswith(f"usage: ebm {name} ")
    assert "--help" in said
    listed = ebm("--help")[1]
    assert f"    {name} " in listed or f"    {name}\n" in listed


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("fit", ("--result RESULT", "--trainer.max_steps")),
        ("test", ("--protocols PROTOCOLS", "--evaluation")),
        ("sample", ("--num_samples NUM_SAMPLES", "default: 500", "--seed SEED")),
        ("generate", ("--prompt PROMPT", "--energies  ", "--candidates")),
        ("plan", ("--gpus_per_node", "--network NETWORK", "--measure", "--model CONFIG")),
        ("submit", ("--dry-run", "--max-parallel N", "Arguments after -- are passed to `ebm fit`")),
    ],
)
def test_the_help_of_a_command_has_its_own_options(name: str, options: tuple[str, ...], ebm) -> None:
    said = ebm(name, "--help")[1]
    for option in options:
        assert option in said, option
    assert ("--num_samples NUM_SAMPLES" in said) == (name == "sample")


def test_help_takes_less_than_a_fifth_of_a_second() -> None:
    """The shortest of five: others may use the processor too. That it imports no torch, test_architecture checks."""
    took = []
    for _ in range(5):
        begun = time.perf_counter()
        subprocess.run([sys.executable, "-m", "ebm_lightning", "--help"], cwd=ROOT, capture_output=True, check=True)
        took.append(time.perf_counter() - begun)
    assert min(took) < MAX_HELP_S


@pytest.mark.parametrize(
    ("words", "dashes", "underscores"),
    [
        (["--gpus_per-node", "4"], ["--gpus-per-node", "4"], ["--gpus_per_node", "4"]),
        (["--run=my-run_1"], ["--run=my-run_1"], ["--run=my-run_1"]),
        (['--a.b_c+={"d-e": 1}'], ['--a.b-c+={"d-e": 1}'], ['--a.b_c+={"d-e": 1}']),
        (["my-run_1", "-c", "a-b_c.yaml", "--"], ["my-run_1", "-c", "a-b_c.yaml", "--"], None),
    ],
)
def test_only_names_of_options_are_respelled(words: list[str], dashes: list[str], underscores: list[str]) -> None:
    assert respell(words, "-") == dashes
    assert respell(words, "_") == (underscores or words)


def test_what_follows_two_dashes_is_the_rest() -> None:
    assert split_rest(["a", "--b", "--", "--c", "--"]) == (["a", "--b"], ["--c", "--"])
    assert split_rest(["a"]) == (["a"], [])


@pytest.mark.parametrize(
    "spellings",
    [
        ("--trainer.max_steps=3 --matmul_precision high", "--trainer.max-steps=3 --matmul-precision high"),
        ("--model.sampler.init_args.step_size 0.3", "-- --model.sampler.init-args.step-size 0.3"),
        ("--seed_everything 4", "--seed-everything 4"),
    ],
)
def test_options_of_a_configuration_take_dashes_and_underscores(spellings: tuple[str, str], ebm, tiny: Path) -> None:
    first, second = (
        ebm("fit", "-c", tiny, *options.split(), print_config)
        for options, print_config in zip(spellings, ("--print_config", "--print-config"), strict=True)
    )
    assert first == second
    assert first[0] == 0
    assert first != ebm("fit", "-c", tiny, "--print_config")


def test_options_of_plan_take_dashes_and_underscores(ebm, tiny: Path) -> None:
    first, second = (
        ebm("plan", tiny, "--gpu=h100", "--gpus=8", *options)
        for options in (("--gpus_per_node", 4), ("--gpus-per-node", 4))
    )
    assert first == second
    assert first[0] == 0


def test_options_of_submit_take_dashes_and_underscores(ebm, checkout: Path) -> None:
    """Those after the -- too: the run folders are named by them."""
    first, second = (
        ebm("submit", NET, "--seeds=0-1", *options)
        for options in (
            ("--dry_run", "--max_parallel", 1, "--", "--trainer.max_steps", 3),
            ("--dry-run", "--max-parallel", 1, "--", "--trainer.max-steps", 3),
        )
    )
    assert first == second
    assert first[0] == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("cancel",), "the following arguments are required: RUN: see `ebm cancel --help`"),
        (("jobs", "--al"), "unrecognized arguments: --al: see `ebm jobs --help`"),
        (("submit", NET, "--seed", "1"), "unrecognized arguments: --seed 1: see `ebm submit --help`"),
        (("submit", NET, "--max-parallel", "two"), "argument --max-parallel: invalid int value: 'two'"),
        (("reproduce", "--scale", "huge"), "argument --scale: invalid choice: 'huge'"),
        (("--nonsense",), "see `ebm --help`"),
    ],
)
def test_a_mistake_in_an_option_is_one_sentence(arguments: tuple[str, ...], words: str, ebm) -> None:
    status, said = ebm(*arguments)
    assert (status, said.count("\n"), said[:12]) == (1, 1, "ebm: error: ")
    assert words in said


def test_the_words_of_the_command_line_are_read_in_one_place_and_never_changed() -> None:
    found = set()
    for file in (ROOT / "ebm_lightning").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Attribute) and ast.unparse(node) == "sys.argv":
                found.add(file.relative_to(ROOT / "ebm_lightning").as_posix())
                assert isinstance(node.ctx, ast.Load)
            if isinstance(node, ast.Subscript) and ast.unparse(node.value) == "sys.argv":
                assert isinstance(node.ctx, ast.Load)
    assert found == {"cli/main.py"}


def test_a_divergence_is_an_error_for_the_user_by_its_type() -> None:
    assert issubclass(DivergenceError, UserError)
    assert issubclass(DivergenceError, RuntimeError)
