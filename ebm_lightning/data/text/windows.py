"""Text for next-token prediction: windows of tokens, and the token that follows each."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from ebm_lightning.core import State
from ebm_lightning.data.base import DataModule, Split, Subset
from ebm_lightning.data.sources import Source
from ebm_lightning.data.text.corpora import Corpus, cut
from ebm_lightning.data.text.tokenizers import Tokenizer, digest


@dataclass(frozen=True)
class Windows(Source):
    """Windows of a text: row i is x = tokens i..i + length - 1 and target = tokens i + 1..i + length, both int64.

    Args:
        tokens: The text, whole numbers (N,) of any dtype.
        length: Tokens of x; smaller than N.
    """

    tokens: Tensor
    length: int

    def __len__(self) -> int:
        return len(self.tokens) - self.length

    def batches(self, index_lists: Iterable[Tensor], device: torch.device) -> Iterator[State]:
        home = self.tokens.device
        steps = torch.arange(self.length + 1, device=home)
        for index in index_lists:
            rows = index.to(home)
            window = self.tokens[rows[:, None] + steps].to(device).to(torch.int64)
            yield {
                "x": window[:, :-1].contiguous(),
                "target": window[:, 1:].contiguous(),
                "index": rows.to(device),
            }

    def to(self, device: torch.device, limit: int) -> "Windows":
        return self if self.tokens.nbytes > limit else Windows(self.tokens.to(device), self.length)


class TextModule(DataModule):
    """Windows {"x": int64 (B, length), "target": int64 (B, length)} of a text that a tokenizer makes numbers of.

    A checkpoint holds the vocabulary; a run does not go on, and is not judged, with another one. Subclasses set
    ``length`` and ``_tokenizer``, the one that they were given.
    """

    dtype = torch.int64
    length: int
    _tokenizer: Tokenizer

    @property
    def shape(self) -> tuple[int]:
        return (self.length,)

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer as the training text has made it: a hook; by default as it was given."""
        return self._tokenizer

    def prepare(self, batch: State, generator: torch.Generator, train: bool) -> State:
        return {"x": batch["x"], "target": batch["target"]}

    def state_dict(self) -> dict[str, Any]:
        """What the tokens of a run mean, for its checkpoint: enough to decode what a model writes."""
        return _remembered(self.tokenizer)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Raises ValueError where a checkpoint speaks of other tokens than these data."""
        _check(self.tokenizer, state_dict)

    def recalled(self, state_dict: dict[str, Any]) -> Tokenizer:
        """The tokenizer that a checkpoint (:meth:`state_dict`) speaks of; no text is read.

        Raises ValueError where it speaks of other tokens than these data.
        """
        found = self._tokenizer.recalled(state_dict["vocabulary"])
        _check(found, state_dict)
        return found


class Text(TextModule):
    """Windows of a text that fits into memory: {"x": int64 (B, length), "target": int64 (B, length)}.

    target[t] is the token after x[t]. The documents are cut into contiguous spans, train, valid and test in this order
    (:func:`~ebm_lightning.data.text.corpora.cut`), before anything is learned from them. The windows of a span follow
    one another: each begins with the last target of the one before, so that every token of a span but its first is a
    target once, and a context once. The rest at the end, shorter than a window, is dropped: nothing is padded. A
    window goes over the borders of documents, where the end token stands if the tokenizer has one, but never over that
    of a span.

    Args:
        corpus: Where the text is from.
        tokenizer: Makes numbers of it; one that learns its vocabulary does so from the training span.
        length: Tokens of a context, S; a window has one more.
        batch_size: Windows per batch and rank.
        random_offset: Whether the windows of each training pass begin at another place, so that a token is seen at
            every position: by one number in 0..length - 1 for all windows of a pass, at the cost of up to one window.
        valid: Share of the text to hold out for validation, before the share for test.
        test: Share of the text for test, at its end.
        seed: Of the training order; None takes the run's (``seed_everything``), or 0.
        memory_gb: Tokens of up to this size, in 10^9 bytes, are kept on the training device.
        max_train: Train on this many windows only, the first ones, for smoke runs.

    Raises:
        ValueError: Where a number is out of range; when reading, where there is no text or a split of it is shorter
            than a window; when a checkpoint is loaded, where its vocabulary is another one.
    """

    def __init__(
        self,
        corpus: Corpus,
        tokenizer: Tokenizer,
        length: int = 256,
        *,
        batch_size: int = 32,
        random_offset: bool = False,
        valid: float = 0.05,
        test: float = 0.05,
        seed: int | None = None,
        memory_gb: float = 4.0,
        max_train: int | None = None,
    ) -> None:
        super().__init__(
            batch_size, valid=float(valid), split_seed=0, seed=seed, memory_gb=memory_gb, max_train=max_train
        )
        if length < 1:
            raise ValueError(f"Text(length={length}): expected a context of 1 or more tokens")
        if test < 0 or valid + test >= 1:
            raise ValueError(
                f"Text(valid={valid}, test={test}): expected shares of the text, 0 or more, that leave some to train on"
            )
        self.corpus, self.length, self.random_offset, self.test = corpus, length, random_offset, test
        self.preprocessing = str(tokenizer)
        self._tokenizer = tokenizer

    @property
    def tokenizer(self) -> Tokenizer:
        return self._content[0]

    def prepare_data(self) -> None:
        """Fills the hub's cache from one process of each node; nothing to do for a local text."""
        self.corpus.fetch()

    def load(self) -> tuple[Subset, Subset]:
        return self._content[1]["train"], self._content[1]["test"]

    def hold_out(self, train: Subset) -> tuple[Subset, Subset]:
        return train, self._content[1]["valid"]

    @cached_property
    def _content(self) -> tuple[Tokenizer, dict[Split, Subset]]:
        """The tokenizer, and the windows of each span; read once."""
        spans = cut(self.corpus.documents(), self.valid, self.test)
        tokenizer = self._tokenizer.fitted(spans["train"])
        parts = {split: tokenizer.encode_all(documents) for split, documents in spans.items()}
        source = Windows(compact(torch.cat(list(parts.values())), tokenizer), self.length)
        shares = {"train": 1.0, "valid": self.valid, "test": self.test}
        subsets: dict[Split, Subset] = {}
        first = 0
        for split, tokens in parts.items():
            shift = self.length if split == "train" and self.random_offset else 1
            starts = window_starts(len(tokens), self.length, shift)
            if shares[split] > 0 and not len(starts):
                raise ValueError(
                    f"Text(length={self.length}): the {split} span of {self.corpus} has {len(tokens)} tokens, fewer "
                    f"than the {self.length + shift} that are needed: lower length, or use a longer text or a larger "
                    "share"
                )
            subsets[split] = Subset(source, starts + first, shift)
            first += len(tokens)
        return tokenizer, subsets


def window_starts(tokens: int, length: int, shift: int = 1) -> Tensor:
    """Where windows of ``length`` + 1 begin that follow one another in a text and may be moved by up to shift - 1."""
    return torch.arange(max(tokens - shift, 0) // length) * length


def compact(tokens: Tensor, tokenizer: Tokenizer) -> Tensor:
    """Tokens (N,) in as few bytes as hold them."""
    return tokens.to(torch.uint8 if tokenizer.size <= 256 else torch.int32)


def _remembered(tokenizer: Tokenizer) -> dict[str, Any]:
    return {"size": tokenizer.size, "vocabulary": tokenizer.vocabulary}


def _check(tokenizer: Tokenizer, state: dict[str, Any]) -> None:
    """Raises ValueError where a checkpoint's vocabulary is not this tokenizer's."""
    if state != _remembered(tokenizer):
        raise ValueError(
            f"the checkpoint was trained on a vocabulary of {state['size']} tokens (hash "
            f"{digest(state['vocabulary'])}), but that of these data has {tokenizer.size} (hash "
            f"{digest(tokenizer.vocabulary)}): use the text and the tokenizer of that run, or start another run"
        )
