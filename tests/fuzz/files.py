"""CT, RTSTRUCT and SEG files through `headers`, the store and the planner, and through the job's readers."""

from collections.abc import Callable
from pathlib import Path
from random import Random

from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

from analysis.contract import NotScorable
from analysis.roi import mask_from_rtstruct
from analysis.segment import mask_from_seg
from analysis.volume import Volume, read_ct
from config.settings import Planning
from dicom_node import headers, plan
from dicom_node.headers import UnreadableHeader
from dicom_node.instance import Instance
from dicom_node.store import Store
from tests.fuzz.bytes_of import mutated
from tests.fuzz.dicom_of import Seeds, Tree, meta_header, part10, tree_mutated
from tests.fuzz.engine import Broken, Target
from tests.fuzz.stores import renewed
from tests.synthetic import CT, ct_series, enhanced_ct, rtstruct, save_all, seg

SEG = "1.2.840.10008.5.1.4.1.1.66.4"


def seeds() -> Seeds:
    """One object of each kind, small; all of one study."""
    made, ct = Seeds(), ct_series(6, 8, 8, seed=5, radius=3.0, thickness=1.0)
    made.add("ct", ct[2])
    made.add("enhanced", enhanced_ct(ct))
    made.add("rtstruct", rtstruct(ct, radius=2.5))
    made.add("seg", seg(ct))
    return made


def file_of(tree: Tree, random: Random) -> bytes:
    """A Part 10 file whose meta header mostly tells the truth; now and then its bytes are changed too."""
    implicit = random.random() < 0.3
    syntax = ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian
    if random.random() < 0.03:
        syntax = random.choice(("1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.5", "1.2", "x", ""))
    data = part10(tree, meta_header(_class_of(tree), "1.2.3", syntax), implicit=implicit)
    return mutated(data, random) if random.random() < 0.2 else data


def _class_of(tree: Tree) -> str:
    found = [element.value for element in tree if element.tag == 0x00080016]
    return found[0].decode("latin-1").strip("\0 ")[:64] if found and isinstance(found[0], bytes) else CT


class Files(Target):
    """A file -> facts, or UnreadableHeader; what is accepted is stored, read back and planned with."""

    name = "headers"

    def __init__(self, folder: Path) -> None:
        self._path, self._seeds = folder / "x.dcm", seeds()
        self._folder = folder
        self._store = Store.open(folder / "store.sqlite")
        ct = ct_series(6, 8, 8, seed=5, radius=3.0, thickness=1.0)
        good = save_all([*ct, rtstruct(ct, radius=2.5)], folder / "good")
        self._good = [headers.read(path, path.stem) for path in good]

    def make(self, random: Random) -> bytes:
        tree = random.choice(list(self._seeds.trees.values()))
        return file_of(tree_mutated(tree, random), random)

    def run(self, data: bytes) -> None:
        self._path.write_bytes(data)
        try:
            instance, identity = headers.read_with_identity(self._path, f"{hash(data) & 0xFFFFFFFFFFFF:x}")
        except UnreadableHeader as error:
            if "ynthetic^" in str(error) or "SYN-" in str(error):
                raise Broken("the refusal quotes a value") from None
            return
        self._store.arrivals.add(instance, "FUZZ", 1.0, identity)
        if self._store.arrivals.instance(instance.sop_instance_uid) != instance:
            raise Broken("the store gives other facts back")
        self._plan(instance)

    def _plan(self, instance: Instance) -> None:
        others = [one for one in self._good if one.sop_instance_uid != instance.sop_instance_uid]
        rois = [instance] if instance.is_roi else [one for one in self._good if one.is_roi]
        for roi in rois:
            for quiet in (False, True):
                plan.decide(roi, [*others, instance], Planning(), waited_seconds=1e9 if quiet else 0.0, quiet=quiet)

    def settle(self) -> int:
        self._store = renewed(self._store, self._folder)
        for one in self._good:
            self._store.arrivals.add(one, "GOOD", 1.0)
        return sum(self._store.arrivals.instance(one.sop_instance_uid) != one for one in self._good)

    def close(self) -> None:
        self._store.close()


class JobReaders(Target):
    """What the job reads: a CT series with one changed slice, or a changed contour; NotScorable is an answer."""

    name = "job readers"
    seconds = 20.0

    def __init__(self, folder: Path) -> None:
        ct = ct_series(6, 8, 8, seed=5, radius=3.0, thickness=1.0)
        self._paths = save_all(ct, folder / "ct")
        self._volume = read_ct(self._paths)
        self._seeds = seeds()
        self._path = folder / "x.dcm"
        self._readers: dict[int, Callable[[], object]] = {
            0: lambda: read_ct([*self._paths[:2], self._path, *self._paths[3:]]),
            1: lambda: read_ct([self._path]),
            2: lambda: mask_from_rtstruct(self._path, [1], "single", self._volume),
            3: lambda: mask_from_seg(self._path, [1], "single", self._volume),
        }

    def make(self, random: Random) -> bytes:
        kind = random.randrange(4)
        tree = list(self._seeds.trees.values())[kind]
        return bytes([kind]) + file_of(tree_mutated(tree, random), random)

    def run(self, data: bytes) -> None:
        self._path.write_bytes(data[1:])
        try:
            self._readers[data[0] % 4 if data else 0]()
        except NotScorable:
            return

    def settle(self) -> int:
        again = read_ct(self._paths)
        return int(not isinstance(again, Volume) or (again.array != self._volume.array).any())
