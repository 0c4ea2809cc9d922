"""The mask as NIfTI-1, gzipped: what the job writes for people and programs, and the node reads again.

Written out because nibabel costs each job its import, and each mask of a chest 80 MB through zlib of which a
hundredth is lesion; tests/unit/test_nifti.py reads with nibabel what is written here, and the other way round.
"""

import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

HEADER_BYTES: Final = 348
_OFFSET: Final = 352  # of the first voxel: the header, and four bytes that say that no extension follows
_UINT8: Final = 2
_SCANNER: Final = 1  # NIFTI_XFORM_SCANNER_ANAT
_MILLIMETRE: Final = 2
_GZIP: Final = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x04\xff"  # no name and no time: the same mask makes the same file


class Readable(Protocol):
    """A file that is open, or is being unpacked."""

    def read(self, size: int, /) -> bytes: ...


class NiftiInvalid(ValueError):
    """The file is not a mask that `write` could have written."""


def write(path: Path, mask: NDArray[np.bool_], affine: NDArray[np.float64]) -> None:
    """Write a mask.

    Parameters
    ----------
    mask : bool array, (slices, rows, columns)
    affine : (4, 4) from (column, row, slice) to mm in RAS
    """
    header = _header((mask.shape[2], mask.shape[1], mask.shape[0]), np.asarray(affine, float))
    total, size = zlib.crc32(header), len(header)
    nothing = bytes(mask.shape[1] * mask.shape[2])
    packed_nothing = _packed(nothing)
    with path.open("wb") as stream:
        stream.write(_GZIP + _packed(header))
        for plane in mask:
            empty = not plane.any()
            data = nothing if empty else plane.astype(np.uint8).tobytes()
            stream.write(packed_nothing if empty else _packed(data))  # each begins anew, so that it can stand anywhere
            total, size = zlib.crc32(data, total), size + len(data)
        stream.write(zlib.compressobj(wbits=-15).flush() + struct.pack("<II", total, size & 0xFFFFFFFF))


def read(path: Path, most_bytes: int) -> NDArray[np.bool_]:
    """The mask, (slices, rows, columns). Raises NiftiInvalid for what is none, or claims more than `most_bytes`."""
    unpack = zlib.decompressobj(wbits=31)
    packed = path.read_bytes()
    try:
        begin = unpack.decompress(packed, HEADER_BYTES)
        (columns, rows, slices), offset = stated(begin)
        size = columns * rows * slices
        if size > most_bytes:
            raise NiftiInvalid(f"{path.name} claims more than {most_bytes} bytes of voxels")
        data = unpack.decompress(unpack.unconsumed_tail, offset - len(begin) + size + 1)
    except zlib.error:
        raise NiftiInvalid(f"{path.name} is damaged") from None
    if not unpack.eof or len(begin) + len(data) != offset + size:
        raise NiftiInvalid(f"{path.name} does not hold what its header says")
    voxels = np.frombuffer(data, np.uint8, offset=offset - len(begin)).reshape(slices, rows, columns)
    return voxels.view(np.bool_) if voxels.size and voxels.max() <= 1 else voxels != 0


def planes(stream: Readable, shape: tuple[int, int, int]) -> Iterator[NDArray[np.bool_] | None]:
    """The slices of an unpacked mask of (slices, rows, columns) one after the other; None for an empty one.

    Raises
    ------
    NiftiInvalid
        Another size than `shape`, in the header or in fact.
    """
    slices, rows, columns = shape
    size, offset = stated(stream.read(HEADER_BYTES))
    if size != (columns, rows, slices):
        raise NiftiInvalid("the mask is not of the size that the result states")
    stream.read(offset - HEADER_BYTES)
    for _ in range(slices):
        data = stream.read(rows * columns)
        if len(data) != rows * columns:
            raise NiftiInvalid("the mask is shorter than its header says")
        empty = data.count(0) == len(data)
        yield None if empty else np.frombuffer(data, np.uint8).reshape(rows, columns) != 0
    if stream.read(1):  # also checks the sum over all bytes
        raise NiftiInvalid("the mask is longer than its header says")


def stated(header: bytes) -> tuple[tuple[int, int, int], int]:
    """Columns, rows and slices that a header states, and where the voxels begin. Raises NiftiInvalid."""
    if len(header) < HEADER_BYTES or header[344:348] != b"n+1\0" or struct.unpack_from("<i", header)[0] != HEADER_BYTES:
        raise NiftiInvalid("the mask is not NIfTI-1")
    count, columns, rows, slices, *more = struct.unpack_from("<8h", header, 40)
    kind = struct.unpack_from("<h", header, 70)[0]
    offset = struct.unpack_from("<f", header, 108)[0]
    if count < 3 or min(columns, rows, slices) < 1 or any(axis > 1 for axis in more[: count - 3]) or kind != _UINT8:
        raise NiftiInvalid("the mask is not three axes of bytes")
    if not HEADER_BYTES <= offset < 1_000_000:
        raise NiftiInvalid("the mask's voxels begin nowhere")
    return (columns, rows, slices), int(offset)


def _packed(data: bytes) -> bytes:
    packer = zlib.compressobj(1, wbits=-15)
    return packer.compress(data) + packer.flush(zlib.Z_FULL_FLUSH)


def _header(size: tuple[int, int, int], affine: NDArray[np.float64]) -> bytes:
    """NIfTI-1 header with the grid as sform; the form for quaternions is left out, which readers then do not ask."""
    header = bytearray(_OFFSET)
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    struct.pack_into("<i", header, 0, HEADER_BYTES)
    struct.pack_into("<8h", header, 40, 3, *size, 1, 1, 1, 1)
    struct.pack_into("<2h", header, 70, _UINT8, 8)
    struct.pack_into("<8f", header, 76, 1.0, *spacing, 1.0, 1.0, 1.0, 1.0)
    struct.pack_into("<3f", header, 108, _OFFSET, 1.0, 0.0)
    header[123] = _MILLIMETRE
    struct.pack_into("<2h", header, 252, 0, _SCANNER)
    struct.pack_into("<12f", header, 280, *affine[:3].ravel())
    header[344:348] = b"n+1\0"
    return bytes(header)
