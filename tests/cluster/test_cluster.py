"""What can be said about the test cluster without starting it."""

from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import pytest

from tests.cluster import cache, packages
from tests.cluster.control_plane import MARKER, wipe
from tests.cluster.network import Link
from tests.cluster.processes import Processes, wait_until
from tests.cluster.volumes import MOUNT_PATHS, environment_volumes


def test_a_folder_that_holds_no_cluster_is_never_wiped(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(RuntimeError, match="not empty and holds no cluster"):
        wipe(tmp_path)
    assert (tmp_path / "thesis.tex").exists()


def test_the_leftovers_of_a_cluster_are_wiped(tmp_path: Path) -> None:
    wipe(tmp_path)
    (tmp_path / "kubeconfig").touch()
    wipe(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == [MARKER]


def test_an_interrupted_build_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    def interrupted(file: Path) -> None:
        file.write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cache.once("module/program", interrupted)
    program = cache.once("module/program", lambda file: file.touch())
    assert program.read_text() == ""
    assert cache.once("module/program", interrupted) == program


def test_clusters_in_different_folders_get_links_of_their_own() -> None:
    one, other = Link(Path("/tmp/one")), Link(Path("/tmp/other"))
    assert len({one.name, other.name}) == 2
    assert len(one.name) <= 15, "longer than the kernel allows for an interface"
    for link in (one, other):
        ends = {IPv4Address(link.host_address), IPv4Address(link.cluster_address)}
        subnet = IPv4Network(f"{link.host_address}/30", strict=False)
        assert ends == set(subnet.hosts())
        assert subnet.subnet_of(IPv4Network("10.243.0.0/16"))


def test_every_claim_is_bound_to_a_volume_of_its_own_namespace(tmp_path: Path) -> None:
    manifests = environment_volumes("research", models=tmp_path / "models", cache=tmp_path)
    claims = [found for found in manifests if found["kind"] == "PersistentVolumeClaim"]
    volumes = {found["metadata"]["name"]: found for found in manifests if found not in claims}
    assert [claim["metadata"]["name"] for claim in claims] == list(MOUNT_PATHS)
    for claim in claims:
        volume = volumes[claim["spec"]["volumeName"]]
        assert volume["spec"]["claimRef"] == {
            "namespace": "research",
            "name": claim["metadata"]["name"],
        }
        assert Path(volume["spec"]["hostPath"]["path"]).is_dir()


def test_a_missing_program_comes_with_the_command_that_installs_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(RuntimeError, match=r"buildah.*apt-get install buildah"):
        packages.require()


def test_a_process_that_ends_at_once_is_reported_with_its_log(tmp_path: Path) -> None:
    processes = Processes(tmp_path)
    processes.start("etcd", "sh", "-c", "echo no space left; exit 3")
    with pytest.raises(RuntimeError, match=r"(?s)etcd ended with exit code 3.*no space left"):
        processes.wait_until("etcd answers", lambda: False)


def test_processes_are_found_by_whoever_looks_and_stopped(tmp_path: Path) -> None:
    starter, finder = Processes(tmp_path), Processes(tmp_path)
    starter.start("sleep", "sleep", "60")
    wait_until("it runs", lambda: finder.find("sleep") is not None, seconds=10)
    finder.stop()
    assert starter.running() == []
    starter.stop()
