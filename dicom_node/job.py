"""The analyse stage: a Plan becomes a job folder, an executor runs it, and its exit status decides what comes next."""

import logging
import shutil
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from weakref import WeakValueDictionary

from pydantic import ValidationError

from analysis.contract import (
    FEATURES_FILE,
    JOB_FILE,
    MASK_FILE,
    PICTURES_FILE,
    REASONS,
    RESULT_FILE,
    TIMING_FILE,
    BundleIdentity,
    ClinicalValue,
    CtInput,
    ExitCode,
    FailureReason,
    JobRequest,
    JobResult,
    Outcome,
    QualityFlag,
    RoiInput,
    Severity,
)
from config.settings import Job
from dicom_node.decision import ChosenBy, NotEligible, Plan
from dicom_node.executors import harvest, process
from dicom_node.executors.ahead import AheadExecutor
from dicom_node.executors.choice import chosen
from dicom_node.executors.contract import GOLDEN_SECONDS, Executor, NotStarted
from dicom_node.spool import Spool, link_or_copy, write_atomically
from dicom_node.workitem import EngineDown, Permanent, Retryable, StageError, TwinAtWork
from models.bundle import Bundle, is_unchanged

LOGGER = logging.getLogger(__name__)
TWIN_SECONDS = 120.0  # that a thread waits for the end of a job of the same content; a part of turns.MARGIN_SECONDS
MAXIMUM_RESULT_BYTES = 16_777_216  # a real result.json has about 60 KB
MAXIMUM_PROMISED_BYTES = 268_435_456  # of each other file; the mask and the pictures have a few MB
CHANGED = "the folder of the bundle in force holds something else since it was loaded"
MEND = "reload or restart what runs the jobs, to take what is there now; or put back what was there"
PROMISED = (FEATURES_FILE, MASK_FILE, PICTURES_FILE, TIMING_FILE)
_TRY_AGAIN = frozenset({ExitCode.TEMPORARY, 125, 128 + 9, 128 + 15, 128 + 24, -9, -15, -24})


