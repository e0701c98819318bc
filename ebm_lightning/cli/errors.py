"""Errors in a configuration as one sentence: the key, the expected and the given value."""

import inspect
import re
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from typing import Any, NoReturn, get_args

from lightning.pytorch.cli import LightningArgumentParser
from yaml import MarkedYAMLError

KEY = re.compile(r'Parser key "([^"]+)":\s*')
UNKNOWN = re.compile(
    r"unrecognized arguments: --([\w.]+)|^Option '([\w.]+)' is not accepted|does not accept option '([\w.]+)'"
)
ABSENT = re.compile(r"Expected a dot import path string: (?P<name>.*)|Problem with given class_path '(?P<path>[^']*)'")
WRONG = re.compile(r"Expected an? <class '([\w.]+)'>(?:\. Got value: (.*))?")
# Facts that jsonargparse gives only in its messages; the others are in the types and causes of its exceptions.


class ConfigurationError(ValueError):
    """An error in a configuration, as one sentence."""


class Parser(LightningArgumentParser):
    """A parser that raises ConfigurationErrors and accepts no abbreviated options."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"allow_abbrev": False, **kwargs})

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        key = KEY.match(message)
        classes = self._classes(key[1]) if key else []
        raise ConfigurationError(format_parser_error(message, self._options(), ex, classes)) from ex

    def _options(self) -> list[str]:
        """All options of the command or class, dotted, in the order of its help."""
        others = {"help", "print_config", "print_shtab", "config"}
        known = dict.fromkeys(action.dest for action in self._actions)
        return [name for name in known if name not in others and not name.endswith(".help")]

    def _classes(self, key: str) -> list[str]:
        """The names of this library's classes that an option accepts."""
        types = [getattr(action, "_typehint", None) for action in self._actions if action.dest == key]
        return sorted(cls.__name__ for hint in types for base in _bases(hint) for cls in _subclasses(base))


def format_parser_error(
    message: str, options: Sequence[str], cause: BaseException | None = None, classes: Sequence[str] = ()
) -> str:
    """The innermost reason of a parser's error, as one sentence with the accepted values.

    Args:
        message: of jsonargparse.
        options: the dotted options of the command or class.
        cause: the exception that led to the message. If several alternatives all fail, jsonargparse gives the first as
            the cause; the cause of an error in a nested class is the ConfigurationError of its parser.
        classes: the accepted names if the option takes a class.
    """
    if unknown := UNKNOWN.search(message):
        return _unknown_option(next(filter(None, unknown.groups())), options)
    causes = list(_causes(cause))
    for one in causes:
        if isinstance(one, MarkedYAMLError):
            mark = one.context_mark or one.problem_mark
            place = f" (line {mark.line + 1}, column {mark.column + 1})" if mark else ""
            return f"the configuration is not valid YAML{place}: fix it there"
    key = KEY.match(message)
    absent = next(filter(None, (ABSENT.match(str(one)) for one in causes)), None)
    if absent:
        name = absent["name"] or absent["path"]
        own = "; a class of your own needs its folder on PYTHONPATH" if "." in name else ""
        return _placed(key, f"there is no class {name!r}{_instead(name, classes)}{own}")
    return _placed(key, _reason(str(causes[-1]) if causes else message))


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """An exception and its causes, up to the first ConfigurationError."""
    while error is not None:
        yield error
        error = None if isinstance(error, ConfigurationError) else error.__cause__


def _placed(key: re.Match[str] | None, reason: str) -> str:
    """A reason with its key; if the reason begins with an inner key, the two are joined."""
    joint = "." if re.match(r"[a-z_]\w*(\.\w+)*: ", reason) else ": "
    return f"{key[1]}{joint}{reason}" if key else reason


def _reason(text: str) -> str:
    """The first line of a message, without the key; for a value of a wrong type, the expected type and the value."""
    first = KEY.sub("", text, count=1).strip().splitlines()[0]
    if wrong := WRONG.match(first):
        return f"expected {wrong[1]}{f', got {wrong[2]}' if wrong[2] else ''}"
    return first


def _unknown_option(option: str, options: Sequence[str]) -> str:
    head, _, rest = option.partition(".")
    inside = [name.removeprefix(f"{head}.") for name in options if name.startswith(f"{head}.")]
    tops = list(dict.fromkeys(name.partition(".")[0] for name in options))
    return f"there is no option {option!r}{_instead(rest, inside) if inside else _instead(head, tops)}"


def _instead(given: str, accepted: Sequence[str]) -> str:
    if not accepted:
        return ""
    near = get_close_matches(given, accepted, n=1)
    meant = f"; did you mean {near[0]!r}?" if near else ""
    return f": expected one of {', '.join(accepted)}{meant}"


def _bases(hint: Any) -> Iterator[type]:
    """The classes in the type of an option."""
    if inner := get_args(hint):
        for one in inner:
            yield from _bases(one)
    elif inspect.isclass(hint):
        yield hint


def _subclasses(cls: type) -> set[type]:
    """Every concrete subclass of ``cls`` in this library."""
    found: set[type] = set(type.__subclasses__(cls)).union(*map(_subclasses, type.__subclasses__(cls)))
    return {sub for sub in found if sub.__module__.startswith("ebm_lightning.") and not inspect.isabstract(sub)}
