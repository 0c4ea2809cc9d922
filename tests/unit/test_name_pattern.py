"""A pattern of names narrowed by the search index finds what reading every name finds, and reads few."""

import json
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from pydicom import Dataset

from config.settings import Node, Settings
from dicom_node import name_pattern as patterns
from dicom_node.database import Database
from dicom_node.identity import Identity
from dicom_node.name_pattern import name_pattern
from dicom_node.procedure_steps import NAMED
from dicom_node.spool import Spool
from dicom_node.store import Store
from dicom_node.ups_worklist import UpsWorklist

NAMES = [
    "MUELLER^HANS", "MULLER^OTTO", "Müller^Jörg", "MU\u0308LLER^EVA", "MÜHLLEHNER^", "Miller^Ann",
    "LER^MUL", "^LER", "Straße^Uwe", "STRASSE^UWE", "Strasser^Ina", "GROẞ^EDA", "Gross^Eda",
    "Stein^Ursula", "\ufb06ein^Ursula", "\ufb01nk^A", "Fink^A", "İnci^Can", "Inci^Can", "ınci^can",
    "\u212aelly^K", "Kelly^K", "O'Brien^Pat", "OBRIEN^PAT", "Smith-Jones^A", "Smith Jones^A",
    "smith^jones^a^dr^jr", "Yamada^Tarou=山田^太郎=やまだ^たろう", "=山田^花子", "山田^太郎",
    "Hong^Gildong=洪^吉洞=홍^길동",
    "Люкceмбypг^Анна", "Σίσυφος^Ο", "ΣΙΣΥΦΟΣ^Ο", "Nguyễn^Văn", "Ng^V", "A^B", "a", "o", "Ö^Ö", "N5^N50",
    "N500^N5", "100%^A_B", "A\\B^C", "[X]^Y", "كريم^علي", "สมชาย^ใจดี", "E\u0301ric^", "Éric^",
    " Lead^Space", "", "ŉame^x", "ẖan^x", "CASE^^^^", "ΐ^x", "\ufb03x^y",
]  # fmt: skip
PATTERNS = [
    "*o*", "?", "??", "*?*", "?*", "MU*LER^", "MU*LER^*", "mu?ller*", "MÜ*", "Mü??er*", "*ler*",
    "*^LER", "m*", "MI*", "ü*", "STRASSE*", "straße*", "STRAS*", "STRAS?*", "s*", "st*", "*^uwe",
    "gross*", "GROSS^EDA", "groß^*", "?tein*", "f*", "fi*", "ffi*", "ff*", "I*", "i?ci*", "İ*", "ı*",
    "K*", "k?lly*", "O'B*", "o*b*", "Smith-J*", "smith*jones*", "SMITH JONES*", "山*", "山田*", "*山田*",
    "*^太郎", "?田*", "や*", "홍*", "洪^吉*", "лю*", "*анна", "σ*", "ΣΊΣΥΦΟΣ*", "σισυφο?*", "nguyễn*", "ng*",
    "nguy*", "N5*", "N5^*", "*^N5", "*N5", "N5^N50", "100%*", "a_*", "A\\B*", "[x]*", "كر*", "สม*",
    "é*", "E\u0301*", "e*", "lead*", "*=*", "=*", "ʼn*", "n*", "ẖ*", "h*", "CASE^", "case^*", "a*",
    "*a", "ΐ*", "-*", "*-*", "^*", "zz*", "*^*^*",
]  # fmt: skip


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    opened = Store.open(tmp_path_factory.mktemp("names") / "store.sqlite")
    database = opened._db
    with database.immediate():
        for number, name in enumerate(NAMES, 1):
            study = f"1.2.{number}"
            opened.patients.received(study, Identity(patient_id=f"P{number}", patient_name=name), 1.0)
            item = {
                "id": number,
                "state": "SCHEDULED",
                "study_instance_uid": study,
                "created_at": 1.0,
                "updated_at": 1.0,
            }
            database.insert("work_item", item)
            step = {"work_item_id": number, "sop_instance_uid": f"2.25.{number}", "state": "SCHEDULED"}
            said = {"readiness": "READY", "modified_at": 1.0, "progress": 0, "description": "", "reason": ""}
            database.insert("ups", step | said)
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def worklist(store: Store) -> UpsWorklist:
    return UpsWorklist(store, Spool(Path("/nonexistent")), Settings(node=Node(time_zone="UTC")))


