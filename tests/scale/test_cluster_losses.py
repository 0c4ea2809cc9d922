"""A whole node whose jobs run on a real Dask cluster, with TLS, under blows: every study scored once, none lost."""

import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from config.settings import Job, Planning
from dicom_node.bundles import Bundles
from dicom_node.database import Database
from dicom_node.job import Runner
from dicom_node.worker import Worker
from dicom_node.workitem import State
from tests.cluster import TestCluster
from tests.paths import ROOT
from tests.road import Road, road
from tests.synthetic import ct_series, rtstruct

pytestmark = [pytest.mark.exhaustive, pytest.mark.timeout(240)]


class Site:
    """A node with studies that wait for their analysis, and what became of them."""

    def __init__(self, folder: Path, cluster: TestCluster, studies: int, **job: object) -> None:
        limits = replace(Job(executor="dask", dask=cluster.dask, at_once=2), **job)  # type: ignore[arg-type]
        self.road: Road = road(folder, job=Job(), plan=Planning(quiet_seconds=0.1))
        for number in range(studies):
            ct = ct_series(8, 24, 24, seed=900 + number)
            self.road.take(*ct, rtstruct(ct))
        self.settings = replace(self.road.settings, job=limits)
        runner = Runner(self.road.spool, limits, self.road.bundle)
        self.worker = Worker(self.settings, self.road.spool, Bundles(self.road.bundle), runner)
        self.studies = studies

    @contextmanager
    def working(self) -> Iterator["Site"]:
        self.worker.start()
        try:
            yield self
        finally:
            self.worker.stop()

    def ended(self) -> bool:
        counts = self.road.store.counts()
        return counts.get(State.COMPLETED, 0) + counts.get(State.FAILED, 0) == self.studies

    def events(self, name: str) -> list[str]:
        """Details of all events of that name."""
        found = Database(self.road.spool.store).rows("SELECT detail FROM event WHERE name = ?", [name])
        return [row["detail"] for row in found]

    def assert_scored_once(self) -> None:
        """Nothing is lost, nothing came twice, and no study paid an attempt for what was not its fault."""
        assert self.road.store.counts() == {State.COMPLETED: self.studies}
        assert len(self.events("analysed")) == self.studies
        assert Counter(self.events("scheduled claimed")).keys() == {"attempt 1"}


def until(look: Callable[[], object], cluster: TestCluster, seconds: float = 90.0) -> None:
    end = time.monotonic() + seconds
    while not look():
        assert time.monotonic() < end, cluster.said()
        time.sleep(0.1)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path


def test_a_worker_that_is_killed_in_mid_job_costs_no_study_an_attempt(folder: Path) -> None:
    with TestCluster(folder / "cluster", tls=True, seconds=1.5) as cluster:
        first = cluster.start_worker()
        cluster.start_worker()
        cluster.wait_for(2)
        with Site(folder / "node", cluster, 6).working() as site:
            until(lambda: sum(process == first.pid for _, process in cluster.runs()) >= 2, cluster)
            cluster.kill(first)
            until(site.ended, cluster)
        site.assert_scored_once()
    assert max(Counter(key for key, _ in cluster.runs()).values()) == 2  # what was at work on it ran again, elsewhere


