"""Which executor the settings name."""

from config.settings import Job
from dicom_node.executors.contract import Executor
from dicom_node.executors.process import ProcessExecutor


def chosen(limits: Job) -> Executor:
    """The executor of the settings, tried here: what it can promise on this machine is known. Raises NotStarted."""
    if limits.executor == "dask":
        from dicom_node.executors.dask import DaskExecutor  # noqa: PLC0415 - who has no cluster has no Dask

        return DaskExecutor(limits)
    return ProcessExecutor(limits)
