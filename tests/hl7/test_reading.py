"""What HL7 messages say, however they are written: character sets, escapes, names, identifiers, observations."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dicom_node.hl7_ack import NotOurs, Reply, acknowledgement, read_acknowledgement
from dicom_node.hl7_messages import content, envelope, patient_keys
from dicom_node.hl7_reader import Message, Refused, header_of, read
from dicom_node.identity import Demographics, PatientKey
from reports.hl7_person import patient_name
from reports.hl7_text import escape
from tests.hl7_inputs import adt, msh


def first(text: str, name: str = "PID", encoding: str = "utf-8", character_set: str = "UNICODE UTF-8") -> Message:
    return read(f"{msh('ADT^A08', character_set=character_set)}{name}|{text}\r".encode(encoding))


def name_in(field: str) -> str | None:
    (update,) = content(first(f"1||4711||{field}")).updates
    return update.said.patient_name


@pytest.mark.parametrize(
    ("character_set", "encoding", "name"),
    [
        ("", "utf-8", "Müller^Jörg"),
        ("", "ascii", "Mueller^Joerg"),
        ("ASCII", "ascii", "Mueller^Joerg"),
        ("UNICODE UTF-8", "utf-8", "山田^太郎"),
        ("8859/1", "latin-1", "Müller^Jörg"),
        ("8859-1", "latin-1", "Müller^Jörg"),
        ("8859/5", "iso8859-5", "Иванов^Пётр"),
        ("8859/2", "iso8859-2", "Šimůnek^Žofie"),
        ("ISO IR6~ISO IR87", "iso2022_jp", "山田^太郎"),
        ("~ISO IR87", "iso2022_jp", "山田^太郎"),
        ("GB 18030-2000", "gb18030", "王^小东"),
        ("KS X 1001", "euc_kr", "홍^길동"),
    ],
)
def test_names_come_in_whole_in_the_character_set_that_the_message_says(
    character_set: str, encoding: str, name: str
) -> None:
    message = first(f"1||4711||{name}", encoding=encoding, character_set=character_set)
    (update,) = content(message).updates
    assert update.said.patient_name == name


@pytest.mark.parametrize(
    ("character_set", "data"), [("", b"M\xfcller"), ("UNICODE UTF-16", b"M"), ("8859/12", b"M"), ("~ISO IR87", b"\xe4")]
)
def test_bytes_that_are_not_in_it_are_refused_and_not_guessed(character_set: str, data: bytes) -> None:
    with pytest.raises(Refused) as caught:
        read(msh("ADT^A08", character_set=character_set).encode() + b"PID|1||4711||" + data)
    assert caught.value.code == 102


def test_escapes_are_taken_out_also_those_of_several_bytes() -> None:
    pid = first(r"1||4711||M\XC3\\XBC\ller\T\Co\F\^J\E\\H\g\N\.\X41\\.br\x")
    segment = next(pid.named("PID"))
    assert segment.value(5, 1) == "Müller&Co|"
    assert segment.value(5, 2) == "J\\g.A x"


def test_other_delimiters_are_read_as_they_are_declared() -> None:
    message = read(b"MSH$*%!@$RIS$$$$$$ADT*A08$1$P$2.5.1\rPID$1$$4711***A@1.2@ISO%4712$$M!S!ller*J")
    segment = next(message.named("PID"))
    assert segment.value(5) == "M*ller"
    assert [segment.component(one, 1) for one in segment.repetitions(3)] == ["4711", "4712"]
    assert segment.value(3, 4, 2) == "1.2"


@pytest.mark.parametrize("end", ["\r", "\n", "\r\n"])
def test_segments_end_as_their_sender_ends_them(end: str) -> None:
    assert [segment.name for segment in read(adt("A08").replace("\r", end).encode()).segments] == ["MSH", "EVN", "PID"]


def test_a_line_feed_in_a_name_does_not_start_a_segment() -> None:
    text = msh("ADT^A40") + "PID|1||B||Eve\nMRG|VICTIM\nX^E\rMRG|A\r"
    (merge,) = content(read(text.encode())).merges
    assert [prior.patient_id for prior, _ in merge.pairs] == ["A"]
    assert merge.said.patient_name == "Eve MRG"


def test_two_messages_in_one_block_are_refused() -> None:
    with pytest.raises(Refused, match="several messages"):
        read((adt("A08") + adt("A08", "1||4712")).encode())


@pytest.mark.parametrize(
    "data", [b"", b"GET / HTTP/1.1\r\n", b"MSH", b"MSH|||||", b"MSHABCDE|", b"\x16\x03\x01", b"MSH|^^^^|"]
)
def test_what_is_no_hl7_is_refused(data: bytes) -> None:
    with pytest.raises(Refused):
        read(data)


@given(st.binary(max_size=300))
def test_no_bytes_do_anything_but_be_read_or_refused(data: bytes) -> None:
    for start in (b"", msh("ADT^A40").encode(), msh("ORU^R01").encode() + b"PID|1||1\r"):
        refused = None
        try:
            message = read(start + data)
            envelope(message)
            content(message)
        except Refused as refusal:
            refused = refusal
        assert refused is None or (str(refused).isascii() and refused.code in range(100, 208))


@given(st.text(max_size=60))
def test_what_we_write_we_read_again(text: str) -> None:
    segment = next(first(f"1||{escape(text)}^x").named("PID"))
    assert segment.value(3) == "".join(c if c.isprintable() else " " for c in text).strip()


# -- patients ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "expected"),
    [
        ("Adams^John^Quincy^Jr^Dr^^L", "Adams^John^Quincy^Dr^Jr"),
        ("Hong^Gildong^^^^^L^A~洪^吉洞^^^^^L^I~홍^길동^^^^^L^P", "Hong^Gildong=洪^吉洞=홍^길동"),
        ("山田^太郎^^^^^L^I~ヤマダ^タロウ^^^^^L^P", "=山田^太郎=ヤマダ^タロウ"),
        ("Maiden^Anna^^^^^M~Married^Anna^^^^^L", "Married^Anna"),
        ("van der Berg&van der&Berg^Piet", "van der Berg^Piet"),
        ("&van&Berg^Piet", "van Berg^Piet"),
        (r"A\S\B=C\E\D^E", "A B C D^E"),
        ("^^^^^^U", None),
        ("", None),
        ('""', ""),
    ],
)
def test_names_become_person_names_of_dicom(field: str, expected: str | None) -> None:
    assert name_in(field) == expected


@given(
    st.lists(
        st.text(
            alphabet=st.characters(codec="utf-8", exclude_characters="^=\\", exclude_categories=("C", "Z")), max_size=8
        ),
        min_size=5,
        max_size=5,
    )
)
def test_a_name_that_we_send_comes_back_the_same(parts: list[str]) -> None:
    name = "^".join(parts).rstrip("^")
    assert name_in(patient_name(name)) == (name or None)


def test_a_group_is_never_longer_than_dicom_allows() -> None:
    assert len(name_in("x" * 300) or "") == 64


@pytest.mark.parametrize(
    ("birth", "sex", "expected"),
    [
        ("19500101", "m", ("19500101", "M")),
        ("195001011230+0100", "F", ("19500101", "F")),
        ("1950", "U", (None, None)),
        ("19501399", "A", (None, "O")),
        ("٠٩٥٠٠١٠١", "", (None, None)),
        ('""', '""', ("", "")),
    ],
)
def test_dates_and_sex_are_taken_where_they_can_be_read(birth: str, sex: str, expected: tuple[str | None, ...]) -> None:
    (update,) = content(first(f"1||4711||||{birth}|{sex}")).updates
    assert update.said == Demographics(None, *expected)


def test_the_first_identifier_leads_and_the_others_mean_only_patients_of_their_issuer() -> None:
    field = "||4711^^^HOSPITAL^MR~A123^^^INSURANCE^SS~B9"
    assert patient_keys(next(first(field).named("PID")), 3) == (
        PatientKey("4711", "HOSPITAL"),
        PatientKey("A123", "INSURANCE", exact=True),
    )


@pytest.mark.parametrize("authority", ["HOSPITAL", "1.2.3"])
def test_a_configured_authority_leads_wherever_it_stands(authority: str) -> None:
    field = "||A123^^^INSURANCE^SS~4711^^^HOSPITAL&1.2.3&ISO^MR"
    keys = patient_keys(next(first(field).named("PID")), 3, authority)
    assert keys == (PatientKey("4711", authority), PatientKey("A123", "INSURANCE", exact=True))


@pytest.mark.parametrize("field", ["||", "||^^^HOSPITAL", "||" + "9" * 65])
def test_a_message_without_a_usable_identifier_is_refused(field: str) -> None:
    with pytest.raises(Refused, match="PID-3"):
        content(first(field))


# -- merges --------------------------------------------------------------------------------------------------


def merged(*segments: str, event: str = "A40", authority: str = "") -> list[tuple[PatientKey, PatientKey]]:
    message = read((msh(f"ADT^{event}") + "\r".join(segments)).encode())
    return [pair for merge in content(message, authority).merges for pair in merge.pairs]


def test_a_merge_names_prior_and_surviving_id() -> None:
    assert merged("PID|1||B", "MRG|A") == [(PatientKey("A"), PatientKey("B"))]
    assert merged("PID|1||B^^^H", "PD1|1", "MRG|A^^^H", event="A18") == [(PatientKey("A", "H"), PatientKey("B", "H"))]


def test_several_priors_and_several_groups_are_several_merges() -> None:
    pairs = merged("PID|1||B^^^H", "MRG|A^^^H~C^^^H", "PID|1||E^^^H", "MRG|D^^^H")
    assert [(prior.patient_id, surviving.patient_id) for prior, surviving in pairs] == [
        ("A", "B"),
        ("C", "B"),
        ("D", "E"),
    ]
    assert [prior.exact for prior, _ in pairs] == [False, True, False]


def test_each_prior_goes_to_the_id_of_its_own_authority() -> None:
    pairs = merged("PID|1||B1^^^H~B2^^^INS", "MRG|A2^^^INS~A1^^^H", authority="H")
    assert sorted((prior[0], surviving[0]) for prior, surviving in pairs) == [("A1", "B1"), ("A2", "B2")]


def test_where_one_side_names_no_authority_the_leading_ids_are_meant() -> None:
    assert merged("PID|1||B^^^H", "MRG|A") == [(PatientKey("A"), PatientKey("B", "H"))]


@pytest.mark.parametrize(
    ("segments", "words"),
    [
        (("PID|1||B^^^H", "MRG|A^^^OTHER"), "assigning authority"),
        (("MRG|A", "PID|1||B"), "no PID before"),
        (("PID|1||B",), "no MRG"),
        (("PID|1||B", "MRG|"), "MRG-1"),
        (("PID|1||B" + "~B" * 100, "MRG|A"), "more than 100 identifiers"),
        (("PID|1||B", *["MRG|A"] * 1001), "more than 1000 MRG"),
    ],
)
def test_a_merge_that_does_not_say_who_is_refused(segments: tuple[str, ...], words: str) -> None:
    with pytest.raises(Refused, match=words):
        merged(*segments)


@pytest.mark.parametrize(("kind", "code"), [("ADT^A01", 201), ("SIU^S12", 200), ("", 200)])
def test_other_messages_are_refused_with_what_is_taken(kind: str, code: int) -> None:
    with pytest.raises(Refused, match=r"only ADT\^A08, .* are taken here") as caught:
        content(read(msh(kind).encode()))
    assert caught.value.code == code


# -- observations --------------------------------------------------------------------------------------------


def observed(*segments: str) -> list[tuple[str, ...]]:
    message = read((msh("ORU^R01") + "PID|1||4711^^^H\r" + "\r".join(segments)).encode())
    return [(one.value, one.unit, one.observed_on, one.status) for one in content(message).observations]


def test_an_observation_is_taken_apart_and_not_judged() -> None:
    text = "OBX|1|NM|1751-7^Albumin^LN^ALB^Albumin^L|a|3.9|g/dL^^UCUM|3.5-5||||F|||20260301101500+0100"
    message = read((msh("ORU^R01") + f"PID|1||4711^^^H\rOBR|1|P1|F1|CHEM|||20260228\r{text}").encode())
    (one,) = content(message).observations
    assert (one.patient_id, one.issuer_of_patient_id) == ("4711", "H")
    assert [code[:2] for code in one.codes] == [("1751-7", "LN"), ("ALB", "L")]
    assert (one.value, one.unit, one.observed_on, one.status) == ("3.9", "g/dL", "2026-03-01", "F")
    assert one.origin == "RIS|HOSPITAL|F1|1751-7|a"


def test_values_of_each_type_are_text_and_documents_are_left() -> None:
    assert observed(
        "OBR|1|P1|F1|CHEM|||20260228",
        "OBX|1|SN|1^a^LN||<^5|mg/L|||||F",
        "OBX|2|SN|2^b^LN||=^5|mg/L|||||F",
        "OBX|3|CE|3^c^LN||LA9623-5^Fully active^LN||||||C",
        "OBX|4|ST|4^d^LN||yes||||||D",
        "OBX|5|ED|5^e^LN||^application^pdf^Base64^JVBERi0|||||F",
        "OBX|6|TX|6^f^LN||one~two||||||P",
    ) == [
        ("<5", "mg/L", "2026-02-28", "F"),
        ("5", "mg/L", "2026-02-28", "F"),
        ("Fully active", "", "2026-02-28", "C"),
        ("yes", "", "2026-02-28", "D"),
        ("one\ntwo", "", "2026-02-28", "P"),
    ]


def test_observations_of_an_adt_have_the_day_for_an_order() -> None:
    message = read((adt("A08") + "OBX|1|NM|29463-7^Weight^LN||70|kg|||||F|||20260301").encode())
    (one,) = content(message).observations
    assert one.origin == "RIS|HOSPITAL|ADT^A08 2026-03-01|29463-7|"


# -- acknowledgements ----------------------------------------------------------------------------------------


def answered(header: str, reply: Reply) -> str:
    made = acknowledgement(read(header.encode()), reply, "PROGNODE", "AI", 1_700_000_000.0)
    assert made is not None
    return made.decode()


def test_an_acknowledgement_answers_the_sender_by_its_own_number() -> None:
    lines = answered(msh("ADT^A08", control_id=r"M\F\1"), Reply("AA", "1 studies changed")).split("\r")
    head, msa = lines[0].split("|"), lines[1].split("|")
    assert head[2:6] == ["PROGNODE", "AI", "RIS", "HOSPITAL"]
    assert (head[8], head[10], head[11], head[17]) == ("ACK^A08^ACK", "P", "2.5.1", "UNICODE UTF-8")
    assert msa == ["MSA", "AA", r"M\F\1", "1 studies changed"]


def test_a_refusal_has_an_err_segment_with_its_code() -> None:
    text = answered(msh("ADT^A01"), Reply("AR", "only ADT^A08", 201))
    assert "MSA|AR|1|only ADT\\S\\A08\r" in text
    assert "ERR|||201^Unsupported event code^HL70357|E||||only ADT\\S\\A08\r" in text


@pytest.mark.parametrize(
    ("accept", "application", "taken", "refused"),
    [
        ("", "", "AA", "AR"), ("NE", "AL", "AA", "AR"), ("AL", "NE", "CA", "CR"), ("AL", "AL", "CA", "CR"),
        ("NE", "NE", None, None), ("", "NE", None, None), ("", "AL", "AA", "AR"), ("AL", "", "CA", "CR"),
        ("ER", "", None, "CR"), ("ER", "AL", "AA", "CR"), ("SU", "", "CA", None), ("SU", "ER", "CA", "AR"),
        ("NE", "ER", None, "AR"), ("NE", "SU", "AA", None), ("XX", "", "CA", "CR"),
    ],
)  # fmt: skip
def test_an_acknowledgement_is_sent_when_the_sender_s_conditions_say_so(
    accept: str, application: str, taken: str | None, refused: str | None
) -> None:
    message = read(f"MSH|^~\\&|RIS|H|||20260301||ADT^A08|1|P|2.5.1|||{accept}|{application}\r".encode())
    for reply, code in ((Reply("AA"), taken), (Reply("AR"), refused)):
        made = acknowledgement(message, reply, "", "", 0.0)
        assert (made is None) if code is None else (made is not None and f"MSA|{code}|1".encode() in made)


def test_the_header_of_a_message_in_an_unknown_character_set_can_still_be_answered() -> None:
    message = header_of(msh("ADT^A08", character_set="KLINGON").encode() + b"PID|\xff")
    assert "MSA|AR|1|no" in (acknowledgement(message, Reply("AR", "no"), "", "", 0.0) or b"").decode()


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "no HL7"),
        (b"\xff\xfe", "no HL7"),
        (msh("ACK").encode(), "no MSA"),
        (f"{msh('ACK')}MSA|AA|OTHER\r".encode(), "of another message"),
        (f"{msh('ACK')}MSA|AA|\r".encode(), "of another message"),
    ],
)
def test_only_the_acknowledgement_of_this_very_message_counts(data: bytes, words: str) -> None:
    with pytest.raises(NotOurs, match=words):
        read_acknowledgement(data, "MINE")


def test_the_words_of_a_refusal_are_ours_and_never_the_receiver_s() -> None:
    text = f"{msh('ACK')}MSA|AE|MINE|Patient Doe unknown\rERR|||204^Unknown key^HL70357|E||||Doe\r"
    said = read_acknowledgement(text.encode(), "MINE")
    assert (said.code, said.words) == ("AE", "204 unknown key identifier")
    odd = f"{msh('ACK')}MSA|AE|MINE|x\rERR|||Doe^John\r"
    assert read_acknowledgement(odd.encode(), "MINE").words == ""
