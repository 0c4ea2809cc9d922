"""Reads a stored instance's header into facts (`Instance`), between receive and plan; pixels stay on disk.

The bytes are hostile: whatever is odd ends in UnreadableHeader, which names the attribute and never quotes a value.
"""

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

from pydicom.charset import python_encoding
from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset
from pydicom.tag import BaseTag, Tag
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ImplicitVRLittleEndian

from config.identity import MANUFACTURER
from dicom_node.elements import Header, Plain, UnreadableHeader, ascii_text, encodings_of, name_text, raw, texts, uid
from dicom_node.frames import geometry_of, position_of, rescale_of
from dicom_node.identity import KEYWORDS, Identity, patient_digest
from dicom_node.instance import CT_CLASSES, LABEL_MAP_SEG, RTSTRUCT, SEG, Instance
from dicom_node.outline import CHARACTER_SET, MAXIMUM_VALUE_BYTES, UNDEFINED, outline
from dicom_node.quiet import quiet_libraries
from dicom_node.references import References, rtstruct_facts, seg_facts

__all__ = ["UnreadableHeader", "data_set_digest", "identity_of", "read", "read_beginning", "read_with_identity"]

MAXIMUM_FRAGMENTS = 1_000_000
_BIG_BYTES = 1_000_000
_USUAL_BYTES = 4096  # of what the images of a series have in common; more is not kept in memory
_one_big_header = threading.Lock()  # what is parsed of one can take 200 MB; many associations must not do it at once
_WITH_PIXELS = CT_CLASSES | {SEG, LABEL_MAP_SEG}
_STRINGS = (
    "SpecificCharacterSet", "ImageType", "SOPClassUID", "SOPInstanceUID", "Modality", "Manufacturer",
    "StudyInstanceUID", "SeriesInstanceUID", "AcquisitionNumber", "ImagePositionPatient",
    "ImageOrientationPatient", "FrameOfReferenceUID", "NumberOfFrames", "Rows", "Columns", "PixelSpacing",
    "RescaleIntercept", "RescaleSlope", "RescaleType", *KEYWORDS.values(),
)  # fmt: skip
_SEQUENCES = (
    "ReferencedSeriesSequence", "SourceImageSequence", "SegmentSequence", "SharedFunctionalGroupsSequence",
    "PerFrameFunctionalGroupsSequence", "ReferencedFrameOfReferenceSequence", "StructureSetROISequence",
    "ROIContourSequence", "RTROIObservationsSequence",
)  # fmt: skip
_SOP_CLASS_UID = 0x00080016
_SOP_INSTANCE_UID = 0x00080018
_OF_ONE_IMAGE = (_SOP_INSTANCE_UID, 0x00200012, 0x00200032)  # AcquisitionNumber, ImagePositionPatient
_VALUES = frozenset(int(Tag(keyword)) for keyword in _STRINGS)
_NESTED = frozenset(int(Tag(keyword)) for keyword in _SEQUENCES)


def read(path: Path, digest: str) -> Instance:
    """Facts of a Part 10 file whose data set has the SHA-256 `digest`.

    Raises
    ------
    UnreadableHeader
        When the file is no DICOM, is cut short, lacks an identifying UID, is encoded in another transfer syntax than
        its meta header says, or has more references, ROIs or frames than any real object.
    OSError
        When the disk cannot be read.
    """
    return read_with_identity(path, digest)[0]


def read_with_identity(path: Path, digest: str) -> tuple[Instance, Identity]:
    """`read`, and whose study it is; raises as `read` does."""
    with _hostile_bytes(), path.open("rb") as stream:
        return _facts(stream, path.stat().st_size, _transfer_syntax(stream), digest)


def read_beginning(beginning: bytes, size: int, syntax: str, digest: str) -> tuple[Instance, Identity] | None:
    """`read_with_identity` from the first bytes of a data set of `size` bytes, without its file.

    None where they do not tell it all: they end before the pixels, those are encapsulated, or something is wrong.
    """
    try:
        with _hostile_bytes():
            _check_encoding(beginning[:6], UID(syntax))
            return _facts(BytesIO(beginning), size, UID(syntax), digest)
    except UnreadableHeader:
        return None


