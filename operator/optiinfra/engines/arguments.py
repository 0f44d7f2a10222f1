"""A container's command line, taken apart: flags and their values, wherever they are written.

People write `--flag=value`, `--flag value`, underscores for dashes, one string for a shell, and `$(VARIABLE)`. All of
it is read; nothing of it is run. What cannot be resolved (a variable that comes from a Secret, a file) is left out,
so that the setting is unknown rather than wrong. As in the engines' own parsers, the last occurrence of a flag counts.
"""

import re
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

_MAX_TOKENS: Final = 2048
_MAX_SCRIPT: Final = 64 * 1024
_SHELLS: Final = frozenset({"sh", "bash", "ash", "dash", "zsh", "busybox"})
_SHELL_COMMAND: Final = re.compile(r"-[a-z]*c")
_VARIABLE: Final = re.compile(
    r"\$\((?P<kubernetes>\w+)\)|\$\{(?P<braced>\w+)(?::?-(?P<default>[^}$]*))?\}|\$(?P<plain>[A-Za-z_]\w*)"
)
_JSON: Final = re.compile(r"\s*(?:--?[\w.-]+=\s*)?[{\[]")
"""JSON, alone or behind a flag: its blanks part no words."""
_NUMBER: Final = re.compile(r"(?P<digits>-?[0-9]+(?:\.[0-9]+)?)(?P<suffix>[kKmMgGtT]?)")
_DECIMAL: Final = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
_BINARY: Final = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


@dataclass(frozen=True, slots=True)
class CommandLine:
    """The tokens of one container."""

    tokens: tuple[str, ...]
    flags: Mapping[str, str]
    """Flag, with dashes as separators and its leading dashes -> the last value; empty for a switch."""
    unresolved: frozenset[str]
    """Flags whose value names a variable that is not known."""


def parse(arguments: Iterable[str], environment: Mapping[str, str]) -> CommandLine:
    """Take a container's command and arguments apart."""
    tokens = _tokens(tuple(arguments))
    flags: dict[str, str] = {}
    unresolved: set[str] = set()
    for index, token in enumerate(tokens):
        if not token.startswith("-") or _NUMBER.fullmatch(token):
            continue
        name, equals, value = token.partition("=")
        if not equals and index + 1 < len(tokens) and _is_value(tokens[index + 1]):
            value = tokens[index + 1]
        flag = name.replace("_", "-")
        unresolved.discard(flag)
        resolved = _resolve(value, environment)
        if resolved is None:
            unresolved.add(flag)
            flags.pop(flag, None)
        else:
            flags[flag] = resolved
    return CommandLine(tokens, flags, frozenset(unresolved))


def number(text: str) -> float | None:
    """Read a count or a share as vLLM does: 8192, 0.9, 8k (thousands), 8K (1024s). None when it is none."""
    match = _NUMBER.fullmatch(text.strip())
    if match is None or len(text) > 24:
        return None
    suffix = match["suffix"]
    return float(match["digits"]) * (_BINARY[suffix] if suffix in _BINARY else _DECIMAL[suffix])


def _is_value(token: str) -> bool:
    return not token.startswith("-") or _NUMBER.fullmatch(token) is not None


def _tokens(arguments: tuple[str, ...]) -> tuple[str, ...]:
    tokens: list[str] = []
    for index, argument in enumerate(arguments):
        if _is_script(arguments, index):
            tokens.extend(_split(argument[:_MAX_SCRIPT]))
        else:
            tokens.append(argument)
    return tuple(tokens[:_MAX_TOKENS])


def _is_script(arguments: tuple[str, ...], index: int) -> bool:
    argument = arguments[index]
    if not any(blank in argument for blank in " \t\n") or _JSON.match(argument):
        return False
    if index and _SHELL_COMMAND.fullmatch(arguments[index - 1]):
        return any(one.rpartition("/")[2] in _SHELLS for one in arguments[:index])
    # A value of a flag may hold blanks (a chat template); a string that holds flags of its own is a command.
    return " --" in argument or argument.startswith("--")


def _split(script: str) -> list[str]:
    lines = (line for line in script.replace("\\\n", " ").split("\n") if not line.lstrip().startswith("#"))
    text = "\n".join(lines)
    try:
        return shlex.split(text)
    except ValueError:
        # Quotes that do not close; the flags are still there to be read.
        return text.split()


def _resolve(value: str, environment: Mapping[str, str]) -> str | None:
    """Put variables in; None when one of them is not known."""
    missing = False

    def replace(match: re.Match[str]) -> str:
        nonlocal missing
        found = environment.get(match["kubernetes"] or match["braced"] or match["plain"])
        if found is None:
            found = match["default"]
        if found is None:
            missing = True
            return ""
        return found

    resolved = _VARIABLE.sub(replace, value)
    return None if missing else resolved