class Runner:
    """Runs jobs with one bundle, also from several threads. `executor` says what confines them here."""

    def __init__(self, spool: Spool, limits: Job, bundle: Bundle) -> None:
        """Raises Permanent where isolation is required but not to be had, or the executor cannot work here."""
        self._spool, self._bundle = spool, bundle
        self._naming = threading.Lock()
        self._alone: WeakValueDictionary[str, threading.Lock] = WeakValueDictionary()  # by key, while one runs
        self.executor = executor_of(limits, spool.root)
        lacking = ", ".join(self.executor.missing)
        if limits.isolation == "required" and lacking:
            raise _failed(FailureReason.JOB_NOT_ISOLATED, f"job isolation is required but not to be had: {lacking}")
        if lacking:
            LOGGER.warning("job.not_isolated jobs run without: %s", lacking)

    def analyse(
        self,
        key: str,
        plan: Plan,
        clinical: tuple[ClinicalValue, ...],
        path_of: Callable[[str], Path],
        quality: tuple[QualityFlag, ...] = (),
        bundle: Bundle | None = None,
    ) -> JobResult:
        """Run the job of a plan and keep its results in the spool; with `bundle`, where it is not the runner's own.

        Raises
        ------
        EngineDown
            No job can be started, or the bundle's folder does not hold any more what was loaded.
        TwinAtWork
            A job of the same content has not ended within TWIN_SECONDS.
        Retryable
            The job was killed, ran out of time, or says that it may pass.
        Permanent
            The job broke its promise (bug, unreadable input, bundle mismatch).
        """
        bundle = bundle or self._bundle
        names = tuple(self._spool.ct_name(position) for position in range(len(plan.ct_sop_instance_uids)))
        inputs = {f"ct/{name}": path_of(uid) for name, uid in zip(names, plan.ct_sop_instance_uids, strict=True)}
        inputs["roi/roi.dcm"] = path_of(plan.roi_sop_instance_uid)
        request = JobRequest(
            key=key,
            ct=CtInput(files=names),
            roi=RoiInput(kind=plan.roi_kind, file="roi.dcm", numbers=plan.roi_numbers, combine=plan.combine),
            clinical=clinical,
            quality=_planner_flags(plan) + quality,
            bundle_digest=bundle.digest,
        )
        with self._naming:
            alone = self._alone.setdefault(key, threading.Lock())
        # A rescore during a job makes another work item of the same content, and so of the same folder.
        if not alone.acquire(timeout=TWIN_SECONDS):
            raise TwinAtWork("a job of the same content runs", "wait: it is tried again by itself")
        try:
            return self._run(request, inputs, bundle)
        except (Permanent, OSError) as error:
            if is_unchanged(bundle):
                raise
            raise EngineDown(f"{bundle.folder}: {CHANGED}", MEND) from error  # not the study's fault
        finally:
            alone.release()

    def _run(self, request: JobRequest, inputs: Mapping[str, Path], bundle: Bundle) -> JobResult:
        folder_in, folder_out = self._lay_out(request, inputs, bundle)
        try:
            ended = self.executor.run(folder_in, folder_out, request.key)
        except NotStarted as error:
            text = f"the job could not be started ({error})"
            raise _failed(FailureReason.JOB_NOT_STARTED, text, EngineDown) from error
        if ended.broke:
            raise _failed(FailureReason.JOB_FAILED, f"the job {ended.broke}")
        result = classify(ended.exit_code, folder_out, request.key)
        with self._spool.replace_results(request.key, "analysis") as folder:
            self._take(folder_out, folder)
        process.remove(self._spool.job(request.key))
        return result

    def _take(self, folder_out: Path, folder: Path) -> None:
        """Copy what is promised, as far as the job has left it, and nothing that is no plain file of its own."""
        try:
            for name in (*PROMISED, RESULT_FILE):
                harvest.take(folder_out, name, MAXIMUM_PROMISED_BYTES, folder / name)
        except harvest.Unfit as error:
            raise _failed(FailureReason.JOB_FAILED, f"the job's result is not taken: {error}") from None

    @property
    def ahead(self) -> AheadExecutor | None:
        """The executor, where it can start a job's process before there is a job."""
        return self.executor if isinstance(self.executor, AheadExecutor) and self.executor.can else None

    def state_not_eligible(self, key: str, refusal: NotEligible, bundle: Bundle | None = None) -> JobResult:
        """What the planner refused needs no job: the refusal itself is the result."""
        result = JobResult(
            key=key,
            outcome=Outcome.NOT_SCORED,
            reason=refusal.reason,
            reason_detail=refusal.detail,
            bundle=BundleIdentity(**(bundle or self._bundle).identity._asdict()),
        )
        with self._spool.replace_results(key, "analysis") as folder:
            write_atomically(folder / RESULT_FILE, result.model_dump_json(indent=1).encode())
        return result

    def _lay_out(self, request: JobRequest, inputs: Mapping[str, Path], bundle: Bundle) -> tuple[Path, Path]:
        process.remove(self._spool.job(request.key))  # what an earlier attempt left
        folder_in, folder_out = self._spool.fresh_job(request.key)
        # What cannot be mounted read-only is copied: a job must not change what was received.
        place = link_or_copy if self.executor.read_only else shutil.copyfile
        for name, path in inputs.items():
            place(path, folder_in / name)
        (folder_in / "bundle").mkdir()
        for path in bundle.folder.iterdir():
            place(path, folder_in / "bundle" / path.name)
        (folder_in / JOB_FILE).write_bytes(request.model_dump_json(indent=1).encode())  # a power cut: laid out anew
        return folder_in, folder_out


def _planner_flags(plan: Plan) -> tuple[QualityFlag, ...]:
    found = []
    if plan.chosen_by is not ChosenBy.NAME:
        text = (
            "Check that this is the tumour: its name is none of the site's tumour names; it was taken"
            f" {'for its type' if plan.chosen_by is ChosenBy.TYPE else 'as the only one of its object'}"
        )
        if plan.chosen_by is ChosenBy.AROUND:
            text = "Check that this is the tumour: its name speaks of a margin, or of what lies around a tumour"
        found.append(QualityFlag(code="ROI_NOT_NAMED_AS_TUMOUR", severity=Severity.WARNING, text=text))
    if plan.absent:
        text = f"None of the {plan.absent} images that the contour lists is here; the series that it names was used"
        found.append(QualityFlag(code="REFERENCED_IMAGES_ABSENT", severity=Severity.WARNING, text=text))
    return tuple(found)


