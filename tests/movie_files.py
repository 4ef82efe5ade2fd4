"""Small valid movie files of every format, written byte by byte where no library writes them."""

import json
import os
import shutil
import struct

import h5py
import numpy as np
import tifffile
import zarr
from PIL import Image
from rsciio import hspy, tvips

SHAPE = (6, 5, 7)  # three different sizes, so that a mixed-up axis shows; 3 or 4 would be colours to tifffile


def stack(dtype="uint16", shape=SHAPE):
    """A movie in which every pixel has another value."""
    return np.arange(np.prod(shape)).reshape(shape).astype(dtype)


def write_mrc(path, frames, angstrom=25.0, order="<", extended=b"", kind=b"\0\0\0\0", fields=()):
    """`fields` lists further (format, offset, values) of the header; ``kind`` names that of the extended header."""
    mode = {"int8": 0, "uint8": 0, "int16": 1, "float32": 2, "uint16": 6}[frames.dtype.name]
    n, height, width = frames.shape
    header = bytearray(1024)
    struct.pack_into(f"{order}10i", header, 0, width, height, n, mode, 0, 0, 0, width, height, n)
    struct.pack_into(f"{order}3f", header, 40, width * angstrom, height * angstrom, n * angstrom)
    struct.pack_into(f"{order}i", header, 92, len(extended))
    header[104:108] = kind
    header[208:216] = b"MAP " + (b"DD\0\0" if order == "<" else b"\x11\x11\0\0")
    for form, offset, *values in fields:
        struct.pack_into(order + form, header, offset, *values)
    path.write_bytes(bytes(header) + extended + frames.astype(frames.dtype.newbyteorder(order)).tobytes())
    return path


def write_4_bit_mrc(path, frames, in_bytes=False):
    """Two pixels a byte, the first in the lower half: mode 101, or mode 0 of half the width with IMOD's flag 16."""
    n, height, width = frames.shape
    padded = np.pad(frames, ((0, 0), (0, 0), (0, width % 2))).astype("uint8")
    packed = padded[..., ::2] | padded[..., 1::2] << 4
    scale = [("i", 28, width), ("f", 40, 25.0 * width)]
    fields = [("2i", 152, 1146047817, 16)] if in_bytes else [("4i", 0, width, height, n, 101), *scale]
    return write_mrc(path, packed, fields=fields)


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


def write_dm5(path, frames, dims, intensity=(0.0, 1.0, "")):
    """`dims` lists (step, unit) for x, y, t; `intensity` is origin, step and unit of the values.

    The first image is a thumbnail, as DigitalMicrograph writes it.
    """
    with h5py.File(path, "w") as file:
        for i, data in enumerate((np.zeros((2, 2), "uint8"), frames)):
            group = file.create_group(f"ImageList/[{i}]/ImageData")
            group["Data"] = data
            for axis, (step, unit) in enumerate(dims):
                dimension = group.create_group(f"Calibrations/Dimension/[{axis}]")
                dimension.attrs.update({"Label": "", "Origin": 0.0, "Scale": step, "Units": unit})
            brightness = group.create_group("Calibrations/Brightness")
            brightness.attrs.update(zip(("Origin", "Scale", "Units"), intensity, strict=True))
    return path


def write_ome_zarr(path, frames, version="0.4", scale=(0.5, 2.5, 2.5)):
    group = zarr.open_group(path, mode="w", zarr_format=2 if version == "0.4" else 3)
    group.create_array("0", data=frames, chunks=(1, *frames.shape[1:]))
    axes = [{"name": name, "unit": unit} for name, unit in (("t", "second"), ("y", "nanometer"), ("x", "nanometer"))]
    changes = [{"type": "scale", "scale": list(scale)}]
    multiscales = [
        {"version": version, "axes": axes, "datasets": [{"path": "0", "coordinateTransformations": changes}]}
    ]
    group.attrs.update({"multiscales": multiscales} if version == "0.4" else {"ome": {"multiscales": multiscales}})
    return path


def as_signal(frames, steps=(0.5, 2.5, 2.5)):
    """What the writers of RosettaSciIO take."""
    described = zip(("time", "y", "x"), steps, ("s", "nm", "nm"), frames.shape, strict=True)
    axes = [
        {"name": name, "scale": step, "units": unit, "offset": 0.0, "size": n, "navigate": name == "time"}
        for name, step, unit, n in described
    ]
    metadata = {"General": {"title": "movie"}, "Signal": {"signal_type": ""}}
    signal = {"data": frames, "axes": axes, "metadata": metadata, "original_metadata": {}, "learning_results": {}}
    empty = {"tmp_parameters": {}, "models": {}, "package_info": {"package": "", "package_version": ""}}
    return signal | {"attributes": {"_lazy": False}} | empty


def write_zspy(path, frames, zipped=True):
    """As HyperSpy describes its format; RosettaSciIO's writer wants an older Zarr."""
    folder = path.with_suffix(".folder") if zipped else path
    root = zarr.open_group(folder, mode="w", zarr_format=2)
    root.attrs.update({"file_format": "ZSpy", "file_format_version": "3.3"})
    group = root.create_group("Experiments/movie")
    group.create_array("data", data=frames, chunks=(1, *frames.shape[1:]))
    for i, axis in enumerate(as_signal(frames)["axes"]):
        group.create_group(f"axis-{i}").attrs.update(axis)
    if zipped:
        os.replace(shutil.make_archive(str(path), "zip", folder), path)
        shutil.rmtree(folder)
    return path


def write_tvips(path, frames, **options):
    """The movie as `path` with _000 before its end, and further parts where `max_file_size` asks for them."""
    tvips.file_writer(str(path), as_signal(frames, (0.5, 2.0, 2.0)), **options)
    first = path.with_name(f"{path.stem}_000.tvips")
    with first.open("r+b") as file:  # the writer takes the step of the wrong axis for the pixel size
        file.seek(36)
        file.write(struct.pack("<I", 2))
    return first


