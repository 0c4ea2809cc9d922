"""Log lines name the study and association that they are about, as text and as JSON."""

import io
import json
import logging
from collections.abc import Callable, Iterator

import pytest

from dicom_node.logs import AsJson, AsText, about, mark_of

Lines = Callable[[], list[str]]


@pytest.fixture
def lines(request: pytest.FixtureRequest) -> Iterator[tuple[logging.Logger, Lines]]:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(request.param())
    logger = logging.getLogger("dicom_node.of_this_test")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield logger, lambda: stream.getvalue().splitlines()
    logger.removeHandler(handler)


@pytest.mark.parametrize("lines", [AsText], indirect=True)
def test_a_line_of_text_ends_with_what_it_is_about(lines: tuple[logging.Logger, Lines]) -> None:
    logger, written = lines

    logger.info("stage.begun before")
    with about(association="ab12", study=mark_of("1.2.3")):
        logger.info("stage.begun one")
        with about(study=(mark_of("1.2.3"), mark_of("1.2.4"))):
            logger.info("stage.begun two")
    with about(study=""):
        logger.info("stage.begun after")

    one, two = mark_of("1.2.3"), mark_of("1.2.4")
    assert [line.partition("stage.begun ")[2] for line in written()] == [
        "before", f"one [association ab12, study {one}]", f"two [association ab12, study {one} {two}]", "after",
    ]  # fmt: skip


@pytest.mark.parametrize("lines", [AsJson], indirect=True)
def test_a_line_of_json_holds_event_message_marks_and_trace(lines: tuple[logging.Logger, Lines]) -> None:
    logger, written = lines

    with about(study=mark_of("1.2.3")):
        logger.warning('instance.refused from "%s": %s', 'a "quoted"\nname', "why")
        logger.info("no event here", exc_info=KeyError("x"))

    first, second = map(json.loads, written())
    assert (first["level"], first["event"], first["study"]) == ("warning", "instance.refused", [mark_of("1.2.3")])
    assert first["message"] == 'instance.refused from "a "quoted"\nname": why'
    assert first["time"].endswith("+00:00")
    assert second["event"] == ""
    assert "KeyError" in second["trace"]


@pytest.mark.parametrize("lines", [AsText], indirect=True)
def test_hundreds_of_studies_do_not_make_a_line_of_pages(lines: tuple[logging.Logger, Lines]) -> None:
    logger, written = lines

    with about(study=tuple(mark_of(str(number)) for number in range(300))):
        logger.info("association.ended")

    (line,) = written()
    assert line.endswith("and 292 more]")
    assert len(line) < 300
