"""Text that a run writes: token by token what whole passes give, as it is printed, kept and refused."""

import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from PIL import Image
from support.oracles import perturbed
from torch import Tensor, nn

from ebm_lightning import EBM
from ebm_lightning.chains import NoiseChains
from ebm_lightning.cli.main import main
from ebm_lightning.data import Bytes, Characters, Text, TextFile, Tokenizer
from ebm_lightning.distributions import GaussianNoise
from ebm_lightning.energies import ImageEBT, NextToken, StepToken, TextEBT
from ebm_lightning.energies.networks import CausalTransformer
from ebm_lightning.generation.text import (
    GeneratedToken,
    GenerationConfig,
    generate_tokens,
    inference_steps,
    prefill,
    sample_token,
)
from ebm_lightning.generation.writer import generate, print_tokens
from ebm_lightning.objectives import TokenPrediction
from ebm_lightning.samplers import Descent
from ebm_lightning.training.schedules import RandomSteps
from ebm_lightning.utils.random import isolated

F64 = torch.float64
LETTERS = Characters("abcdefg")
TOKEN = torch.tensor([1])
OTHER = {"size": 3, "vocabulary": "xyz"}
TEXT = "The quick brown fox jumps over the lazy dog. " * 20


def _thinker(noise: bool = True) -> EBM:
    model = perturbed(TextEBT(7, layers=2, heads=2, dim=8, condition=StepToken(2)))
    chains = NoiseChains(GaussianNoise()) if noise else None
    return EBM(model, TokenPrediction(), Descent(2.0, softmax=True).double(), steps=2, chains=chains).eval()


def _one_pass() -> EBM:
    return EBM(NextToken(CausalTransformer(7, layers=2, heads=2, dim=8).double()), TokenPrediction()).eval()


def _sampled_in_one_pass() -> EBM:
    return EBM(NextToken(CausalTransformer(7)), TokenPrediction(), Descent(1.0))


def _unread(tokenizer: Tokenizer) -> Text:
    """Windows of a text that is not there."""
    return Text(TextFile("absent.txt"), tokenizer, 8)