def write_gif(path, frames, milliseconds=200):
    first, *others = (Image.fromarray(frame) for frame in frames)
    first.save(path, save_all=True, append_images=others, duration=milliseconds)
    return path


def write_video(path, frames, codec="rawvideo", pix_fmt="gray", fps=5):
    """`frames` are grey (t, y, x) or in colours (t, y, x, 3); the sizes must be even."""
    import imageio_ffmpeg

    height, width = frames.shape[1:3]
    given = "gray" if frames.ndim == 3 else "rgb24"
    writer = imageio_ffmpeg.write_frames(
        str(path), (width, height), given, pix_fmt, fps=fps, codec=codec, macro_block_size=1, quality=None
    )
    writer.send(None)
    for frame in frames:
        writer.send(np.ascontiguousarray(frame))
    writer.close()
    return path


class DM3:
    """The least of a DigitalMicrograph 3 file: a tree of tags, big-endian names around little-endian values."""

    version, integer, size = 3, "i", b""  # `size`: of a tag, which DM4 has and RosettaSciIO does not look at

    @classmethod
    def group(cls, tags, named=True):
        body = b""
        for name, tag in tags:
            text = name.encode() if named else b""
            kind = 20 if tag[:1] == b"\x01" else 21
            body += struct.pack(">BH", kind, len(text)) + text + tag[1:]
        return b"\x01\x01\x00" + cls.size + struct.pack(">" + cls.integer, len(tags)) + body

    @classmethod
    def value(cls, code, fmt, number):
        return b"\x00" + cls.size + b"%%%%" + struct.pack(f">2{cls.integer}", 1, code) + struct.pack("<" + fmt, number)

    @classmethod
    def array(cls, code, values):
        head = struct.pack(f">4{cls.integer}", 3, 20, code, values.size)
        return b"\x00" + cls.size + b"%%%%" + head + values.tobytes()

    @classmethod
    def write(cls, path, frames, dims, data_type=10, intensity=(0.0, 1.0, "")):
        """`dims` lists (step, unit) for x, y, t; `intensity` is origin, step and unit of the values."""

        def text(unit):
            return cls.array(4, np.frombuffer(unit.encode("utf-16-le"), "<u2"))

        def dimension(step, unit, origin=0.0):
            return cls.group(
                [("Origin", cls.value(6, "f", origin)), ("Scale", cls.value(6, "f", step)), ("Units", text(unit))]
            )

        calibrations = cls.group(
            [
                ("Brightness", dimension(*intensity[1:], intensity[0])),
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
        tree = cls.group([("ImageList", cls.group([("", image)], named=False))])
        tree = tree[1:3] + tree[3 + len(cls.size) :]  # the root is no tag
        path.write_bytes(struct.pack(f">i{cls.integer}i", cls.version, len(tree) + 4, 1) + tree + bytes(8))
        return path


class DM4(DM3):
    """The same with longer integers."""

    version, integer, size = 4, "q", bytes(8)


NM_TYX = [("time", "[s]", 0.5), ("y", "[n_m]", 2.5), ("x", "[n_m]", 2.5)]


def write_any(kind, folder):
    """A valid movie `stack()` of 2.5 nm/px in the format `kind`."""
    path, frames = folder / f"movie.{kind.split('-')[0]}", stack()
    if kind in ("dm3", "dm4"):
        return (DM3 if kind == "dm3" else DM4).write(path, frames, [(2.5, "nm"), (2.5, "nm"), (0.5, "s")])
    if kind == "mrc":
        return write_mrc(path, frames)
    if kind == "mrc-4-bit":
        return write_4_bit_mrc(path, frames % 16)
    if kind == "emi":
        path.write_bytes(b"<ObjectInfo><Label>Mode</Label><Value>TEM Imaging</Value></ObjectInfo>")
        write_ser(folder / "movie_1.ser", frames)
        return path
    if kind == "ser":
        return write_ser(path, frames)
    if kind == "dm5":
        return write_dm5(path, frames, [(2.5, "nm"), (2.5, "nm"), (0.5, "s")])
    if kind == "zarr":
        return write_ome_zarr(path, frames)
    if kind == "hspy":
        hspy.file_writer(str(path), as_signal(frames))
        return path
    if kind == "zspy":
        return write_zspy(path, frames)
    if kind == "tvips":
        return write_tvips(path, frames)
    if kind in ("png", "jpg"):
        Image.fromarray(frames[0].astype("uint8")).save(path)
        return path
    if kind == "folder":
        path.mkdir()
        for i, frame in enumerate(frames):
            Image.fromarray(frame.astype("uint8")).save(path / f"{i}.png")
        return path
    if kind == "gif":
        return write_gif(path, frames.astype("uint8"))
    if kind == "avi":
        return write_video(path, stack("uint8", (6, 6, 8)))
    if kind == "mp4":
        return write_video(path, stack("uint8", (6, 16, 16)), "libx264", "yuv420p")
    if kind == "emd-velox":
        return write_velox(path, {"a": frames})
    if kind in ("emd-berkeley", "de5"):
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


TIMED = ["dm3", "dm4", "dm5", "emd-velox", "emd-berkeley", "de5", "hspy", "zspy"]
TIMED += ["tif-imagej", "tif-compressed", "tif-ome"]
UNTIMED = ["mrc", "ser"]
#: Files that cannot hold `stack()` with its scales.
OTHERS = ["tvips", "png", "jpg", "gif", "avi", "mp4", "mrc-4-bit", "emi", "zarr", "folder"]
