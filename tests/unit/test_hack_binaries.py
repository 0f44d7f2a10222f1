"""Finding, verifying and keeping the Kubernetes binaries, with small programs in their place."""

import hashlib
import http.server
import io
import os
import tarfile
import threading

import pytest

from hack.binaries import build, download, find
from hack.binaries.catalogue import CATALOGUE, Binary, BinaryError, Download, parse_version


def program(folder, name, answer):
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_text(f"#!/bin/sh\necho '{answer}'\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def said():
    return []


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache" / "bin"


@pytest.mark.parametrize(
    ("answer", "version"),
    [
        ("etcd Version: 3.6.8\nGit SHA: x\nGo Version: go1.26.8", (3, 6, 8)),
        ("Kubernetes v1.36.3", (1, 36, 3)),
        ("Client Version: v1.32.4-dispatcher\nKustomize Version: v5.5.0", None),
        ("Kubernetes v0.0.0-master+$Format:%H$", None),
        ("v3.22.0", (3, 22, 0)),
        ("v3.22.0+g1a2b3c4", (3, 22, 0)),
        ("v3.22", None),
        ("", None),
    ],
)
def test_versions_are_read_strictly(answer, version):
    assert parse_version(answer) == version


def test_a_named_folder_comes_first_and_is_believed(tmp_path, cache, said):
    chosen = program(tmp_path / "chosen", "kube-apiserver", "Kubernetes v1.34.0")
    assets = program(tmp_path / "assets", "kube-apiserver", "Kubernetes v1.36.3")
    environment = {"OPTIINFRA_KUBE_BIN": str(chosen.parent), "KUBEBUILDER_ASSETS": str(assets.parent), "PATH": ""}
    found = find.find(CATALOGUE["kube-apiserver"], environment, cache, say=said.append)
    assert found == chosen


@pytest.mark.parametrize(
    ("name", "answer", "usable"),
    [
        ("kubectl", "Client Version: v1.37.1", True),
        ("kubectl", "Client Version: v1.35.0", True),
        ("kubectl", "Client Version: v1.34.9", False),
        ("kubectl", "Client Version: v1.36.1-dispatcher", False),
        ("kube-apiserver", "Kubernetes v1.36.0", True),
        ("kube-apiserver", "Kubernetes v1.37.0", False),
        ("etcd", "etcd Version: 3.4.23", False),
        ("helm", "v4.3.1", False),
        ("helm4", "v4.3.1", True),
    ],
)
def test_what_path_offers_must_show_a_fitting_version(tmp_path, cache, said, name, answer, usable):
    offered = program(tmp_path / "path", name, answer)
    environment = {"PATH": f"{offered.parent}:{os.environ['PATH']}"}
    found = find.find(CATALOGUE[name], environment, cache, say=said.append)
    if usable:
        assert found == offered
    else:
        assert found is None
        assert any(str(offered) in line and "not used" in line for line in said)


def test_helm_on_path_can_be_helm_4(tmp_path, cache, said):
    offered = program(tmp_path / "path", "helm", "v4.3.1")
    environment = {"PATH": str(offered.parent) + ":/bin"}
    assert find.find(CATALOGUE["helm4"], environment, cache, say=said.append) == offered
    assert find.find(CATALOGUE["helm"], environment, cache, say=said.append) is None


def test_a_cached_binary_without_its_record_is_not_used(cache, said):
    binary = CATALOGUE["kwok"]
    program(cache, "kwok", "kwok version v0.8.0")
    assert find.find(binary, {"PATH": ""}, cache, say=said.append) is None
    record = cache.parent / "recipes" / "kwok"
    record.parent.mkdir()
    record.write_text("kwok 0.7.0")
    assert find.find(binary, {"PATH": ""}, cache, say=said.append) is None
    record.write_text(binary.recipe)
    assert find.find(binary, {"PATH": ""}, cache, say=said.append) == cache / "kwok"


@pytest.fixture
def releases(tmp_path):
    """Serve a folder on loopback as the publisher does."""
    folder = tmp_path / "releases"
    folder.mkdir()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments, **more):
            super().__init__(*arguments, directory=str(folder), **more)

        def log_message(self, *arguments):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield folder, f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def released(name, base, *, checksums, member=None):
    return Binary(
        name=name,
        version="1.2.3",
        version_arguments=("--version",),
        minors=((1, 2),),
        module="none",
        package="none",
        download=Download(url=f"{base}/{name}", checksums=f"{base}/{checksums}", member=member),
    )


