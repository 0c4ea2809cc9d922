"""Bring reports/catalogues/*.po up to what the code says; `--check` only compares. Translations are kept.

Three kinds of texts are collected: what `reports` says (`say`, `count`, `mark`), the tables of the contract (reasons,
statements), and the sentences that the job and the planner write into details and flags, with {0}, {1} ... for what
they fill in.
"""

import ast
import sys
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

from babel.messages.catalog import Catalog, Message
from babel.messages.pofile import read_po, write_po

from analysis.contract import REASONS, RESEARCH_USE, SYNTHETIC_WARNING, Reason
from models.bundle import DEMO, load
from reports.language import CODES, ENGLISH, TOLD

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "reports" / "catalogues"
SPEAKERS = {"say": 1, "mark": 1, "count": 2}  # functions and how many of their first arguments are messages
# Who writes sentences for the reader of a report, and where in the call the sentence stands.
TELLERS = {
    "NotScorable": 1, "Defect": 1, "NoChoice": 1, "_not_eligible": 2, "_waiting": 3, "NotEligible": 1, "_refused": 1,
    "_warning": 1, "_info": 1, "flag": 1, "_defect": 1,
}  # fmt: skip
PREFIX = {"_refused": "{0} "}  # the predictor's name, put before it
NAMES = {"text", "detail", "why", "where"}
TABLES = {"_TEXTS"}  # of sentences
TELLING = (
    "analysis/*.py", "models/clinical_value.py", "dicom_node/gates.py", "dicom_node/plan.py",
    "dicom_node/candidates.py", "dicom_node/baseline.py", "dicom_node/schedule.py", "dicom_node/job.py",
    "dicom_node/clinical_snapshot.py", "dicom_node/clinical_sources.py",
)  # fmt: skip
NO_SENTENCE = 3  # letters: less is a unit or a name
# Said to operators, never in a report.
ASIDE = {
    "no image with a mask", "it did not end in time", "status {0}",
    "the job ended with status {0} (killed, or out of memory or disk)",
    "the job ended well but its result is not valid ({0})", "the job could not be started ({0})",
    "the golden case waits (it did not end within {0} s)", "the golden case waits (it ended with status {0}: {1})",
}  # fmt: skip
# What stands in a hole, or is put together where it cannot be seen.
PARTS = (
    "position", "orientation", "pixel spacing", "overlap", "leave gaps", "no image features", "not computed", "yes",
    "no", "clinical table", "CSV import", "study page", "stated as {0}", "from {0} and {1}", "{0} differs",
    "{0} ({1} days)", "{0} {1}, limit {2}",
)  # fmt: skip


def template() -> Catalog:
    """Every message of the code, without translations."""
    catalogue = Catalog(project="Prognode", charset="utf-8")
    for path in sorted((ROOT / "reports").glob("*.py")):
        for found in said(path):
            catalogue.add(found if len(found) > 1 else found[0], locations=[(f"reports/{path.name}", 0)])
    for reason in Reason:
        text = REASONS[reason]
        catalogue.add(text.sentence, locations=[(f"{reason}", 0)])
        catalogue.add(text.remedy, locations=[(f"{reason}", 0)])
    for text_of_all in (RESEARCH_USE, SYNTHETIC_WARNING):
        catalogue.add(text_of_all, locations=[("analysis/contract.py", 0)])
    for predictor in load(DEMO).manifest.clinical:
        catalogue.add(predictor.label, locations=[("models/demo", 0)])
    for part in PARTS:
        catalogue.add(part, locations=[("scripts/catalogues.py", 0)], context=TOLD if "{" in part else None)
    known = {message.id for message in catalogue}
    for path, sentence in told():
        if sentence not in known | ASIDE:
            catalogue.add(sentence, locations=[(path, 0)], context=TOLD)
    return catalogue