def classify(exit_code: int | None, folder_out: Path, key: str) -> JobResult:
    """Exit status and result.json -> the result, or the decision as an exception. Pure but for reading the file."""
    if exit_code is None:
        raise _failed(FailureReason.JOB_OUT_OF_TIME, "the job ran out of wall-clock time", Retryable)
    if exit_code in _TRY_AGAIN:
        text = f"the job ended with status {exit_code} (killed, or out of memory or disk)"
        raise _failed(FailureReason.JOB_KILLED, text, Retryable)
    if exit_code in (126, 127):
        raise _failed(FailureReason.JOB_NOT_STARTED, "the job could not be started", EngineDown)
    if exit_code == ExitCode.CONFIG:
        raise _failed(FailureReason.BUNDLE_MISMATCH, "the bundle or its schema does not fit this version")
    if exit_code in (ExitCode.DATA_ERROR, ExitCode.NO_INPUT):
        raise _failed(FailureReason.JOB_INPUT_UNREADABLE, "the job could not read its input")
    if exit_code != ExitCode.OK:
        raise _failed(FailureReason.JOB_FAILED, f"the job failed with status {exit_code}")
    try:
        result = JobResult.model_validate_json(harvest.read(folder_out, RESULT_FILE, MAXIMUM_RESULT_BYTES) or b"")
    except (OSError, ValidationError, harvest.Unfit) as error:
        why = str(error) if isinstance(error, harvest.Unfit) else type(error).__name__
        text = f"the job ended well but its result is not valid ({why})"
        raise _failed(FailureReason.JOB_FAILED, text) from None
    if result.key != key:
        raise _failed(FailureReason.JOB_FAILED, "the job's result belongs to another work item")
    return result


def _failed(code: FailureReason, text: str, kind: type[StageError] = Permanent) -> StageError:
    """The exception for a code of the table, with its remedy; the text has the figures."""
    return kind(text, REASONS[code].remedy, code)


def verify_golden(bundle: Bundle, executor: Executor) -> str:
    """Run the bundle's golden case as a job would be run; gives a sentence.

    Raises
    ------
    EngineDown
        No job can be started, or the case came to no answer: killed or too slow today, it may pass the next time.
    Permanent
        The bundle says other numbers here than on the machine that trained it, or cannot be read.
    """
    seconds = max(GOLDEN_SECONDS, executor.limits.wall_clock_seconds)
    try:
        code, said = executor.ask("analysis.golden", bundle.folder.resolve(), seconds)
    except NotStarted as error:
        raise _failed(FailureReason.JOB_NOT_STARTED, f"the golden case waits ({error})", EngineDown) from error
    if code == ExitCode.OK:
        return said
    if code is None:
        text = f"the golden case waits (it did not end within {seconds:.0f} s)"
        raise _failed(FailureReason.JOB_NOT_STARTED, text, EngineDown)
    last = (said.splitlines()[-1:] or ["it said nothing"])[0]
    if code != ExitCode.CONFIG:
        text = f"the golden case waits (it ended with status {code}: {last})"
        raise _failed(FailureReason.JOB_NOT_STARTED, text, EngineDown)
    raise _failed(FailureReason.BUNDLE_GOLDEN_CASE_FAILED, f"the bundle's golden case failed: {last}")


def executor_of(limits: Job, place: Path | None = None) -> Executor:
    """The executor of the settings, for the node of that spool. Raises EngineDown where no job can be started."""
    try:
        return chosen(limits, place)
    except NotStarted as error:
        raise _failed(FailureReason.JOB_NOT_STARTED, f"no job can be started ({error})") from error


def run_tool(module: str, arguments: list[str]) -> int:
    """Run a command-line tool of the analysis package (`analysis.train`) as a child; gives its exit status."""
    return process.run_module(module, arguments)
