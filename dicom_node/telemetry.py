"""OpenTelemetry traces, where `[telemetry] traces_endpoint` asks for them: a span for each stage of a work item.

Nothing is imported and nothing costs anything while it is off. The trace of a work item has an ID derived from its key:
the spans of all processes and attempts are one trace. Attributes: key, mark of the study, attempt, stage, destination;
never a name, a UID or an exception's text.
"""

import hashlib
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from config.identity import VERSION
from config.settings import Settings
from dicom_node.logs import mark_of
from dicom_node.workitem import ConfigError

LOGGER = logging.getLogger(__name__)
EXPORT_SECONDS = 3.0  # for one export and its tries again; a collector that is away holds no process longer at its end
_tracing: "list[_Tracing]" = []  # at most one: of this process


class _Once:
    """An exporter whose failures are told once, until it works again."""

    def __init__(self, exporter: Any, endpoint: str) -> None:
        self._exporter, self._endpoint, self._away = exporter, endpoint, False
        self.shutdown, self.force_flush = exporter.shutdown, exporter.force_flush

    def export(self, spans: Any) -> Any:
        result = self._exporter.export(spans)
        away = result.name != "SUCCESS"
        if away and not self._away:
            LOGGER.warning("telemetry.unavailable %s does not take traces; they are dropped", self._endpoint)
        elif self._away and not away:
            LOGGER.info("telemetry.available traces are sent again")
        self._away = away
        return result


class _Tracing:
    """The exporter of a process; made only where it is wanted."""

    def __init__(self, settings: Settings, process: str) -> None:
        # PLC0415: an optional extra, imported only where traces are wanted.
        try:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415
            from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
            from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
            from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415
        except ImportError:
            raise ConfigError(
                '[telemetry] traces_endpoint needs the extra "otel": pip install "prognode[otel]", or leave it out'
            ) from None
        wanted = settings.telemetry
        ca = str(wanted.traces_ca) if wanted.traces_ca else None
        # Resource(...) and not Resource.create: that one would add the command line and the host's name.
        about = {"service.name": "prognode", "service.version": VERSION, "service.instance.id": settings.node.ae_title}
        self.provider = TracerProvider(
            resource=Resource({**about, "prognode.process": process}), shutdown_on_exit=False
        )
        exporter = OTLPSpanExporter(endpoint=wanted.traces_endpoint, certificate_file=ca, timeout=EXPORT_SECONDS)
        told_once: Any = _Once(exporter, wanted.traces_endpoint)
        self.provider.add_span_processor(BatchSpanProcessor(told_once))
        logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)  # it says each failure; we say it once
        self.tracer = self.provider.get_tracer("prognode", VERSION)

    def begin(self, stage: str, key: str, attributes: dict[str, Any], began: int | None = None) -> Any:
        """A span of the trace of the work item with this key. `began`: nanoseconds since the epoch."""
        from opentelemetry.trace import (  # noqa: PLC0415
            NonRecordingSpan,
            SpanContext,
            SpanKind,
            TraceFlags,
            set_span_in_context,
        )

        trace_id, parent_id = ids_of(key)
        parent = SpanContext(trace_id, parent_id, is_remote=True, trace_flags=TraceFlags(TraceFlags.SAMPLED))
        within = set_span_in_context(NonRecordingSpan(parent))
        kind = SpanKind.CLIENT if stage == "deliver" else SpanKind.INTERNAL
        return self.tracer.start_span(stage, within, kind, attributes, start_time=began)

    def end(self) -> None:
        """Send what is left, and stop. (`shutdown` alone does not send it.)"""
        self.provider.force_flush(int(EXPORT_SECONDS * 1000))
        self.provider.shutdown()


def ids_of(key: str) -> tuple[int, int]:
    """Trace ID and the ID of the (unsent) root span of a work item, from its key: the same in every process."""
    digest = hashlib.sha256(f"trace of {key}".encode()).digest()
    return int.from_bytes(digest[:16], "big"), int.from_bytes(digest[16:24], "big")


@contextmanager
def traced(settings: Settings, process: str) -> Iterator[None]:
    """Around the life of a process. Raises ConfigError where traces are wanted and the extra is not installed."""
    if not settings.telemetry.traces_endpoint:
        yield
        return
    tracing = _Tracing(settings, process)
    _tracing.append(tracing)
    try:
        yield
    finally:
        _tracing.remove(tracing)
        tracing.end()


@contextmanager
def stage(name: str, key: str, study_instance_uid: str, **attributes: str | int) -> Iterator[None]:
    """A span around one turn of a stage with one work item; an exception marks it as failed, by its type alone."""
    if not _tracing:
        yield
        return
    span = _tracing[-1].begin(name, key, _attributes(name, key, study_instance_uid, attributes))
    try:
        yield
    except BaseException as error:
        _failed(span, error)
        raise
    finally:
        span.end()


def done(name: str, key: str, study_instance_uid: str, seconds: float, **attributes: str | int) -> None:
    """A span of something that has just ended and took so long: its work item was not known before."""
    if _tracing:
        now = time.time_ns()
        every = _attributes(name, key, study_instance_uid, attributes)
        _tracing[-1].begin(name, key, every, now - int(seconds * 1e9)).end(now)


def _attributes(name: str, key: str, study: str, more: dict[str, str | int]) -> dict[str, str | int]:
    found = {"prognode.stage": name, "prognode.work_item": key[:12], "prognode.study": mark_of(study)}
    return {**found, **{f"prognode.{word}": value for word, value in more.items()}}


def _failed(span: Any, error: BaseException) -> None:
    from opentelemetry.trace import Status, StatusCode  # noqa: PLC0415

    span.set_status(Status(StatusCode.ERROR))
    span.set_attribute("error.type", type(error).__name__)  # its text may quote a header
