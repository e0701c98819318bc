"""Text that does not fit into memory or is not to be fetched as a whole: read from the hub while a model trains."""

from collections.abc import Iterator
from functools import cached_property, partial
from itertools import islice
from typing import Any

import torch

from ebm_lightning.data.base import Subset
from ebm_lightning.data.streams import Block, Blocks, BlockStream
from ebm_lightning.data.text.corpora import HubText
from ebm_lightning.data.text.tokenizers import Tokenizer
from ebm_lightning.data.text.windows import TextModule, Windows, compact, window_starts


class TextStream(TextModule):
    """Windows of a streamed text, {"x": int64 (B, length), "target": int64 (B, length)}; target[t] follows x[t].

    The first documents of the stream are held out, whole: for validation, then for test. The others are read in their
    order, in blocks that take the part of a shuffle buffer: the windows of a block are cut as in
    :class:`~ebm_lightning.data.text.windows.Text` and shuffled, and all are shown before the next block is read, while
    training waits. After the last block the first one comes again, in another order. A checkpoint holds the place in
    the stream where the block begins, as ``datasets`` says it, so that a run goes on without reading what it has seen.
    The training split, as ``size`` and ``tensors`` see it, is the first block.

    Args:
        corpus: The data set; its documents should be in no order that matters beyond a block.
        tokenizer: Makes numbers of it; Characters must be given theirs.
        length: Tokens of a context, S; a window has one more.
        batch_size: Windows per batch and rank.
        block: Documents that are shuffled together.
        valid: Documents to hold out for validation.
        test: Documents for test.
        seed: Of the training order; None takes the run's (``seed_everything``), or 0.
        memory_gb: Blocks and splits of up to this size, in 10^9 bytes, are kept on the training device.

    Raises:
        ValueError: Where a number is out of range; when reading, where the stream cannot be read or held-out documents
            are shorter than a window; when a checkpoint is loaded, where its vocabulary is another one.
    """

    def __init__(
        self,
        corpus: HubText,
        tokenizer: Tokenizer,
        length: int = 256,
        *,
        batch_size: int = 32,
        block: int = 10_000,
        valid: int = 500,
        test: int = 500,
        seed: int | None = None,
        memory_gb: float = 4.0,
    ) -> None:
        super().__init__(batch_size, valid=valid, split_seed=0, seed=seed, memory_gb=memory_gb)
        if length < 1 or block < 1 or test < 0:
            raise ValueError(
                f"TextStream(length={length}, block={block}, test={test}): expected a context of 1 or more tokens, 1 "
                "or more documents in a block, and 0 or more for test"
            )
        self.corpus, self._tokenizer, self.length, self.block, self.test = corpus, tokenizer, length, block, test
        self.preprocessing = str(tokenizer)

    def load(self) -> tuple[Subset, Subset]:
        first = self._blocks.read(None)
        return Subset(first.source, first.rows), self._held_out("test", int(self.valid), int(self.valid) + self.test)

    def hold_out(self, train: Subset) -> tuple[Subset, Subset]:
        return train, self._held_out("valid", 0, int(self.valid))

    def train_stream(
        self,
        length: int,
        *,
        seed: int | None = None,
        rank: int = 0,
        world: int = 1,
        device: torch.device | str = "cpu",
    ) -> BlockStream:
        return BlockStream(
            self._blocks,
            self.batch_size,
            length,
            self._run_seed() if seed is None else seed,
            partial(self.prepare, train=True),
            memory=int(self.memory_gb * 1e9),
            rank=rank,
            world=world,
            device=device,
        )

    @cached_property
    def _blocks(self) -> "TextBlocks":
        return TextBlocks(self.corpus, self.tokenizer, self.length, self.block, int(self.valid) + self.test)

    @cached_property
    def _kept(self) -> list[str]:
        """The documents for validation and test."""
        return [row[self.corpus.column] for row in islice(self.corpus.stream(), int(self.valid) + self.test)]

    def _held_out(self, split: str, first: int, last: int) -> Subset:
        documents = [document for document in self._kept[first:last] if document]
        made = windows(documents, self.tokenizer, self.length)
        if last > first and not len(made.rows):
            raise ValueError(
                f"TextStream(length={self.length}): the {last - first} documents of the {split} split are shorter than "
                f"a window of {self.length + 1} tokens: hold out more, or lower length"
            )
        return made


class TextBlocks(Blocks):
    """The windows of so many documents at a time, from a stream that is opened anew only where it must be.

    Args:
        corpus: The stream.
        tokenizer: Makes numbers of it.
        length: Tokens of a context.
        size: Documents of a block.
        skipped: Documents at the beginning that are not for training.
    """

    def __init__(self, corpus: HubText, tokenizer: Tokenizer, length: int, size: int, skipped: int) -> None:
        self.corpus, self.tokenizer, self.length, self.size, self.skipped = corpus, tokenizer, length, size, skipped
        self._rows: Iterator[Any] = iter(())
        self._stream: Any = None
        self._at: Any = None
        self._last: tuple[Any, Block] | None = None

    def read(self, place: Any) -> Block:
        if self._last is None or self._last[0] != place:
            self._last = place, self._next(place)
        return self._last[1]

    def _next(self, place: Any) -> Block:
        if place is None or place != self._at:
            self._stream = self.corpus.stream()
            if place is not None:
                self._stream.load_state_dict(place)
            self._rows = islice(iter(self._stream), 0 if place else self.skipped, None)
        documents = [row[self.corpus.column] for row in islice(self._rows, self.size)]
        if not documents and place is None:
            raise ValueError(
                f"{self.corpus} has no documents beside the {self.skipped} that are held out: hold out fewer"
            )
        self._at = self._stream.state_dict() if len(documents) == self.size else None
        made = windows([document for document in documents if document], self.tokenizer, self.length)
        return Block(made.source, made.rows, self._at)


def windows(documents: list[str], tokenizer: Tokenizer, length: int) -> Subset:
    """Windows that follow one another through documents; none where they are too short."""
    tokens = tokenizer.encode_all(documents)
    return Subset(Windows(compact(tokens, tokenizer), length), window_starts(len(tokens), length))
