"""Mistakes in a configuration, said in one sentence."""

from typing import NoReturn

from lightning.pytorch.cli import LightningArgumentParser


class Parser(LightningArgumentParser):
    """A parser whose errors are ValueErrors of one sentence."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        raise ValueError(message)
