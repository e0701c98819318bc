"""The torch-free parsers of `ebm`: one for the program, one for each command."""

import argparse
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn


@dataclass(frozen=True)
class Command:
    """A command.

    Args:
        function: runs the command with the parsed options, of which ``command`` is the command line and ``rest`` the
            arguments after ``--``.
        add_options: adds the options to a parser; None if ``function`` parses the arguments itself.
        rest: the help of the arguments after ``--``; empty if the command takes none.
    """

    function: Callable[[argparse.Namespace], None]
    add_options: Callable[[argparse.ArgumentParser], None] | None = None
    rest: str = ""


class Parser(argparse.ArgumentParser):
    """A parser that raises ValueErrors with one sentence and accepts no abbreviated options."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**{"allow_abbrev": False, **kwargs})

    def error(self, message: str) -> NoReturn:
        raise ValueError(f"{message}: see `{self.prog} --help`")


class CommandParser(Parser):
    """The parser of one command, whose options are added when the command is used; `ebm --help` does not need them.

    Args:
        load: returns the command.
    """

    def __init__(self, *, load: Callable[[], Command], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._load = load

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        command, words = self._load(), list(args or ())
        options = argparse.Namespace(function=command.function, command=[*self.prog.split(), *words])
        if command.add_options is None:
            return options, []
        self.description, self.epilog = command.function.__doc__, command.rest
        command.add_options(self)
        own, options.rest = split_rest(words)
        if options.rest and not command.rest:
            own = words
        _, unknown = super().parse_known_args(respell(own, "-"), options)
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        return options, []


def split_rest(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """The arguments before the first ``--``, and those after it."""
    place = words.index("--") if "--" in words else len(words)
    return list(words[:place]), list(words[place + 1 :])


def respell(words: Sequence[str], separator: str) -> list[str]:
    """The arguments with every dash and underscore in the name of an option replaced; values are unchanged.

    >>> respell(["--gpus_per_node=4", "--run", "my_run"], "-")
    ['--gpus-per-node=4', '--run', 'my_run']
    """
    return [re.sub(r"(?<=^--)[^=]+", lambda name: re.sub("[-_]", separator, name[0]), word) for word in words]
