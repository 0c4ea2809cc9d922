"""Traces: real spans at a real collector over OTLP/HTTP, without a name in them; and nothing at all while it is off."""

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from config.settings import Peer, Settings, Telemetry
from dicom_node import telemetry
from dicom_node.demo_pacs import DemoPacs
from dicom_node.logs import mark_of
from dicom_node.workitem import ConfigError
from tests.road import road
from tests.synthetic import ct_series, drop_slice, rtstruct


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(telemetry, "EXPORT_SECONDS", 60.0)  # what is not sent within three is let go


@contextmanager
def collector() -> Iterator[tuple[str, list[Any]]]:
    """An OTLP/HTTP endpoint, and the requests that it has got, decoded."""
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    got: list[Any] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            request = ExportTraceServiceRequest()
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.headers.get("Content-Encoding") == "gzip":
                import gzip

                body = gzip.decompress(body)
            request.ParseFromString(body)
            got.append(request)
            self.send_response(200 if self.path == "/v1/traces" else 404)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1/traces", got
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def traced(endpoint: str) -> Iterator[None]:
    with telemetry.traced(Settings(telemetry=Telemetry(traces_endpoint=endpoint)), "work"):
        yield


def spans_of(requests: list[Any]) -> list[Any]:
    scopes = [scope for one in requests for part in one.resource_spans for scope in part.scope_spans]
    return [span for scope in scopes for span in scope.spans]


def attributes_of(span: Any) -> dict[str, Any]:
    return {one.key: one.value.string_value or one.value.int_value for one in span.attributes}


def test_the_stages_of_a_work_item_are_one_trace_at_the_collector_and_hold_no_name(tmp_path: Path) -> None:
    # A slice is missing: the same stages, and no job.
    ct = drop_slice(ct_series(12, seed=5, PatientName="Secret^Name", PatientID="SECRET1"))
    with DemoPacs(tmp_path / "pacs") as pacs, collector() as (endpoint, got):
        peer = Peer(pacs.ae_title, pacs.host, pacs.port, receives_results=True)
        settings = Settings(telemetry=Telemetry(traces_endpoint=endpoint))
        with telemetry.traced(settings, "serve"):
            made = road(tmp_path, peers=(peer,))
            made.take(*ct, rtstruct(ct))
            made.work()
            made.later(60.0)  # so long a contour waits for an image that it names

    spans = spans_of(got)
    (item,) = made.items
    assert {span.name for span in spans} == {"plan", "analyse", "report", "deliver"}
    assert {span.trace_id for span in spans} == {telemetry.ids_of(item.key or "")[0].to_bytes(16, "big")}
    assert {span.parent_span_id for span in spans} == {telemetry.ids_of(item.key or "")[1].to_bytes(8, "big")}
    for span in spans:
        said = attributes_of(span)
        assert said["prognode.work_item"] == (item.key or "")[:12]
        assert said["prognode.study"] == mark_of(item.study_instance_uid)
        assert span.end_time_unix_nano >= span.start_time_unix_nano > 0
    assert {attributes_of(span)["prognode.destination"] for span in spans if span.name == "deliver"} == {peer.ae_title}
    told = b"".join(one.SerializeToString() for one in got)
    for secret in ("Secret", "SECRET1", item.study_instance_uid, str(tmp_path), sys.argv[0]):
        assert secret.encode() not in told


def test_a_stage_that_fails_says_so_by_the_type_of_its_error_alone() -> None:
    with (
        collector() as (endpoint, got),
        traced(endpoint),
        pytest.raises(ValueError, match="Secret"),
        telemetry.stage("analyse", "k" * 64, "1.2.3", attempt=2),
    ):
        raise ValueError("Secret^Name")

    (span,) = spans_of(got)
    assert span.status.code == 2
    assert attributes_of(span)["error.type"] == "ValueError"
    assert attributes_of(span)["prognode.attempt"] == 2
    assert b"Secret" not in span.SerializeToString()


def test_a_collector_that_is_away_costs_a_stage_nothing_and_the_end_its_time_out_and_is_told_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(telemetry, "EXPORT_SECONDS", 0.5)
    began = time.monotonic()
    with traced("http://127.0.0.1:9/v1/traces"):
        for _ in range(3):
            with telemetry.stage("report", "k", "1.2.3"):
                pass
            telemetry._tracing[-1].provider.force_flush()
        assert time.monotonic() - began < 25
        ended = time.monotonic()

    assert time.monotonic() - ended < 25
    assert [one.getMessage().split()[0] for one in caplog.records] == ["telemetry.unavailable"]


def test_nothing_of_it_is_imported_while_it_is_off() -> None:
    program = (
        "import sys; from config.settings import Settings; from dicom_node import telemetry\n"
        "with telemetry.traced(Settings(), 'serve'), telemetry.stage('report', 'k', '1.2.3'): pass\n"
        "print([name for name in sys.modules if name.startswith('opentelemetry')])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_where_the_extra_is_missing_the_start_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    wanted = replace(Settings(), telemetry=Telemetry(traces_endpoint="http://127.0.0.1:4318/v1/traces"))
    with pytest.raises(ConfigError, match=r"prognode\[otel\]"), telemetry.traced(wanted, "work"):
        pass
