"""Text: corpora, tokenizers, windows of tokens."""
