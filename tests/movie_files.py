"""Small valid movie files of every format, written byte by byte where no library writes them."""

import json
import struct

import h5py
import numpy as np
import tifffile

SHAPE = (6, 5, 7)  # three different sizes, so that a mixed-up axis shows; 3 or 4 would be colours to tifffile


def stack(dtype="uint16", shape=SHAPE):
    """A movie in which every pixel has another value."""
    return np.arange(np.prod(shape)).reshape(shape).astype(dtype)


def write_mrc(path, frames, angstrom=25.0, order="<"):
    mode = {"uint8": 0, "int16": 1, "float32": 2, "uint16": 6}[frames.dtype.name]
    n, height, width = frames.shape
    header = bytearray(1024)
    struct.pack_into(f"{order}10i", header, 0, width, height, n, mode, 0, 0, 0, width, height, n)
    struct.pack_into(f"{order}3f", header, 40, width * angstrom, height * angstrom, n * angstrom)
    header[208:216] = b"MAP " + (b"DD\0\0" if order == "<" else b"\x11\x11\0\0")
    path.write_bytes(bytes(header) + frames.astype(frames.dtype.newbyteorder(order)).tobytes())
    return path


def write_ser(path, frames, step=2.5e-9, kind=2):
    n, height, width = frames.shape
    element = 50 + frames[0].nbytes + 8
    header = struct.pack("<HHHIIII", 0x4949, 0x0197, 0x0210, 0x4122, 0x4152, n, n)
    dimension = struct.pack("<IddII", n, 0.0, 1.0, 0, 6) + b"Number" + struct.pack("<I", 0)
    table = len(header) + 8 + len(dimension)
    first = table + 8 * n
    offsets = [first + i * element for i in range(n)]
    tags = [offset + element - 8 for offset in offsets]
    parts = [header, struct.pack("<II", table, 1), dimension, struct.pack(f"<{2 * n}I", *offsets, *tags)]
    for i, frame in enumerate(frames):
        parts.append(struct.pack("<ddiddiHII", 0.0, step, 0, 0.0, step, 0, kind, width, height))
        parts.append(frame[::-1].tobytes() + struct.pack("<HHI", 0x4152, 0, 1_600_000_000 + i))
    path.write_bytes(b"".join(parts))
    return path


def write_berkeley(path, frames, dims):
    with h5py.File(path, "w") as file:
        file.attrs["version_major"], file.attrs["version_minor"] = 0, 2
        group = file.create_group("data/movie")
        group.attrs["emd_group_type"] = 1
        group["data"] = frames
        for i, (name, unit, step) in enumerate(dims, start=1):
            dim = group.create_dataset(f"dim{i}", data=np.arange(frames.shape[i - 1]) * step)
            dim.attrs["name"], dim.attrs["units"] = np.bytes_(name), np.bytes_(unit)
    return path


def write_velox(path, images, metre=2.5e-9, unit="m", frame_time=0.5):
    """`images` maps names to (t, y, x) arrays; Velox stores them (y, x, t), described by JSON in columns of bytes."""
    metadata = {
        "Core": {"MetadataDefinitionVersion": "7.9"},
        "Instrument": {"InstrumentClass": "Titan", "InstrumentModel": "x", "InstrumentId": "1"},
        "Acquisition": {"BeamType": "", "SourceType": ""},
        "Optics": {"AccelerationVoltage": "200000", "CameraLength": "1", "NominalMagnification": "1"},
        "Stage": {"AlphaTilt": "0", "BetaTilt": "0", "Position": {"x": "0", "y": "0", "z": "0"}},
        "Scan": {"FrameTime": str(frame_time)},
        "CustomProperties": {},
        "Sample": {},
        "Detectors": {"Detector-0": {"DetectorName": "Camera", "DetectorType": "ImagingDetector"}},
        "BinaryResult": {
            "DetectorIndex": "0",
            "PixelSize": {"width": str(metre), "height": str(metre)},
            "PixelUnitX": unit,
            "PixelUnitY": unit,
            "Offset": {"x": "0", "y": "0"},
        },
    }
    text = np.frombuffer(json.dumps(metadata).encode().ljust(2000, b"\0"), np.uint8)
    with h5py.File(path, "w") as file:
        version = json.dumps({"format": "Velox", "version": "7"}).encode()
        file.create_dataset("Version", data=np.array([version], dtype=h5py.string_dtype()))
        for name, frames in images.items():
            chunks = (*frames.shape[1:], 1)
            file.create_dataset(f"Data/Image/{name}/Data", data=np.moveaxis(frames, 0, 2), chunks=chunks)
            file[f"Data/Image/{name}/Metadata"] = np.repeat(text[:, None], len(frames), axis=1)
    return path


