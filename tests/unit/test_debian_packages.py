"""Taking a program out of a Debian package, with packages made here."""

import hashlib
import http.server
import io
import lzma
import tarfile
import threading

import pytest

from hack.binaries import debian
from hack.binaries.catalogue import BinaryError, architecture
from hack.binaries.debian import Package, ensure_packaged, take_out


def package(files, *, data_name="data.tar.xz"):
    inner = io.BytesIO()
    with tarfile.open(fileobj=inner, mode="w") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    # An odd size in front: members are padded to an even one.
    members = {"debian-binary": b"2.0", data_name: lzma.compress(inner.getvalue())}
    made = b"!<arch>\n"
    for name, content in members.items():
        made += f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(content):<10}`\n".encode()
        made += content + b"\n" * (len(content) % 2)
    return made


def test_one_file_is_copied_out(tmp_path):
    made = package({"./usr/share/doc": b"text", "./usr/bin/tool": b"#!/bin/sh\n"})
    take_out(made, "./usr/bin/tool", tmp_path / "tool")
    assert (tmp_path / "tool").read_bytes() == b"#!/bin/sh\n"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"<html>not found</html>", "no Debian package"),
        (package({}, data_name="data.tar.zst"), r"no data\.tar\.xz"),
        (package({"./usr/bin/other": b""}), "is not in its Debian package"),
        (package({"./usr/bin/tool": b"x"})[:160], "cannot be taken out"),
    ],
)
def test_what_is_no_such_package_is_refused(content, reason, tmp_path):
    with pytest.raises(BinaryError, match=reason):
        take_out(content, "./usr/bin/tool", tmp_path / "tool")


@pytest.fixture
def archive(monkeypatch, tmp_path):
    """An archive on loopback behind one that does not answer, and an empty cache."""
    folder = tmp_path / "archive"
    folder.mkdir()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments):
            super().__init__(*arguments, directory=str(folder))

        def log_message(self, *_arguments):
            """Stay silent."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(debian, "ARCHIVES", (f"{address}/absent", address))
    monkeypatch.setenv("OPTIINFRA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    yield folder
    server.shutdown()
    server.server_close()


def known(monkeypatch, content):
    sha256 = {architecture(): hashlib.sha256(content).hexdigest()}
    entry = Package(program="tool", version="1", pool="tool_{}.deb", sha256=sha256)
    monkeypatch.setitem(debian.PACKAGES, "tool", entry)


def test_it_comes_from_the_archive_that_has_it_and_stays_in_the_cache(archive, monkeypatch):
    made = package({"./usr/bin/tool": b"#!/bin/sh\n"})
    file = archive / f"tool_{architecture()}.deb"
    file.write_bytes(made)
    known(monkeypatch, made)
    first = ensure_packaged("tool")
    file.unlink()
    assert ensure_packaged("tool") == first
    assert first.stat().st_mode & 0o111


def test_another_content_than_the_pinned_one_is_refused_and_nothing_stays(archive, monkeypatch):
    known(monkeypatch, b"what was pinned")
    (archive / f"tool_{architecture()}.deb").write_bytes(package({"./usr/bin/tool": b"something else"}))
    with pytest.raises(BinaryError, match="another SHA-256 than the one pinned"):
        ensure_packaged("tool")
    assert list((archive.parent / "cache").rglob("*tool*")) == []


def test_a_kind_of_machine_without_a_checksum_is_told_what_to_do(archive, monkeypatch):
    monkeypatch.setitem(debian.PACKAGES, "tool", Package(program="tool", version="1", pool="tool_{}.deb", sha256={}))
    with pytest.raises(BinaryError, match="install it, so that PATH has it"):
        ensure_packaged("tool")


def test_a_program_on_path_is_taken(archive, monkeypatch, tmp_path):
    known(monkeypatch, b"")
    program = tmp_path / "nothing" / "tool"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    assert ensure_packaged("tool") == program