def asked(pattern: str) -> Dataset:
    keys = Dataset()
    keys.SOPInstanceUID, keys.PatientName = "", pattern
    return keys


@pytest.mark.parametrize("pattern", PATTERNS)
def test_the_answer_is_what_reading_every_name_gives(
    worklist: UpsWorklist, monkeypatch: pytest.MonkeyPatch, pattern: str
) -> None:
    found = worklist.numbers(asked(pattern))
    real = worklist.narrow
    monkeypatch.setattr(worklist, "narrow", lambda keys: replace(real(keys), name=None))
    assert found == worklist.numbers(asked(pattern)), NAMES


def test_most_of_these_patterns_match_some_name_and_leave_one_out(worklist: UpsWorklist) -> None:
    counts = {pattern: len(worklist.numbers(asked(pattern))) for pattern in PATTERNS}
    assert sum(0 < count < len(NAMES) for count in counts.values()) > len(PATTERNS) - 15, counts


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        ("MU*LER^", 'patient_name : (("mu" *))'),
        ("MÜLLER^JÖRG", 'patient_name : (("müller" *) AND ("jörg" *))'),
        ("*^N500*", 'patient_name : (("n500" *))'),
        ("山田*", 'patient_name : (("山田" *))'),
        ('a" OR "b*', 'patient_name : (("a" *) AND ("or" *) AND ("b" *))'),
        ("*o*", ""),
        ("?", ""),
        ("*ü", ""),
        ("-*", ""),
    ],
)
def test_words_that_certainly_begin_where_the_pattern_has_them_are_looked_for(pattern: str, words: str) -> None:
    assert name_pattern(pattern).words == words


def test_a_long_word_has_few_spellings() -> None:
    worst = max(name_pattern(f"{pair * 500}*").words.count(" OR ") for pair in ("s", "st", "ff", "ffi", "fl"))
    assert worst < 500


def test_letters_that_are_looked_for_are_the_same_letters_in_the_index(tmp_path: Path) -> None:
    """Every letter of Unicode that casefold makes one of these: an SQLite of another Unicode would fail here."""
    database = Database(tmp_path / "store.sqlite")
    database.execute("CREATE VIRTUAL TABLE t USING fts5(x, tokenize = 'unicode61 remove_diacritics 2')")
    database.execute("CREATE VIRTUAL TABLE v USING fts5vocab(t, 'instance')")
    letters = [chr(point) for point in range(1, 0x110000) if not 0xD800 <= point < 0xE000]
    old_forms = set(map(chr, range(0x1C80, 0x1C89))) | {"\u0345"}
    meant = [one for one in letters if len(one.casefold()) == 1 and patterns._LETTERS.fullmatch(one.casefold())]
    with database.immediate():
        database.many("INSERT INTO t (rowid, x) VALUES (?, ?)", [(ord(one), f"q{one}q") for one in meant])
    tokens = defaultdict(list)
    for row in database.rows("SELECT term, doc FROM v ORDER BY doc, offset"):
        tokens[chr(row["doc"])].append(row["term"])
    database.close()
    assert len(meant) > 40_000
    assert {one for one in meant if len(tokens[one]) != 1 or len(tokens[one][0]) < 3} <= old_forms
    assert {one for one in meant if tokens[one] != tokens[one.casefold()]} <= old_forms


def test_a_rare_name_is_found_without_reading_the_steps_and_a_common_one_on_a_walk(
    store: Store, worklist: UpsWorklist, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[tuple[str, object]] = []
    real = store._db.rows
    monkeypatch.setattr(store._db, "rows", lambda sql, given=(): (told.append((sql, given)), real(sql, given))[1])

    def plan(pattern: str) -> str:
        told.clear()
        worklist.page(asked(pattern), 0)
        (sql, given) = next(one for one in told if "FROM ups u" in one[0])
        return "\n".join(str(row[3]) for row in store._db.connection.execute(f"EXPLAIN QUERY PLAN {sql}", given))

    rare, walk = plan("山田*"), plan("*o*")
    assert not re.search(r"SCAN (?!json_each)", rare), rare
    assert "SEARCH u USING INTEGER PRIMARY KEY (rowid>?)" in walk, walk
    with store._db.immediate():
        for number in range(NAMED + 1):
            store.patients.received(f"1.3.{number}", Identity(patient_name="Common^Name"), 1.0)
    assert plan("Common^*") == walk
    assert json.dumps(plan("Rare^*")) != json.dumps(walk)
