"""The listening AE: its titles, time-outs, presentation contexts and transfer syntaxes, from the settings."""

from pydicom.pixels.decoders.base import get_decoder
from pydicom.uid import (
    UID,
    AllTransferSyntaxes,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)
from pynetdicom import AE
from pynetdicom.sop_class import (
    StorageCommitmentPushModel,
    UnifiedProcedureStepPull,
    UnifiedProcedureStepPush,
    UnifiedProcedureStepQuery,
    UnifiedProcedureStepWatch,
    Verification,
)

from config.identity import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from config.settings import Settings
from dicom_node.instance import CT_CLASSES, ROI_CLASSES

# Of every context that stores nothing, on both sides. Not deflated, which pynetdicom's default has: a message of 0.3 MB
# may take 600 MB to unpack.
NATIVE = [ExplicitVRLittleEndian, ImplicitVRLittleEndian]


def application_entity(settings: Settings) -> AE:
    """The listening AE: title, time-outs and presentation contexts. Who may call is the door's business."""
    entity = AE(settings.node.ae_title)
    entity.implementation_class_uid = IMPLEMENTATION_CLASS_UID
    entity.implementation_version_name = IMPLEMENTATION_VERSION_NAME
    limit(entity, settings)
    syntaxes = transfer_syntaxes()
    for sop_class_uid in sorted(CT_CLASSES | ROI_CLASSES):
        entity.add_supported_context(sop_class_uid, syntaxes)
    entity.add_supported_context(Verification, NATIVE)
    # The peer is the SCP of storage commitment and reports with the SCP role proposed; some propose no role at all.
    entity.add_supported_context(StorageCommitmentPushModel, NATIVE, scu_role=True, scp_role=True)
    if settings.ups.enabled:
        for ups_class in (UnifiedProcedureStepPull, UnifiedProcedureStepWatch, UnifiedProcedureStepQuery,
                          UnifiedProcedureStepPush):  # fmt: skip
            entity.add_supported_context(ups_class, NATIVE)
    return entity


def limit(entity: AE, settings: Settings) -> None:
    """Give an AE its limits; an association that is in progress keeps those that it has begun with."""
    entity.maximum_pdu_size = settings.receive.maximum_pdu_bytes
    entity.maximum_associations = settings.receive.maximum_associations
    entity.acse_timeout = settings.receive.acse_timeout_seconds
    entity.dimse_timeout = settings.receive.dimse_timeout_seconds
    entity.network_timeout = settings.receive.network_timeout_seconds


def transfer_syntaxes() -> list[UID]:
    """What each context is offered with, best first: native little endian, then each compressed one we can decode.

    Not deflated (a small object may grow without bound) and not big endian (retired).
    """
    skipped = {ExplicitVRLittleEndian, ImplicitVRLittleEndian, DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian}
    return [*NATIVE, *(s for s in AllTransferSyntaxes if _decodable(s, skipped))]


def _decodable(syntax: UID, skipped: set[UID]) -> bool:
    if syntax in skipped or not syntax.is_compressed:
        return False
    try:
        return bool(get_decoder(syntax).is_available)
    except NotImplementedError:  # video, JPIP: pydicom knows no decoder at all
        return False
