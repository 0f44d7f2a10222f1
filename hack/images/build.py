"""Builds both targets of the Dockerfile, saves them as archives and says how large they are.

`NEEDED` and `AIM` are what the project promises about sizes, uncompressed.
"""

import hashlib
import os
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import yaml

from hack.images import archive, bill, compare, debian, registry
from hack.images.tools import Tool

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "build" / "images"
TARGETS = ("operator", "agent")
NEEDED = {"operator": 320_000_000, "agent": 180_000_000}
AIM = {"operator": 250_000_000, "agent": 120_000_000}
DEBIAN = "debian"
"""A base that is made here."""

Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Image:
    """One result."""

    target: str
    tag: str
    path: Path
    size: int
    """Bytes of all files of all layers."""
    digest: str
    """SHA-256 of the image's configuration, which names its layers by their digests: equal for equal images."""
    bill: Path | None = None
    """Its bill of materials."""
    base_packages: int = 0
    """How many packages of its base the bill names; 0: the base has no list of them."""
    revision: str = ""
    """Of the code that it was built from."""
    seconds: float

    @property
    def verdict(self) -> str:
        """Say in words how the size compares with what is promised."""
        megabytes = f"{self.size / 1e6:.0f} MB"
        if self.size > NEEDED[self.target]:
            return f"{megabytes}, MORE than the {NEEDED[self.target] / 1e6:.0f} that are promised"
        word = "within" if self.size <= AIM[self.target] else "over"
        return f"{megabytes} of at most {NEEDED[self.target] / 1e6:.0f}, {word} the aim of {AIM[self.target] / 1e6:.0f}"


def build(
    tool: Tool,
    *,
    tags: dict[str, str],
    base: str | None,
    runtime: str | None,
    say: Say,
    folder: Path = FOLDER,
    fresh: bool = False,
    revision: str | None = None,
) -> list[Image]:
    """Build the targets of `tags` under these names; `base` is DEBIAN, an image, or None for the Dockerfile's own.

    `fresh` means that nothing of an earlier build is used; `revision` is the code's, when it is not to be asked now.
    """
    folder.mkdir(parents=True, exist_ok=True)
    arguments = {"REVISION": revision or _revision()}
    if base == DEBIAN:
        for name, path in debian.bases(say=say).items():
            tool.load(path, name)
        arguments |= {"BASE": debian.BUILDER, "RUNTIME": debian.RUNTIME}
    elif base:
        arguments |= {"BASE": base, "RUNTIME": runtime or base}
    images = []
    for target, tag in tags.items():
        started = time.monotonic()
        say(f"building {tag} with {tool.name}")
        tool.build(target, tag=tag, context=ROOT, arguments=arguments, local_base=base == DEBIAN, fresh=fresh)
        path = _saved(tool, tag, folder / f"{target}.tar")
        written, packages = bill.write(target, path)
        images.append(
            Image(
                target=target,
                tag=tag,
                path=path,
                size=archive.size(path),
                digest=_digest_of(path),
                bill=written,
                base_packages=packages,
                revision=arguments["REVISION"],
                seconds=time.monotonic() - started,
            )
        )
    return images


def differences(
    tool: Tool, images: list[Image], *, base: str | None, runtime: str | None, say: Say
) -> dict[str, list[str]]:
    """Build these images once more with nothing of before, and the bases made here too; return what differs."""
    tags = {image.target: image.tag for image in images}
    # The code is the same, whatever has been committed meanwhile.
    again = build(
        tool,
        tags=tags,
        base=base,
        runtime=runtime,
        say=say,
        folder=FOLDER / "again",
        fresh=True,
        revision=images[0].revision,
    )
    found = {one.tag: compare.differences(one.path, two.path) for one, two in zip(images, again, strict=True)}
    if base == DEBIAN:
        found |= {name: ["not the same bytes"] for name in debian.differences(say=say)}
    return {name: lines for name, lines in found.items() if lines}


def chart_names() -> dict[str, str]:
    """Return the names, by target, under which the chart with its default values looks for the images."""
    chart = ROOT / "charts" / "optiinfra"
    values = yaml.safe_load((chart / "values.yaml").read_text(encoding="utf-8"))
    version = yaml.safe_load((chart / "Chart.yaml").read_text(encoding="utf-8"))["appVersion"]
    sections = {"operator": values["image"], "agent": values["agent"]["image"]}
    return {target: f"{section['repository']}:{section['tag'] or version}" for target, section in sections.items()}


def is_pinned(base: str | None) -> bool:
    """Tell whether a base can only be one: made here by its packages' signatures, or named by digest."""
    return base == DEBIAN or "@sha256:" in (base or "@".join(registry.base(ROOT / "Dockerfile")))


def _saved(tool: Tool, tag: str, path: Path) -> Path:
    """Save under a name of this process's own first: another build's archive may be being read under this one."""
    fresh = path.with_name(f"{path.stem}-{os.getpid()}{path.suffix}")
    try:
        tool.save(tag, fresh)
        return fresh.replace(path)
    finally:
        fresh.unlink(missing_ok=True)


def _digest_of(path: Path) -> str:
    text = repr(sorted(archive.configuration(path).items()))
    return hashlib.sha256(text.encode()).hexdigest()


def _revision() -> str:
    command = ["git", "rev-parse", "--short", "HEAD"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=20, check=False)
    return done.stdout.strip() or "unknown"
