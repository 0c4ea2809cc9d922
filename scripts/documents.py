"""Write the parts of docs/ that are made from the code: the conformance statement and the table of reasons.

python -m scripts.documents            # a test compares what is there with what this writes
"""

import re
from dataclasses import replace
from pathlib import Path

from analysis.contract import REASONS, FailureReason, Reason, WaitingReason
from config.settings import Report, Settings, Ups
from dicom_node.conformance import statement

DOCS = Path(__file__).resolve().parent.parent / "docs"
# All that is optional is switched on, so that the page of the documentation shows it.
EVERYTHING = replace(Settings(), ups=Ups(enabled=True), report=Report(encapsulated_pdf=True))
MARK = "<!-- reasons: made by `make documents` -->"
HEADINGS = {
    Reason: "Not scored: a result, which goes to the PACS",
    WaitingReason: "Waiting",
    FailureReason: "Failed: something of the installation has to be mended",
}


def conformance() -> str:
    """docs/conformance.md."""
    return statement(EVERYTHING)


def reasons() -> str:
    """The tables of reasons, as they stand in docs/faq.md between the marks."""
    lines = []
    for kind, heading in HEADINGS.items():
        lines += ["", f"### {heading}", "", "| code | what it means | who does what |", "|---|---|---|"]
        lines += [f"| `{code}` | {REASONS[code].sentence} | {REASONS[code].remedy} |" for code in kind]
    return "\n".join([*lines, "", ""])


def with_reasons(text: str) -> str:
    """A page with the tables between its two marks written anew."""
    return re.sub(f"(?<={re.escape(MARK)}\n).*?(?={re.escape(MARK)})", lambda _: reasons(), text, flags=re.DOTALL)


def main() -> None:
    """Write them."""
    (DOCS / "conformance.md").write_text(conformance(), encoding="utf-8")
    faq = DOCS / "faq.md"
    faq.write_text(with_reasons(faq.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
