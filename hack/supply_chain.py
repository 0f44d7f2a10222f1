"""What the two images are made of, and whether any of it is known to be vulnerable: `python -m hack.supply_chain`.

`sbom` writes a CycloneDX bill of materials an image, from its lock with the hashes (by cyclonedx-py). `audit` asks the
advisories that PyPI publishes about every locked package (by pip-audit). A vulnerability fails the check. A package
that could not be asked about is named and counted, never taken for a good one; it fails the check only with `--strict`,
because a mirror of packages may not carry advisories. Neither looks into the base image of the Dockerfile.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
IMAGES = ("operator", "agent")
_SECONDS = 300.0
_BIN = Path(sys.executable).parent


class SupplyChainError(Exception):
    """A tool did not do its work; the text is for people."""


@dataclass(frozen=True, slots=True)
class Audit:
    """What advisories say about one lock."""

    image: str
    packages: int
    unasked: tuple[str, ...]
    """Packages that nothing is known of, with their versions."""
    vulnerable: tuple[str, ...]
    """One line a vulnerability: package, version, id, and where it is fixed."""

    def failed(self, *, strict: bool) -> bool:
        """True when the check has to fail."""
        return bool(self.vulnerable) or (strict and bool(self.unasked))


def read_audit(text: str, *, image: str) -> Audit:
    """Read pip-audit's JSON; raise SupplyChainError where it is none."""
    try:
        packages = json.loads(text)["dependencies"]
        unasked = tuple(f"{one['name']} ({one['skip_reason']})" for one in packages if "skip_reason" in one)
        vulnerable = tuple(
            f"{one['name']} {one['version']}: {found['id']}, "
            f"fixed in {', '.join(found['fix_versions']) or 'no release'}"
            for one in packages
            for found in one.get("vulns", ())
        )
    except (ValueError, KeyError, TypeError) as error:
        raise SupplyChainError(f"pip-audit's answer about the {image} cannot be read: {error!r}") from error
    if not packages:
        raise SupplyChainError(f"pip-audit looked at no package of the {image}: is its lock empty?")
    return Audit(image=image, packages=len(packages), unasked=unasked, vulnerable=vulnerable)


def audit(image: str) -> Audit:
    """Ask about every package of an image's lock."""
    options = ("--require-hashes", "--disable-pip", "--progress-spinner=off", "--format=json")
    done = _run("pip-audit", f"--requirement={_lock(image)}", *options, accepted=(0, 1))
    return read_audit(done, image=image)


def sbom(image: str, folder: Path) -> Path:
    """Write an image's bill of materials; the same lock gives the same file."""
    path = folder / f"optiinfra-{image}.cdx.json"
    folder.mkdir(parents=True, exist_ok=True)
    options = ("--output-reproducible", f"--pyproject={ROOT / 'pyproject.toml'}", f"--output-file={path}")
    _run("cyclonedx-py", "requirements", *options, str(_lock(image)), accepted=(0,))
    return path


def _lock(image: str) -> Path:
    return ROOT / "requirements" / f"{image}.lock"


def _run(program: str, *arguments: str, accepted: Sequence[int]) -> str:
    command = [str(_BIN / program), *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=_SECONDS, check=False)
    if done.returncode not in accepted:
        raise SupplyChainError(f"{program} ended with {done.returncode}: {done.stderr[-500:].strip()}")
    return done.stdout


def main(arguments: Sequence[str] | None = None) -> int:
    """Audit or write; 1 when the check fails, 2 when a tool does."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    auditing = commands.add_parser("audit", help="ask what is known of the locked packages")
    auditing.add_argument("--strict", action="store_true", help="fail on a package that could not be asked about")
    writing = commands.add_parser("sbom", help="write the bills of materials")
    writing.add_argument("--folder", type=Path, default=ROOT / "build", help="where to (default: build)")
    options = parser.parse_args(arguments)
    try:
        if options.command == "sbom":
            for image in IMAGES:
                print(f"{image}: {sbom(image, options.folder).name}")
            return 0
        audits = [audit(image) for image in IMAGES]
    except SupplyChainError as error:
        print(error, file=sys.stderr)
        return 2
    for each in audits:
        asked = each.packages - len(each.unasked)
        print(f"{each.image}: {asked} of {each.packages} packages asked about, {len(each.vulnerable)} vulnerabilities")
        if each.unasked:
            print(f"  NOT asked about: {len(each.unasked)}, the first: {each.unasked[0]}")
        for line in each.vulnerable:
            print(f"  {line}")
    return int(any(each.failed(strict=options.strict) for each in audits))


if __name__ == "__main__":
    sys.exit(main())
