"""Enhanced (multi-frame) CT made from a CT series. Tests import from `tests.synthetic`."""

import copy
from collections.abc import Sequence

from pydicom.dataset import Dataset

from tests.build_ct import INTERCEPT, item_of, series_module, uid, with_meta

ENHANCED_CT = "1.2.840.10008.5.1.4.1.1.2.1"


def enhanced_ct(ct: Sequence[Dataset], *, sop_instance_uid: str | None = None) -> Dataset:
    """One multi-frame Enhanced CT with the pixels and geometry of a CT series; frame k + 1 is ct[k]."""
    first = ct[0]
    dataset = copy.deepcopy(first)
    for keyword in (
        "ImageOrientationPatient",
        "ImagePositionPatient",
        "PixelSpacing",
        "SliceThickness",
        "KVP",
        "RescaleIntercept",
        "RescaleSlope",
        "RescaleType",
        "ConvolutionKernel",
        "AcquisitionNumber",
    ):
        if keyword in dataset:
            delattr(dataset, keyword)
    series = uid("enhanced", first.SeriesInstanceUID)
    series_module(dataset, ENHANCED_CT, sop_instance_uid or uid(series, 0), series, "CT", 3, first.FrameOfReferenceUID)
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]
    dataset.InstanceNumber, dataset.NumberOfFrames = 1, len(ct)
    dataset.ContentDate, dataset.ContentTime, dataset.AcquisitionDateTime = "20240102", "101500", "20240102101500"
    dataset.AcquisitionNumber, dataset.AcquisitionDuration, dataset.ContentQualification = 1, 1.0, "RESEARCH"
    dataset.PresentationLUTShape, dataset.LossyImageCompression, dataset.BurnedInAnnotation = "IDENTITY", "00", "NO"
    dataset.VolumetricProperties, dataset.VolumeBasedCalculationTechnique = "VOLUME", "NONE"
    dataset.PixelPresentation, dataset.AcquisitionContextSequence = "MONOCHROME", []
    dataset.MultienergyCTAcquisition = "NO"
    dataset.SharedFunctionalGroupsSequence = [_shared_groups(first)]
    dataset.PerFrameFunctionalGroupsSequence = [_frame_groups(instance, k) for k, instance in enumerate(ct)]
    dimensions = uid("dimensions", series)
    dataset.DimensionOrganizationType = "3D"
    dataset.DimensionOrganizationSequence = [item_of(DimensionOrganizationUID=dimensions)]
    dataset.DimensionIndexSequence = [
        item_of(
            DimensionOrganizationUID=dimensions,
            DimensionIndexPointer=0x00200032,
            FunctionalGroupPointer=0x00209113,
            DimensionDescriptionLabel="Position",
        )
    ]
    dataset.add_new("PixelData", "OW", b"".join(instance.PixelData for instance in ct))
    return with_meta(dataset)


def _shared_groups(first: Dataset) -> Dataset:
    """Functional Groups of the whole object (PS3.3 A.38.1.4); acquisition values are plausible, and constant."""
    code = item_of(CodeValue="51185008", CodingSchemeDesignator="SCT", CodeMeaning="Chest")
    groups: dict[str, Dataset] = {
        "PixelMeasuresSequence": item_of(PixelSpacing=first.PixelSpacing, SliceThickness=first.SliceThickness),
        "PlaneOrientationSequence": item_of(ImageOrientationPatient=first.ImageOrientationPatient),
        "FrameAnatomySequence": item_of(FrameLaterality="U", AnatomicRegionSequence=[code]),
        "CTImageFrameTypeSequence": item_of(
            FrameType=["ORIGINAL", "PRIMARY", "VOLUME", "NONE"], PixelPresentation="MONOCHROME",
            VolumetricProperties="VOLUME", VolumeBasedCalculationTechnique="NONE"),
        "PixelValueTransformationSequence": item_of(RescaleIntercept=INTERCEPT, RescaleSlope=1, RescaleType="HU"),
        "CTAcquisitionTypeSequence": item_of(
            AcquisitionType="SPIRAL", ConstantVolumeFlag="NO", FluoroscopyFlag="NO"),
        "CTAcquisitionDetailsSequence": item_of(
            RotationDirection="CW", RevolutionTime=0.5, SingleCollimationWidth=0.6, TotalCollimationWidth=38.4,
            TableHeight=150.0, GantryDetectorTilt=0.0, DataCollectionDiameter=500.0),
        "IrradiationEventIdentificationSequence": item_of(
            IrradiationEventUID=uid("irradiation", first.SeriesInstanceUID)),
        "CTTableDynamicsSequence": item_of(TableSpeed=46.0, TableFeedPerRotation=23.0, SpiralPitchFactor=0.6),
        "CTGeometrySequence": item_of(DistanceSourceToDetector=1085.0, DistanceSourceToDataCollectionCenter=595.0),
        "CTReconstructionSequence": item_of(
            ReconstructionAlgorithm="FILTER_BACK_PROJ", ConvolutionKernel="B30f", ConvolutionKernelGroup="SOFT_TISSUE",
            ReconstructionDiameter=500.0, ReconstructionPixelSpacing=[float(v) for v in first.PixelSpacing],
            ReconstructionAngle=360.0, ImageFilter="MEDIUM"),
        "CTExposureSequence": item_of(
            ExposureTimeInms=500.0, XRayTubeCurrentInmA=200.0, ExposureInmAs=100.0, ExposureModulationType="NONE"),
        "CTXRayDetailsSequence": item_of(
            KVP=120, FocalSpots=1.2, FilterType="WEDGE", FilterMaterial="ALUMINUM",
            CalciumScoringMassFactorPatient=1.0),
    }  # fmt: skip
    return item_of(**{name: [group] for name, group in groups.items()})


def _frame_groups(instance: Dataset, k: int) -> Dataset:
    content = item_of(
        FrameAcquisitionNumber=1,
        FrameReferenceDateTime="20240102101500",
        FrameAcquisitionDateTime="20240102101500",
        FrameAcquisitionDuration=500.0,
        DimensionIndexValues=k + 1,
        StackID="1",
        InStackPositionNumber=k + 1,
    )
    centre = [float(v) for v in instance.ImagePositionPatient]
    return item_of(
        FrameContentSequence=[content],
        PlanePositionSequence=[item_of(ImagePositionPatient=instance.ImagePositionPatient)],
        CTPositionSequence=[
            item_of(
                TablePosition=100.0 + k, DataCollectionCenterPatient=centre, ReconstructionTargetCenterPatient=centre
            )
        ],
    )