def _facts(stream: BinaryIO, size: int, syntax: UID, digest: str) -> tuple[Instance, Identity]:
    """Of the data set that a stream stands before; `size`: where the stream would end if it were all there."""
    implicit = syntax == ImplicitVRLittleEndian
    data, pixels, values = outline(stream, size, implicit=implicit, values=_VALUES, sequences=_NESTED)
    if pixels is not None:
        _check_encapsulation(syntax, pixels[1])
        _check_pixels_whole(stream, *pixels, size)
    plain = _plain(values)
    if plain is not None and pixels is not None:
        return _image(plain, syntax, digest)
    with _one_big_header if len(data) > _BIG_BYTES else nullcontext():
        dataset = read_dataset(BytesIO(data), implicit, True)
        if pixels is None and uid(dataset, "SOPClassUID", required=True) in _WITH_PIXELS:
            raise UnreadableHeader("PixelData is absent, or the data set is cut short before it")
        return _instance(dataset, syntax, digest), identity_of(dataset)


def _plain(values: dict[int, bytes] | None) -> Plain | None:
    """An image's values where they say what pydicom would find, without asking it; None for everything else."""
    if values is None or values.get(_SOP_CLASS_UID, b"").rstrip(b"\0").decode("latin-1") not in CT_CLASSES:
        return None
    terms = values.get(CHARACTER_SET, b"").decode("latin-1").removesuffix(" ").split("\\")
    return Plain(values) if all(term in python_encoding for term in terms) else None


def _image(plain: Plain, syntax: UID, digest: str) -> tuple[Instance, Identity]:
    """`_instance` and `identity_of` of an image; what it has in common with its neighbours is read of one of them."""
    sop_instance_uid = uid(plain, "SOPInstanceUID", required=True)
    common = tuple((tag, value) for tag, value in plain.items() if tag not in _OF_ONE_IMAGE)
    usual = sum(len(value) for _, value in common) <= _USUAL_BYTES
    instance, identity = (_in_common if usual else _in_common.__wrapped__)(common, str(syntax))
    return replace(
        instance,
        sop_instance_uid=sop_instance_uid,
        digest=digest,
        geometry=replace(instance.geometry, positions=position_of(plain)),
        acquisition_number=ascii_text(plain, "AcquisitionNumber", 16),
        own=_own(plain),
    ), identity


def forget() -> None:
    """What was read of images that came last: names and IDs, too."""
    _in_common.cache_clear()


@lru_cache(maxsize=16)  # series that come at the same time
def _in_common(values: tuple[tuple[int, bytes], ...], syntax: str) -> tuple[Instance, Identity]:
    plain = Plain(values)
    identity = identity_of(plain)
    plain[_SOP_INSTANCE_UID] = b"0.0"  # of no image; each brings its own
    return _instance(plain, UID(syntax), ""), identity


@contextmanager
def _hostile_bytes() -> Iterator[None]:
    """Turns whatever pydicom raises into UnreadableHeader, without its text; the disk's own errors pass."""
    quiet_libraries()
    try:
        yield
    except UnreadableHeader:
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno is not None:  # pydicom's own OSErrors have no number
            raise
        raise UnreadableHeader(f"cannot be parsed as DICOM ({type(error).__name__})") from None


def _transfer_syntax(stream: BinaryIO) -> UID:
    """Transfer Syntax UID of the meta header; leaves the stream at the data set, whose encoding must be that one."""
    stream.seek(128)
    if stream.read(4) != b"DICM":
        raise UnreadableHeader("has no DICOM Part 10 header (DICM is missing at byte 128)")
    meta = _meta_header(stream)
    syntax = UID(uid(meta, "TransferSyntaxUID", required=True))
    if not syntax.is_transfer_syntax or syntax in (DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian):
        raise UnreadableHeader("TransferSyntaxUID is none that this node reads (deflated and big endian are not)")
    first = stream.read(6)
    stream.seek(-len(first), 1)
    _check_encoding(first, syntax)
    return syntax


def _check_encoding(first: bytes, syntax: UID) -> None:
    """The first six bytes of a data set show whether it has explicit VRs."""
    if len(first) < 6:
        raise UnreadableHeader("has no data set after its meta header")
    explicit = all(0x41 <= letter <= 0x5A for letter in first[4:6])
    if explicit == (syntax == ImplicitVRLittleEndian):
        raise UnreadableHeader("TransferSyntaxUID of the meta header is not the encoding of the data set")


def _meta_header(stream: BinaryIO) -> Dataset:
    """Group 0002 by itself: always Explicit VR Little Endian (PS3.10 section 7.1)."""
    stream.seek(132)

    def past_the_group(tag: BaseTag, vr: str | None, length: int) -> bool:
        if tag.group == 0x0002 and length > MAXIMUM_VALUE_BYTES:
            raise UnreadableHeader("the meta header is damaged")
        return tag.group != 0x0002

    start = stream.read(6)
    stream.seek(132)
    if start[:2] != b"\x02\x00" or not start[4:6].isalpha():
        raise UnreadableHeader("the meta header is damaged")
    return read_dataset(stream, False, True, stop_when=past_the_group)


