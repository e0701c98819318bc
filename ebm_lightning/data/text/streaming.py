"""Text too large for the memory or for a download: read from the hub during training."""

from collections.abc import Iterator
from functools import cached_property, partial
from itertools import islice
from typing import Any

import torch

from ebm_lightning.data.base import Loading, Subset
from ebm_lightning.data.streams import Batches, Block, Blocks, BlockShuffledBatches, Shard
from ebm_lightning.data.text.corpora import HubText
from ebm_lightning.data.text.tokenizers import Tokenizer
from ebm_lightning.data.text.windows import TextModule, Windows, compact, window_starts


class TextStream(TextModule):
    """Windows of a streamed text, {"x": int64 (B, length), "target": int64 (B, length)}; target[t] follows x[t].

    The first documents of the stream are held out: for validation, then for test. The others are read in their
    order, in blocks instead of a shuffle buffer: the windows of a block are cut as in
    :class:`~ebm_lightning.data.text.windows.Text` and shuffled, and all are used before the next block is read;
    training waits while a block is read. The first block follows the last one, in another order. A checkpoint holds the
    position of the block in the stream, as given by ``datasets``, so that a run continues without reading earlier
    blocks. For ``size`` and ``tensors`` the training split is the first block.

    Args:
        corpus: The data set; its documents are shuffled within blocks only.
        tokenizer: Encodes it; Characters needs its argument.
        length: Tokens of a context, S; a window has one more.
        batch_size: Windows per batch and rank.
        block: Documents that are shuffled together.
        val_size: Documents to hold out for validation.
        test_size: Documents for test.
        loading: Seed, limits and device cache; ``max_train`` keeps the first windows of the first block only,
            ``split_seed`` has no effect.

    Raises:
        ValueError: If a number is out of range; when reading, if the stream cannot be read or held-out documents are
            shorter than a window; when a checkpoint is loaded, if its vocabulary is another one.
    """

    def __init__(
        self,
        corpus: HubText,
        tokenizer: Tokenizer,
        length: int = 256,
        *,
        batch_size: int = 32,
        block: int = 10_000,
        val_size: int = 500,
        test_size: int = 500,
        loading: Loading = Loading(),
    ) -> None:
        super().__init__(batch_size, val_size=val_size, loading=loading)
        if length < 1 or block < 1 or test_size < 0:
            raise ValueError(
                f"TextStream(length={length}, block={block}, test_size={test_size}): expected a context of 1 or more "
                "tokens, 1 or more documents in a block, and 0 or more for test"
            )
        self.corpus, self._tokenizer, self.length, self.block = corpus, tokenizer, length, block
        self.test_size, self.preprocessing = test_size, str(tokenizer)

    def load(self) -> tuple[Subset, Subset]:
        first = self._blocks.read(None)
        return Subset(first.source, first.rows), self._held_out("test", int(self.val_size), self._n_held_out)

    def hold_out(self, train: Subset) -> tuple[Subset, Subset]:
        return train, self._held_out("val", 0, int(self.val_size))

    def train_stream(
        self,
        length: int,
        *,
        seed: int | None = None,
        rank: int = 0,
        world_size: int = 1,
        device: torch.device | str = "cpu",
    ) -> Batches:
        if self.loading.max_train is not None:
            return super().train_stream(length, seed=seed, rank=rank, world_size=world_size, device=device)
        seed = self.loading.run_seed() if seed is None else seed
        shard = Shard(self.batch_size, rank, world_size, torch.device(device))
        prepare = partial(self.prepare, train=True)
        cache_bytes = self.loading.device_cache_bytes
        return BlockShuffledBatches(self._blocks, shard, length, seed, prepare, cache_bytes=cache_bytes)

    @property
    def _n_held_out(self) -> int:
        """Number of documents for validation and test."""
        return int(self.val_size) + self.test_size

    @cached_property
    def _blocks(self) -> "TextBlocks":
        return TextBlocks(self.corpus, self.tokenizer, self.length, self.block, self._n_held_out)

    @cached_property
    def _kept(self) -> list[str]:
        """The documents for validation and test."""
        return [row[self.corpus.column] for row in islice(self.corpus.stream(), self._n_held_out)]

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
    """The windows of ``size`` documents at a time, from a stream that is opened again only if necessary.

    Args:
        corpus: The stream.
        tokenizer: Encodes it.
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

    def read(self, position: Any) -> Block:
        if self._last is None or self._last[0] != position:
            self._last = position, self._next(position)
        return self._last[1]

    def _next(self, position: Any) -> Block:
        if position is None or position != self._at:
            self._stream = self.corpus.stream()
            if position is not None:
                self._stream.load_state_dict(position)
            self._rows = islice(iter(self._stream), 0 if position else self.skipped, None)
        documents = [row[self.corpus.column] for row in islice(self._rows, self.size)]
        if not documents and position is None:
            raise ValueError(f"{self.corpus} has no documents but the {self.skipped} that are held out: hold out fewer")
        self._at = self._stream.state_dict() if len(documents) == self.size else None
        made = windows([document for document in documents if document], self.tokenizer, self.length)
        return Block(made.source, made.rows, self._at)


def windows(documents: list[str], tokenizer: Tokenizer, length: int) -> Subset:
    """Windows that follow one another through documents; none if they are too short."""
    tokens = tokenizer.encode_all(documents)
    return Subset(Windows(compact(tokens, tokenizer), length), window_starts(len(tokens), length))
