"""The same faults against this node, Orthanc and DCMTK's storescp: what each acknowledged, and what it still has.

    python -m benchmarks.peers_faults [--only WORDS] [--json FILE]

Needs root (disks and a network of its own, in which all of it runs), Debian's orthanc and dcmtk. Objects are CT images
of 128 x 128 pixels. "Kept" is what the server, started again, knows and gives back whole (UID and pixels).
"""

import argparse
import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydicom import Dataset, dcmread
from pydicom.uid import ExplicitVRLittleEndian

from benchmarks.receivers import PORT, SERVERS, SLOW, Server, pixels_of
from tests import wire
from tests.faults.disks import MEGABYTES, power
from tests.network import association, data_set_bytes, store_bytes
from tests.small_disk import fill, small_disk
from tests.synthetic import CT, ct_series, save, save_all

OBJECTS = 40
IDLE_SOCKETS, HALF_SENDERS = 200, 20
ECHO_PATIENCE_SECONDS = 10
CONNECT_SECONDS = 3.0  # a full backlog does not answer at all


# -- the faults ------------------------------------------------------------------------------------------------------


@dataclass
class Row:
    """What a fault did to one server."""

    acknowledged: int | None = None
    kept: int | None = None
    comment: str = ""

    @property
    def text(self) -> str:
        if self.acknowledged is None or self.kept is None:
            return self.comment
        figures = f"{self.acknowledged} / {self.kept} / **{self.acknowledged - self.kept}**"
        return f"{figures}{'; ' if self.comment else ''}{self.comment}"


def send(
    paths: Sequence[Path], at_end: Callable[[], object] = lambda: None, refusals: list[str] | None = None
) -> list[Path]:
    """One association; what was answered with 0x0000. `at_end` runs at the moment of the last answer."""
    taken = []
    with contextlib.suppress(OSError, RuntimeError), association(PORT, [CT], called="PROGNODE") as made:
        for path in paths:
            if not made.is_established:
                break
            status, _ = store_bytes(made, CT, path.stem, data_set_bytes(path))
            if status == 0x0000:
                taken.append(path)
            elif refusals is not None:
                refusals.append("aborts the association" if status is None else f"{status:04X}H")
        at_end()
    return taken


def judged(server: Server, taken: Sequence[Path], comment: str = "") -> Row:
    """Start it again and ask for everything it has acknowledged."""
    server.start()
    kept = sum(server.holds(path) for path in taken)
    torn = server.torn()
    server.stop()
    words = [comment] * bool(comment) + [f"{torn} torn files stay"] * bool(torn)
    return Row(len(taken), kept, ", ".join(words))


@contextmanager
def plain(kind: type[Server], disk: Path, **settings: Any) -> Iterator[Server]:
    """A running server with its state in `disk`; not running any more at the end."""
    disk.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="peers-") as name:
        server = kind(disk, Path(name), **settings)
        server.start()
        try:
            yield server
        finally:
            if server.runs:
                server.kill()


def power_cut(kind: type[Server], study: Sequence[Path], scratch: Path) -> Row:
    """Everything that was not synced at the moment of the last 0x0000 is gone."""
    with power(scratch) as disk, plain(kind, disk.mount) as server:
        subprocess.run(["sync", "-f", str(disk.mount)], check=True)  # what it needs before the first object is durable
        taken = send(study, lambda: disk.cut(server.kill))
        row = judged(server, taken)
        whole = sum(pixels_of(path) is not None for path in server.files())
        row.comment = f"{whole} files are whole" if whole != row.kept else ""
        return row


def killed_at_the_end(kind: type[Server], study: Sequence[Path], scratch: Path) -> Row:
    with plain(kind, scratch) as server:
        taken = send(study, server.kill)
        return judged(server, taken)


def killed_in_the_middle(kind: type[Server], study: Sequence[Path], scratch: Path) -> Row:
    with plain(kind, scratch) as server:
        taken = send(study[:-1])
        with half_sent(study[-1]):
            server.kill()
        return judged(server, taken)


