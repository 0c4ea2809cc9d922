"""What an object and a study cost the store as it grows, from an empty one to a million studies.

    python -m benchmarks.growth [--sizes 0,1000,...] [--short] [--json FILE] [--plot FILE] [--keep DIR]

Stores are filled as benchmarks/million.py fills them (it times the questions of pages and queries). Then studies come:
each with a contour and 20 images, through every step that the road takes in the store - recorded durably, planned,
scheduled, claimed, moved on, delivered, completed - by the store's own methods. Medians, so that a checkpoint of the
log does not count; the sizes take turns, so that the machine's hour does not. Checked: each study ends COMPLETED.
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

from benchmarks import table
from benchmarks.million import CT_FACTS, fill
from dicom_node.births import Birth
from dicom_node.identity import Identity
from dicom_node.instance import RTSTRUCT, Instance
from dicom_node.store import Store
from dicom_node.workitem import DeliveryState, State

SIZES, SHORT = (0, 1_000, 10_000, 100_000, 1_000_000), (0, 1_000, 30_000)
IMAGES, STUDIES, SHORT_STUDIES = 20, 60, 15
DOCUMENTS = ("segmentation", "risk-sr", "radiomics-sr", "page-1", "page-2", "presentation-state")
FLAT = 1.5  # times the cost in an empty store: what is left to noise and to one more level of an index
LATER = 2e9  # after everything that a store is filled with


class Newcomers:
    """New studies for one store; times of each object and of the rest of each study, in milliseconds."""

    def __init__(self, path: Path) -> None:
        self._store, self._number = Store.open(path), 0
        self.object_ms: list[float] = []
        self.study_ms: list[float] = []

    def close(self) -> None:
        self._store.close()

    def come(self) -> None:
        """One study goes all the way."""
        self._number += 1
        study = f"1.2.77.{self._number}"
        images = [
            replace(
                CT_FACTS,
                sop_instance_uid=f"{study}.1.{number}",
                series_instance_uid=f"{study}.1",
                study_instance_uid=study,
                digest=f"{self._number:032}{number:032}",
            )
            for number in range(IMAGES)
        ]
        contour = Instance(
            f"{study}.2.1", RTSTRUCT, f"{study}.2", study, "1.2.840.10008.1.2.1", f"{self._number:064}",
            referenced_sop_instance_uids=tuple(image.sop_instance_uid for image in images),
            referenced_series_instance_uids=(f"{study}.1",),
        )  # fmt: skip
        who = Identity(patient_id=f"NEW{self._number}", patient_name=f"NEW^{self._number}")
        for instance in (*images, contour):
            add = lambda instance=instance: self._store.arrivals.add(instance, "CT", LATER, who)  # noqa: E731
            self.object_ms.append(_milliseconds(add))
        self.study_ms.append(_milliseconds(lambda: self._rest(study, contour)))

    def _rest(self, study: str, contour: Instance) -> None:
        store, key = self._store, f"new{self._number}"
        arrived = store.arrivals.unplanned()
        for _, instance in arrived:
            store.arrivals.rois_touched_by(instance.sop_instance_uid, instance.series_instance_uid)
        assert len(store.arrivals.images_for(contour)) == IMAGES
        birth = Birth(study, f"{study}.1", key, f"inputs {key}", "{}", None)
        assert not store.births.is_answered(contour.sop_instance_uid, study, birth.inputs_digest, LATER)
        store.births.schedule(contour.sop_instance_uid, birth, LATER)
        store.arrivals.mark_planned(row for row, _ in arrived)
        wanted = store.item_of(key)
        assert wanted is not None
        self._move(wanted.id, State.SCHEDULED, State.ANALYSED)
        self._move(wanted.id, State.ANALYSED, State.REPORTED)
        for row in store.deliveries.of_item(wanted.id):
            store.deliveries.record(row.id, state=DeliveryState.SEEN, final=1)
        store.complete_delivered(LATER)
        ended = store.item(wanted.id)
        assert ended is not None
        assert ended.state is State.COMPLETED, ended.state

    def _move(self, wanted: int, state: State, to: State) -> None:
        """Claim as a worker does, and move on what was wanted; what else stands there is given back."""
        while True:
            item = self._store.claim(state, "bench", 60.0, LATER)
            assert item is not None
            if item.id == wanted:
                deliveries = [(name, "PACS") for name in DOCUMENTS] if to is State.REPORTED else ()
                self._store.advance(item, to, "bench", LATER, deliveries=deliveries)
                return
            self._store.postpone(item, "bench", 2 * LATER, LATER, "")


def _milliseconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return 1000 * (time.perf_counter() - began)


def measured(folder: Path, sizes: Sequence[int], studies: int) -> dict[int, tuple[float, float]]:
    """By size of the store: milliseconds an object, and for all the rest of a study."""
    stores = {}
    for size in sizes:
        path = folder / f"{size}.sqlite"
        if not path.exists():
            began = time.monotonic()
            fill(path, size) if size else Store.open(path).close()
            print(f"{size:,} studies written in {time.monotonic() - began:.0f} s", flush=True)
        stores[size] = Newcomers(path)
    for number in range(studies + 1):
        for newcomers in stores.values():
            newcomers.come()
            if number == 0:  # opens the files, and gives back what the filled store has standing
                newcomers.object_ms.clear()
                newcomers.study_ms.clear()
    found = {size: (statistics.median(one.object_ms), statistics.median(one.study_ms)) for size, one in stores.items()}
    for newcomers in stores.values():
        newcomers.close()
    return found


def plot(found: dict[int, tuple[float, float]], path: Path) -> None:
    """Both costs over the size of the store."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    matplotlib.rcParams["svg.hashsalt"] = "prognode"
    sizes = [max(size, 1) for size in found]
    figure, axis = pyplot.subplots(figsize=(6, 3), layout="constrained")
    for place, label in enumerate(("one object, durable", f"the rest of a study of {IMAGES + 1} objects")):
        axis.plot(sizes, [both[place] for both in found.values()], marker="o", label=label)
    axis.set_xscale("log")
    axis.set_xticks(sizes, ["empty" if size == 0 else f"{size:,}" for size in found])
    axis.set_ylim(bottom=0)
    axis.set_xlabel("studies in the store")
    axis.set_ylabel("ms")
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8)
    figure.savefig(path, metadata={"Date": None})


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=lambda text: tuple(map(int, text.split(","))))
    parser.add_argument("--short", action="store_true")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--keep", type=Path)
    given = parser.parse_args()
    sizes = given.sizes or (SHORT if given.short else SIZES)
    with nullcontext(given.keep) if given.keep else tempfile.TemporaryDirectory(prefix="prognode-growth-") as folder:
        found = measured(Path(folder), sizes, SHORT_STUDIES if given.short else STUDIES)
    print(f"\nload average {os.getloadavg()[0]:.1f}")
    print(f"{'studies':>12}{'ms an object':>16}{'ms, rest of a study':>22}")
    for size, (of_object, of_study) in found.items():
        print(f"{size:>12,}{of_object:>16.2f}{of_study:>22.2f}")
    if given.plot:
        plot(found, given.plot)
    smallest, largest = found[min(found)], found[max(found)]
    rows = [
        table.Row(f"growth: an object, {max(found):,} studies / empty", largest[0] / smallest[0], "x", at_most=FLAT),
        table.Row(f"growth: a study, {max(found):,} studies / empty", largest[1] / smallest[1], "x", at_most=FLAT),
    ]
    table.write(given.json, rows)
    table.show(rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
