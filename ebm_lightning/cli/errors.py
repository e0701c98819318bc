"""Mistakes in a configuration, said in one sentence: where, what was expected, what was given."""

import importlib
import inspect
import re
from difflib import get_close_matches
from typing import Any, NoReturn

from lightning.pytorch.cli import LightningArgumentParser

KEY = re.compile(r'Parser key "([^"]+)":\s*')
UNKNOWN = re.compile(
    r"unrecognized arguments: --([\w.]+)|^Option '([\w.]+)' is not accepted|does not accept option '([\w.]+)'"
)
NOISE = re.compile(
    r"^(Does not validate against any of|Subtypes:|Errors:|Given value|Expected a <class 'NoneType'>"
    r"|Expected a path but)"
)


class Parser(LightningArgumentParser):
    """A parser whose errors are ValueErrors of one sentence, and which takes no abbreviated option."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"allow_abbrev": False, **kwargs})

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        raise ValueError(explain(message, self._options())) from ex

    def _options(self) -> list[str]:
        """Every option of the command in hand, dotted, in the order of its help."""
        known = [action.dest for action in self._actions]
        for action in self._actions:
            for parser in (getattr(action, "_name_parser_map", None) or {}).values():
                known += [inner.dest for inner in parser._actions]
        own = {"help", "print_config", "print_shtab", "config", "subcommand"}
        return [name for name in dict.fromkeys(known) if name not in own and not name.endswith(".help")]


def explain(message: str, options: list[str]) -> str:
    """The innermost reason of a parser's message, as one sentence that says what is accepted.

    Args:
        message: what jsonargparse says: a tree of alternatives, most of them beside the point; its leaves may have
            been explained before, by the parser of a nested class.
        options: the dotted options of the command or class in hand.
    """
    if unknown := UNKNOWN.search(message):
        return _unknown_option(next(filter(None, unknown.groups())), options)
    if "Problems parsing config" in message:
        where = re.search(r"line \d+, column \d+", message)
        return f"the configuration is no valid YAML{f' ({where[0]})' if where else ''}: mend it there"
    path: list[str] = []
    for line in message.splitlines():
        reason = line.strip().removeprefix("- ")
        while key := KEY.match(reason):
            path.append(key[1])
            reason = reason[key.end() :]
        if reason and not NOISE.match(reason):
            return _placed(path, _reason(reason, message))
    return " ".join(message.split())


def _placed(path: list[str], reason: str) -> str:
    """A reason with the key it belongs to; where it names an inner key already, the two are joined."""
    joint = "." if re.match(r"[a-z_]\w*(\.\w+)*: ", reason) else ": "
    return f"{'.'.join(path)}{joint}{reason}" if path else reason


def _reason(reason: str, message: str) -> str:
    absent = re.search(
        r"(?:import path string: |Problem with given class_path |there is no class )'?([^':]+)'?", reason
    )
    if absent and "expected one of" not in reason:
        bases = re.findall(r"<class '([\w.]+)'>", message[: message.index(absent[0])])
        bases = [base for base in bases if base != "NoneType"]
        names = sorted(cls.__name__ for cls in _subclasses(_imported(bases[-1]))) if bases else []
        inner = reason[: absent.start()] if ": there is no class" in reason else ""
        return f"{inner}there is no class {absent[1]!r}{_instead(absent[1], names)}"
    if wrong := re.match(r"Expected an? <class '([\w.]+)'>(?:\. Got value: (.*))?", reason):
        given = wrong[2] or (value[1] if (value := re.search(r"^\s*Given value: (.*)", message, re.MULTILINE)) else "")
        return f"expected {wrong[1]}{f', got {given}' if given else ''}"
    return reason


def _unknown_option(option: str, options: list[str]) -> str:
    head, _, rest = option.partition(".")
    inside = [name.removeprefix(f"{head}.") for name in options if name.startswith(f"{head}.")]
    tops = list(dict.fromkeys(name.partition(".")[0] for name in options))
    return f"there is no option {option!r}{_instead(rest, inside) if inside else _instead(head, tops)}"


def _instead(given: str, accepted: list[str]) -> str:
    if not accepted:
        return ""
    near = get_close_matches(given, accepted, n=1)
    meant = f"; did you mean {near[0]!r}?" if near else ""
    return f": expected one of {', '.join(accepted)}{meant}"


def _imported(name: str) -> type | None:
    module, _, last = name.rpartition(".")
    found = getattr(importlib.import_module(module), last, None) if module else None
    return found if inspect.isclass(found) else None


def _subclasses(cls: type | None) -> set[type]:
    """Every class of this library below ``cls`` that can be made."""
    if cls is None:
        return set()
    direct: list[type] = cls.__subclasses__()
    below = set(direct).union(*map(_subclasses, direct))
    return {sub for sub in below if sub.__module__.startswith("ebm_lightning.") and not inspect.isabstract(sub)}
