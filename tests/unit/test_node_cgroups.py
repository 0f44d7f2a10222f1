"""Control groups of version 2 as files in a folder: what a node makes, hands on and removes, and what it refuses."""

import pytest

from hack.node import cgroups, requirements, usage
from hack.node.cgroups import LEAF, NEEDED, Hierarchy

ALL = "cpuset cpu io memory hugetlb pids"


def group(folder, *, given="", processes="", is_root=False):
    """Lay out one group as the kernel would."""
    folder.mkdir(exist_ok=True)
    (folder / "cgroup.controllers").write_text(f"{ALL}\n")
    (folder / "cgroup.subtree_control").write_text(f"{given}\n")
    (folder / "cgroup.procs").write_text(processes)
    if not is_root:
        (folder / "cgroup.type").write_text("domain\n")
    return folder


@pytest.fixture
def tree(tmp_path):
    return Hierarchy(group(tmp_path / "cgroup", processes="1\n2\n", is_root=True), "")


def test_a_node_gets_a_group_with_a_leaf_for_its_own_processes(tree):
    cgroups.make((tree,), "node-7")
    assert (tree.folder / "cgroup.subtree_control").read_text() == " ".join(f"+{name}" for name in ALL.split())
    assert (tree.folder / "node-7" / LEAF).is_dir()
    assert cgroups.present((tree,), "node-7") == [tree.folder / "node-7"]
    cgroups.make((tree,), "node-7")  # a second time, as after a start that was given up
    assert cgroups.remove((tree,), "node-7") == 2
    assert cgroups.present((tree,), "node-7") == []


def test_what_is_handed_on_already_is_not_asked_for_again(tmp_path):
    folder = group(tmp_path / "some", given="cpu memory")
    cgroups.hand_on(folder)
    assert (folder / "cgroup.subtree_control").read_text() == "+cpuset +io +hugetlb +pids"
    done = group(tmp_path / "all", given=ALL)
    cgroups.hand_on(done)
    assert (done / "cgroup.subtree_control").read_text() == f"{ALL}\n"


def test_controllers_of_version_2_are_those_that_the_tree_has(tree):
    assert set(NEEDED) <= cgroups.controllers((tree,))
    (tree.folder / "cgroup.controllers").write_text("pids\n")
    assert cgroups.controllers((tree,)) == {"pids"}


def test_what_a_container_uses_is_read_from_its_group(tree):
    container = tree.folder / "node-7" / "kubepods" / "burstable" / "pod1" / "abc"
    container.mkdir(parents=True)
    for name, text in (
        ("memory.current", "5000\n"),
        ("memory.peak", "9000\n"),
        ("memory.stat", "anon 10\ninactive_file 2000\n"),
        ("cgroup.procs", ""),
        ("cpu.stat", "usage_usec 1500000\nuser_usec 1\n"),
    ):
        (container / name).write_text(text)
    found = usage.of_container((tree,), "node-7", "abc")
    assert (found.memory, found.working_set, found.peak, found.cpu_seconds) == (5000, 3000, 9000, 1.5)


@pytest.mark.parametrize(
    ("is_root", "given", "processes", "refused"),
    [
        (True, "", "1\n", False),
        (False, "", "1\n", True),
        (False, ALL, "1\n", False),
        (False, "", "", False),
        (False, "cpu memory", "1\n", True),
    ],
)
def test_the_group_of_a_container_with_processes_hands_nothing_on(
    tmp_path, monkeypatch, is_root, given, processes, refused
):
    folder = group(tmp_path / "cgroup", given=given, processes=processes, is_root=is_root)
    tree = Hierarchy(folder, "")
    said = cgroups.keeps_to_itself(tree)
    assert bool(said) is refused
    assert not refused or ("--cgroupns=host" in said and "pids" in said)
    monkeypatch.setattr(requirements, "hierarchies", lambda: (tree,))
    assert requirements._groups() == ([said] if refused else [])