def _windows(x: Tensor, length: int, tokens: list[int]) -> list[Tensor]:
    """What is seen before each token: the newest ``length``, and half of them each time the window is full."""
    seen, found = x[-length:], []
    for token in tokens:
        found.append(seen)
        kept = seen if len(seen) < length else seen[len(seen) - max(1, length // 2) + 1 :]
        seen = torch.cat([kept, torch.tensor([token])])
    return found


def _written(module: EBM, x: Tensor, number: int, length: int, candidates: int = 1) -> list[GeneratedToken]:
    """By the steps 3, at temperature 0.8, under seed 5."""
    steps = None if module.sampler is None else 3
    with isolated(5), torch.no_grad():
        return list(generate_tokens(lambda x: prefill(module, x, steps, candidates), x, number, length, 7, 0.8))


@pytest.mark.parametrize("length", [1, 5, 30])
def test_a_text_is_what_whole_passes_under_the_same_draws_give(length: int) -> None:
    """Of three candidates for each token the one whose energy ends lowest, and a draw at temperature 0.8 from it."""
    module, x = _thinker(), torch.randint(0, 7, (4,))
    model, written = module.model, _written(module, x, 12, length, candidates=3)
    assert [len(seen) for seen in _windows(x, 5, [0] * 8)] == [4, 5, 2, 3, 4, 5, 2, 3]
    torch.manual_seed(5)
    for seen, one in zip(_windows(x, length, [one.token for one in written]), written, strict=True):
        context = seen.expand(3, -1)
        y, energies = torch.randn(3, 7, dtype=F64), []
        for k in range(4):
            p = torch.zeros(3, len(seen), 7, dtype=F64)
            p[:, -1] = y.softmax(-1)
            step = torch.full((3,), k)
            p.requires_grad_()
            energy = model.local_energies({"x": context, "y": p, "descent.step": step})[:, -1]
            energies.append(energy.detach())
            y = (p - 2.0 * torch.autograd.grad(energy.sum(), p)[0])[:, -1].detach() if k < 3 else y
        torch.testing.assert_close(one.energies, torch.stack(energies), rtol=0, atol=1e-10)
        assert one.chosen == int(energies[-1].argmin())
        assert one.token == int((y[one.chosen] / 0.8).softmax(0).multinomial(1))


@pytest.mark.parametrize("length", [1, 5, 30])
def test_a_language_model_writes_what_whole_passes_give(length: int) -> None:
    module, x = _one_pass(), torch.randint(0, 7, (8,))
    written = _written(module, x, 12, length)
    torch.manual_seed(5)
    for seen, one in zip(_windows(x, length, [one.token for one in written]), written, strict=True):
        logits = module.model.net(seen[None])[0, -1]
        assert one.token == int((logits / 0.8).softmax(0).multinomial(1))
        assert (one.chosen_energies, one.gap) == ([], None)


def test_no_graph_is_kept() -> None:
    with torch.no_grad():
        decoder = prefill(_thinker(), torch.tensor([1, 2]), 2, 2).extend(torch.tensor([3]))
        assert not decoder.next_logits().logits.requires_grad
        caches = decoder.energy._caches.values()
        assert all(not kept.requires_grad for cache in caches for pair in cache.blocks for kept in pair)


def test_tokens_are_drawn_from_the_softmax_at_a_temperature() -> None:
    """Shares of 4000 draws within 4.9 standard errors; at temperature 0, and next to it, the most likely token."""
    logits = torch.tensor([1.0, -0.5, 0.3, 2.0])
    for temperature in (0.5, 1.0, 3.0):
        counts = torch.stack([sample_token(logits, temperature) for _ in range(4000)]).bincount(minlength=4)
        p = (logits / temperature).softmax(0)
        assert ((counts / 4000 - p).abs() < 4.9 * (p * (1 - p) / 4000).sqrt()).all()
    assert [int(sample_token(1e3 * logits, temperature)) for temperature in (0.0, 1e-300)] == [3, 3]
    with pytest.raises(ValueError, match="not finite"):
        sample_token(torch.tensor([0.0, torch.nan]), 1.0)


def test_the_runner_up_is_the_second_lowest_end() -> None:
    one = GeneratedToken(0, torch.tensor([[0.0, 9.0, 9.0], [3.0, 1.0, 1.5]]), 1)
    assert (one.chosen_energies, one.gap) == ([9.0, 1.0], 0.5)


def test_a_character_is_printed_when_it_is_whole(capsys) -> None:
    """The bytes of one, two, three and four byte characters, and one that is none of UTF-8."""
    parts = [
        (b"a", "a"),
        (b"\xc3", ""),
        (b"\xa9", "é"),
        (b"\xe2\x82", ""),
        (b"\xac", "€"),
        (b"\xff", ""),
        (b"b", "\ufffdb"),
    ]

    def tokens() -> Iterator[GeneratedToken]:
        capsys.readouterr()
        for part, printed in parts:
            for byte in part:
                yield GeneratedToken(byte, torch.empty(0, 1), 0)
            assert capsys.readouterr().out == printed

    written = print_tokens(tokens(), Bytes(), torch.tensor([122]), 8, energies=False)
    assert bytes(one.token for one in written) == b"".join(part for part, _ in parts)
    assert capsys.readouterr().out == "\n"


@dataclass(frozen=True)
class Marked(Tokenizer):
    """Seven letters, of which g stands between documents."""

    vocabulary = "abcdefg"
    size = 7
    end = 6

    def encode(self, text: str) -> Tensor:
        return LETTERS.encode(text)

    def decode(self, tokens: Tensor) -> str:
        return LETTERS.decode(tokens)


def test_an_empty_prompt_begins_a_document(tmp_path: Path, capsys) -> None:
    module = _one_pass()
    text, record = generate(module, Marked(), 8, GenerationConfig("", 3, temperature=0), tmp_path)
    tokens = [6]
    for _ in range(3):
        tokens.append(int(module.model.net(torch.tensor([tokens]))[0, -1].argmax()))
    assert text.read_text() == LETTERS.decode(torch.tensor(tokens[1:]))
    assert [one["token"] for one in json.loads(record.read_text())["tokens"]] == tokens[1:]
    assert capsys.readouterr() == (text.read_text() + "\n", "")


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: GenerationConfig("a", tokens=0), r"tokens=0.*the first three to be at least 1, and temperature >= 0"),
        (lambda: GenerationConfig("a", think=0), "think=0"),
        (lambda: GenerationConfig("a", candidates=0), "candidates=0"),
        (lambda: GenerationConfig("a", temperature=-1.0), r"temperature=-1\.0"),
        (
            lambda: inference_steps(_one_pass(), GenerationConfig("a", candidates=2)),
            "in one pass.*leave out --think and --candidates",
        ),
        (
            lambda: inference_steps(_one_pass(), GenerationConfig("a", think=2)),
            "in one pass.*leave out --think and --candidates",
        ),
        (
            lambda: inference_steps(EBM(ImageEBT(16), TokenPrediction(), Descent(1.0)), GenerationConfig("a")),
            "ImageEBT generates no text, since it lacks the protocol Decodable: give it a method make_decoder",
        ),
        (
            lambda: prefill(EBM(TextEBT(7), TokenPrediction()), TOKEN, None, 1),
            r"a sampler that moves \('y',\), got None",
        ),
        (
            lambda: prefill(_sampled_in_one_pass(), TOKEN, 1, 1),
            "in one pass, without a sampler; got CausalTransf.*Descent",
        ),
        (lambda: prefill(EBM(NextToken(nn.Linear(1, 1)), TokenPrediction()), TOKEN, None, 1), "got Linear"),
        (lambda: generate(_one_pass(), LETTERS, 8, GenerationConfig("a"), Path(), True), "without energies to print"),
        (
            lambda: generate(_one_pass(), Bytes(), 8, GenerationConfig("a"), Path()),
            r"the token 97, but the vocabulary of the model is 0\.\.6",
        ),
        (lambda: generate(_thinker(), Bytes(), 8, GenerationConfig("a"), Path()), r"takes tokens 0\.\.6"),
        (
            lambda: generate(_thinker(False), LETTERS, 8, GenerationConfig("a", candidates=2), Path()),
            "all candidates of this run are equal",
        ),
        (lambda: _unread(LETTERS).tokenizer_from(OTHER), r"a vocabulary of 3 tokens.*of these data has 7"),
    ],
)
def test_what_cannot_be_written_is_refused_with_a_message(make, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()


def test_the_steps_are_those_asked_for_or_those_of_training() -> None:
    module = _thinker()
    assert (
        inference_steps(module, GenerationConfig("a")),
        inference_steps(module, GenerationConfig("a", think=5)),
    ) == (2, 5)
    module.steps = RandomSteps(2, 3)
    with pytest.raises(ValueError, match="the steps of training follow RandomSteps: give a number of them as --think"):
        inference_steps(module, GenerationConfig("a"))
    assert inference_steps(_one_pass(), GenerationConfig("a")) is None


def test_a_vocabulary_is_recalled_without_a_text() -> None:
    assert _unread(Characters()).tokenizer_from(OTHER) == Characters("xyz")
    assert _unread(Bytes()).tokenizer_from({"size": 256, "vocabulary": "bytes"}) == Bytes()


TEXT_RUN = """
seed_everything: 0
trainer: {{max_steps: 2, accelerator: cpu, devices: 1, log_every_n_steps: 1, val_check_interval: 2,
  enable_progress_bar: false, enable_model_summary: false}}
data:
  class_path: Text
  init_args:
    corpus: {{class_path: TextFile, init_args: {{path: {text}}}}}
    tokenizer: {{class_path: Characters}}
    length: 8
    batch_size: 4
    val_size: 0.1
    test_size: 0.1
checkpoint: {{every_n_steps: 2}}
"""
"""Two steps on the text of a file; a model and samples are to be added."""

THINKER_RUN = (
    TEXT_RUN
    + """
model:
  class_path: EBM
  init_args:
    model:
      class_path: TextEBT
      init_args:
        vocabulary: 64
        layers: 1
        heads: 1
        dim: 8
        condition: {{class_path: StepToken, init_args: {{landscapes: 2}}}}
    objective: {{class_path: TokenPrediction}}
    sampler: {{class_path: Descent, init_args: {{step_size: 5.0, learned: true, detach: true, softmax: true}}}}
    steps: 2
    backprop: 2
    chains: {{class_path: NoiseChains, init_args: {{init: {{class_path: GaussianNoise}}}}}}
samples: {{every_n_steps: 0, num_chains: 1, steps: 1}}
"""
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two steps on a text that is no longer there."""
    folder = tmp_path_factory.mktemp("text")
    (folder / "text.txt").write_text(TEXT)
    (folder / "run.yaml").write_text(THINKER_RUN.format(text=folder / "text.txt"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["ebm"])
        main(["fit", "-c", str(folder / "run.yaml"), "--run", str(folder / "run")])
    (folder / "text.txt").unlink()
    return folder / "run"


def test_a_run_writes_without_its_corpus_what_it_keeps(ebm, trained: Path) -> None:
    options = ("--tokens", 20, "--think", 3, "--candidates", 2, "--temperature", 0.7, "--seed", 1)
    status, said = ebm("generate", trained, "--prompt", "The ", *options)
    assert status == 0, said
    (text,) = (trained / "generated").glob("*.txt")
    written, kept = text.read_text(), json.loads(text.with_suffix(".json").read_text())
    assert said.startswith(written + "\n")
    assert len(written) == 24
    assert written == "The " + "".join(one["text"] for one in kept["tokens"])
    settings = {"tokens": 20, "think": 3, "candidates": 2, "temperature": 0.7, "seed": 1, "length": 8}
    assert (kept["prompt"], kept["settings"]) == ("The ", settings)
    for one in kept["tokens"]:
        low, high = sorted(one["candidates"])
        assert one["energies"][-1] == low
        assert one["gap"] == pytest.approx(high - low)
        assert len(one["energies"]) == 4
    assert Image.open(text.with_suffix(".png")).size == (720, 420)
    assert said.count("each token is predicted from the newest ones only, at most 8, and after that from 4 on") == 1
    files = [str(text.with_suffix(f".{kind}")) for kind in ("txt", "json", "png")]
    assert said.splitlines()[-3:] == files
    status, again = ebm("generate", trained, "--prompt", "The ", *options, "--energies")
    assert status == 0
    lines = re.findall(r"^('.'|\".\")  (-?\d+\.\d{4} ?){4}  gap \d+\.\d{4}$", again, re.MULTILINE)
    assert len(lines) == 20
    assert f"\n{written}\n" in again
    assert json.loads(text.with_suffix(".json").read_text()) == kept


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ((), "Characters has no token that begins a text: give a --prompt"),
        (("--prompt", "É"), "the character 'É' has no token"),
        (("--prompt", "T", "--tokens", 0), "expected the first three to be at least 1"),
        (("--prompt", "T", "--data.init_args.tokenizer.init_args.characters", "abc"), "trained on a vocabulary of"),
    ],
)
def test_a_mistake_in_the_command_is_one_sentence(ebm, trained: Path, options: tuple, words: str) -> None:
    status, said = ebm("generate", trained, *options)
    assert status == 1
    assert said.splitlines()[-1].startswith("ebm: error: ")
    assert words in said


def test_a_run_that_is_not_trained_or_not_of_text_writes_nothing(
    ebm, trained: Path, tiny: Path, tmp_path: Path
) -> None:
    for name, config in (("untrained", trained / "config.yaml"), ("digits", tiny)):
        (tmp_path / name).mkdir()
        shutil.copy(config, tmp_path / name / "config.yaml")
    status, said = ebm("generate", tmp_path / "untrained", "--prompt", "T")
    assert status == 1
    assert "has no valid checkpoint: train it first with `ebm fit`" in said
    status, said = ebm("generate", tmp_path / "digits", "--prompt", "T")
    assert status == 1
    assert "`ebm generate` needs a model of text, but the data of this run are Digits" in said


BIGRAM = '''
"""A language model of a user, in one file: p(next | last) by a table of logits."""

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F

from ebm_lightning.core import EnergyModel, State
from ebm_lightning.energies.transformers import InferenceSettings, Prediction


@dataclass(frozen=True)
class LastToken:
    table: Tensor
    last: int

    def extend(self, x: Tensor) -> "LastToken":
        return LastToken(self.table, int(x[-1]))

    def next_logits(self) -> Prediction:
        return Prediction(self.table[self.last])


class Bigram(EnergyModel):
    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.table = nn.Embedding(vocabulary, vocabulary)

    def forward(self, x: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(self.table(x).transpose(1, 2), target, reduction="none").sum(1)

    def positive_phase(self, batch: State) -> State:
        return {**batch, "y": self.table(batch["x"])}

    def make_decoder(self, x: Tensor, settings: InferenceSettings) -> LastToken:
        return LastToken(self.table.weight.detach(), int(x[-1]))
'''

BIGRAM_RUN = (
    TEXT_RUN
    + """
model:
  class_path: EBM
  init_args:
    model: {{class_path: users_bigram.Bigram, init_args: {{vocabulary: 64}}}}
    objective: {{class_path: TokenPrediction}}
samples: {{every_n_steps: 0}}
"""
)


def test_generate_takes_a_model_from_outside_the_package(ebm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At temperature 0 each token is the most likely one after the last, by the table of the checkpoint."""
    (tmp_path / "users_bigram.py").write_text(BIGRAM)
    (tmp_path / "text.txt").write_text(TEXT)
    (tmp_path / "run.yaml").write_text(BIGRAM_RUN.format(text=tmp_path / "text.txt"))
    monkeypatch.syspath_prepend(str(tmp_path))
    run = tmp_path / "run"
    status, said = ebm("fit", "-c", tmp_path / "run.yaml", "--run", run)
    assert status == 0, said
    status, said = ebm("generate", run, "--prompt", "The ", "--tokens", 12, "--temperature", 0)
    assert status == 0, said
    (text,) = (run / "generated").glob("*.txt")
    (checkpoint,) = (run / "checkpoints").glob("*.ckpt")
    saved = torch.load(checkpoint, weights_only=True)["state_dict"]
    (table,) = (value for name, value in saved.items() if name == "model.table.weight")
    tokenizer = Characters("".join(sorted(set(TEXT))))
    tokens = tokenizer.encode("The ").tolist()
    for _ in range(12):
        tokens.append(int(table[tokens[-1], : tokenizer.size].argmax()))
    assert text.read_text() == tokenizer.decode(torch.tensor(tokens))
    status, said = ebm("generate", run, "--prompt", "The ", "--think", 3)
    assert status == 1
    assert "this run predicts in one pass" in said
