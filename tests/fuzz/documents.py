"""Documents: job results, bundles, settings, answers of FHIR servers, storage commitment reports."""

import json
import os
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from random import Random
from typing import Any
from unittest.mock import patch

import httpx
import numpy as np
from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset

from analysis.contract import FEATURES_FILE, PICTURES_FILE, RESULT_FILE, TIMING_FILE, JobResult
from config import settings as configuration
from config.settings import FhirServer, Settings
from config.toml_values import SettingsError
from dicom_node import clinical_intake, compose, fhir_in, job
from dicom_node.clinical_codes import load as load_codes
from dicom_node.clinical_intake import Feed
from dicom_node.commitment import read_report
from dicom_node.elements import UnreadableHeader
from dicom_node.executors import harvest
from dicom_node.outline import check_structure
from dicom_node.quiet import quiet_libraries
from dicom_node.store import Store
from dicom_node.summary import summary_of
from dicom_node.workitem import StageError
from models import bundle
from models.bundle import DEMO, BundleError
from tests.fhir_server import SYSTEM, diagnosis, observation, patient
from tests.fuzz.bytes_of import json_bytes, mutated, value_mutated
from tests.fuzz.dicom_of import encoded, tree_mutated, tree_of
from tests.fuzz.engine import Broken, Target
from tests.hl7_inputs import not_scored, scored
from tests.paths import ROOT

KEY = "k" * 64


class JobResults(Target):
    """OUT as a hostile job leaves it: `job.classify`, `harvest.take`, and the pictures as the report reads them."""

    name = "job results"

    def __init__(self, folder: Path) -> None:
        self._folder, self._taken = folder / "out", folder / "taken"
        self._folder.mkdir()
        self._taken.mkdir()
        self._results = [json.loads(one.model_dump_json()) for one in (scored(), not_scored())]
        stream = BytesIO()
        views = {view: np.zeros((8, 8), np.uint8) for view in ("axial", "coronal", "sagittal")}
        masks = {f"{view}_mask": np.ones((8, 8), bool) for view in views}
        np.savez_compressed(stream, **views, **masks, **{f"{view}_spacing": np.ones(2) for view in views})
        self._pictures = stream.getvalue()

    def make(self, random: Random) -> bytes:
        if random.random() < 0.2:
            return b"P" + mutated(self._pictures, random)
        return b"R" + json_bytes(value_mutated(random.choice(self._results), random), random)

    def run(self, data: bytes) -> None:
        for folder in (self._folder, self._taken):
            for left in folder.iterdir():
                left.unlink()
        (self._folder / (PICTURES_FILE if data[:1] == b"P" else RESULT_FILE)).write_bytes(data[1:])
        (self._folder / TIMING_FILE).symlink_to("/etc/hostname")
        os.mkfifo(self._folder / FEATURES_FILE)
        try:
            result = job.classify(0, self._folder, KEY)
            summary_of(result)
            JobResult.model_validate_json(result.model_dump_json())
        except StageError:
            pass
        for name in (TIMING_FILE, FEATURES_FILE):
            try:
                harvest.take(self._folder, name, 1000, self._taken / name)
                raise Broken(f"{name} was taken")
            except harvest.Unfit:
                continue
        harvest.take(self._folder, PICTURES_FILE, 1 << 24, self._taken / PICTURES_FILE)
        self._look()

    def _look(self) -> None:
        try:
            compose._pictures(self._taken / PICTURES_FILE)
        except MemoryError:
            raise
        except Exception:  # noqa: BLE001 - the worker ends a work item whose report cannot be made
            return

    def settle(self) -> int:
        (self._folder / RESULT_FILE).unlink(missing_ok=True)
        (self._folder / RESULT_FILE).write_text(scored().model_dump_json())
        return int(job.classify(0, self._folder, KEY) != scored())


class Bundles(Target):
    """A bundle with one changed file; where the digests are made to fit, the contents are what has to be refused."""

    name = "bundles"

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "bundle"
        self._folder.mkdir()
        self._good = {name: (DEMO / name).read_bytes() for name in ("manifest.json", "model.json", "bootstrap.json")}
        for path in DEMO.iterdir():
            (self._folder / path.name).write_bytes(path.read_bytes())

    def make(self, random: Random) -> bytes:
        name = random.choice(("manifest.json", "manifest.json", "model.json", "bootstrap.json"))
        value = json.loads(self._good[name])
        if random.random() < 0.1:
            return name.encode() + b"\n" + mutated(self._good[name], random)
        return name.encode() + b"\n" + json_bytes(value_mutated(value, random), random)

    def run(self, data: bytes) -> None:
        import hashlib

        first, _, content = data.partition(b"\n")
        name = first.decode("latin-1")
        if name not in self._good:
            return
        for other, good in self._good.items():
            (self._folder / other).write_bytes(good)
        (self._folder / name).write_bytes(content)
        if name != "manifest.json":
            manifest = json.loads(self._good["manifest.json"])
            manifest["files"][name] = hashlib.sha256(content).hexdigest()
            (self._folder / "manifest.json").write_text(json.dumps(manifest))
        try:
            bundle.load(self._folder)
        except BundleError:
            return

    def settle(self) -> int:
        for name, good in self._good.items():
            (self._folder / name).write_bytes(good)
        return int(bundle.load(self._folder).digest != bundle.load(DEMO).digest)


