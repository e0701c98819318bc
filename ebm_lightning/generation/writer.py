"""A text that is being generated, as a person sees it: printed as it comes, and kept in the run folder."""

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
from ebm_lightning.generation.text import Manner, Written, read, steps_of, write
from ebm_lightning.runs.files import write_atomically
from ebm_lightning.training.module import EBM
from ebm_lightning.utils import plots


@torch.no_grad()
def generate(
    module: EBM, tokenizer: Tokenizer, length: int, manner: Manner, folder: Path, energies: bool = False
) -> list[Path]:
    """Writes a text to standard output as it comes, and to ``folder`` with its energies and their picture.

    Args:
        module: the trained run.
        tokenizer: with the vocabulary of its checkpoint.
        length: tokens that are seen at most, those of a training example.
        manner: how it is written.
        folder: for the files.
        energies: whether to print a line for each token instead of the running text, and the text at the end.

    Returns:
        The files written: the text, its .json, and a picture where there are energies.

    Raises:
        ValueError: where the run cannot write in this manner, or the prompt is empty or has no tokens.
    """
    steps = steps_of(module, manner)
    manner = replace(manner, think=steps)
    if energies and steps is None:
        raise ValueError("this run predicts in one pass, without energies to print: leave out --energies")
    given = _tokens(tokenizer, manner.prompt)
    first = given if len(given) else torch.tensor([tokenizer.end])
    if len(first) + manner.tokens - 1 > length:
        print(
            f"the text grows longer than the {length} tokens of training: only the newest are seen, at most {length} "
            f"and after that from {max(1, length // 2)} on",
            file=sys.stderr,
        )
    with evaluating(module):
        walk = write(
            lambda x: read(module, x, steps, manner.candidates),
            first.to(module.device),
            manner.tokens,
            length,
            tokenizer.size,
            manner.temperature,
        )
        written = shown(walk, tokenizer, given, manner.tokens, energies)
    return _kept(written, tokenizer, given, manner, length, folder)


def _tokens(tokenizer: Tokenizer, prompt: str) -> Tensor:
    """The tokens of the prompt, on the CPU; none where a document is begun by its end token."""
    if not prompt and tokenizer.end is None:
        raise ValueError(f"{type(tokenizer).__name__} has no token that begins a text: give a --prompt")
    return tokenizer.encode(prompt)


def shown(walk: Iterable[Written], tokenizer: Tokenizer, given: Tensor, number: int, energies: bool) -> list[Written]:
    """The ``number`` tokens of a walk, printed as they come after those given: the text, or one line for each."""
    hidden = sys.stdout.isatty() or not sys.stderr.isatty()  # a bar would be drawn over the text
    bar = tqdm(walk, total=number, desc="writing", unit="token", disable=hidden, leave=False)
    written: list[Written] = []
    said = ""
    if not energies:
        said = _say(tokenizer.decode(given), said)
    for one in bar:
        written.append(one)
        if energies:
            by_step = " ".join(f"{energy:.4f}" for energy in one.own)
            gap = "" if one.gap is None else f"  gap {one.gap:.4f}"
            print(f"{tokenizer.decode(torch.tensor([one.token]))!r}  {by_step}{gap}", flush=True)
        else:
            # A character may be made of several tokens, and is shown when it is whole.
            said = _say(_text(tokenizer, given, written).rstrip("\ufffd"), said)
    _say(_text(tokenizer, given, written) + "\n", said)
    return written


def _say(text: str, said: str) -> str:
    """Prints what a text has beyond what was said; returns what is said now."""
    print(text[len(said) :], end="", flush=True)
    return max(text, said, key=len)


def _text(tokenizer: Tokenizer, given: Tensor, written: list[Written]) -> str:
    """The whole text, prompt and all."""
    return tokenizer.decode(torch.cat([given, torch.tensor([one.token for one in written])]))


def _kept(
    written: list[Written],
    tokenizer: Tokenizer,
    given: Tensor,
    manner: Manner,
    length: int,
    folder: Path,
) -> list[Path]:
    """Writes the files of a text."""
    folder.mkdir(parents=True, exist_ok=True)
    text, record, picture = (folder / f"{manner.name}.{kind}" for kind in ("txt", "json", "png"))
    write_atomically(text, _text(tokenizer, given, written))
    tokens = [
        {
            "token": one.token,
            "text": tokenizer.decode(torch.tensor([one.token])),
            "energies": one.own,
            "candidates": one.energies[-1:].flatten().tolist(),
            "gap": one.gap,
        }
        for one in written
    ]
    settings = {**dataclasses.asdict(manner), "length": length}
    prompt = settings.pop("prompt")
    write_atomically(record, json.dumps({"prompt": prompt, "settings": settings, "tokens": tokens}, indent=1))
    if manner.think is None:
        return [text, record]
    _drawn(written).save(picture)
    return [text, record, picture]


def _drawn(written: list[Written]) -> Image:
    """Energies against steps, mean and standard deviation over tokens: of the chosen candidates and of all others."""
    energies = torch.stack([one.energies for one in written])
    number, steps, candidates = energies.shape
    others = torch.ones(number, candidates, dtype=torch.bool)
    others[range(number), [one.chosen for one in written]] = False
    by_candidate = energies.transpose(1, 2)
    sets = {"chosen": by_candidate[~others], "others": by_candidate[others]}
    lines: dict[str, tuple[Tensor, Tensor, Tensor | None]] = {}
    for name, values in sets.items():
        if len(values):
            lines[name] = torch.arange(steps), values.mean(0), values.std(0) if len(values) > 1 else None
    return plots.curves(lines, "steps", "energy")
