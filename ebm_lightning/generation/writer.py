"""Output of a generated text: printed token by token, and saved in the run folder with its energies."""

import dataclasses
import json
import sys
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import torch
from PIL.Image import Image
from torch import Tensor
from tqdm import tqdm  # type: ignore[import-untyped]

from ebm_lightning.core import evaluating
from ebm_lightning.data.text.tokenizers import Tokenizer
from ebm_lightning.generation.text import GeneratedToken, GenerationConfig, generate_tokens, inference_steps, prefill
from ebm_lightning.runs.files import write_atomically
from ebm_lightning.training.module import EBM
from ebm_lightning.utils import plots


@torch.no_grad()
def generate(
    module: EBM, tokenizer: Tokenizer, length: int, config: GenerationConfig, folder: Path, energies: bool = False
) -> list[Path]:
    """Generate a text, print it token by token, and save it with its energies and a plot of them.

    Args:
        module: the trained run.
        tokenizer: with the vocabulary of its checkpoint.
        length: of the context in tokens, at most: that of a training example.
        config: the settings.
        folder: for the files.
        energies: whether to print a line for each token instead of the running text, and the text at the end.

    Returns:
        The files written: the text, its .json, and a plot if there are energies.

    Raises:
        ValueError: if the run cannot generate with this configuration, or the prompt is empty or has no tokens.
    """
    steps = inference_steps(module, config)
    config = replace(config, think=steps)
    if energies and steps is None:
        raise ValueError("this run predicts in one pass, without energies to print: leave out --energies")
    prompt = _encode_prompt(tokenizer, config.prompt)
    context = prompt if len(prompt) else torch.tensor([tokenizer.end])
    if len(context) + config.tokens - 1 > length:
        print(
            f"the text grows longer than the {length} tokens of training: each token is predicted from the newest ones "
            f"only, at most {length}, and after that from {max(1, length // 2)} on",
            file=sys.stderr,
        )
    with evaluating(module):
        tokens = generate_tokens(
            lambda x: prefill(module, x, steps, config.candidates),
            context.to(module.device),
            config.tokens,
            length,
            tokenizer.size,
            config.temperature,
        )
        generated = print_tokens(tokens, tokenizer, prompt, config.tokens, energies)
    return _save(generated, tokenizer, prompt, config, length, folder)


def _encode_prompt(tokenizer: Tokenizer, prompt: str) -> Tensor:
    """The tokens of the prompt, on the CPU; none if an end token starts the document."""
    if not prompt and tokenizer.end is None:
        raise ValueError(f"{type(tokenizer).__name__} has no token that begins a text: give a --prompt")
    return tokenizer.encode(prompt)


def print_tokens(
    tokens: Iterable[GeneratedToken], tokenizer: Tokenizer, prompt: Tensor, n: int, energies: bool
) -> list[GeneratedToken]:
    """Print n tokens after those of the prompt as they are generated: the running text, or one line for each token."""
    hidden = sys.stdout.isatty() or not sys.stderr.isatty()  # a progress bar would overwrite the text
    generated: list[GeneratedToken] = []
    printed = ""
    if not energies:
        printed = _print_rest(tokenizer.decode(prompt), printed)
    for one in tqdm(tokens, total=n, desc="generating", unit="token", disable=hidden, leave=False):
        generated.append(one)
        if energies:
            by_step = " ".join(f"{energy:.4f}" for energy in one.chosen_energies)
            gap = "" if one.gap is None else f"  gap {one.gap:.4f}"
            print(f"{tokenizer.decode(torch.tensor([one.token]))!r}  {by_step}{gap}", flush=True)
        else:
            # A character of several tokens is printed when it is complete.
            printed = _print_rest(_decode(tokenizer, prompt, generated).rstrip("\ufffd"), printed)
    _print_rest(_decode(tokenizer, prompt, generated) + "\n", printed)
    return generated


def _print_rest(text: str, printed: str) -> str:
    """Print the part of a text beyond ``printed``; returns all that is printed now."""
    print(text[len(printed) :], end="", flush=True)
    return max(text, printed, key=len)


def _decode(tokenizer: Tokenizer, prompt: Tensor, generated: list[GeneratedToken]) -> str:
    """The complete text, with its prompt."""
    return tokenizer.decode(torch.cat([prompt, torch.tensor([one.token for one in generated])]))


def _save(
    generated: list[GeneratedToken],
    tokenizer: Tokenizer,
    prompt: Tensor,
    config: GenerationConfig,
    length: int,
    folder: Path,
) -> list[Path]:
    """Write the files of a text."""
    folder.mkdir(parents=True, exist_ok=True)
    text, record, plot = (folder / f"{config.name}.{kind}" for kind in ("txt", "json", "png"))
    write_atomically(text, _decode(tokenizer, prompt, generated))
    tokens = [
        {
            "token": one.token,
            "text": tokenizer.decode(torch.tensor([one.token])),
            "energies": one.chosen_energies,
            "candidates": one.energies[-1:].flatten().tolist(),
            "gap": one.gap,
        }
        for one in generated
    ]
    settings = {**dataclasses.asdict(config), "length": length}
    prompt_text = settings.pop("prompt")
    write_atomically(record, json.dumps({"prompt": prompt_text, "settings": settings, "tokens": tokens}, indent=1))
    if config.think is None:
        return [text, record]
    _plot_energies(generated).save(plot)
    return [text, record, plot]


def _plot_energies(generated: list[GeneratedToken]) -> Image:
    """Energies against steps, mean and standard deviation over tokens: of the chosen candidates and of all others."""
    energies = torch.stack([one.energies for one in generated])
    n, steps, candidates = energies.shape
    others = torch.ones(n, candidates, dtype=torch.bool)
    others[range(n), [one.chosen for one in generated]] = False
    by_candidate = energies.transpose(1, 2)
    sets = {"chosen": by_candidate[~others], "others": by_candidate[others]}
    lines: dict[str, tuple[Tensor, Tensor, Tensor | None]] = {}
    for name, values in sets.items():
        if len(values):
            lines[name] = torch.arange(steps), values.mean(0), values.std(0) if len(values) > 1 else None
    return plots.plot_curves(lines, "steps", "energy")