def test_a_release_is_fetched_and_verified(tmp_path, releases):
    folder, base = releases
    (folder / "tool").write_bytes(b"#!/bin/sh\n")
    (folder / "tool.sha256").write_text(hashlib.sha256(b"#!/bin/sh\n").hexdigest())
    binary = released("tool", base, checksums="tool.sha256")
    download.Downloads([binary]).fetch(binary, tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == b"#!/bin/sh\n"
    assert os.access(tmp_path / "out", os.X_OK)


def test_a_release_in_an_archive_is_unpacked(tmp_path, releases):
    folder, base = releases
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        entry = tarfile.TarInfo("linux/tool")
        entry.size = 3
        archive.addfile(entry, io.BytesIO(b"abc"))
    (folder / "tool.tar.gz").write_bytes(buffer.getvalue())
    digest = hashlib.sha256(buffer.getvalue()).hexdigest()
    (folder / "SHA256SUMS").write_text(f"{'0' * 64}  other.tar.gz\n{digest} *tool.tar.gz\n")
    binary = released("tool.tar.gz", base, checksums="SHA256SUMS", member="linux/tool")
    download.Downloads([binary]).fetch(binary, tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == b"abc"


@pytest.mark.parametrize("checksum", ["0" * 64, "", "not a digest", "f" * 70000])
def test_a_release_with_another_checksum_is_refused(tmp_path, releases, checksum):
    folder, base = releases
    (folder / "tool").write_bytes(b"changed")
    (folder / "tool.sha256").write_text(checksum)
    binary = released("tool", base, checksums="tool.sha256")
    with pytest.raises(download.DownloadError):
        download.Downloads([binary]).fetch(binary, tmp_path / "out")
    assert list(tmp_path.glob("out*")) == []


def test_a_host_that_does_not_answer_is_named_and_not_asked_again(tmp_path):
    binary = released("tool", "http://127.0.0.1:1", checksums="tool.sha256")
    downloads = download.Downloads([binary])
    assert "127.0.0.1:1" in downloads.unreachable
    with pytest.raises(download.DownloadError, match=r"127\.0\.0\.1:1"):
        downloads.fetch(binary, tmp_path / "out")


def fake_go(monkeypatch, tmp_path, script):
    go = program(tmp_path / "gopath", "go", "go version go1.99.0 linux/amd64")
    version = "echo 'go version go1.99.0 linux/amd64'"
    go.write_text(f'#!/bin/sh\nif [ "$1" = version ]; then {version}; exit; fi\n{script}\n')
    monkeypatch.setenv("PATH", f"{go.parent}:/usr/bin:/bin")
    monkeypatch.setenv("OPTIINFRA_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("OPTIINFRA_KUBE_BIN", raising=False)
    monkeypatch.delenv("KUBEBUILDER_ASSETS", raising=False)


# `go build -mod=readonly -trimpath -ldflags FLAGS -o TARGET PACKAGE`
BUILDS = 'printf \'#!/bin/sh\\necho kwok version v0.8.0\\n\' > "$7" && chmod +x "$7"'


def test_a_missing_binary_is_built_once_and_kept(monkeypatch, tmp_path, said):
    fake_go(monkeypatch, tmp_path, f"echo built >> {tmp_path}/count\n{BUILDS}")
    first = find.ensure(["kwok"], say=said.append)["kwok"]
    second = find.ensure(["kwok"], say=said.append)["kwok"]
    assert first == second == find.bin_folder() / "kwok"
    assert (tmp_path / "count").read_text() == "built\n"
    assert any("kwok 0.8.0: built in" in line for line in said)


def test_parallel_runs_build_once(monkeypatch, tmp_path):
    fake_go(monkeypatch, tmp_path, f"echo built >> {tmp_path}/count\nsleep 0.3\n{BUILDS}")
    results = []
    threads = [
        threading.Thread(target=lambda: results.append(find.ensure(["kwok"], say=lambda _: None))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 4
    assert (tmp_path / "count").read_text() == "built\n"


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("echo 'missing go.sum entry' >&2; echo half > \"$7\"; exit 1", "missing go.sum entry"),
        ('printf \'#!/bin/sh\\necho v0.0.1\\n\' > "$7"; chmod +x "$7"', "not kept"),
    ],
)
def test_a_broken_build_leaves_nothing(monkeypatch, tmp_path, said, script, message):
    fake_go(monkeypatch, tmp_path, script)
    with pytest.raises(BinaryError, match=message):
        find.ensure(["kwok"], say=said.append)
    assert list(find.bin_folder().iterdir()) == []
    assert list(find.bin_folder().parent.glob("scratch-*")) == []


def test_pinned_versions_match_the_go_modules():
    for binary in CATALOGUE.values():
        text = (build.MODULES / binary.module / "go.mod").read_text()
        version = binary.module_version or binary.version
        assert f" v{version}" in text, f"{binary.module}/go.mod does not require {version}"
