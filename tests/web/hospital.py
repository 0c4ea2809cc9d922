"""A small hospital for the pages: a store with real work items in every state, a PACS that can refuse, and a browser.

Everything went the real road (tests.road): received, planned, analysed in a job, reported, sent to a listening PACS.
"""

import json
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest
from pydicom import Dataset, dcmread

from analysis.train.synth.synth import SynthConfig, make_cohort
from config.settings import Clinical, Deliver, Node, Peer, Planning, Settings
from dicom_node import deliver, operations, passwords
from dicom_node.demo_pacs import DemoPacs
from dicom_node.operations import Actor
from dicom_node.workitem import WorkItem
from tests.e2e.node import SETTINGS
from tests.road import Clock, Road
from tests.synthetic import ct_series, drop_slice, enhanced_ct, rtstruct
from tests.web import site

OPERATOR, VIEWER = ("olga", "reading room 12, third floor"), ("viktor", "a long way to the archive")
SCRIPT = "<script>alert(1)</script>"
# Mark-up, a right-to-left override that is never closed, an ideograph of four bytes in UTF-8, and all three groups.
HOSTILE = f"{SCRIPT}^\N{RIGHT-TO-LEFT OVERRIDE}gnaW 𠮷=王^小東=おう^しょうとう"
HOSTILE_ID = '"><img src=x onerror=alert(1)>'
REFUSED = 0xA800


@dataclass
class Hospital:
    """The node's folder, its road and its PACS. `items` finds a work item by the name of its patient's case."""

    folder: Path
    road: Road
    pacs: DemoPacs
    studies: dict[str, str] = field(default_factory=dict)
    refusing: bool = False
    built: bool = False

    def item(self, case: str) -> WorkItem:
        """The newest work item of a case."""
        return self.road.store.items(self.studies[case])[0]

    def bring(self, case: str, *datasets: Dataset, work: bool = True) -> None:
        self.studies[case] = datasets[0].StudyInstanceUID
        self.road.clock.now += 1.0
        self.road.take(*datasets)
        if work:
            self.work()

    def work(self) -> None:
        """Let the node work until every delivery has come to its end, as far as it can."""
        if self.built:  # from now on the web process, which has the real time, acts too
            self.road.clock.now = max(self.road.clock.now, time.time())
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(deliver, "SAME_ASSOCIATION_SECONDS", 60.0)  # the PACS always reports, if late
            self._work()

    def _work(self) -> None:
        self.road.work()
        for _ in range(60):
            if not any(
                not row.final for item in self.road.items for row in self.road.store.deliveries.of_item(item.id)
            ):
                break
            time.sleep(0.05)  # the PACS reports its storage commitment on the same association
            self.road.clock.now += 0.35
            self.road.work()

    def act(self, case: str, action: str, value: str = "") -> None:
        actor = Actor("olga", "cli")
        operations.act(self.road.store, action, self.item(case).id, actor, self.road.clock.now, value)


def build(folder: Path) -> Hospital:
    """Make the hospital; takes about half a minute."""
    patients = folder / "patients"
    make_cohort(SynthConfig(count=1, seed=7, matrix=256, slices=80, slice_mm=2.5), patients, workers=1)
    table = next(iter(sorted(patients.glob("*.csv"))))
    hospital = Hospital(folder, None, None)  # type: ignore[arg-type]
    pacs = DemoPacs(
        folder / "pacs", "PACS", commitment="same", status=lambda _: REFUSED if hospital.refusing else 0x0000
    )
    pacs.start()
    settings = Settings(
        node=Node(ae_title="PROGNODE", site="Reading room test"),
        peers=(Peer("CT1"), Peer("PACS", host="127.0.0.1", port=pacs.port, sends=False, receives_results=True)),
        plan=Planning(quiet_seconds=5.0),
        deliver=Deliver(first_delay_seconds=1.0, commitment_wait_seconds=60.0, reread_demographics=False),
        clinical=Clinical(table=table),
    )
    hospital.road = Road(folder, settings, Clock(time.time() - 3 * 3600))
    hospital.pacs = pacs
    for name, password, role in ((*OPERATOR, "operator"), (*VIEWER, "viewer")):
        hospital.road.store.accounts.add(name, passwords.hashed(password), role, time.time())  # type: ignore[arg-type]
    fill(hospital, patients)
    hospital.road.clock.now = time.time()
    hospital.built = True
    return hospital


