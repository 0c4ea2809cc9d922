"""`prognode serve` as manager of Unified Procedure Steps, and a subscriber: two processes, killed in turn."""

from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset

from dicom_node.demo_pacs import DemoPacs
from dicom_node.workitem import State
from tests import synthetic, ups_peer
from tests.e2e.node import (
    PACS,
    Node,
    destination,
    ended,
    items_of,
    log_of,
    peer,
    send,
    serving,
    wait_for,
    write_settings,
)
from tests.ups_peer import WATCHER, Listener, listening

STUDIES = [synthetic.ct_series(16, 40, 40, seed=seed, patient_id=f"SECRET-{seed}") for seed in (1, 2)]
ANALYSED = {State.ANALYSED, State.REPORTED, State.COMPLETED}
STATUS_CHANGE = 4
WAYS = (
    ["SCHEDULED INCOMPLETE", "SCHEDULED READY", "IN PROGRESS READY", "COMPLETED READY"],
    ["SCHEDULED READY", "IN PROGRESS READY", "COMPLETED READY"],
    ["SCHEDULED UNAVAILABLE", "SCHEDULED READY", "IN PROGRESS READY", "COMPLETED READY"],
    ["SCHEDULED INCOMPLETE", "SCHEDULED UNAVAILABLE", "SCHEDULED READY", "IN PROGRESS READY", "COMPLETED READY"],
)


def settings(folder: Path, pacs: DemoPacs, listener: Listener) -> None:
    watcher = peer(WATCHER, listener.port, sends=False)
    write_settings(folder, destination(PACS, pacs.port), watcher, ups={"enabled": True})


def sent(node: Node, ct: list[Dataset], folder: Path) -> None:
    send(node.port, synthetic.save_all([*ct, synthetic.rtstruct(ct)], folder))


def steps(node: Node, **wanted: Any) -> list[Dataset]:
    keys = Dataset()
    for keyword, value in {"SOPInstanceUID": "", "ProcedureStepState": "", "PatientID": "", **wanted}.items():
        setattr(keys, keyword, value)
    return ups_peer.find(node.port, keys)


def without_repeats(states: list[str]) -> list[str]:
    """A report whose answer was lost in a kill comes once more; none is left out, none comes late."""
    return [state for before, state in zip(["", *states], states, strict=False) if state != before]


def told(listener: Listener) -> list[str]:
    return [one["information"]["SCPStatus"] for one in listener.heard() if one["kind"] == STATUS_CHANGE]


def test_a_subscriber_that_is_away_while_the_node_is_killed_hears_everything_in_order(tmp_path: Path) -> None:
    folder = tmp_path / "node"
    with listening(tmp_path) as listener, DemoPacs(tmp_path / "pacs", PACS, commitment="none") as pacs:
        settings(folder, pacs, listener)
        with serving(folder) as node:
            assert ups_peer.subscribe(node.port) == 0x0000
            listener.stop()
            sent(node, STUDIES[0], tmp_path / "sent")
            wait_for(lambda: "ups.postponed" in log_of(folder), "the subscriber is found away", folder=folder)
            node.kill()
        with serving(folder) as node:
            ended(folder)
            node.kill()
        with serving(folder) as node, listening(tmp_path, listener.port) as again:
            (step,) = steps(node, ProcedureStepState="COMPLETED")
            uid = str(step.SOPInstanceUID)
            wait_for(  # that the node was started again is told after what had been left to tell
                lambda: "COMPLETED READY" in again.states(uid) and len(told(again)) == 2, "all is told", folder=folder
            )
            assert again.states(uid) in WAYS
            assert told(again) == ["RESTARTED", "RESTARTED"]
            assert again.of(uid, 3), "progress was reported"
            node.stop()
            assert told(again)[-1] == "GOING DOWN"
    assert "SECRET" not in log_of(folder)


@pytest.mark.exhaustive
def test_a_node_that_is_killed_twice_tells_each_state_of_each_step(tmp_path: Path) -> None:
    folder = tmp_path / "node"
    with listening(tmp_path) as listener, DemoPacs(tmp_path / "pacs", PACS, commitment="none") as pacs:
        settings(folder, pacs, listener)
        with serving(folder) as node:
            assert ups_peer.subscribe(node.port, lock=True) == 0x0000
            for number, ct in enumerate(STUDIES):
                sent(node, ct, tmp_path / f"sent {number}")
            wait_for(lambda: len(items_of(folder)) == len(STUDIES), "all have arrived", folder=folder)
            node.kill()
        with serving(folder) as node:
            wait_for(lambda: ANALYSED & {one.state for one in items_of(folder)}, "work has begun", folder=folder)
            node.kill()  # a third death in one stage would be for an operator
        with serving(folder) as node:
            ended(folder, count=len(STUDIES))
            found = steps(node, ProcedureStepState="COMPLETED")
            assert sorted(str(step.PatientID) for step in found) == ["SECRET-1", "SECRET-2"]
            for step in steps(node, ProcedureStepState="CANCELED"):  # of a CT that waited until its contour came
                assert listener.states(str(step.SOPInstanceUID))[-1].startswith("CANCELED")
            uids = [str(step.SOPInstanceUID) for step in found]
            wait_for(
                lambda: all("COMPLETED READY" in listener.states(uid) for uid in uids), "all is told", folder=folder
            )
            for uid in uids:
                assert without_repeats(listener.states(uid)) in WAYS, listener.states(uid)
                assert listener.states(uid).count("COMPLETED READY") == 1
            (step,) = ups_peer.ask(node.port, "get", uid=uids[0])["data_sets"]
            (performed,) = step.UnifiedProcedureStepPerformedProcedureSequence
            outputs = performed.OutputInformationSequence
            assert {output.DICOMRetrievalSequence[0].RetrieveAETitle for output in outputs} == {PACS}
            there = {one.sop_instance_uid for one in pacs.objects()}
            named = {ref.ReferencedSOPInstanceUID for output in outputs for ref in output.ReferencedSOPSequence}
            assert named
            assert named <= there