class DM3:
    """The least of a DigitalMicrograph 3 file: a tree of tags, big-endian names around little-endian values."""

    @staticmethod
    def group(tags, named=True):
        body = b""
        for name, tag in tags:
            text = name.encode() if named else b""
            kind = 20 if tag[:1] == b"\x01" else 21
            body += struct.pack(">BH", kind, len(text)) + text + tag[1:]
        return b"\x01" + struct.pack(">BBi", 1, 0, len(tags)) + body

    @staticmethod
    def value(code, fmt, number):
        return b"\x00%%%%" + struct.pack(">ii", 1, code) + struct.pack("<" + fmt, number)

    @staticmethod
    def array(code, values):
        return b"\x00%%%%" + struct.pack(">4i", 3, 20, code, values.size) + values.tobytes()

    @classmethod
    def write(cls, path, frames, dims, data_type=10):
        """`dims` lists (step, unit) for x, y, t."""

        def text(unit):
            return cls.array(4, np.frombuffer(unit.encode("utf-16-le"), "<u2"))

        def dimension(step, unit):
            return cls.group(
                [("Origin", cls.value(6, "f", 0.0)), ("Scale", cls.value(6, "f", step)), ("Units", text(unit))]
            )

        calibrations = cls.group(
            [
                ("Brightness", dimension(1.0, "e")),
                ("Dimension", cls.group([("", dimension(*dim)) for dim in dims], named=False)),
            ]
        )
        sizes = cls.group([("", cls.value(5, "I", n)) for n in reversed(frames.shape)], named=False)
        data = cls.group(
            [
                ("Calibrations", calibrations),
                ("Data", cls.array(4, frames)),
                ("DataType", cls.value(5, "I", data_type)),
                ("Dimensions", sizes),
            ]
        )
        image = cls.group([("ImageData", data), ("Name", text("movie")), ("ImageTags", cls.group([]))])
        tree = cls.group([("ImageList", cls.group([("", image)], named=False))])[1:]
        path.write_bytes(struct.pack(">3i", 3, len(tree) + 4, 1) + tree + bytes(8))
        return path


NM_TYX = [("time", "[s]", 0.5), ("y", "[n_m]", 2.5), ("x", "[n_m]", 2.5)]


def write_any(kind, folder):
    """A valid movie `stack()` of 2.5 nm/px in the format `kind`."""
    path, frames = folder / f"movie.{kind.split('-')[0]}", stack()
    if kind == "dm3":
        return DM3.write(path, frames, [(2.5, "nm"), (2.5, "nm"), (0.5, "s")])
    if kind == "mrc":
        return write_mrc(path, frames)
    if kind == "ser":
        return write_ser(path, frames)
    if kind == "emd-velox":
        return write_velox(path, {"a": frames})
    if kind == "emd-berkeley":
        return write_berkeley(path, frames, NM_TYX)
    scale = {"resolution": (0.4, 0.4), "metadata": {"axes": "TYX", "unit": "nm", "finterval": 0.5}}
    if kind == "tif-imagej":
        tifffile.imwrite(path, frames, imagej=True, **scale)
    elif kind == "tif-compressed":
        tifffile.imwrite(path, frames, imagej=True, compression="zlib", **scale)
    elif kind == "tif-ome":
        ome = {
            "axes": "TYX",
            "PhysicalSizeX": 2.5,
            "PhysicalSizeY": 2.5,
            "TimeIncrement": 500,
            "TimeIncrementUnit": "ms",
        }
        units = {"PhysicalSizeXUnit": "nm", "PhysicalSizeYUnit": "nm"}
        tifffile.imwrite(path, frames, ome=True, metadata=ome | units)
    return path


TIMED = ["dm3", "emd-velox", "emd-berkeley", "tif-imagej", "tif-compressed", "tif-ome"]
UNTIMED = ["mrc", "ser"]
