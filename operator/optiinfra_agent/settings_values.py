"""Reading the text of one setting. A ValueError says what to give instead."""

import re
import socket
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,251}[A-Za-z0-9])?")
LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")
_BARE_IPV6 = re.compile(r"(https?://)([0-9A-Fa-f.]*:[0-9A-Fa-f.]*:[0-9A-Fa-f.:]*)(:[0-9]{1,5})/?")


def seconds(minimum: float, maximum: float) -> Callable[[str], float]:
    """Return a reader of seconds within bounds."""

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = float("nan")
        if not minimum <= value <= maximum:
            raise ValueError(f"give seconds between {minimum:g} and {maximum:g}")
        return value

    return parse


def integer(minimum: int, maximum: int) -> Callable[[str], int]:
    """Return a reader of whole numbers within bounds."""

    def parse(text: str) -> int:
        if not re.fullmatch(r"[0-9]{1,9}", text) or not minimum <= int(text) <= maximum:
            raise ValueError(f"give a whole number between {minimum} and {maximum}")
        return int(text)

    return parse


def folder(text: str) -> Path:
    """Read a folder that exists."""
    path = Path(text)
    if not path.is_absolute() or not path.is_dir():
        raise ValueError("give the absolute path of a folder that exists")
    return path


def folder_or_off(text: str) -> Path | None:
    """Read a folder that may appear later, or off."""
    if text == "off":
        return None
    path = Path(text)
    if not path.is_absolute():
        raise ValueError("give an absolute path, or off")
    return path


def switch(text: str) -> bool:
    """Read on or off."""
    if text not in {"on", "off"}:
        raise ValueError("give on or off")
    return text == "on"


def file(text: str) -> Path | None:
    """Read the path of a file; nothing is no file."""
    if not text:
        return None
    path = Path(text)
    if not path.is_absolute():
        raise ValueError("give an absolute path")
    return path


def name(text: str) -> str:
    """Read a name."""
    if text and not NAME.fullmatch(text):
        raise ValueError("use letters, digits, '.', '_' and '-', at most 253 characters")
    return text


def address(text: str) -> str:
    """Read an IP address."""
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            socket.inet_pton(family, text)
        except OSError:
            continue
        return text
    raise ValueError("give an IP address; 0.0.0.0 is every IPv4 address, :: is every address")


def url(text: str) -> str:
    """Read the base URL of a server.

    An IPv6 address without brackets, as the downward API writes one (`https://$(HOST_IP):10250`), gets them.
    """
    if not text:
        return text
    bare = _BARE_IPV6.fullmatch(text)
    if bare:
        text = f"{bare[1]}[{bare[2]}]{bare[3]}"
    try:
        parts = urlsplit(text)
        well_formed = (
            parts.scheme in {"http", "https"}
            and bool(parts.hostname)
            and parts.port != 0
            and parts.username is None
            and not parts.query
            and not parts.fragment
        )
    except ValueError:
        well_formed = False
    if not well_formed:
        raise ValueError("give http://host:port or https://host:port, without user, query or fragment")
    return text.rstrip("/")


def level(text: str) -> str:
    """Read a level of logging."""
    if text.upper() not in LEVELS:
        raise ValueError(f"give one of {', '.join(LEVELS)}")
    return text.upper()