class SettingsFiles(Target):
    """A settings file: Settings, or SettingsError."""

    name = "settings"

    def __init__(self, folder: Path) -> None:
        self._path = folder / "prognode.toml"
        text = (ROOT / "config" / "prognode.toml").read_text(encoding="utf-8")
        self._text = text.encode()
        self._table = tomllib.loads(text)
        self._table |= {
            "peers": [{"ae_title": "CT1"}, {"ae_title": "PACS", "host": "127.0.0.1", "port": 104}],
            "hl7_peers": [{"name": "RIS", "host": "127.0.0.1", "port": 2575}],
            "fhir_servers": [{"name": "EHR", "base_url": "https://fhir.example/r4"}],
        }

    def make(self, random: Random) -> bytes:
        if random.random() < 0.2:
            return b"T" + mutated(self._text, random)
        return b"J" + json.dumps(value_mutated(self._table, random)).encode()

    def run(self, data: bytes) -> None:
        try:
            if data[:1] == b"T":
                self._path.write_bytes(data[1:])
                configuration.load(self._path)
            else:
                configuration.parse(_table(data[1:]), Path("/etc/prognode"))
        except SettingsError:
            return

    def settle(self) -> int:
        self._path.write_bytes(self._text)
        return int(not isinstance(configuration.load(self._path), Settings))


def _table(data: bytes) -> dict[str, Any]:
    try:
        value = json.loads(data)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}  # a TOML document is a table


class FhirAnswers(Target):
    """What a FHIR server answers: values, Retryable or Permanent; what is read goes into the store."""

    name = "FHIR answers"
    cheap = False

    def __init__(self, folder: Path) -> None:
        self._store = Store.open(folder / "store.sqlite")
        self._codes = load_codes(None)
        self._server = FhirServer("EHR", "http://127.0.0.1:9/r4", patient_identifier_system=SYSTEM)
        self._good = {
            "Patient": patient("P1"),
            "Observation": observation("o1", "751-8", 4.5, "10*9/L"),
            "Condition": diagnosis("c1", "254637007"),
        }

    def make(self, random: Random) -> bytes:
        kind = random.choice(list(self._good))
        made = _searchset(self._good[kind])
        if random.random() < 0.1:
            made["link"] = [
                {"relation": "next", "url": random.choice(("?page=2", "http://[", "http://other/", "//", ""))}
            ]
        return kind.encode() + b"\n" + json_bytes(value_mutated(made, random), random)

    def run(self, data: bytes) -> None:
        kind, _, body = data.partition(b"\n")
        with self._answering(kind.decode("latin-1"), body):
            try:
                answer = fhir_in.ask(self._server, "P1", "", self._codes)
            except StageError:
                return
        feed = Feed("fhir", "FHIR Observation", "EHR")
        clinical_intake.take(self._store.clinical, self._codes, answer.observations, feed, 1.0)
        clinical_intake.take_diagnoses(self._store.clinical, self._codes, answer.conditions, feed, 1.0)

    @contextmanager
    def _answering(self, kind: str, body: bytes) -> Iterator[None]:
        def answer(request: httpx.Request) -> httpx.Response:
            asked = request.url.path.rsplit("/", 1)[-1]
            good = json.dumps(_searchset(self._good[asked])) if asked in self._good else "{}"
            return httpx.Response(200, stream=httpx.ByteStream(body if asked == kind else good.encode()))

        @contextmanager
        def client(_: FhirServer) -> Iterator[httpx.Client]:
            with httpx.Client(transport=httpx.MockTransport(answer)) as made:
                yield made

        with patch.object(fhir_in, "open_client", client):
            yield

    def settle(self) -> int:
        with self._answering("", b""):
            answer = fhir_in.ask(self._server, "P1", "", self._codes)
        return 2 - len(answer.observations) - len(answer.conditions)

    def close(self) -> None:
        self._store.close()


def _searchset(resource: dict[str, Any]) -> dict[str, Any]:
    return {"resourceType": "Bundle", "type": "searchset", "entry": [{"resource": resource}]}


class Commitments(Target):
    """Action information of a storage commitment report, as bytes: structure, pydicom, `read_report`."""

    name = "commitment"

    def __init__(self, folder: Path) -> None:
        quiet_libraries()
        report = Dataset()
        report.TransactionUID = "2.25.1"
        report.ReferencedSOPSequence = [_reference(n) for n in range(3)]
        failed = _reference(9)
        failed.FailureReason = 0x0112
        report.FailedSOPSequence = [failed]
        self._tree = tree_of(report)
        self._store = Store.open(folder / "store.sqlite")

    def make(self, random: Random) -> bytes:
        implicit = random.random() < 0.5
        data = encoded(tree_mutated(self._tree, random), implicit=implicit)
        return bytes([implicit]) + (mutated(data, random) if random.random() < 0.3 else data)

    def run(self, data: bytes) -> None:
        implicit, data = data[:1] == b"\1", data[1:]
        try:
            check_structure(BytesIO(data), len(data), implicit=implicit)
            found = read_report(_decoded(data, implicit=implicit))
        except UnreadableHeader:
            return
        self._store.deliveries.commitment_report(*found, 1.0)

    def settle(self) -> int:
        uid, committed, failed = read_report(_decoded(encoded(self._tree, implicit=True), implicit=True))
        return int((uid, len(committed), failed) != ("2.25.1", 3, {"1.2.9": 0x0112}))

    def close(self) -> None:
        self._store.close()


def _decoded(data: bytes, *, implicit: bool) -> Dataset:
    """pynetdicom answers 0110H where pydicom gives up: that is no finding."""
    try:
        return read_dataset(BytesIO(data), implicit, True)
    except Exception as error:
        raise UnreadableHeader("pydicom") from error


def _reference(number: int) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = "1.2.840.10008.5.1.4.1.1.2", f"1.2.{number}"
    return item
