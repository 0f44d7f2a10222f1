"""The bill of materials of a built image: Python's packages from the lock file, Debian's from the image itself.

A scanner reads the same two places of Debian: dpkg's database, which a base from a registry has, and the files in
status.d of bases that are unpacked only (`inventory`). Nothing is guessed: an image without either is said to be one
whose base is unknown.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from hack import supply_chain
from hack.images import archive, inventory

_DATABASE = "var/lib/dpkg/status"


@dataclass(frozen=True, kw_only=True)
class Package:
    """One of Debian's packages in an image."""

    name: str
    version: str
    architecture: str
    sha256: str
    """Of its archive; empty where that is not known."""

    def component(self, distribution: str) -> dict[str, Any]:
        """Return it as a component of CycloneDX 1.6, named as purl-spec names Debian's packages."""
        address = (
            f"pkg:deb/debian/{quote(self.name)}@{quote(self.version)}?arch={self.architecture}&distro={distribution}"
        )
        found: dict[str, Any] = {
            "bom-ref": address,
            "name": self.name,
            "purl": address,
            "type": "library",
            "version": self.version,
        }
        return found | ({"hashes": [{"alg": "SHA-256", "content": self.sha256}]} if self.sha256 else {})


def write(target: str, image: Path) -> tuple[Path, int]:
    """Write the bill of an image's archive beside it; return where, and how many packages of its base are in it."""
    path = supply_chain.sbom(target, image.parent)
    content = json.loads(path.read_text(encoding="utf-8"))
    packages = base_packages(image)
    content.setdefault("components", []).extend(
        package.component(_distribution(image)) for package in sorted(packages, key=lambda each: each.name)
    )
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    return path, len(packages)


def base_packages(image: Path) -> list[Package]:
    """Return Debian's packages in an image's archive; empty where it has no list of them."""
    found = {}
    for name, text in archive.texts(image, lambda path: path == _DATABASE or path.startswith(f"{inventory.FOLDER}/")):
        if name.endswith(".md5sums"):
            continue
        for package in _packages(text):
            found[package.name] = package
    return list(found.values())


def _packages(text: str) -> Iterator[Package]:
    """Read the paragraphs of a control file (deb822(5)); continuation lines tell nothing that is needed."""
    for paragraph in text.split("\n\n"):
        lines = (line.partition(":") for line in paragraph.splitlines() if line[:1].strip())
        fields = {key: rest.strip() for key, _, rest in lines}
        if "Package" in fields and "Version" in fields and "deinstall" not in fields.get("Status", ""):
            yield Package(
                name=fields["Package"],
                version=fields["Version"],
                architecture=fields.get("Architecture", "all"),
                sha256=fields.get("SHA256", ""),
            )


def _distribution(image: Path) -> str:
    for _, text in archive.texts(image, lambda path: path in {"etc/os-release", "usr/lib/os-release"}):
        fields = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
        if "ID" in fields and "VERSION_ID" in fields:
            return f"{fields['ID']}-{fields['VERSION_ID']}".replace('"', "")
    return "debian"