def cut_connection(kind: type[Server], study: Sequence[Path], scratch: Path) -> Row:
    with plain(kind, scratch) as server:
        taken = send(study[:-1])
        with half_sent(study[-1]):
            pass
        time.sleep(1.0)
        server.stop()
        return judged(server, taken)


def cut_object(kind: type[Server], study: Sequence[Path], scratch: Path) -> Row:
    """A sender whose file is truncated: the message is whole, and the pixel data end before their length."""
    path = study[0]
    with plain(kind, scratch) as server:
        with association(PORT, [CT], called="PROGNODE") as made:
            status, _ = store_bytes(made, CT, path.stem, data_set_bytes(path)[:-10_000])
        server.stop()
        server.start()
        torn = server.torn()
        server.stop()
    said = "association aborted" if status is None else f"answered {status:04X}H"
    return Row(comment=f"{said}, {'the torn object is kept' if torn else 'not kept'}")


def full_disk(kind: type[Server], study: Sequence[Path], scratch: Path) -> Row:
    """Room for about ten objects, then none, then enough again."""
    with (
        small_disk(scratch / "disk", MEGABYTES) as disk,
        plain(kind, disk, receive={"reserve_disk_bytes": 0}) as server,
    ):
        filler = fill(disk, 10 * study[0].stat().st_size)
        refusals: list[str] = []
        taken = send(study, refusals=refusals)
        filler.unlink()
        later = send([path for path in study if path not in taken])
        again = f"with room again {len(later)} of {len(study) - len(taken)}" if server.runs else "it has ended"
        server.kill()
        return judged(server, [*taken, *later], f"{len(taken)} taken, then {', '.join(sorted(set(refusals)))}; {again}")


def same_uid(kind: type[Server], study: Sequence[Path], scratch: Path) -> Row:
    """The PACS has corrected an image: the same SOP Instance UID, other content. Both were acknowledged."""
    changed: Dataset = dcmread(study[0])
    changed.PixelData = bytes(byte ^ 1 for byte in changed.PixelData)
    other = save(changed, scratch / "corrected")
    with plain(kind, scratch / "state") as server:
        taken = [*send([study[0]]), *send([other])]
        server.stop()
        row = judged(server, taken)
        server.start()
        which = [name for name, path in (("first", study[0]), ("second", other)) if server.holds(path)]
        row.comment = f"has the {' and the '.join(which)}" if which else "has neither"
        return row


def idle_sockets(kind: type[Server], study: Sequence[Path], scratch: Path) -> Row:
    with plain(kind, scratch), ExitStack() as open_:
        return Row(comment=beside(open_, IDLE_SOCKETS, None))


def half_senders(kind: type[Server], study: Sequence[Path], scratch: Path) -> Row:
    with plain(kind, scratch), ExitStack() as open_:
        return Row(comment=beside(open_, HALF_SENDERS, study[0]))


def beside(open_: ExitStack, wanted: int, path: Path | None) -> str:
    """What a C-ECHO gets beside so many connections that hang, or as many as the server lets in."""
    held = 0
    while held < wanted and hang(open_, path):
        held += 1
    return echo() + (f" (beside {held}; no more got in)" if held < wanted else "")


def connect() -> socket.socket:
    """From another machine's address than the one that asks for an echo: each has a share of a server's places."""
    return socket.create_connection(("127.0.0.1", PORT), CONNECT_SECONDS, source_address=("127.0.0.2", 0))


def hang(open_: ExitStack, path: Path | None) -> bool:
    """A connection that says nothing, or stops in the middle of an object; False where it is not even accepted."""
    try:
        if path is None:
            open_.enter_context(connect())
        else:
            open_.enter_context(half_sent(path))
    except OSError:
        return False
    return True


