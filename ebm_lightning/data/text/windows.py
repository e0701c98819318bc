"""Text for next-token prediction: windows of tokens, and the token that follows each."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from ebm_lightning.core import INDEX, State
from ebm_lightning.data.base import DataModule, Loading, Split, Subset
from ebm_lightning.data.sources import Source
from ebm_lightning.data.text.corpora import Corpus, cut
from ebm_lightning.data.text.tokenizers import Tokenizer, digest


@dataclass(frozen=True)
class Windows(Source):
    """Windows of a text: row i is x = tokens i..i + length - 1 and target = tokens i + 1..i + length, both int64.

    Args:
        tokens: The text, integers (N,) of any dtype.
        length: Tokens of x; smaller than N.
    """

    tokens: Tensor
    length: int

    def __len__(self) -> int:
        return len(self.tokens) - self.length

    def batches(self, index_lists: Iterable[Tensor], device: torch.device) -> Iterator[State]:
        own_device = self.tokens.device
        steps = torch.arange(self.length + 1, device=own_device)
        for index in index_lists:
            rows = index.to(own_device)
            window = self.tokens[rows[:, None] + steps].to(device).to(torch.int64)
            yield {
                "x": window[:, :-1].contiguous(),
                "target": window[:, 1:].contiguous(),
                INDEX: rows.to(device),
            }

    def to(self, device: torch.device, limit: int) -> "Windows":
        return self if self.tokens.nbytes > limit else Windows(self.tokens.to(device), self.length)


class TextModule(DataModule):
    """Windows {"x": int64 (B, length), "target": int64 (B, length)} of a tokenized text.

    A checkpoint holds the vocabulary; a run is neither continued nor evaluated with another one. Subclasses set
    ``length`` and ``_tokenizer``, the one given to them.
    """

    dtype = torch.int64
    length: int
    _tokenizer: Tokenizer

    @property
    def shape(self) -> tuple[int]:
        return (self.length,)

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer, fitted to the training text: a hook; by default as given."""
        return self._tokenizer

    def prepare(self, batch: State, generator: torch.Generator, train: bool) -> State:
        return {"x": batch["x"], "target": batch["target"]}

    def state_dict(self) -> dict[str, Any]:
        """The vocabulary, for the checkpoint: enough to decode the tokens that a model generates."""
        return _vocabulary_state(self.tokenizer)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Raise ValueError if a checkpoint has another vocabulary than these data."""
        _check(self.tokenizer, state_dict)

    def tokenizer_from(self, state_dict: dict[str, Any]) -> Tokenizer:
        """The tokenizer of a checkpoint (:meth:`state_dict`); no text is read.

        Raises ValueError if its vocabulary is not that of these data.
        """
        found = self._tokenizer.with_vocabulary(state_dict["vocabulary"])
        _check(found, state_dict)
        return found


class Text(TextModule):
    """Windows of a text that fits into memory: {"x": int64 (B, length), "target": int64 (B, length)}.

    target[t] is the token after x[t]. The documents are cut into contiguous spans, train, val and test in this order
    (:func:`~ebm_lightning.data.text.corpora.cut`), before a vocabulary is learned from them. The windows of a span
    follow one another: each begins with the last target of the one before, so that every token of a span but its first
    is a target once, and a context once. The rest at the end, shorter than a window, is dropped: nothing is padded. A
    window may contain the border of two documents, which the tokenizer's end token marks if it has one, but not that of
    two spans.

    Args:
        corpus: Source of the text.
        tokenizer: Encodes it; one that learns its vocabulary does so from the training span.
        length: Tokens of a context, S; a window has one more.
        batch_size: Windows per batch and rank.
        random_offset: Whether the windows of each training pass begin elsewhere, so that a token occurs at every
            position: by one number in 0..length - 1 for all windows of a pass, at the cost of up to one window.
        val_size: Share of the text to hold out for validation, before the share for test.
        test_size: Share of the text for test, at its end.
        loading: Seed, limits and device cache; ``max_train`` keeps the first windows, ``split_seed`` has no effect.

    Raises:
        ValueError: If a number is out of range; when reading, if there is no text or a split of it is shorter than a
            window; when a checkpoint is loaded, if its vocabulary is another one.
    """

    def __init__(
        self,
        corpus: Corpus,
        tokenizer: Tokenizer,
        length: int = 256,
        *,
        batch_size: int = 32,
        random_offset: bool = False,
        val_size: float = 0.05,
        test_size: float = 0.05,
        loading: Loading = Loading(),
    ) -> None:
        super().__init__(batch_size, val_size=float(val_size), loading=loading)
        if length < 1:
            raise ValueError(f"Text(length={length}): expected a context of 1 or more tokens")
        if test_size < 0 or val_size + test_size >= 1:
            raise ValueError(
                f"Text(val_size={val_size}, test_size={test_size}): expected shares of the text, 0 or more, with a "
                "sum below 1"
            )
        self.corpus, self.length, self.random_offset, self.test_size = corpus, length, random_offset, test_size
        self.preprocessing = str(tokenizer)
        self._tokenizer = tokenizer

    @property
    def tokenizer(self) -> Tokenizer:
        return self._content[0]

    def prepare_data(self) -> None:
        """Fill the hub's cache from one process of each node; nothing to do for a local text."""
        self.corpus.fetch()

    def load(self) -> tuple[Subset, Subset]:
        return self._content[1]["train"], self._content[1]["test"]

    def hold_out(self, train: Subset) -> tuple[Subset, Subset]:
        return train, self._content[1]["val"]

    @cached_property
    def _content(self) -> tuple[Tokenizer, dict[Split, Subset]]:
        """The tokenizer, and the windows of each span; read once."""
        spans = cut(self.corpus.documents(), self.val_size, self.test_size)
        tokenizer = self._tokenizer.fitted(spans["train"])
        parts = {split: tokenizer.encode_all(documents) for split, documents in spans.items()}
        source = Windows(compact(torch.cat(list(parts.values())), tokenizer), self.length)
        shares = {"train": 1.0, "val": self.val_size, "test": self.test_size}
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
    """First tokens of consecutive windows of ``length`` + 1 in a text, which may be moved by up to shift - 1."""
    return torch.arange(max(tokens - shift, 0) // length) * length


def compact(tokens: Tensor, tokenizer: Tokenizer) -> Tensor:
    """Tokens (N,) in as few bytes as hold them."""
    return tokens.to(torch.uint8 if tokenizer.size <= 256 else torch.int32)


def _vocabulary_state(tokenizer: Tokenizer) -> dict[str, Any]:
    return {"size": tokenizer.size, "vocabulary": tokenizer.vocabulary}


def _check(tokenizer: Tokenizer, state: dict[str, Any]) -> None:
    """Raise ValueError if a checkpoint's vocabulary is not this tokenizer's."""
    if state != _vocabulary_state(tokenizer):
        raise ValueError(
            f"the checkpoint was trained on a vocabulary of {state['size']} tokens (hash "
            f"{digest(state['vocabulary'])}), but that of these data has {tokenizer.size} (hash "
            f"{digest(tokenizer.vocabulary)}): use the text and the tokenizer of that run, or start another run"
        )
