"""The other end of the UPS worklist, as a process of its own that all tests share: `python -m tests.ups_peer`.

It reads an order of JSON from each line of its input and prints the answer as one. `listen` makes it a subscriber that
writes each N-EVENT-REPORT as a line of JSON, until `stop`; the other verbs send one request to a node. `listening` and
`ask` give orders from a test.
"""

import atexit
import json
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydicom.dataset import Dataset
from pydicom.tag import Tag
from pydicom.uid import UID
from pynetdicom import AE, build_context, evt
from pynetdicom.sop_class import (
    UnifiedProcedureStepEvent,
    UnifiedProcedureStepPull,
    UnifiedProcedureStepPush,
    UnifiedProcedureStepQuery,
    UnifiedProcedureStepWatch,
)

from tests.network import call

WATCHER = "WATCHER"
WORKLIST, FILTERED = "1.2.840.10008.5.1.4.34.5", "1.2.840.10008.5.1.4.34.5.1"
CLASSES = {
    "pull": UnifiedProcedureStepPull,
    "watch": UnifiedProcedureStepWatch,
    "query": UnifiedProcedureStepQuery,
    "push": UnifiedProcedureStepPush,
}


# -- for tests -----------------------------------------------------------------------------------------------------


def ask(port: int, verb: str, *, calling: str = WATCHER, context: str = "watch", **what: Any) -> dict[str, Any]:
    """One request from another process; gives {"statuses": [...], "data_sets": [Dataset, ...], "seconds": ...}."""
    answer = _order(verb, port=port, calling=calling, context=context, **what)
    answer["data_sets"] = [Dataset.from_json(one) for one in answer["data_sets"]]
    return answer


_started: list[subprocess.Popen[str]] = []
_one_at_a_time = threading.Lock()


def _order(verb: str, **what: Any) -> dict[str, Any]:
    """Give an order to the process, which starts with the first one."""
    with _one_at_a_time:
        if not _started:
            command = [sys.executable, "-m", "tests.ups_peer"]
            _started.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
            atexit.register(_end)
        stdin, stdout = _started[0].stdin, _started[0].stdout
        assert stdin is not None
        assert stdout is not None
        stdin.write(json.dumps({"verb": verb, **what}, default=_plain) + "\n")
        stdin.flush()
        answer: dict[str, Any] = json.loads(stdout.readline())
    assert "error" not in answer, answer["error"]
    return answer


def _end() -> None:
    with _started.pop() as process:
        process.kill()


def find(port: int, keys: Dataset, **more: Any) -> list[Dataset]:
    """Matches of a C-FIND that must end in success."""
    answer = ask(port, "find", keys=keys, **more)
    assert answer["statuses"][-1] == 0x0000, [hex(status) for status in answer["statuses"]]
    found: list[Dataset] = answer["data_sets"]
    return found


def subscribe(port: int, uid: str = WORKLIST, *, lock: bool = False, keys: Dataset | None = None, **more: Any) -> int:
    information = keys or Dataset()
    information.ReceivingAE = more.pop("receiving", WATCHER)
    information.DeletionLock = "TRUE" if lock else "FALSE"
    return act(port, 3, uid, information, **more)


def unsubscribe(port: int, uid: str = WORKLIST, kind: int = 4, **more: Any) -> int:
    information = Dataset()
    information.ReceivingAE = more.pop("receiving", WATCHER)
    return act(port, kind, uid, information, **more)


def act(port: int, kind: int, uid: str, information: Dataset, **more: Any) -> int:
    status: int = ask(port, "action", kind=kind, uid=uid, information=information, **more)["statuses"][0]
    return status


class Listener:
    """A subscriber in another process. What it heard stays in its file when it is gone."""

    def __init__(self, folder: Path, port: int = 0, status: int = 0, ae_title: str = WATCHER) -> None:
        self.file = folder / f"{ae_title}.jsonl"
        order = {"port": port, "file": str(self.file), "status": status, "ae_title": ae_title}
        self.port = int(_order("listen", **order)["port"])

    def heard(self) -> list[dict[str, Any]]:
        if not self.file.exists():
            return []
        whole = self.file.read_text(encoding="utf-8").rpartition("\n")[0]  # the last line may be half written
        return [json.loads(line) for line in whole.splitlines()]

    def of(self, uid: str, kind: int = 1) -> list[dict[str, Any]]:
        """Informations of the reports of a kind about one step, in their order."""
        return [report["information"] for report in self.heard() if (report["uid"], report["kind"]) == (uid, kind)]

    def states(self, uid: str) -> list[str]:
        return [f"{one['ProcedureStepState']} {one['InputReadinessState']}" for one in self.of(uid)]

    def stop(self) -> None:
        _order("stop", port=self.port)


