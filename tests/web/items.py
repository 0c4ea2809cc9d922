"""Work items for tests of page and API: rows made as the node makes them, in any state, with or without a patient."""

from dataclasses import dataclass, field
from itertools import count

from dicom_node.births import Birth
from dicom_node.identity import Identity
from dicom_node.instance import CT, Instance
from dicom_node.store import Store
from dicom_node.summary import Summary
from dicom_node.workitem import DeliveryState, State, WorkItem

OWNER = "test:1"
YAMADA = Identity(
    patient_id="PAT-0012", patient_name="Yamada^Tarou=山田^太郎=やまだ^たろう", patient_birth_date="19580312",
    patient_sex="M", accession_number="A77-001", study_date="20260105", study_description="CT Thorax",
)  # fmt: skip


def summary(group: str) -> str:
    facts = {"group": group, "groups": (), "scores": (), "modalities": ("clinical",), "missing": ()}
    return Summary.model_validate({**facts, "warnings": 0, "synthetic": True}).model_dump_json()


@dataclass
class Items:
    """Makes work items; each is of a study and a contour of its own unless named."""

    store: Store
    now: float = 1_700_000_000.0
    _numbers: "count[int]" = field(default_factory=lambda: count(1))

    def tick(self) -> float:
        self.now += 1.0
        return self.now

    def study(self, uid: str, identity: Identity = YAMADA) -> None:
        """An image of the study arrives, with what it says of the patient."""
        series = f"{uid}.1"
        image = Instance(f"{uid}.1.1", CT, series, uid, "1.2.840.10008.1.2.1", f"digest of {uid}")
        self.store.arrivals.add(image, "CT1", self.tick(), identity)

    def scheduled(self, roi: str = "", study: str = "", key: str = "") -> WorkItem:
        number = next(self._numbers)
        study, roi, key = study or f"1.2.840.99.{number}", roi or f"1.3.{number}", key or f"key-{number}"
        assert self.store.births.schedule(roi, Birth(study, f"{study}.1", key, f"i-{key}", "{}", None), self.tick())
        return self.get(key)

    def waiting(self) -> WorkItem:
        number = next(self._numbers)
        study = f"1.2.840.99.{number}"
        image = Instance(f"{study}.1.1", CT, f"{study}.1", study, "1.2.840.10008.1.2.1", f"d{number}")
        self.store.births.wait_for_contour(image, "NO_CONTOUR", self.tick())
        return self.store.items(study)[0]

    def get(self, key: str) -> WorkItem:
        item = self.store.item_of(key)
        assert item is not None
        return item

    def claim(self, state: State) -> WorkItem:
        item = self.store.claim(state, OWNER, 60.0, self.tick())
        assert item is not None
        return item

    def claim_of(self, state: State, key: str) -> WorkItem:
        """The one of this key; others before it are claimed for no longer than that takes."""
        at = self.tick()
        while item := self.store.claim(state, OWNER, 0.5, at):
            if item.key == key:
                return item
        raise AssertionError(f"{key} is not to be had as {state}")

    def at(
        self, state: State, group: str = "HIGH", destinations: tuple[str, ...] = ("PACS",), **names: str
    ) -> WorkItem:
        """A work item that has come as far as `state`."""
        if state is State.WAITING:
            return self.waiting()
        item = self.scheduled(**names)
        key = item.key or ""
        if state is State.SCHEDULED:
            return item
        if state is State.CANCELED:
            self.store.cancel(item.id, self.tick(), "by a test")
            return self.get(key)
        if state is State.FAILED:
            self.store.advance(
                self.claim_of(State.SCHEDULED, key), State.FAILED, OWNER, self.tick(), "it broke", hint="mend it"
            )
            return self.get(key)
        done = {"outcome": "SCORED", "summary": summary(group)} if group else {"outcome": "NOT_SCORED"}
        done |= {} if group else {"reason": "NO_CONTOUR"}
        self.store.advance(self.claim_of(State.SCHEDULED, key), State.ANALYSED, OWNER, self.tick(), **done)  # type: ignore[arg-type]
        if state is not State.ANALYSED:
            rows = [(document, place) for document in ("risk-sr", "page-1") for place in destinations]
            self.store.advance(self.claim_of(State.ANALYSED, key), State.REPORTED, OWNER, self.tick(), deliveries=rows)
        if state is State.COMPLETED:
            self.deliver(self.get(key))
        return self.get(key)

    def deliver(self, item: WorkItem, state: DeliveryState = DeliveryState.COMMITTED) -> None:
        """Every open delivery comes to this end, and the work item to its own."""
        for row in self.store.deliveries.of_item(item.id):
            if not row.final:
                at = self.tick() if state is not DeliveryState.FAILED else None
                self.store.deliveries.record(row.id, state=state, final=1, sent_at=at, proved_at=at)
        self.store.complete_delivered(self.tick())