@contextmanager
def half_sent(path: Path) -> Iterator[None]:
    """A C-STORE that stops in the middle of its data set, and hangs there inside the block."""
    uid = path.stem.encode()
    uid += b"\0" * (len(uid) % 2)
    context = wire.context(1, CT, (ExplicitVRLittleEndian,))
    with connect() as connection:
        connection.sendall(wire.request(SLOW, contexts=(context,)))
        with contextlib.suppress(TimeoutError):  # a server that is busy with another one does not answer
            connection.recv(4096)
        command = wire.command(0x0001, CT, (0x0700, b"\0\0"), (0x1000, uid), has_data_set=True)
        connection.sendall(wire.data(command, command=True, last=True))
        data = data_set_bytes(path)[:20_000]
        for start in range(0, len(data), 10_000):
            connection.sendall(wire.data(data[start : start + 10_000]))
        time.sleep(0.05)
        yield


def echo() -> str:
    """Whether, and how soon, somebody else's C-ECHO is answered."""
    command = ["echoscu", "-to", "5", "-ta", str(ECHO_PATIENCE_SECONDS), "-td", str(ECHO_PATIENCE_SECONDS),
               "-aet", "MODALITY", "-aec", "PROGNODE", "127.0.0.1", str(PORT)]  # fmt: skip
    started = time.monotonic()
    done = subprocess.run(command, capture_output=True, check=False, timeout=60)
    seconds = time.monotonic() - started
    return f"C-ECHO answered in {seconds:.2f} s" if done.returncode == 0 else f"**no answer** in {seconds:.0f} s"


FAULTS: dict[str, Callable[[type[Server], Sequence[Path], Path], Row]] = {
    "power cut after the last 0x0000": power_cut,
    "SIGKILL after the last 0x0000": killed_at_the_end,
    "SIGKILL in the middle of an object": killed_in_the_middle,
    "connection cut in the middle of an object": cut_connection,
    "object that ends in the middle of its pixels": cut_object,
    "disk full, then room again": full_disk,
    "same SOP Instance UID, other content": same_uid,
    f"{IDLE_SOCKETS} idle sockets": idle_sockets,
    f"{HALF_SENDERS} senders that stop in the middle": half_senders,
}


# -- the table -------------------------------------------------------------------------------------------------------


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", metavar="WORDS", help="only faults whose name holds these words")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there as well")
    options = parser.parse_args()
    if os.geteuid() or not all(map(shutil.which, ("Orthanc", "storescp", "unshare", "mkfs.ext4"))):
        sys.exit("this needs root, and Debian's orthanc, dcmtk, util-linux and e2fsprogs: scripts/deps test")
    if "PEERS_FAULTS_INSIDE" not in os.environ:
        inside = 'ip link set lo up && PEERS_FAULTS_INSIDE=1 exec "$@"'
        again = [sys.executable, "-m", "benchmarks.peers_faults", *sys.argv[1:]]
        os.execvp("unshare", ["unshare", "--net", "--mount", "--", "sh", "-c", inside, "sh", *again])
    names = [kind.name for kind in SERVERS]
    print(f"acknowledged / kept / lost\n\n| fault | {' | '.join(names)} |\n|---|---|---|---|", flush=True)
    figures: dict[str, dict[str, str]] = {}
    with tempfile.TemporaryDirectory(prefix="peers-study-") as name:
        study = save_all(ct_series(OBJECTS, 128, 128, seed=7), Path(name))
        for fault, run in FAULTS.items():
            if options.only in fault:
                figures[fault] = {kind.name: _tried(run, kind, study) for kind in SERVERS}
                print(f"| {fault} | {' | '.join(figures[fault].values())} |", flush=True)
    print("\n" + "\n".join(f"{kind.name}: {kind.settings}" for kind in SERVERS))
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1) + "\n")


def _tried(run: Callable[[type[Server], Sequence[Path], Path], Row], kind: type[Server], study: list[Path]) -> str:
    with tempfile.TemporaryDirectory(prefix="peers-") as name:
        return run(kind, study, Path(name)).text


if __name__ == "__main__":
    main()