def said(path: Path) -> Iterator[tuple[str, ...]]:
    """What a module of `reports` says: one text, or that of one and of several."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and _name(node) in SPEAKERS:
            texts = [arg.value for arg in node.args if isinstance(arg, ast.Constant) and isinstance(arg.value, str)]
            if len(texts) == SPEAKERS[_name(node)]:
                yield tuple(texts)


def _name(call: ast.Call) -> str:
    return call.func.id if isinstance(call.func, ast.Name) else getattr(call.func, "attr", "")


def told() -> Iterator[tuple[str, str]]:
    """Sentences with numbered holes, each with the file that writes it."""
    for pattern in TELLING:
        for path in sorted(ROOT.glob(pattern)):
            name = str(path.relative_to(ROOT))
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                for sentence in _sentences(node):
                    if sum(map(str.isalpha, sentence)) >= NO_SENTENCE and " " in sentence.strip():
                        yield name, sentence


def _sentences(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Call):
        name = _name(node)
        if name in TELLERS and len(node.args) > TELLERS[name]:
            about = PREFIX.get(name, "")
            yield from (about + text for text in _spoken(node.args[TELLERS[name]], start=1 if about else 0))
        for keyword in node.keywords:
            if keyword.arg in NAMES:
                yield from _spoken(keyword.value)
    elif isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id in NAMES for t in node.targets):
        yield from _spoken(node.value)
    elif isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id in TABLES for t in node.targets):
        for table in ast.walk(node.value):
            for value in table.values if isinstance(table, ast.Dict) else ():
                yield from _spoken(value)
    elif isinstance(node, ast.AugAssign) and isinstance(node.target, ast.Name) and node.target.id in NAMES:
        yield from ("{0}" + text for text in _spoken(node.value, start=1))


def _spoken(node: ast.expr, start: int = 0) -> Iterator[str]:
    """What an expression may say: its parts that are chosen between, and itself."""
    if isinstance(node, ast.IfExp):
        yield from _spoken(node.body, start)
        yield from _spoken(node.orelse, start)
        return
    if isinstance(node, ast.JoinedStr):
        for part in ast.walk(node):
            if isinstance(part, ast.IfExp):
                for side in (part.body, part.orelse):
                    if isinstance(side, ast.Constant) and isinstance(side.value, str):
                        yield side.value
    text, _ = _template(node, start)
    if text.strip("{}0123456789 "):
        yield text


def _template(node: ast.expr, holes: int) -> tuple[str, int]:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value, holes
    if isinstance(node, ast.JoinedStr):
        text = ""
        for value in node.values:
            part, holes = _template(value, holes)
            text += part
        return text, holes
    return f"{{{holes}}}", holes + 1


def translated(language: str, wanted: Catalog) -> bytes:
    """The catalogue of a language with exactly the messages of `wanted`."""
    path = FOLDER / f"{language}.po"
    with path.open("rb") as stream:
        before = read_po(stream, locale=language)
    after = Catalog(
        locale=language,
        project="Prognode",
        version="",
        msgid_bugs_address="the project's issues",
        fuzzy=False,
        header_comment=before.header_comment,
        last_translator=before.last_translator,
        language_team=before.language_team,
        creation_date=before.creation_date,
        revision_date=before.revision_date,
    )
    for message in wanted:
        if message.id:
            kept = before.get(_first(message), message.context)
            string = kept.string if kept is not None else ""
            after.add(message.id, string, message.locations, context=message.context)
    stream_out = BytesIO()
    write_po(stream_out, after, width=0, include_lineno=False, sort_output=False)
    return stream_out.getvalue()


def _first(message: Message) -> str:
    return message.id if isinstance(message.id, str) else message.id[0]


def main() -> int:
    wanted, stale = template(), []
    for language in CODES:
        if language == ENGLISH:
            continue
        path, content = FOLDER / f"{language}.po", translated(language, wanted)
        if path.read_bytes() != content:
            stale.append(path.name)
            if "--check" not in sys.argv:
                path.write_bytes(content)
    if stale and "--check" in sys.argv:
        sys.stderr.write(f"stale: {', '.join(stale)}; run: python -m scripts.catalogues, then translate what is new\n")
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
