"""Images beside their building: what they are made of, whether two builds are the same, which digest a tag has."""

import http.server
import io
import json
import shutil
import subprocess
import tarfile
import threading

import pytest

from hack.cluster.errors import ClusterError
from hack.images import archive, bill, build, compare, indexes, inventory, registry
from tests.real_node import IMAGES, VERSION

STATUS = """\
Package: libc6
Status: install ok installed
Version: 2.36-9+deb12u9
Architecture: amd64
Description: GNU C Library
 Version: 9, says this line of the description

Package: gone
Status: deinstall ok config-files
Version: 1
"""


def image(path, files, **settings):
    """Write an image of one layer with these files: content, or content and mode."""
    layer = path.with_suffix(".layer")
    with tarfile.open(layer, "w") as tar:
        for name, content in files.items():
            text, mode = content if isinstance(content, tuple) else (content, 0o644)
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(text), mode
            tar.addfile(entry, io.BytesIO(text.encode()))
    archive.write(path, name="example.test/it:1", layers=[layer], settings=settings)
    return path


def test_a_bill_names_the_packages_of_the_base_beside_those_of_the_lock_file(tmp_path):
    files = {
        "./var/lib/dpkg/status": STATUS,
        "./var/lib/dpkg/status.d/tzdata": "Package: tzdata\nVersion: 2025a-0\nArchitecture: all\nSHA256: " + "a" * 64,
        "./var/lib/dpkg/status.d/tzdata.md5sums": "0  usr/share/zoneinfo/UTC\n",
        "./etc/os-release": 'ID=debian\nVERSION_ID="12"\n',
    }
    path, count = bill.write("agent", image(tmp_path / "agent.tar", files))
    content = json.loads(path.read_text())
    addresses = [each.get("purl", "") for each in content["components"]]
    assert count == 2
    assert "pkg:deb/debian/libc6@2.36-9%2Bdeb12u9?arch=amd64&distro=debian-12" in addresses
    (zones,) = [each for each in content["components"] if each["name"] == "tzdata"]
    assert zones["hashes"] == [{"alg": "SHA-256", "content": "a" * 64}]
    assert any(each["name"] == "psutil" for each in content["components"]), "Python's packages are there as before"
    before = path.read_bytes()
    bill.write("agent", tmp_path / "agent.tar")
    assert path.read_bytes() == before


def test_an_image_without_a_list_of_packages_is_not_said_to_have_one(tmp_path):
    assert bill.base_packages(image(tmp_path / "x.tar", {"./usr/bin/python": "x"})) == []


@pytest.mark.skipif(not shutil.which("dpkg-deb"), reason="needs dpkg")
def test_unpacked_packages_are_listed_when_something_of_them_is_left(tmp_path):
    root, archives = tmp_path / "root", tmp_path / "root/var/cache/apt/archives"
    archives.mkdir(parents=True)
    for name in ("left", "removed"):
        folder = tmp_path / name
        (folder / "DEBIAN").mkdir(parents=True)
        (folder / "DEBIAN/control").write_text(
            f"Package: {name}\nVersion: 1:2\nArchitecture: all\nMaintainer: no <no@example.test>\nDescription: x\n"
        )
        (folder / "usr").mkdir()
        (folder / "usr" / name).write_text(name)
        subprocess.run(
            ["dpkg-deb", "--root-owner-group", "--build", folder, archives / f"{name}_2_all.deb"],
            check=True,
            capture_output=True,
        )
    (root / "usr").mkdir()
    (root / "usr/left").write_text("left")
    assert inventory.write(root) == 1
    (listed,) = (root / inventory.FOLDER).iterdir()
    assert listed.name == "left"
    assert "Version: 1:2\n" in listed.read_text()
    assert "SHA256: " in listed.read_text()


def test_two_builds_are_compared_byte_for_byte(tmp_path):
    files = {"./a": "a", "./b": "b"}
    one = image(tmp_path / "one.tar", files, Cmd=["a"])
    assert compare.differences(one, image(tmp_path / "same.tar", files, Cmd=["a"])) == []
    other = image(tmp_path / "other.tar", {"./a": ("a", 0o600), "./b": "c", "./d": ""}, Cmd=["b"])
    assert compare.differences(one, other) == [
        "configuration: config",
        "layer 0: ./a: mode",
        "layer 0: ./b: content",
        "layer 0: ./d: in one only",
    ]
    turned = image(tmp_path / "turned.tar", {"./b": "b", "./a": "a"}, Cmd=["a"])
    assert compare.differences(one, turned) == ["layer 0: the same files in another order or with other headers"]


def test_an_archive_does_not_tell_how_it_was_cached(tmp_path):
    paths = [image(tmp_path / f"{name}.tar", {"./a": "a"}, Cmd=["a"]) for name in ("one", "two")]
    for number, path in enumerate(paths):
        with tarfile.open(path) as tar:
            parts = {each.name: tar.extractfile(each).read() for each in tar}
        (name,) = [each for each in parts if each.endswith(".json") and each != "manifest.json"]
        told = json.loads(parts[name])
        told["history"] = [{"created_by": "COPY", "comment": f"FROM {number}"}]
        parts[name] = json.dumps(told).encode()
        with tarfile.open(path, "w") as tar:
            for each, content in reversed(parts.items()) if number else parts.items():
                entry = tarfile.TarInfo(each)
                entry.size = len(content)
                tar.addfile(entry, io.BytesIO(content))
    assert compare.differences(*paths) == ["configuration: history"]
    for path in paths:
        archive.normalize(path)
    assert paths[0].read_bytes() == paths[1].read_bytes()
    assert archive.configuration(paths[0])["history"] == [{"created_by": "COPY"}]
    assert archive.size(paths[0]) == 1