def _check_encapsulation(syntax: UID, length: int) -> None:
    """Native pixels have a length, encapsulated ones none (PS3.5 section A.4); what has both would never be decoded."""
    if syntax.is_encapsulated != (length == UNDEFINED):
        form = "native" if syntax.is_encapsulated else "encapsulated"
        raise UnreadableHeader(f"PixelData is {form}, which {syntax.name} does not allow")


def _check_pixels_whole(stream: BinaryIO, position: int, length: int, size: int) -> None:
    if length != UNDEFINED:
        if position + length > size:
            raise UnreadableHeader("the data set is cut short in PixelData")
        return
    stream.seek(position)
    for _ in range(MAXIMUM_FRAGMENTS):
        head = stream.read(8)
        fragment = int.from_bytes(head[4:8], "little")
        if head[:4] == b"\xfe\xff\xdd\xe0" and len(head) == 8:
            return
        if head[:4] != b"\xfe\xff\x00\xe0" or stream.tell() + fragment > size:
            break
        stream.seek(fragment, 1)
    raise UnreadableHeader("the data set is cut short in PixelData")


def _instance(dataset: Header, syntax: UID, digest: str) -> Instance:
    sop_class_uid = uid(dataset, "SOPClassUID", required=True)
    facts = References() if isinstance(dataset, Plain) else _references(dataset, sop_class_uid)
    rescale, rescale_type = rescale_of(dataset)
    return Instance(
        sop_instance_uid=uid(dataset, "SOPInstanceUID", required=True),
        sop_class_uid=sop_class_uid,
        series_instance_uid=uid(dataset, "SeriesInstanceUID", required=True),
        study_instance_uid=uid(dataset, "StudyInstanceUID", required=True),
        transfer_syntax_uid=str(syntax),
        digest=digest,
        modality=ascii_text(dataset, "Modality", 16),
        frame_of_reference_uid=uid(dataset, "FrameOfReferenceUID") or facts.frame_of_reference_uid,
        image_type=texts(dataset, "ImageType"),
        geometry=geometry_of(dataset),
        rescale=rescale,
        rescale_type=rescale_type,
        acquisition_number=ascii_text(dataset, "AcquisitionNumber", 16),
        patient=_patient(dataset),
        own=_own(dataset),
        rois=facts.rois,
        referenced_sop_instance_uids=facts.sop_instance_uids,
        referenced_series_instance_uids=facts.series_instance_uids,
        referenced_sop_class_uids=facts.sop_class_uids,
        references_from_contours=facts.from_contours,
    )


def _references(dataset: Dataset, sop_class_uid: str) -> References:
    if sop_class_uid == RTSTRUCT:
        return rtstruct_facts(dataset, encodings_of(dataset))
    if sop_class_uid in (SEG, LABEL_MAP_SEG):
        return seg_facts(dataset, encodings_of(dataset), label_map=sop_class_uid == LABEL_MAP_SEG)
    return References()


def identity_of(dataset: Header, over: int = 0) -> Identity:
    """Whose study a header or an answer to C-FIND is of; what cannot be decoded shows as U+FFFD.

    Values are cut at their longest and `over`: with 1, what is too long for its VR can be told from what is not.
    """
    encodings = encodings_of(dataset)
    # PN: three groups of 64 characters (PS3.5 section 6.2); everything else is at most 64.
    found = {
        name: name_text(dataset, keyword, encodings, (194 if keyword.endswith("Name") else 64) + over)
        for name, keyword in KEYWORDS.items()
    }
    return Identity(**found)


def _patient(dataset: Header) -> str:
    return patient_digest(raw(dataset, "PatientID") or b"", raw(dataset, "IssuerOfPatientID") or b"")


def _own(dataset: Header) -> bool:
    """Made by this software: a workstation that edits an object of ours keeps the manufacturer, but gives new UIDs."""
    ours = ascii_text(dataset, "SOPInstanceUID").startswith("2.25.")
    return ours and ascii_text(dataset, "Manufacturer") == MANUFACTURER


def sender(path: Path) -> str:
    """AE title of who sent a file of the spool (PS3.10 table 7.1-1), "" where it does not say; or UnreadableHeader."""
    with _hostile_bytes(), path.open("rb") as stream:
        return ascii_text(_meta_header(stream), "SendingApplicationEntityTitle")


def data_set_digest(path: Path) -> str:
    """SHA-256 of a Part 10 file's data set, as `receive` computes it on the way in; the meta header is not part of it.

    Raises UnreadableHeader for a file that is no DICOM.
    """
    with _hostile_bytes(), path.open("rb") as stream:
        _transfer_syntax(stream)
        return hashlib.file_digest(stream, "sha256").hexdigest()
