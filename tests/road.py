"""A node without processes or sleeps: real spool, store, worker and job; arrivals by file, time by hand."""

from dataclasses import dataclass, field, replace
from pathlib import Path

from pydicom import Dataset

from config.keeping import Storage
from config.settings import Planning, Settings
from dicom_node import headers
from dicom_node.bundles import Bundles
from dicom_node.job import Runner
from dicom_node.spool import Spool
from dicom_node.store import Store
from dicom_node.worker import LOOK_AGAIN_SECONDS, Worker
from dicom_node.workitem import WorkItem
from models.bundle import DEMO, Bundle, load
from tests.synthetic import save

ROOMY = Storage(warn_free_bytes=0, warn_free_percent=0.0, refuse_free_percent=0.0)  # whatever this machine's disk has


@dataclass
class Clock:
    now: float = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Road:
    """`take` is an arrival, `work` a turn of each stage until nothing moves, `later` lets time pass."""

    folder: Path
    settings: Settings
    clock: Clock = field(default_factory=Clock)

    def __post_init__(self) -> None:
        self.settings = replace(self.settings, node=replace(self.settings.node, spool=self.folder / "spool"))
        self.spool = Spool(self.settings.node.spool)
        self.spool.create()
        self.store = Store.open(self.spool.store)
        self.bundle: Bundle = load(DEMO)
        self.restart()

        self.sender = "TEST"  # calling AE title of what is taken

    def restart(self, bundle: Bundle | None = None, settings: Settings | None = None) -> None:
        """A worker of its own, as after a restart; with another bundle or other settings where asked."""
        self.bundle = bundle or self.bundle
        self.settings = settings or self.settings
        runner = Runner(self.spool, self.settings.job, self.bundle)
        bundles = Bundles.load(self.settings) if self.settings.rules else Bundles(self.bundle)
        self.worker = Worker(self.settings, self.spool, bundles, runner, self.clock)

    def take(self, *datasets: Dataset) -> None:
        for dataset in datasets:
            path = save(dataset, self.folder / "sent")
            digest = headers.data_set_digest(path)
            instance, identity = headers.read_with_identity(path, digest)
            incoming = self.spool.new_incoming()
            incoming.write_bytes(path.read_bytes())
            self.spool.keep_instance(incoming, instance.sop_instance_uid, digest)
            self.store.arrivals.add(instance, self.sender, self.clock(), identity)

    def work(self) -> None:
        while any(
            [self.worker.step_plan(), self.worker.step_analyse(), self.worker.step_report(), self.worker.step_deliver()]
        ):
            pass

    def later(self, seconds: float = LOOK_AGAIN_SECONDS) -> None:
        self.clock.now += seconds
        self.work()

    @property
    def items(self) -> list[WorkItem]:
        """Newest first, without those that were replaced before they ran."""
        return [item for item in self.store.items() if item.state != "CANCELED"]

    def report(self, item: WorkItem, name: str = "risk-sr.dcm") -> Path:
        return self.spool.results(item.key or "", "report") / name


def road(folder: Path, **sections: object) -> Road:
    """A road with short waits; `sections` replace those of Settings."""
    settings = Settings(plan=Planning(quiet_seconds=30.0), storage=ROOMY)
    return Road(folder, replace(settings, **sections))  # type: ignore[arg-type]
