"""Which executor the settings name."""

from pathlib import Path

from config.settings import Job
from dicom_node.executors.ahead import AheadExecutor
from dicom_node.executors.container import ContainerExecutor
from dicom_node.executors.contract import Executor
from dicom_node.executors.process import ProcessExecutor
from dicom_node.executors.systemd import SystemdExecutor


def chosen(limits: Job, place: Path | None = None) -> Executor:
    """The executor of the settings, tried here: what it can promise on this machine is known. Raises NotStarted.

    `place` is the node's spool, where there is one.
    """
    if limits.executor == "container":
        return ContainerExecutor(limits, place)
    if limits.executor == "systemd":
        return SystemdExecutor(limits, place)
    if limits.executor == "dask":
        from dicom_node.executors.dask import DaskExecutor  # noqa: PLC0415 - who has no cluster has no Dask

        return DaskExecutor(limits)
    return ProcessExecutor(limits) if place is None else AheadExecutor(limits, place / "jobs")