def test_a_scheduler_that_is_killed_costs_no_study_an_attempt_and_the_node_finds_the_next_one(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with TestCluster(folder / "cluster", tls=True, seconds=1.5) as cluster:
        cluster.start_worker(2)
        cluster.wait_for(2)
        with Site(folder / "node", cluster, 6).working() as site:
            until(lambda: len(cluster.runs()) >= 3, cluster)
            cluster.kill(cluster.scheduler)
            until(lambda: "engine.down" in caplog.text, cluster)
            assert not site.ended()
            cluster.start_scheduler()
            cluster.start_worker(2)
            until(site.ended, cluster)
        site.assert_scored_once()


def test_a_job_that_kills_each_worker_fails_alone_as_a_killed_one(folder: Path) -> None:
    with TestCluster(folder / "cluster", tls=True, seconds=0.2, poison=True) as cluster:
        for _ in range(2):
            cluster.start_worker(keeps=True)
        cluster.wait_for(2)
        with Site(folder / "node", cluster, 4, attempts=2).working() as site:
            until(site.ended, cluster, 150.0)
        counts = site.road.store.counts()
        assert counts == {State.COMPLETED: 3, State.FAILED: 1}
        (failed,) = [item for item in site.road.items if item.state == State.FAILED]
        assert "JOB_KILLED" in site.events("failed")[0]
        assert 2 <= sum(key == failed.key for key, _ in cluster.runs()) <= 4  # two deaths an attempt, two attempts


def test_jobs_go_to_the_workers_that_have_what_they_need(folder: Path) -> None:
    with TestCluster(folder / "cluster", tls=True, seconds=0.3) as cluster:
        cluster.dask = replace(cluster.dask, resources=("gpu=1", "memory=8"))
        cluster.start_worker(4)
        cluster.start_worker(4, "--resources", "memory=64")
        able = cluster.start_worker(4, "--resources", "gpu=2 memory=64")
        cluster.wait_for(2)
        with Site(folder / "node", cluster, 5, at_once=0).working() as site:
            until(site.ended, cluster)
        site.assert_scored_once()
        assert {process for _, process in cluster.runs()} == {able.pid}


def test_a_job_that_no_worker_can_take_waits_and_says_so(
    folder: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dicom_node.executors.dask.NO_WORKER_SECONDS", 3.0)
    with TestCluster(folder / "cluster", tls=True, seconds=0.1) as cluster:
        cluster.dask = replace(cluster.dask, resources=("gpu=1",))
        cluster.start_worker()
        cluster.wait_for(0)
        with Site(folder / "node", cluster, 2).working() as site:
            until(lambda: "no worker of the cluster can take a job that needs gpu=1" in caplog.text, cluster)
            cluster.start_worker(1, "--resources", "gpu=1")
            until(site.ended, cluster)
        site.assert_scored_once()


def test_over_shared_storage_the_same_comes_out(folder: Path) -> None:
    with TestCluster(folder / "cluster", tls=True, seconds=1.0) as cluster:
        cluster.dask = replace(cluster.dask, transfer="shared")
        first = cluster.start_worker()
        cluster.start_worker()
        cluster.wait_for(2)
        with Site(folder / "node", cluster, 4).working() as site:
            until(lambda: first.pid in [process for _, process in cluster.runs()], cluster)
            cluster.kill(first)
            until(site.ended, cluster)
        site.assert_scored_once()


def test_a_real_job_on_a_worker_gives_the_bytes_of_a_child_process(folder: Path) -> None:
    with TestCluster(folder / "cluster", tls=True) as cluster:
        cluster.start_worker()
        cluster.wait_for(1)
        with Site(folder / "node", cluster, 1).working() as site:
            until(site.ended, cluster)
        here = road(folder / "here", plan=Planning(quiet_seconds=0.1))
        ct = ct_series(8, 24, 24, seed=900)
        here.take(*ct, rtstruct(ct))
        here.work()
        here.later(60)
        for name in ("result.json", "features.json", "mask.nii.gz"):
            (there,) = site.road.spool.root.glob(f"results/*/analysis/{name}")
            (local,) = here.spool.root.glob(f"results/*/analysis/{name}")
            assert there.read_bytes() == local.read_bytes(), name


def test_a_node_that_is_killed_finds_its_studies_and_the_cluster_again(folder: Path) -> None:
    with TestCluster(folder / "cluster", tls=True, seconds=1.5) as cluster:
        cluster.start_worker(2)
        cluster.wait_for(2)
        site = Site(folder / "node", cluster, 5)
        while site.worker.step_plan():
            pass
        dask = cluster.dask
        (folder / "prognode.toml").write_text(
            f'[node]\nspool = "{site.road.spool.root}"\n[job]\nexecutor = "dask"\n[job.dask]\n'
            f'scheduler = "{dask.scheduler}"\ncertificate = "{dask.certificate}"\n'
            f'private_key = "{dask.private_key}"\nca = "{dask.ca}"\n'
        )
        command = [sys.executable, "-m", "dicom_node.cli", "run", "--config", str(folder / "prognode.toml")]
        until(lambda: not site.worker.step_plan() and site.road.store.counts() == {State.SCHEDULED: 5}, cluster)
        with (folder / "run.log").open("wb") as log:
            first = subprocess.Popen(command, stdout=log, stderr=log, cwd=ROOT)
            until(lambda: len(cluster.runs()) >= 3, cluster)
            first.kill()
            first.wait()
            second = subprocess.Popen(command, stdout=log, stderr=log, cwd=ROOT)
            try:
                until(lambda: site.road.store.counts() == {State.ANALYSED: 5}, cluster)
            finally:
                second.terminate()
                assert second.wait(60) == 0
        assert len(site.events("analysed")) == 5


# -- the network -----------------------------------------------------------------------------------------------


@pytest.fixture
def namespace() -> Iterator[str]:
    """A network of its own for a worker: 10.213.7.2 there, 10.213.7.1 here; `cut` takes the cable out."""
    if os.geteuid() != 0:
        pytest.skip("needs root for a network namespace")
    name = f"prognode-{os.getpid() % 10000}"
    link = f"pg{os.getpid() % 10000}"
    steps = [
        f"netns add {name}", f"link add {link}a type veth peer name {link}b netns {name}",
        f"addr add 10.213.7.1/30 dev {link}a", f"link set {link}a up",
        f"-n {name} addr add 10.213.7.2/30 dev {link}b", f"-n {name} link set {link}b up", f"-n {name} link set lo up",
    ]  # fmt: skip
    try:
        for step in steps:
            if ip(step.split()) != 0:
                pytest.skip(f"no network namespaces here (ip {step})")
        yield name
    finally:
        ip(["link", "del", f"{link}a"])
        ip(["netns", "del", name])


def ip(arguments: Sequence[str]) -> int:
    return subprocess.run(["ip", *arguments], capture_output=True, check=False).returncode


def cut(name: str, *, off: bool) -> None:
    link = f"pg{name.removeprefix('prognode-')}b"
    assert ip(["-n", name, "link", "set", link, "down" if off else "up"]) == 0


def test_a_worker_behind_a_cut_network_is_given_up_and_its_answer_is_never_taken(folder: Path, namespace: str) -> None:
    with TestCluster(folder / "cluster", tls=True, seconds=4.0, host="10.213.7.1") as cluster:
        cluster.start_worker(1, inside=["ip", "netns", "exec", namespace])
        cluster.start_worker()
        cluster.wait_for(2)
        with Site(folder / "node", cluster, 5).working() as site:
            until(lambda: len({process for _, process in cluster.runs()}) == 2, cluster)
            cut(namespace, off=True)
            until(site.ended, cluster, 120.0)
            cut(namespace, off=False)
        site.assert_scored_once()
        again = [key for key, count in Counter(key for key, _ in cluster.runs()).items() if count > 1]
        assert len(again) >= 1  # what it had ran elsewhere, while it went on behind the cut


def test_a_node_that_loses_the_network_to_the_scheduler_goes_on_when_it_is_back(
    folder: Path, namespace: str, caplog: pytest.LogCaptureFixture
) -> None:
    inside = ["ip", "netns", "exec", namespace]
    with TestCluster(folder / "cluster", tls=True, seconds=1.5, host="10.213.7.2", inside=inside) as cluster:
        cluster.start_worker(2, inside=inside)
        cluster.wait_for(2)
        with Site(folder / "node", cluster, 6).working() as site:
            until(lambda: len(cluster.runs()) >= 3, cluster)
            cut(namespace, off=True)
            until(lambda: "engine.down" in caplog.text, cluster, 60.0)
            cut(namespace, off=False)
            until(site.ended, cluster, 120.0)
        site.assert_scored_once()