@contextmanager
def listening(folder: Path, port: int = 0, status: int = 0, ae_title: str = WATCHER) -> Iterator[Listener]:
    listener = Listener(folder, port, status, ae_title)
    try:
        yield listener
    finally:
        listener.stop()


def _plain(value: object) -> Any:
    assert isinstance(value, Dataset)
    return json.loads(value.to_json())


# -- the process ---------------------------------------------------------------------------------------------------


_servers: dict[int, Any] = {}


def _listen(order: dict[str, Any]) -> dict[str, Any]:
    file, status = Path(order["file"]), order["status"]
    entity = AE(order["ae_title"])
    entity.add_supported_context(UnifiedProcedureStepEvent, scu_role=True, scp_role=True)

    def take(event: evt.Event) -> tuple[int, None]:
        information = {
            element.keyword: element.value if element.VR != "SQ" else json.loads(event.event_information.to_json())
            for element in event.event_information
        }
        line = {
            "kind": event.event_type,
            "uid": event.request.AffectedSOPInstanceUID,
            "class": event.request.AffectedSOPClassUID,
            "information": information,
        }
        with file.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(line, default=str) + "\n")
        return status, None

    handlers = [(evt.EVT_N_EVENT_REPORT, take)]
    server = entity.start_server(("127.0.0.1", order["port"]), block=False, evt_handlers=handlers)
    _servers[server.server_address[1]] = server
    return {"port": server.server_address[1]}


def _stop(order: dict[str, Any]) -> dict[str, Any]:
    """The port is closed, and who is still talking is cut off. A second stop changes nothing."""
    server = _servers.pop(order["port"], None)
    if server is not None:
        server.shutdown()
        for association in server.active_associations:
            association.abort()
    return {}


def _send(order: dict[str, Any]) -> dict[str, Any]:
    context = CLASSES[order["context"]]
    association = call(order["port"], [build_context(context)], calling=order["calling"])
    if not association.is_established:
        return {"statuses": [], "data_sets": [], "seconds": 0.0}
    begun = time.monotonic()
    answers = _VERBS[order["verb"]](association, context, order)
    seconds = time.monotonic() - begun
    association.release()
    return {
        "statuses": [int(status.Status) for status, _ in answers if status],
        "comments": [str(status.get("ErrorComment", "")) for status, _ in answers if status],
        "data_sets": [json.loads(made.to_json()) for _, made in answers if made is not None],
        "seconds": seconds,
    }


def _find(association: Any, context: UID, order: dict[str, Any]) -> list[Any]:
    answers = []
    for status, made in association.send_c_find(Dataset.from_json(order["keys"]), context, msg_id=7):
        answers.append((status, made))
        if len(answers) == order.get("cancel_after"):
            association.send_c_cancel(7, query_model=context)
    return answers


def _get(association: Any, context: UID, order: dict[str, Any]) -> list[Any]:
    tags = [Tag(keyword) for keyword in order.get("attributes", [])]
    return [association.send_n_get(tags, UnifiedProcedureStepPush, order["uid"], meta_uid=context)]


def _action(association: Any, context: UID, order: dict[str, Any]) -> list[Any]:
    information = Dataset.from_json(order["information"])
    return [
        association.send_n_action(information, order["kind"], UnifiedProcedureStepPush, order["uid"], meta_uid=context)
    ]


def _create(association: Any, context: UID, order: dict[str, Any]) -> list[Any]:
    return [
        association.send_n_create(
            Dataset.from_json(order["information"]), UnifiedProcedureStepPush, order["uid"], meta_uid=context
        )
    ]


def _set(association: Any, context: UID, order: dict[str, Any]) -> list[Any]:
    return [
        association.send_n_set(
            Dataset.from_json(order["information"]), UnifiedProcedureStepPush, order["uid"], meta_uid=context
        )
    ]


_VERBS = {"find": _find, "get": _get, "action": _action, "create": _create, "set": _set}


def main() -> None:
    for line in sys.stdin:
        order = json.loads(line)
        try:
            answer = {"listen": _listen, "stop": _stop}.get(order["verb"], _send)(order)
        except Exception:  # noqa: BLE001 - the test shall fail with it, and not the process
            answer = {"error": traceback.format_exc()}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