def test_an_archive_does_not_tell_the_hour_of_its_build(tmp_path):
    """docker's builder leaves the times of the build on files, links and steps."""
    paths = [tmp_path / "one.tar", tmp_path / "two.tar"]
    for hour, path in enumerate(paths):
        layer = tmp_path / "layer"
        with tarfile.open(layer, "w") as tar:
            for name, kind in (("opt", tarfile.DIRTYPE), ("opt/link", tarfile.SYMTYPE), ("opt/file", tarfile.REGTYPE)):
                entry = tarfile.TarInfo(name)
                entry.type, entry.linkname, entry.mode, entry.uid = kind, "file", 0o751, 65532
                entry.size = 3 if kind == tarfile.REGTYPE else 0
                entry.mtime = 1_700_000_000.5 + 3600 * hour
                entry.pax_headers = {"SCHILY.xattr.user.kept": "yes", "atime": f"{1_700_000_001.5 + hour}"}
                tar.addfile(entry, io.BytesIO(b"abc"))
        archive.write(path, name="it:1", layers=[layer], settings={"Env": ["A=1"]})
    assert any("opt/file: time" in line for line in compare.differences(*paths))
    for path in paths:
        archive.settle(path)
    assert paths[0].read_bytes() == paths[1].read_bytes()
    assert archive.configuration(paths[0])["config"] == {"Env": ["A=1"]}
    (layer,) = archive.layers(paths[0])
    with archive.opened(paths[0], layer) as content:
        found = {each.name: each for each in content}
    assert {(each.mode, each.uid) for each in found.values()} == {(0o751, 65532)}
    assert found["opt/link"].linkname == "file"
    assert found["opt/file"].pax_headers["SCHILY.xattr.user.kept"] == "yes"
    assert archive.size(paths[0]) == 3


@pytest.fixture
def hub():
    """Serve a registry that wants a token, as Docker's does."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self):
            if self.headers.get("Authorization") != "Bearer seven":
                self.send_response(401)
                realm = f"http://127.0.0.1:{self.server.server_port}/token"
                challenge = f'Bearer realm="{realm}",service="hub",scope="repository:team/it:pull"'
                self.send_header("WWW-Authenticate", challenge)
            elif self.path == "/v2/team/it/manifests/1" and "image.index" in self.headers["Accept"]:
                self.send_response(200)
                self.send_header("Docker-Content-Digest", "sha256:" + "b" * 64)
            else:
                self.send_response(404)
            self.end_headers()

        def do_GET(self):
            assert "scope=repository%3Ateam%2Fit%3Apull" in self.path
            content = b'{"token": "seven"}'
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_a_registry_is_asked_for_the_digest_of_a_tag(hub):
    assert registry.digest(f"{hub}/team/it:1", scheme="http") == "sha256:" + "b" * 64
    with pytest.raises(ClusterError, match="404"):
        registry.digest(f"{hub}/team/it:2", scheme="http")


def test_a_base_is_pinned_in_its_place(tmp_path, monkeypatch):
    file = tmp_path / "Dockerfile"
    file.write_text("# one\nARG BASE=python:3.11-slim\nARG RUNTIME=${BASE}\n")
    for digit in "cd":
        monkeypatch.setattr(registry, "digest", lambda name, digit=digit: "sha256:" + digit * 64)
        registry.pin(file)
    assert file.read_text() == f"# one\nARG BASE=python:3.11-slim@sha256:{'d' * 64}\nARG RUNTIME=${{BASE}}\n"
    assert registry.base(file) == ("python:3.11-slim", f"sha256:{'d' * 64}")


def test_images_can_have_the_names_that_the_chart_asks_for():
    assert build.chart_names() == {target: f"{name}:{VERSION}" for target, name in IMAGES.items()}


def test_the_base_of_the_dockerfile_is_pinned():
    assert build.is_pinned(None)
    assert not build.is_pinned("python:3.12")


@pytest.mark.parametrize(
    ("environment", "address"),
    [
        ({}, None),
        ({"PIP_INDEX_URL": "https://one.test/simple"}, "https://one.test/simple"),
        ({"UV_DEFAULT_INDEX": "mirror=https://two.test/simple"}, "https://two.test/simple"),
    ],
)
def test_the_build_asks_the_index_that_this_machine_asks(tmp_path, monkeypatch, environment, address):
    monkeypatch.setattr(indexes, "_FILES", ())
    assert indexes.url(environment) == (address or indexes.PYPI)
    file = tmp_path / "pip.conf"
    file.write_text("[global]\nindex-url = https://me:word@three.test/simple\n")
    told = indexes.url({"PIP_CONFIG_FILE": str(file)})
    assert told == "https://me:word@three.test/simple"
    assert indexes.shown(told) == "https://three.test/simple"
