"""One study can be followed through the log of a real node by one mark; as text, as JSON, and without a name."""

import json
from pathlib import Path

import pytest

from dicom_node.demo_pacs import DemoPacs
from dicom_node.logs import mark_of
from tests.e2e.node import PACS, completed, destination, log_of, send, serving, wait_for, write_settings
from tests.synthetic import ct_series, rtstruct, save_all

ROAD = [
    "association.ended",
    "plan.scheduled",
    "workitem.analysed",
    "workitem.reported",
    "object.sent",
    "workitem.completed",
]


def log_of_a_study(folder: Path, log_format: str) -> tuple[str, list[str]]:
    """The mark of a study that went the whole way, and the lines of the log that have it."""
    ct = ct_series(12, seed=3, PatientName="Secret^Name")
    mark = mark_of(ct[0].StudyInstanceUID)
    with DemoPacs(folder / "pacs", ae_title=PACS) as pacs:
        write_settings(folder / "node", destination(PACS, pacs.port), telemetry={"log_format": log_format})
        with serving(folder / "node") as node:
            send(node.port, save_all([*ct, rtstruct(ct)], folder / "sent"))
            completed(node.folder)
            wait_for(lambda: "workitem.completed" in log_of(node.folder), "its last line", folder=node.folder)
    assert "Secret" not in log_of(folder / "node")
    return mark, [line for line in log_of(folder / "node").splitlines() if mark in line]


@pytest.mark.exhaustive  # its short form is in test_phi.py
@pytest.mark.parametrize("log_format", ["text", "json"])
def test_one_mark_leads_from_the_association_to_the_delivery(log_format: str, tmp_path: Path) -> None:
    mark, lines = log_of_a_study(tmp_path, log_format)

    found = dict.fromkeys(event for line in lines for event in ROAD if f"{event} " in line)
    assert list(found) == ROAD
    if log_format == "json":
        read = [json.loads(line) for line in lines]
        assert list(dict.fromkeys(one["event"] for one in read if one["event"] in ROAD)) == ROAD
        assert all(one["study"] == [mark] for one in read)
    else:
        assert all(line.endswith(f"study {mark}]") for line in lines)