def fill(hospital: Hospital, patients: Path) -> None:
    """Every state that a row can be in."""
    objects = [dcmread(path) for path in sorted(patients.rglob("*.dcm"))]
    hospital.bring("main", *named(objects, PatientName="Müller^Anna^^Dr.", PatientBirthDate="19570412"))
    hospital.bring("hostile", *ball(11, HOSTILE, PatientID=HOSTILE_ID, StudyDescription="<b>CT</b> chest"))
    hospital.bring("enhanced", *enhanced(12, "Silva^João"))
    hospital.bring("revised", *ball(13, "Kowalska^Zofia"))
    series = ct_series(16, 40, 40, seed=13, patient_name="Kowalska^Zofia", character_set="ISO_IR 192")
    hospital.bring("revised", rtstruct(series, radius=7.0))
    gap = drop_slice(ct_series(16, 40, 40, seed=14, patient_name="Nguyễn^An", character_set="ISO_IR 192"))
    hospital.bring("not scored", *gap, rtstruct(gap))
    hospital.road.clock.now += 10.0  # the series is quiet: nothing more will come
    hospital.work()
    whole = ball(18, "Lee^Soo-jin")
    hospital.bring("incomplete", *drop_slice(whole[:-1]), whole[-1])
    hospital.bring("waiting", *ball(15, "Дмитриев^Иван")[:-1])
    hospital.refusing = True
    hospital.bring("refused", *ball(16, "Okafor^Chidi", AccessionNumber="ACC-2024-00017"))
    hospital.refusing = False
    hospital.bring("held", *ball(17, "García^María"), work=False)
    hospital.road.worker.step_plan()
    hospital.act("held", "hold")
    hospital.act("held", "priority", "HIGH")
    hospital.work()


def ball(seed: int, name: str, radius: float = 10.0, **attributes: str) -> list[Dataset]:
    """A small CT of a ball and its contour, the contour last."""
    ct = ct_series(16, 40, 40, seed=seed, patient_name=name, character_set="ISO_IR 192", **attributes)
    return [
        *ct,
        *named([rtstruct(ct, radius=radius)], PatientName=name, SpecificCharacterSet="ISO_IR 192", **attributes),
    ]


def enhanced(seed: int, name: str) -> list[Dataset]:
    """The same as one Enhanced CT."""
    ct = ct_series(16, 40, 40, seed=seed, patient_name=name, character_set="ISO_IR 192")
    one = enhanced_ct(ct)
    return [one, rtstruct(one)]


def named(objects: list[Dataset], **attributes: str) -> list[Dataset]:
    for dataset in objects:
        for keyword, value in attributes.items():
            setattr(dataset, keyword, value)
    return objects


# -- `prognode web` over it ----------------------------------------------------------------------------------------


_sites: dict[Path, site.Site] = {}


@contextmanager
def serving(folder: Path, **web: object) -> Iterator[str]:
    """A `prognode web` over the spool in `folder`, on a free port unless one is given; gives its address."""
    lines = ["[node]", 'spool = "spool"', 'site = "Reading room test"', "[web]"]
    lines += [f"{name} = {json.dumps(value)}" for name, value in {"port": 0, **web}.items()]
    lines += ["[[peers]]", 'ae_title = "CT1"', "[[peers]]", 'ae_title = "PACS"', "sends = false"]
    (folder / SETTINGS).write_text("\n".join([*lines, "receives_results = true", ""]), encoding="utf-8")
    with site.started(folder) as running:
        _sites[folder] = running
        yield running.url


def process_of(folder: Path) -> int:
    return _sites[folder].process.pid


def wait_ended(folder: Path) -> int:
    return _sites[folder].process.wait(timeout=60)


def sign_in(address: str, who: tuple[str, str] = OPERATOR) -> httpx.Client:
    """A client that is signed in, without a browser.

    It keeps no connection: the server closes idle ones after 15 s, and a request at that very moment fails.
    """
    limits = httpx.Limits(max_keepalive_connections=0)
    client = httpx.Client(base_url=address, headers={"Accept": "text/html"}, timeout=60, limits=limits)
    csrf = re.search(r'name="csrf" value="([^"]+)"', client.get("/signin").text)
    assert csrf
    answer = client.post("/signin", data={"name": who[0], "password": who[1], "csrf": csrf.group(1)})
    assert answer.status_code == 303, answer.text
    return client
