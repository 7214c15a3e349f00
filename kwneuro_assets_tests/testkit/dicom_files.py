"""A small DICOM diffusion series, one file per slice, with a tensor of known direction."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian, generate_uid

from kwneuro_assets_tests.testkit.small_dataset import Table, head, signal

GRID = (16, 16, 6)
VOXEL = 2.5  # mm
MR_IMAGE = UID("1.2.840.10008.5.1.4.1.1.4")
MANUFACTURERS = {"Siemens": "SIEMENS", "Philips": "Philips Medical Systems", "GE": "GE MEDICAL SYSTEMS"}
TO_LPS = np.array([-1.0, -1.0, 1.0])  # DICOM's axes point left and posterior, the world's right and anterior


def write_dicom_series(
    folder: Path,
    directions: Table,
    *,
    patient: str = "P-01",
    description: str = "ep2d_diff_AP",
    number: int = 5,
    brightness: float = 1.0,
    kind: str = "DIFFUSION",
    gradients: bool = True,
    date: str = "20261103",
    manufacturer: Literal["Siemens", "Philips", "GE"] = "Siemens",
    rotation: NDArray[np.float64] | None = None,
) -> list[Path]:
    """Write one file per slice, head first supine; returns the paths.

    Rows point to the left of the patient and columns to the back, unless the columns of `rotation` (3, 3) give the
    directions of rows, columns and slices in DICOM's frame. The signal is that of `small_dataset.signal` on GRID in the
    world frame.
    """
    folder.mkdir(parents=True, exist_ok=True)
    axes = np.eye(3) if rotation is None else rotation
    uids = {
        name: generate_uid(entropy_srcs=[patient, description, str(number), date, name]) for name in ("study", "series")
    }
    values = (signal(directions, GRID) * brightness + 20 * head(GRID)[..., None]).astype(np.uint16)
    paths = []
    for volume, (bvalue, vector) in enumerate(zip(directions.bvals, directions.world, strict=True)):
        for z in range(GRID[2]):
            meta = FileMetaDataset()
            meta.MediaStorageSOPClassUID, meta.TransferSyntaxUID = MR_IMAGE, ExplicitVRLittleEndian
            meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=[uids["series"], str(volume), str(z)])
            one = FileDataset("", {}, file_meta=meta, preamble=bytes(128))
            one.SOPClassUID, one.SOPInstanceUID = MR_IMAGE, meta.MediaStorageSOPInstanceUID
            one.StudyInstanceUID, one.SeriesInstanceUID = uids["study"], uids["series"]
            one.FrameOfReferenceUID = uids["study"]
            one.Modality, one.Manufacturer, one.ManufacturerModelName = "MR", MANUFACTURERS[manufacturer], "Scanner"
            one.PatientID, one.PatientName, one.StudyDate = patient, "Doe^Jane", date
            one.SeriesDescription = one.ProtocolName = description
            one.SeriesNumber, one.AcquisitionNumber = number, volume + 1
            one.InstanceNumber = volume * GRID[2] + z + 1
            one.AcquisitionTime = f"10{volume // 60:02d}{volume % 60:02d}.000000"
            one.ContentTime = one.AcquisitionTime
            one.ImageType = ["ORIGINAL", "PRIMARY", kind, "NONE", "ND"]
            one.ScanningSequence, one.MRAcquisitionType = "EP", "2D"
            one.RepetitionTime, one.EchoTime, one.MagneticFieldStrength = 3000, 80, 3
            one.PatientPosition = "HFS"
            one.PixelSpacing, one.SliceThickness, one.SpacingBetweenSlices = [VOXEL, VOXEL], VOXEL, VOXEL
            one.ImageOrientationPatient = [*axes[:, 0], *axes[:, 1]]
            one.ImagePositionPatient = list(axes @ [-(GRID[0] - 1) * VOXEL / 2, -(GRID[1] - 1) * VOXEL / 2, z * VOXEL])
            one.InPlanePhaseEncodingDirection = "COL"
            one.SliceLocation = z * VOXEL
            # World x points right, DICOM's x left; y likewise.
            pixels = values[::-1, ::-1, z, volume].T
            one.Rows, one.Columns = pixels.shape
            one.SamplesPerPixel, one.PhotometricInterpretation = 1, "MONOCHROME2"
            one.BitsAllocated, one.BitsStored, one.HighBit, one.PixelRepresentation = 16, 12, 11, 0
            one.PixelData = np.ascontiguousarray(pixels).tobytes()
            if gradients:
                _add_gradient(one, manufacturer, float(bvalue), vector * TO_LPS, axes)
            paths.append(folder / f"{patient}_{number:02d}_{volume:03d}_{z:03d}.IMA")
            pydicom.dcmwrite(paths[-1], one, enforce_file_format=True)
    return paths


def _add_gradient(
    one: FileDataset, manufacturer: str, bvalue: float, vector: NDArray[np.float64], axes: NDArray[np.float64]
) -> None:
    """Add the manufacturer's tags for files of one slice."""
    if manufacturer == "Siemens":
        block = one.private_block(0x0019, "SIEMENS MR HEADER", create=True)
        block.add_new(0x0C, "IS", str(int(bvalue)))
        if bvalue:
            block.add_new(0x0E, "FD", [float(part) for part in vector])
    elif manufacturer == "Philips":
        one.DiffusionBValue, one.DiffusionGradientOrientation = bvalue, [float(part) for part in vector]
        block = one.private_block(0x2001, "Philips Imaging DD 001", create=True)
        block.add_new(0x03, "FL", bvalue)
        block = one.private_block(0x2005, "Philips MR Imaging DD 001", create=True)
        for element, part in zip((0xB0, 0xB1, 0xB2), vector, strict=True):
            block.add_new(element, "FL", float(part))
    else:
        block = one.private_block(0x0019, "GEMS_ACQU_01", create=True)
        block.add_new(0x9C, "LO", "epi2")
        for element, part in zip((0xBB, 0xBC, 0xBD), axes.T @ vector, strict=True):  # along frequency, phase and slice
            block.add_new(element, "DS", f"{part:.6f}")
        one.private_block(0x0043, "GEMS_PARM_01", create=True).add_new(0x39, "IS", [str(int(bvalue)), "8", "0", "0"])
