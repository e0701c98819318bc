"""Tokenizers: between text and integers."""

import abc
import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor


class Tokenizer(abc.ABC):
    """A map of text to integers 0..size - 1, and back. Final subclasses are frozen dataclasses."""

    @property
    @abc.abstractmethod
    def vocabulary(self) -> str:
        """All tokens in order, as one text: two tokenizers are equal if their vocabularies are."""

    @property
    @abc.abstractmethod
    def size(self) -> int:
        """Number of tokens."""

    @property
    def end(self) -> int | None:
        """The token between two documents: a hook; by default none."""
        return None

    def fitted(self, documents: list[str]) -> "Tokenizer":
        """This tokenizer, fitted to the training documents: a hook; by default unchanged."""
        return self

    def with_vocabulary(self, vocabulary: str) -> "Tokenizer":
        """This tokenizer with the vocabulary of a checkpoint: a hook; by default unchanged."""
        return self

    @abc.abstractmethod
    def encode(self, text: str) -> Tensor:
        """The tokens of a text, int64 (N,), on the CPU."""

    @abc.abstractmethod
    def decode(self, tokens: Tensor) -> str:
        """The text of tokens (N,)."""

    def encode_all(self, documents: list[str]) -> Tensor:
        """The tokens of documents one after the other, with the end token between them, int64 (N,), on the CPU."""
        between = torch.tensor([] if self.end is None else [self.end], dtype=torch.int64)
        parts = [part for document in documents for part in (between, self.encode(document))]
        return torch.cat(parts[1:]) if parts else torch.empty(0, dtype=torch.int64)


def digest(vocabulary: str) -> str:
    """The first 12 hexadecimal digits of the SHA-256 of a vocabulary."""
    return hashlib.sha256(vocabulary.encode("utf-8", "surrogatepass")).hexdigest()[:12]


@dataclass(frozen=True)
class Bytes(Tokenizer):
    """The 256 bytes of UTF-8. Tokens that are not UTF-8, which a model may generate, are decoded as U+FFFD."""

    @property
    def vocabulary(self) -> str:
        return "bytes"

    @property
    def size(self) -> int:
        return 256

    def encode(self, text: str) -> Tensor:
        return torch.from_numpy(np.frombuffer(text.encode(), dtype=np.uint8).astype(np.int64))

    def decode(self, tokens: Tensor) -> str:
        return bytes(tokens.tolist()).decode(errors="replace")


@dataclass(frozen=True)
class Characters(Tokenizer):
    """The distinct characters of the training text in the order of their code points; no other has a token.

    Args:
        characters: Those that have a token; None takes those of the training text, which are kept in the checkpoint.

    Raises:
        ValueError: If ``characters`` is empty; when encoding, at a character without a token.
    """

    characters: str | None = None

    def __post_init__(self) -> None:
        if self.characters == "":
            raise ValueError("Characters(characters=''): expected at least one, or null for those of the training text")

    @property
    def vocabulary(self) -> str:
        if self.characters is None:
            raise ValueError(
                "the characters of Characters() are not known before a training text is read: give it "
                "characters='...', or a text that is read as a whole"
            )
        return "".join(sorted(set(self.characters)))

    @property
    def size(self) -> int:
        return len(self.vocabulary)

    def fitted(self, documents: list[str]) -> "Characters":
        if self.characters is not None:
            return self
        return Characters("".join(sorted(set().union(*documents))))

    def with_vocabulary(self, vocabulary: str) -> "Characters":
        return self if self.characters is not None else Characters(vocabulary)

    def encode(self, text: str) -> Tensor:
        codes = _codes(text)
        tokens = np.searchsorted(self._known, codes).clip(max=len(self._known) - 1)
        unknown = codes[self._known[tokens] != codes]
        if len(unknown):
            raise ValueError(
                f"the character {chr(unknown[0])!r} has no token in the vocabulary of {self.size}: "
                "give Characters all that may occur, or use Bytes, which encodes every text"
            )
        return torch.from_numpy(tokens)

    def decode(self, tokens: Tensor) -> str:
        return "".join(self.vocabulary[token] for token in tokens.tolist())

    @cached_property
    def _known(self) -> np.ndarray[Any, np.dtype[np.uint32]]:
        return _codes(self.vocabulary)


@dataclass(frozen=True)
class TokenizerFile(Tokenizer):
    """A tokenizer of the Hugging Face library ``tokenizers``, read from its JSON file: BPE, WordPiece, Unigram, ...

    It adds no special tokens, pads nothing and truncates nothing, regardless of the file.

    Args:
        path: The file, usually called tokenizer.json.
        end_token: Token between two documents, such as ``<|endoftext|>``; None for none.

    Raises:
        ValueError: When first used, if the library or the file is missing, the file is not a tokenizer, or it has no
            such end token.
    """

    path: str
    end_token: str | None = None

    @property
    def vocabulary(self) -> str:
        return json.dumps(sorted(self._ids.items(), key=lambda item: item[1]))

    @property
    def size(self) -> int:
        return max(self._ids.values()) + 1

    @property
    def end(self) -> int | None:
        if self.end_token is None:
            return None
        if self.end_token not in self._ids:
            raise ValueError(f"{self}: {self.path} has no token {self.end_token!r}; give one that it has, or null")
        return self._ids[self.end_token]

    def encode(self, text: str) -> Tensor:
        return torch.tensor(self._tokenizer.encode(text, add_special_tokens=False).ids, dtype=torch.int64)

    def decode(self, tokens: Tensor) -> str:
        return str(self._tokenizer.decode(tokens.tolist(), skip_special_tokens=False))

    @cached_property
    def _ids(self) -> dict[str, int]:
        found: dict[str, int] = self._tokenizer.get_vocab(with_added_tokens=True)
        return found

    @cached_property
    def _tokenizer(self) -> Any:
        try:
            import tokenizers
        except ModuleNotFoundError:
            raise ValueError(
                f"{self} needs the package tokenizers, which is not installed: pip install 'ebm_lightning[text]'"
            ) from None
        try:
            content = Path(self.path).expanduser().read_text(encoding="utf-8")
            known = "model" in json.loads(content)
        except (OSError, ValueError, TypeError) as fault:
            raise ValueError(f"{self} cannot be read ({fault}): give a tokenizer.json") from None
        if not known:
            raise ValueError(
                f"{self} is not a tokenizer: expected the JSON of the library tokenizers, with a model in it"
            )
        tokenizer = tokenizers.Tokenizer.from_str(content)
        tokenizer.no_padding()
        tokenizer.no_truncation()
        return tokenizer


def _codes(text: str) -> np.ndarray[Any, np.dtype[np.uint32]]:
    """The code point of every character."""
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
