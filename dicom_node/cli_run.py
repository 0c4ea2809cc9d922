"""The commands that are services: `prognode serve`, `receive`, `work` and `run`. Heavy imports inside."""

import logging
import os
import sys
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NoReturn, Protocol

import typer

from config.settings import Settings
from dicom_node import notify
from dicom_node.cli_common import Config, log, settings_of, stop, stop_for_port
from dicom_node.cli_models import bundles_of

if TYPE_CHECKING:
    from dicom_node.reload import Reloadable
    from dicom_node.spool import Spool

    class Part(notify.Part, Reloadable, Protocol):
        """A part of a process that is started and stopped, and goes on with other settings."""

        def start(self) -> None: ...

        def stop(self) -> None: ...


LOGGER = logging.getLogger(__name__)
Process = Literal["serve", "receive", "work", "run"]
GIVES_WAY = 5  # niceness; the jobs have 10 more


def add_to(app: typer.Typer) -> None:
    """Add the commands to the program."""
    for command in (serve, receive, work, run):
        app.command()(command)


def serve(config: Config = None) -> None:
    """Receive and work in one process: the embedded default.

    Example: prognode serve --config /etc/prognode/prognode.toml
    """
    _run(config, "serve")


def receive(config: Config = None) -> None:
    """Only receive: C-STORE, C-ECHO, storage commitment reports, and HL7 messages where [hl7] listen is on.

    Example: prognode receive --config /etc/prognode/prognode.toml
    """
    _run(config, "receive")


def work(
    config: Config = None,
    jobs: Annotated[bool, typer.Option("--jobs/--without-jobs", help="Run the jobs here, or in prognode run.")] = True,
) -> None:
    """Only work: plan, analyse, report and deliver what has been received.

    Example: prognode work --without-jobs --config /etc/prognode/prognode.toml
    """
    _run(config, "work", jobs=jobs)


def run(config: Config = None) -> None:
    """Only run the jobs of what is planned: the one process that starts others, and needs no network.

    Example: prognode run --config /etc/prognode/prognode.toml
    """
    _run(config, "run")


def _run(config: Path | None, process: Process, *, jobs: bool = True) -> None:
    """One process of the node, until a signal. `jobs`: whether it runs them, where it works."""
    from config.effective import not_there
    from dicom_node.keeper import on_record
    from dicom_node.reload import Reloader
    from dicom_node.spool import Spool
    from dicom_node.telemetry import traced
    from dicom_node.workitem import ConfigError, StageError

    notify.hear_hang_ups()
    if process in ("work", "run"):  # a sender waits for each answer of the receiver; a report can wait
        with suppress(OSError):  # under systemd, where the weights of the units say it
            os.nice(GIVES_WAY)
    settings = settings_of(config)
    log(settings=settings)
    for key, path in not_there(settings):
        LOGGER.warning("settings.file_missing %s: %s is not there, or not to be read", key, path)
    spool = Spool(settings.node.spool)
    try:
        _make(spool)
        with ExitStack() as running:
            running.enter_context(traced(settings, process))
            running.enter_context(on_record(settings, spool, process, forwards=process in ("serve", "work")))
            parts = _parts(settings, spool, process, jobs=jobs)
            for part in parts:
                part.start()
                running.callback(part.stop)
            if process in ("serve", "receive"):
                receiver: Any = parts[0]
                where = f"{receiver.host}:{receiver.port}"
                print(f"prognode: listening as {settings.node.ae_title} on {where}", flush=True)
            for name in notify.unused():
                LOGGER.warning(
                    "socket.unused systemd has passed %s, which the settings do not open; see the unit", name
                )
            reloader = Reloader(config, settings, spool, process, parts)
            running.callback(reloader.end)  # before a part is stopped
            notify.pulse_until_signal(parts, reloader.reload)
            for error in filter(None, (getattr(part, "unfit", None) for part in parts)):
                raise error
        _end()
    except (StageError, ConfigError) as error:
        stop(f"{error} {getattr(error, 'hint', '')}".strip(), os.EX_CONFIG)
    except OSError as error:
        if error.filename:
            stop(f"{error.filename}: {error.strerror}", os.EX_CANTCREAT)
        from dicom_node.check_machine import of_receiver

        stop_for_port(error, *of_receiver(settings))


def _make(spool: "Spool") -> None:
    try:
        spool.create()
    except OSError as error:
        stop("; ".join(spool.why_not(error)), os.EX_CANTCREAT)


def _parts(settings: Settings, spool: "Spool", process: Process, *, jobs: bool) -> "list[Part]":
    """What the process consists of, in the order of starting: all is made before anything is started.

    The ports come first: a node that cannot be called must not begin to work.
    """
    working = _working(settings, spool, process, jobs=jobs)
    parts: list[Part] = []
    if process in ("serve", "receive"):
        from dicom_node.receive import Receiver

        parts.append(Receiver(settings, spool))
        if settings.hl7.listen:
            from dicom_node.hl7_in import Listener

            parts.append(Listener(settings, spool))
    return [*parts, *working]


def _working(settings: Settings, spool: "Spool", process: Process, *, jobs: bool) -> "list[Part]":
    if process == "receive":
        return []
    bundles = bundles_of(settings)
    runner = None
    if process != "work" or jobs:
        from dicom_node.job import Runner

        runner = Runner(spool, settings.job, bundles.own)
    if process == "run":
        from dicom_node.analyst import RunnerProcess

        assert runner is not None
        return [RunnerProcess(settings, spool, bundles, runner)]
    from dicom_node.worker import Worker

    return [Worker(settings, spool, bundles, runner, prove=True)]


def _end() -> NoReturn:
    """Leave at once: all of ours is closed, and a peer that stopped in mid-sentence must not keep its thread alive."""
    logging.shutdown()
    sys.stdout.flush()
    os._exit(os.EX_OK)
