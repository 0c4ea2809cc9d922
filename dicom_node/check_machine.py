"""`prognode check` on the machine: ports, spool and disk, how long a flush takes, and whether the clock is right."""

import ctypes
import errno
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from config.settings import Settings
from dicom_node import probes
from dicom_node.finding import Finding
from dicom_node.local_time import go_by, local
from dicom_node.spool import Spool
from dicom_node.store import Store
from dicom_node.vitals import PARTS, Component
from dicom_node.watermark import room
from dicom_node.workitem import ConfigError, StageError

# SQLite's write-ahead log needs memory shared by all processes that use it, which these do not have.
FOREIGN = frozenset({"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "fuse.sshfs", "fuse.glusterfs", "ceph"})
SLOW_FLUSH_SECONDS = 0.5
FLUSHES, FLUSHED_BYTES = 5, 524_288
PAGE = "the page"
TIME_ERROR = 5  # adjtimex(2): the clock is not synchronized


def spool(settings: Settings) -> Iterator[Finding]:
    """Whether the spool can be used, what is free, and what its disk is worth."""
    folder, made = settings.node.spool, Spool(settings.node.spool)
    try:
        there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
        with tempfile.TemporaryDirectory(dir=there):  # a mount may refuse what the mode allows
            pass
        if made.store.is_file():
            Store.open(made.store).close()
    except OSError as error:
        yield Finding("machine.spool", False, *made.why_not(error))
        return
    except (ConfigError, StageError) as error:
        text, _, remedy = f"{error}; {getattr(error, 'hint', '')}".partition("; ")
        yield Finding("machine.spool", False, f"{folder}: {text}", remedy.strip("; "))
        return
    mode = folder.stat().st_mode & 0o077 if there == folder else 0
    yield Finding(
        "machine.spool",
        not mode,
        f"{folder} can be written" if there == folder else f"{folder} is not there yet; the node makes it",
        "" if not mode else f"chmod 0700 {folder}: others can read it",
    )
    yield _disk(there, settings)
    yield _file_system(there)
    yield _flush(there)


def _disk(there: Path, settings: Settings) -> Finding:
    disk = room(there, settings)
    to_do = "free some space, or shorten the days in [storage]; what lies there: prognode storage"
    return Finding(
        "machine.disk",
        not disk.low,
        f"{disk.free / 1e9:.1f} GB free; warned below {disk.warn / 1e9:.1f} GB, "
        f"nothing more is taken below {disk.refuse / 1e9:.1f} GB",
        f"{to_do}{'; C-STORE is answered with A700 until then' if disk.full else ''}" if disk.low else "",
    )


def _file_system(there: Path) -> Finding:
    kind = kind_of(there, Path("/proc/self/mounts").read_text("utf-8", "replace"))
    foreign = kind in FOREIGN
    text = f"{kind}: its files are on another machine, and the store cannot be relied on there" if foreign else kind
    return Finding("machine.file_system", not foreign, text, "put [node] spool on a local disk" if foreign else "")


def kind_of(path: Path, mounts: str) -> str:
    """The kind of file system that a path is on, by what /proc/self/mounts says.

    >>> kind_of(Path("/srv/spool"), "a / ext4 rw 0 0\\nb:/x /srv nfs4 rw 0 0\\nc /srv/other xfs rw 0 0")
    'nfs4'
    """
    fields = [line.split() for line in mounts.splitlines()]
    places = [(Path(one[1].replace("\\040", " ")), one[2]) for one in fields if len(one) > 2]
    whole = path.absolute()
    inside = [(len(place.parts), number) for number, (place, _) in enumerate(places) if whole.is_relative_to(place)]
    return places[max(inside)[1]][1] if inside else "unknown"


def _flush(there: Path) -> Finding:
    """What each object waits for before its sender has its success. The file has no name, and is gone at the end."""
    took = []
    try:
        with tempfile.TemporaryFile(dir=there) as file:
            for _ in range(FLUSHES):
                file.write(bytes(FLUSHED_BYTES))
                file.flush()
                begin = time.perf_counter()
                os.fsync(file.fileno())
                took.append(time.perf_counter() - begin)
    except OSError as error:
        return Finding("machine.flush", False, f"{there}: {error.strerror}", "look at the disk and its file system")
    usual = sorted(took)[FLUSHES // 2]
    slow = usual > SLOW_FLUSH_SECONDS
    return Finding(
        "machine.flush",
        not slow,
        f"{usual * 1000:.1f} ms for half a megabyte",
        "each object waits for it: put [node] spool on a faster disk" if slow else "",
    )


def clock() -> Finding:
    """The kernel's own word, as timedatectl has it; nothing in DICOM tells the time of a peer."""
    buffer = ctypes.create_string_buffer(256)  # struct timex with modes = 0: nothing is set
    state = ctypes.CDLL(None, use_errno=True).adjtimex(buffer)
    moment = time.strftime("%Y-%m-%d %H:%M:%S %Z")
    if state < 0:
        return Finding("machine.clock", True, f"{moment}; the kernel does not say whether it is synchronized")
    if state != TIME_ERROR:
        return Finding("machine.clock", True, f"{moment}, synchronized")
    text = f"{moment}, not synchronized with a time server by this system"
    remedy = "let systemd-timesyncd or chrony run, unless the machine below sets this one's clock: reports go by it"
    return Finding("machine.clock", True, text, remedy)


def ports(settings: Settings) -> Iterator[Finding]:
    """Whether each port can be opened, or who has it."""
    for name, host, port, key in (*of_receiver(settings), (PAGE, settings.web.host, settings.web.port, "[web] port")):
        yield from _port(name, host, port, key, settings)


def of_receiver(settings: Settings) -> Iterator[tuple[str, str, int, str]]:
    """Name, host, port and setting of each port that the receiver opens."""
    node, tls, hl7 = settings.node, settings.tls, settings.hl7
    if tls.listen != "only":
        yield "DICOM", node.host, node.port, "[node] port"
    if tls.listen != "off":
        yield "DICOM over TLS", node.host, tls.port, "[tls] port"
    if hl7.listen:
        yield "HL7", hl7.host, hl7.port, "[hl7] port"


def _port(name: str, host: str, port: int, key: str, settings: Settings) -> Iterator[Finding]:
    if not port:  # any that is free
        return
    where, why = f"{host}:{port}", probes.why_no_port(host, port)
    if why is None:
        yield Finding("node.port", True, f"{where} is free: the node can open it", about=name)
    elif why.errno == errno.EADDRINUSE and _is_ours(name, host, port, settings):
        yield Finding("node.port", True, f"{where} is open, by this node", about=name)
    elif why.errno == errno.EADDRINUSE:
        remedy = f"start the node, where its .socket unit has the port; else {probes.port_remedy(why, key)}"
        yield Finding("node.port", False, f"{where} is in use, and this node is not heard there", remedy, name)
    elif why.errno in (errno.EACCES, errno.EPERM):
        remedy = f"where a .socket unit opens it, all is well; else set {key} to one above 1023"
        yield Finding("node.port", True, f"{where}: this user may not open a port below 1024", remedy, name)
    else:
        yield Finding("node.port", False, f"{where}: {why.strerror}", probes.port_remedy(why, key), name)


def _is_ours(name: str, host: str, port: int, settings: Settings) -> bool:
    """The page is asked; of the receiver, the store knows."""
    if name == PAGE:
        return probes.is_page(host, port, tls=settings.web.certificate is not None)
    return "receive" in _said(settings)[0]


def running(settings: Settings) -> Iterator[Finding]:
    """What the node's processes say of themselves: that they run, jobs that wait, and settings that were refused."""
    go_by(settings.node.time_zone)
    yield from _processes(settings)
    alive, refusals = _said(settings)
    if "run" in alive:
        waits = str(alive["run"].facts.get("waits", ""))
        why, _, remedy = waits.partition("; ")
        yield Finding("node.jobs", not waits, f"none can be started: {why}" if waits else "can be started", remedy)
    for process, why in refusals.items():
        remedy = "correct it and reload again (systemctl reload); until then the settings from before are in force"
        yield Finding("node.settings", False, f"its last reload was refused: {why}", remedy, process)


def _processes(settings: Settings) -> Iterator[Finding]:
    """Each that has run with this spool: when it was last heard of; the page, which says nothing, is asked."""
    vitals, now, web = _vitals(settings), time.time(), settings.web
    known = {one.component: one for one in vitals.components} if vitals else {}
    if not known:
        yield Finding("node.process", True, "none has run with this spool yet")
    for name in PARTS if known else ():
        if name not in known:
            remedy = f"start it, or prognode serve: nobody {_DOES[name]}"
            yield Finding("node.process", True, "has not run with this spool yet", remedy, name)
        else:
            said = (
                f"heard of {max(0, round(now - known[name].seen_at))} s ago, runs since {_day(known[name].started_at)}"
            )
            yield _process(name, known[name], said if known[name].alive(now) else "")
    if vitals and vitals.page and web.port:
        answers = probes.is_page(web.host, web.port, tls=web.certificate is not None)
        said = f"answers, runs since {_day(vitals.page.started_at)}"
        yield _process("web", vitals.page, said if answers else "")


_DOES = {"receive": "takes what is sent", "work": "plans, reports and delivers", "run": "runs the jobs"}


def _process(name: str, one: Component, well: str) -> Finding:
    if well:
        return Finding("node.process", True, well, about=name)
    if one.ended_at is not None:
        text = f"does not run: it was stopped {_day(one.ended_at)}"
        return Finding(
            "node.process", True, text, f"start it: systemctl start prognode-{name}, or prognode {name}", name
        )
    text = f"is not heard of since {_day(one.seen_at)}, and nobody has stopped it"
    if one.gone:
        text = f"has ended without a word, last heard of {_day(one.seen_at)}"
    remedy = f"see why it ended (its log; systemctl status prognode-{name}), and start it"
    return Finding("node.process", False, text, remedy, name)


def _day(seconds: float) -> str:
    return f"{local(seconds):%Y-%m-%d %H:%M:%S %Z}"


class _Vitals(NamedTuple):
    components: list[Component]
    page: Component | None
    refusals: dict[str, str]


def _vitals(settings: Settings) -> _Vitals | None:
    """What the store has of the processes; None where there is no store that can be read."""
    path = Spool(settings.node.spool).store
    if not path.is_file():
        return None
    try:
        store = Store.open(path)
    except (StageError, ConfigError):  # said of the spool already
        return None
    found = _Vitals(store.vitals.components(), store.vitals.page(), store.vitals.refusals())
    store.close()
    return found


def _said(settings: Settings) -> tuple[dict[str, Component], dict[str, str]]:
    """The processes that are alive, and refused settings by process, as the store has them."""
    found, now = _vitals(settings), time.time()
    if found is None:
        return {}, {}
    return {one.component: one for one in found.components if one.alive(now)}, found.refusals
