"""The conformance statement says what is negotiated: everything is proposed to a running node, and its table compared;
and what the node itself proposes, and puts into its objects, is compared too."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pynetdicom.sop_class
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import UID, AllTransferSyntaxes
from pynetdicom import AE, ALL_TRANSFER_SYNTAXES, build_context, build_role, evt
from pynetdicom.association import Association
from typer.testing import CliRunner

from analysis.contract import Reason
from config.identity import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from config.settings import Peer, Report, Settings, Ups
from dicom_node import conformance, deliver, receive, ups_actions, ups_scp
from dicom_node.cli import app
from dicom_node.conformance_objects import EVERY, OBJECTS
from dicom_node.store import Store
from dicom_node.ups_events import UpsTeller
from reports import build
from reports.evidence import IDENTITY
from tests.network import call, receiving, settings_for
from tests.paths import ROOT
from tests.report_inputs import BUNDLE, context, objects, part10, scored, small_case

EVERYTHING = Settings(ups=Ups(enabled=True), report=Report(encapsulated_pdf=True))
SYNTAXES = sorted({*map(str, AllTransferSyntaxes), *map(str, ALL_TRANSFER_SYNTAXES)})


def every_sop_class() -> list[str]:
    """Every SOP class that pynetdicom knows, and the newest, which it does not."""
    known = {str(one) for one in vars(pynetdicom.sop_class).values() if isinstance(one, UID)}
    return sorted(known | {"1.2.840.10008.5.1.4.1.1.66.7"})


def batches(what: Sequence[Any]) -> Iterator[Sequence[Any]]:
    for begin in range(0, len(what), 128):
        yield what[begin : begin + 128]


@contextmanager
def calling(port: int, contexts: Sequence[Any], roles: Sequence[Any] = ()) -> Iterator[Association]:
    made = call(port, contexts, roles=roles)
    assert made.is_established or made.acceptor.primitive.result == 0
    try:
        yield made
    finally:
        made.release()


def taken(port: int, pairs: Sequence[tuple[str, str]]) -> set[tuple[str, str]]:
    """Which of these (SOP class, transfer syntax) a node accepts, each asked for alone."""
    found = set()
    for some in batches(pairs):
        with calling(port, [build_context(sop_class, syntax) for sop_class, syntax in some]) as made:
            found |= {(str(cx.abstract_syntax), str(cx.transfer_syntax[0])) for cx in made.accepted_contexts}
    return found


@pytest.mark.parametrize("worklist", [True, False])
def test_what_a_running_node_accepts_of_everything_is_what_the_statement_says(tmp_path: Path, worklist: bool) -> None:
    settings = replace(settings_for(), ups=Ups(enabled=worklist))
    table = conformance.accepted(settings)
    named = {one.sop_class_uid for one in table}
    some = [one.transfer_syntaxes[0] for one in table]

    with receiving(tmp_path, settings) as (node, _):
        # A class that is taken in any syntax is taken in one that every node takes of something.
        classes = taken(node.port, [(uid, syntax) for uid in every_sop_class() for syntax in sorted(set(some))])
        pairs = taken(node.port, [(uid, syntax) for uid in sorted(named) for syntax in SYNTAXES])

    assert {uid for uid, _ in classes} == named
    assert pairs == {(one.sop_class_uid, syntax) for one in table for syntax in one.transfer_syntaxes}


def test_of_several_transfer_syntaxes_the_first_of_the_table_is_taken(tmp_path: Path) -> None:
    settings = replace(settings_for(), ups=Ups(enabled=True))
    table = {one.sop_class_uid: one for one in conformance.accepted(settings)}

    with receiving(tmp_path, settings) as (node, _):
        contexts = [build_context(uid, list(reversed(one.transfer_syntaxes))) for uid, one in table.items()]
        with calling(node.port, contexts) as made:
            chosen = {str(cx.abstract_syntax): str(cx.transfer_syntax[0]) for cx in made.accepted_contexts}

    assert chosen == {uid: one.transfer_syntaxes[0] for uid, one in table.items()}


@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.2"])  # deflated, big endian
def test_nothing_is_taken_or_proposed_deflated_or_big_endian(syntax: str) -> None:
    every = [*conformance.accepted(EVERYTHING), *conformance.proposed(EVERYTHING)]
    assert not [one.name for one in every if syntax in one.transfer_syntaxes]


def test_roles_names_and_pdu_size_are_those_of_the_statement(tmp_path: Path) -> None:
    settings = settings_for(maximum_pdu_bytes=65536)
    text = conformance.statement(settings)

    with receiving(tmp_path, settings) as (node, _):
        commitment = build_role(conformance.COMMITMENT, scp_role=True)
        with calling(node.port, [build_context(conformance.COMMITMENT)], [commitment]) as made:
            (reports,) = made.accepted_contexts
            peer = made.acceptor
            negotiated = (peer.implementation_class_uid, peer.implementation_version_name, peer.maximum_length)

    assert reports.as_scp
    assert negotiated == (IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME, 65536)
    assert all(str(value) in text for value in negotiated)
    assert {one.role for one in conformance.accepted(settings) if one.sop_class_uid == conformance.COMMITMENT} == {
        "SCU"
    }


@contextmanager
def listening(sop_classes: Sequence[str]) -> Iterator[tuple[Peer, set[tuple[str, str]]]]:
    """A peer that accepts all of these, and what was proposed to it."""
    proposed: set[tuple[str, str]] = set()

    def note(event: evt.Event) -> None:
        for one in event.assoc.requestor.primitive.presentation_context_definition_list:
            proposed.update((str(one.abstract_syntax), str(syntax)) for syntax in one.transfer_syntax)

    def stored(event: evt.Event) -> int:
        return 0x0000

    def committed(event: evt.Event) -> tuple[int, None]:
        return 0x0000, None

    def found(event: evt.Event) -> Iterator[tuple[int, None]]:
        yield 0x0000, None

    entity = AE("PACS")
    for uid in sop_classes:
        entity.add_supported_context(uid, ALL_TRANSFER_SYNTAXES, scu_role=True, scp_role=True)
    handlers = [(evt.EVT_REQUESTED, note), (evt.EVT_C_STORE, stored), (evt.EVT_N_ACTION, committed),
                (evt.EVT_C_FIND, found)]  # fmt: skip
    server = entity.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers)
    try:
        yield Peer("PACS", port=server.server_address[1], receives_results=True), proposed
    finally:
        server.shutdown()


@pytest.fixture(scope="module")
def scored_objects() -> dict[str, dict[str, Dataset]]:
    """The objects of one scored study, for each SOP class that its reports can have."""
    case = small_case()
    return {sop_class: objects(scored(case, sop_class)) for sop_class in build.SR_SOP_CLASSES}


def test_what_the_node_proposes_on_its_own_associations_is_what_the_statement_says(
    tmp_path: Path, scored_objects: dict[str, dict[str, Dataset]]
) -> None:
    variants: dict[str, dict[str, deliver.Variant]] = {}
    for made in scored_objects.values():
        for name, dataset in made.items():
            path = tmp_path / f"{name}-{dataset.SOPClassUID}.dcm"
            path.write_bytes(part10(dataset))
            one = deliver.Variant(dataset.SOPClassUID, dataset.SOPInstanceUID, path)
            variants.setdefault(name, {})[dataset.SOPClassUID] = one
    documents = [deliver.Document(name, tuple(every.values())) for name, every in variants.items()]
    table = conformance.proposed(EVERYTHING)

    with listening([one.sop_class_uid for one in table]) as (peer, proposed):
        settings = replace(settings_for(peer), ups=EVERYTHING.ups, report=EVERYTHING.report)
        sent = deliver.send(peer, documents, settings)
        deliver.request_commitment(
            peer, [(one.sop_class_uid, one.sop_instance_uid) for one in sent], "2.25.1", settings
        )
        deliver.find(peer, "2.25.2", {"2.25.3": "2.25.4"}, settings)
        with receiving(tmp_path, settings) as (_, spool):
            store = Store.open(spool.store)
            with UpsTeller(store, spool, settings)._association(peer):
                pass
            store.close()

    assert {one.state for one in sent} == {"SENT"}
    assert proposed == {(one.sop_class_uid, syntax) for one in table for syntax in one.transfer_syntaxes}


SELDOM = {"PertinentOtherEvidenceSequence", "PredecessorDocumentsSequence"}  # tests/dicom/test_reports_references.py


def test_every_attribute_of_every_object_that_is_made_stands_in_its_table_and_no_other_does(
    scored_objects: dict[str, dict[str, Dataset]],
) -> None:
    zoned, case = small_case(TimezoneOffsetFromUTC="+0100", BodyPartExamined="LUNG", Laterality="L"), small_case(4)
    refusal = build.Refusal(Reason.REFERENCED_CT_INCOMPLETE, "58 of 60 images are here", BUNDLE)
    refused = build.not_scored([*case.ct, case.roi], refusal, context())
    every = [*scored_objects.values(), objects(scored(zoned)), objects(refused)]

    seen: dict[str, set[str]] = {}
    for dataset in (one for made in every for one in made.values()):
        modality, attributes = OBJECTS[dataset.SOPClassUID]
        present = {element.keyword for element in dataset}
        unknown = present - {*EVERY, *attributes, *IDENTITY}
        assert not unknown, f"{dataset.SOPClassUID.name}: {sorted(unknown)}"
        assert dataset.Modality == modality
        seen.setdefault(dataset.SOPClassUID, set()).update(present)

    assert seen.keys() == OBJECTS.keys()
    for uid, present in seen.items():
        # Of the SR classes only the first is made with every kind of evidence.
        unseen = {*EVERY, *OBJECTS[uid][1]} - present - SELDOM - {"TimezoneOffsetFromUTC"}
        assert not unseen, f"{UID(uid).name}: {sorted(unseen)}"


def test_every_status_that_the_code_answers_with_stands_in_the_statement() -> None:
    source = (ROOT / "dicom_node" / "receive.py").read_text(encoding="utf-8")
    answered = {getattr(receive, name) for name in re.findall(r"Refusal\(([A-Z_]+),", source)} | {receive.SUCCESS}
    worklist = {code for name, code in vars(ups_scp).items() if name.isupper() and type(code) is int} - {
        ups_scp.MOST_MATCHES
    }
    text = conformance.statement(EVERYTHING)
    actions = {code for name, code in vars(ups_actions).items() if name.isupper() and type(code) is int and code > 0xFF}

    assert {one.code for one in conformance.STORE_STATUSES} == answered
    assert {one.code for one in conformance.UPS_STATUSES} == worklist
    assert actions
    assert not [f"{code:04X}H" for code in actions if f"{code:04X}H" not in text]


def test_the_statement_of_the_documentation_is_the_one_that_the_command_writes(tmp_path: Path) -> None:
    out = tmp_path / "statement.md"
    variables = {"PROGNODE_UPS__ENABLED": "true", "PROGNODE_REPORT__ENCAPSULATED_PDF": "true"}

    done = CliRunner().invoke(app, ["conformance", "--out", str(out)], env=variables)

    assert done.exit_code == 0, done.output
    kept = (ROOT / "docs" / "conformance.md").read_text(encoding="utf-8")
    assert out.read_text(encoding="utf-8") == kept, "run: make documents"


def test_what_a_peer_is_called_cannot_break_the_tables() -> None:
    text = conformance.statement(replace(Settings(), peers=(Peer("A|B"),)))

    assert "| `A\\|B` | 127.0.0.1 | 104 | no | yes | no | auto |" in text
