"""A diffusion series as a Siemens scanner exports it slice by slice, small, with a tensor whose direction is known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from kwneuro_assets_tests.small_dataset import Table, head, signal

GRID = (16, 16, 6)
VOXEL = 2.5  # mm
MR_IMAGE = "1.2.840.10008.5.1.4.1.1.4"


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
) -> list[Path]:
    """One file a slice, axial, head first supine: rows run to the left of the patient, columns to the back.

    The signal is that of `small_dataset.signal` on GRID in the world frame; the paths are returned.
    """
    folder.mkdir(parents=True, exist_ok=True)
    uids = {name: generate_uid(entropy_srcs=[patient, description, str(number), name]) for name in ("study", "series")}
    values = (signal(directions, GRID) * brightness + 20 * head(GRID)[..., None]).astype(np.uint16)
    paths = []
    for volume, (bvalue, vector) in enumerate(zip(directions.bvals, directions.world, strict=True)):
        for z in range(GRID[2]):
            meta = FileMetaDataset()
            meta.MediaStorageSOPClassUID, meta.TransferSyntaxUID = MR_IMAGE, ExplicitVRLittleEndian
            meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=[uids["series"], str(volume), str(z)])
            one = FileDataset(None, {}, file_meta=meta, preamble=bytes(128))
            one.SOPClassUID, one.SOPInstanceUID = MR_IMAGE, meta.MediaStorageSOPInstanceUID
            one.StudyInstanceUID, one.SeriesInstanceUID = uids["study"], uids["series"]
            one.FrameOfReferenceUID = uids["study"]
            one.Modality, one.Manufacturer, one.ManufacturerModelName = "MR", "SIEMENS", "Prisma"
            one.PatientID, one.PatientName, one.StudyDate = patient, "Doe^Jane", "20261103"
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
            one.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
            one.ImagePositionPatient = [-(GRID[0] - 1) * VOXEL / 2, -(GRID[1] - 1) * VOXEL / 2, z * VOXEL]
            one.SliceLocation = z * VOXEL
            # World x runs to the right, DICOM's to the left; y likewise.
            pixels = values[::-1, ::-1, z, volume].T
            one.Rows, one.Columns = pixels.shape
            one.SamplesPerPixel, one.PhotometricInterpretation = 1, "MONOCHROME2"
            one.BitsAllocated, one.BitsStored, one.HighBit, one.PixelRepresentation = 16, 12, 11, 0
            one.PixelData = np.ascontiguousarray(pixels).tobytes()
            if gradients:
                block = one.private_block(0x0019, "SIEMENS MR HEADER", create=True)
                block.add_new(0x0C, "IS", str(int(bvalue)))
                if bvalue:
                    block.add_new(0x0E, "FD", [-vector[0], -vector[1], vector[2]])
            paths.append(folder / f"{patient}_{number:02d}_{volume:03d}_{z:03d}.IMA")
            pydicom.dcmwrite(paths[-1], one, enforce_file_format=True)
    return paths
