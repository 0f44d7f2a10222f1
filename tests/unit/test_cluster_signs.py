"""Clusters of killed test runs are found wherever they lie."""

from hack.cluster import owned
from hack.cluster.addresses import Addresses
from hack.cluster.processes import Process
from hack.cluster.record import Record
from hack.cluster.sessions import sweep


def dead_cluster(folder):
    """A state directory whose owner is gone."""
    folder.mkdir(parents=True)
    owner = Process(name="pytest", pid=2**22 + 1, identity="of no process")
    known = dict.fromkeys(Addresses.__dataclass_fields__, 0)
    Record(addresses=Addresses(**known), settings={}, owner=owner).write(folder)
    return folder


def test_a_cluster_outside_the_folder_of_sessions_is_swept_by_its_sign(tmp_path):
    sessions, elsewhere = tmp_path / "sessions", dead_cluster(tmp_path / "test-1" / "cluster")
    owned.sign(elsewhere, parent=sessions)
    owned.sign(elsewhere, parent=sessions)
    inside = dead_cluster(sessions / "apiserver-1")
    owned.sign(inside, parent=sessions)
    assert owned.folders(sessions) == sorted([elsewhere, inside]), "no sign is needed inside"
    assert len(list(sessions.iterdir())) == 2
    assert sweep(sessions) == 2
    assert not elsewhere.exists()
    assert list(sessions.iterdir()) == []


def test_a_sign_goes_with_its_cluster_or_when_it_leads_nowhere(tmp_path):
    sessions, folder = tmp_path / "sessions", dead_cluster(tmp_path / "cluster")
    owned.sign(folder, parent=sessions)
    owned.unsign(folder, parent=sessions)
    owned.unsign(folder, parent=sessions)
    assert list(sessions.iterdir()) == []
    owned.sign(folder, parent=sessions)
    folder.rename(tmp_path / "moved")
    assert sweep(sessions) == 0
    assert list(sessions.iterdir()) == []


def test_what_is_no_cluster_is_left_alone(tmp_path):
    sessions, folder = tmp_path / "sessions", tmp_path / "mine"
    folder.mkdir()
    (folder / "letter").touch()
    owned.sign(folder, parent=sessions)
    assert sweep(sessions) == 0
    assert (folder / "letter").exists()
