"""Samples of more than 8 bits, signed and floating-point ones, and TIFFs' kinds.

Pillow's modes have 8 bits, or one channel without a meaning: it drops the low bits of
color images, and forgets which value is white. This module reads the samples as they
are stored, and says which of them is what. It leaves all compression to Pillow: a TIFF
is read as the gray image of 8 bits that has the same bytes.
"""

import dataclasses
import io
import re
import struct
import zlib
from typing import Any

import numpy as np
from PIL import Image, TiffImagePlugin

Scale = tuple[float, float]
"""The values that become black and white."""

_GRAY = {0: 1, 1: 1, 2: 3, 5: 4}
"""Channels without extra samples, by TIFF's photometric interpretation."""
_NAMES = {
    **{0: "gray", 1: "gray", 2: "RGB", 3: "palette", 4: "mask", 5: "CMYK", 6: "YCbCr"},
    **{8: "Lab", 9: "Lab", 10: "Lab", 32803: "raw camera", 34892: "raw camera"},
}
_LOSSLESS = {1, 5, 8, 32773, 32946, 34925, 50000}
_FORMATS = {1: "uint", 2: "int", 3: "float", 4: "uint"}
_TYPES = {1: "B", 3: "H", 4: "I", 16: "Q", 18: "Q", 13: "I"}
_MOST_VALUES = 1 << 24


class NotReadError(Exception):
    """The file is whole, but of a kind that is not read; the message says which."""


@dataclasses.dataclass(frozen=True)
class Samples:
    """The samples of an image.

    Attributes:
      values: ``[height, width, channels]`` of gray, RGB or CMYK.
      kind: their type, such as ``uint16`` or ``float32``; ``uint12`` if packed.
      alpha: float32 ``[height, width]`` in 0–1; None if opaque.
      premultiplied: whether values were multiplied by alpha.
      inverted: whether the smallest value is white.
    """

    values: np.ndarray
    kind: str
    alpha: np.ndarray | None = None
    premultiplied: bool = False
    inverted: bool = False

    def range(self) -> Scale:
        """Returns the smallest and the largest finite value."""
        finite = self.values
        if finite.dtype.kind == "f":
            finite = finite[np.isfinite(finite)]
        if not finite.size:
            return 0.0, 0.0
        return float(finite.min()), float(finite.max())

    def eight_bits(self, scale: Scale) -> tuple[Image.Image, Image.Image | None]:
        """Returns the image of the mode L, RGB or CMYK, and its alpha or None."""
        black, white = scale
        colors = self.values.astype(
            np.float64 if self.kind[-2:] == "64" else np.float32
        )
        colors = np.nan_to_num(colors, nan=black, posinf=white, neginf=black)
        colors = (colors - black) * (255 / (white - black))
        alpha = None
        if self.alpha is not None:
            alpha = Image.fromarray((self.alpha * 255).round().astype(np.uint8))
            if self.premultiplied:
                colors /= np.maximum(self.alpha, 1e-6)[..., None]
        colors = np.clip(colors, 0, 255).round().astype(np.uint8)
        if self.inverted:
            colors = 255 - colors
        mode = {1: "L", 3: "RGB", 4: "CMYK"}[colors.shape[-1]]
        colors = colors[..., 0] if mode == "L" else colors
        image = Image.frombytes(mode, colors.shape[1::-1], colors.tobytes())
        return image, alpha


def declared(kind: str) -> Scale | None:
    """Returns the scale that a type has by its format; None if there is none.

    Unsigned values of up to 16 bits are white at their largest, unless a source's
    values say otherwise.
    """
    bits = int("".join(filter(str.isdigit, kind)))
    return (0, 2**bits - 1) if kind.startswith("uint") and bits <= 16 else None


def is_ambiguous(kind: str) -> bool:
    """Returns whether white is to be observed over a source.

    Writers put values of 10, 12 and 14 bits into 16; who packs 12 bits means them.
    """
    return kind == "uint16" or declared(kind) is None


def observed(kind: str, lowest: float, highest: float) -> Scale:
    """Returns the scale of a source whose values are known.

    Black is 0 or, below, the smallest value. White is 1 for floating point up to 1,
    and otherwise the largest value of as many bits, from 8 to 16, as there are; beyond,
    and where there are values below 0, it is the largest value.
    """
    if lowest < 0:
        return lowest, max(highest, lowest + 1)
    if kind.startswith("float") and highest <= 1:
        return 0, 1
    for bits in range(8, 17):
        if highest <= 2**bits - 1:
            return 0, 2**bits - 1
    return 0, highest


def read(kind: str, data: bytes, image: Image.Image | None) -> Samples | None:
    """Reads samples that Pillow has no mode for.

    Args:
      kind: of the file: PNG, PPM or TIFF; None is returned for others.
      data: the file.
      image: as opened by Pillow; None if it could not.

    Returns:
      The samples; None if Pillow's image is right.

    Raises:
      NotReadError: see there.
      ValueError: the file is broken; other errors of parsers likewise.
    """
    if kind == "TIFF":
        return _of_tiff(data)
    if kind == "PNG" and image:
        return _of_png(data, image)
    if kind == "PPM" and image:
        return _of_ppm(data, image)
    return None


# ---- PNG


def _of_png(data: bytes, image: Image.Image) -> Samples | None:
    width, height, bits, color, *_, interlaced = struct.unpack(">IIBBBBB", data[16:29])
    if bits != 16:
        return None
    channels = {0: 1, 2: 3, 4: 2, 6: 4}[color]
    key = image.info.get("transparency")
    if color == 0:
        values = np.asarray(image).astype(np.uint16)[..., None]
    else:
        values = _png_values(data, width, height, channels, bool(interlaced))
    alpha = None
    if color in (4, 6):
        values, last = values[..., :-1], values[..., -1]
        alpha = (last / 65_535).astype(np.float32)
    elif key is not None:
        alpha = (values != np.array(key)).any(axis=-1).astype(np.float32)
    return Samples(values, "uint16", alpha)


_PASSES = (
    *((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2)),
    *((0, 1, 2, 2), (1, 0, 2, 1)),
)


def _png_values(
    data: bytes, width: int, height: int, channels: int, interlaced: bool
) -> np.ndarray:
    """Decodes a PNG of 16 bits to uint16 ``[height, width, channels]``."""
    packed, place = [], 8
    while place + 8 <= len(data):
        length, name = struct.unpack(">I4s", data[place : place + 8])
        if name == b"IDAT":
            packed.append(data[place + 8 : place + 8 + length])
        place += 12 + length
    passes = _PASSES if interlaced else ((0, 0, 1, 1),)
    sizes = [
        (-(-(height - top) // down), -(-(width - left) // right))
        for top, left, down, right in passes
    ]
    pixel = 2 * channels
    need = sum(h * (1 + w * pixel) for h, w in sizes if h > 0 and w > 0)
    rows = np.frombuffer(zlib.decompressobj().decompress(b"".join(packed), need), "u1")
    if len(rows) < need:
        raise ValueError("truncated")
    values = np.empty((height, width, channels), np.uint16)
    start = 0
    for (top, left, down, right), (h, w) in zip(passes, sizes, strict=True):
        if h <= 0 or w <= 0:
            continue
        own = rows[start : start + h * (1 + w * pixel)].reshape(h, -1)
        start += own.size
        found = _unfiltered(own[:, 0], own[:, 1:].reshape(h, w, pixel))
        values[top::down, left::right] = found.view(">u2")
    return values


def _unfiltered(filters: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Undoes PNG's filters; uint8 ``[height, width, bytes]``.

    A pixel needs those to the left and above: the pixels of one anti-diagonal are
    independent of each other. They are stored side by side meanwhile.
    """
    if filters.max(initial=0) > 4:
        raise ValueError("unknown filter")
    height, width, size = rows.shape
    # Pixel (r, c) is at [r + c, r], and when done at [r + c + 2, r + 1].
    given = np.zeros((height + width - 1, height, size), np.uint8)
    done = np.zeros((height + width + 1, height + 1, size), np.uint8)
    _slanted(given, rows.shape)[...] = rows
    how = filters[:, None]
    kinds = [how == 1, how == 2, how == 3, how == 4]
    for diagonal in range(height + width - 1):
        first, end = max(0, diagonal - width + 1), min(height, diagonal + 1)
        left = done[diagonal + 1, first + 1 : end + 1].astype(np.int16)
        above = done[diagonal + 1, first:end].astype(np.int16)
        corner = done[diagonal, first:end].astype(np.int16)
        to_left, to_above = np.abs(above - corner), np.abs(left - corner)
        to_corner = np.abs(left + above - 2 * corner)
        paeth = np.where(
            (to_left <= to_above) & (to_left <= to_corner),
            left,
            np.where(to_above <= to_corner, above, corner),
        )
        guess = np.select(
            [kind[first:end] for kind in kinds],
            [left, above, (left + above) >> 1, paeth],
            np.int16(0),
        )
        done[diagonal + 2, first + 1 : end + 1] = given[diagonal, first:end] + (
            guess.astype(np.uint8)
        )
    return np.ascontiguousarray(_slanted(done[2:, 1:], rows.shape))


def _slanted(diagonals: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Returns the view whose pixel (r, c) is at [r + c, r]."""
    along, down, byte = diagonals.strides
    strides = (along + down, along, byte)
    return np.lib.stride_tricks.as_strided(diagonals, shape, strides)


# ---- PPM and PGM


def _of_ppm(data: bytes, image: Image.Image) -> Samples | None:
    """Reads PGM and PPM of more than 8 bits, of any largest value."""
    channels = {b"P2": 1, b"P3": 3, b"P5": 1, b"P6": 3}.get(data[:2])
    if channels is None:
        return None
    words: list[int] = []
    place = 2
    while len(words) < 3:
        while data[place : place + 1].isspace():
            place += 1
        if data[place : place + 1] == b"#":
            place = data.index(b"\n", place)
            continue
        end = place
        while data[end : end + 1].isdigit():
            end += 1
        words.append(int(data[place:end]))
        place = end
    width, height, most = words
    if most < 256:
        return None
    count = width * height * channels
    if data[:2] in (b"P2", b"P3"):
        numbers = re.sub(rb"#[^\n]*", b"", data[place:]).split()[:count]
        values = np.array([min(int(number), most) for number in numbers], np.uint16)
    else:
        values = np.frombuffer(data, ">u2", count, place + 1).astype(np.uint16)
    values = values.reshape(height, width, channels)
    bits = most.bit_length()
    if most == 2**bits - 1:
        return Samples(values, f"uint{bits}")
    full = np.rint(values * (65_535 / most)).clip(0, 65_535)
    return Samples(full.astype(np.uint16), "uint16")


# ---- TIFF


def _of_tiff(data: bytes) -> Samples | None:
    tags = Tags(data)
    bits, formats = set(tags.all(258, default=(1,))), set(tags.all(339, default=(1,)))
    photometric, count = tags.one(262, default=1), tags.one(277, default=1)
    what = (
        f"a TIFF of {count} {'bands' if count > 1 else 'band'} of"
        f" {'/'.join(str(n) for n in sorted(bits))} bits,"
        f" {_NAMES.get(photometric, f'photometric {photometric}')}"
    )
    if len(bits) > 1 or len(formats) > 1:
        raise NotReadError(f"{what}, which differ in type")
    (size,), (form,) = bits, formats
    extra = tags.all(338, default=())
    if size <= 8 and form in (1, 4):
        named = _GRAY.get(photometric)
        unnamed = count - named - len(extra) if named else 0
        if unnamed > 0 and (photometric, count) != (2, 4):
            raise NotReadError(what)
        return None
    compression = tags.one(259, default=1)
    if photometric not in _GRAY or form not in _FORMATS:
        raise NotReadError(what if form in _FORMATS else f"{what} of another type")
    channels = _GRAY[photometric]
    if count < channels or len(extra) < count - channels:
        raise NotReadError(what)
    if compression not in _LOSSLESS or tags.one(266, default=1) != 1:
        raise NotReadError(f"{what}, compressed by method {compression}")
    whole = size in (8, 16, 32, 64)
    if not (whole or (form in (1, 4) and size < 16)) or (form == 3 and size == 8):
        raise NotReadError(what)
    values = _tiff_values(data, tags, size, _FORMATS[form], what)
    kind = f"{_FORMATS[form]}{size}"
    alpha, premultiplied = None, False
    if count > channels and extra[0] in (1, 2):
        most = 1.0 if form == 3 else 2.0 ** (size - (form == 2)) - 1
        alpha = np.clip(values[..., channels] / most, 0, 1).astype(np.float32)
        alpha, premultiplied = np.nan_to_num(alpha), extra[0] == 1
    return Samples(
        values[..., :channels], kind, alpha, premultiplied, inverted=photometric == 0
    )


def _tiff_values(
    data: bytes, tags: "Tags", size: int, form: str, what: str
) -> np.ndarray:
    """Reads ``[height, width, bands]`` in the type of the file."""
    width, height, count = tags.one(256), tags.one(257), tags.one(277, default=1)
    predictor, planar = tags.one(317, default=1), tags.one(284, default=1) == 2
    tile = tags.one(322, default=0)
    bands = 1 if planar else count
    whole = size in (8, 16, 32, 64)
    if predictor not in (1, 2, 3) or (predictor > 1 and not whole):
        raise NotReadError(f"{what}, with predictor {predictor}")
    if predictor == 3 and (tile or form != "float"):
        raise NotReadError(f"{what}, with predictor 3 in tiles")
    kind = np.dtype(f"{tags.order}{form[0]}{size // 8}") if whole else np.dtype("u2")
    planes = []
    for plane in range(count if planar else 1):
        stored = _stored_bytes(data, tags, plane, bands, size)
        if not whole:
            found = _unpacked(stored, width * bands, size)
        elif predictor == 3:
            found = _of_predictor_3(stored, bands, size // 8).view(f">f{size // 8}")
        else:
            found = stored.view(kind)
        found = found.reshape(height, width, bands)
        if predictor == 2:
            found = found.view(f"{tags.order}u{size // 8}")
            steps = tile or width
            parts = [
                np.cumsum(found[:, at : at + steps], axis=1, dtype=f"u{size // 8}")
                for at in range(0, width, steps)
            ]
            found = np.concatenate(parts, axis=1).view(kind.newbyteorder("="))
        planes.append(found.astype(found.dtype.newbyteorder("=")))
    return np.concatenate(planes, axis=-1)


def _stored_bytes(
    data: bytes, tags: "Tags", plane: int, bands: int, size: int
) -> np.ndarray:
    """Decompresses a plane; uint8 ``[height, bytes]``."""

    def scaled(pixels: int) -> int:
        return -(-pixels * bands * size // 8)

    tiled = tags.one(322, default=0)
    places, lengths = (324, 325) if tiled else (273, 279)
    starts, counts = tags.all(places), tags.all(lengths)
    planes = tags.one(277, default=1) if tags.one(284, default=1) == 2 else 1
    each = len(starts) // planes
    own = slice(plane * each, plane * each + each)
    entries: dict[int, tuple[int, ...]] = {
        256: (scaled(tags.one(256)),),
        257: (tags.one(257),),
        258: (8,),
        259: (tags.one(259, default=1),),
        262: (1,),
        277: (1,),
        places: starts[own],
        lengths: counts[own],
    }
    if tiled:
        entries |= {322: (scaled(tiled),), 323: (tags.one(323),)}
    else:
        entries[278] = (min(tags.one(278, default=tags.one(257)), tags.one(257)),)
    # The directory of a classic TIFF, behind the data.
    table, extra, start = b"", b"", len(data) + len(data) % 2
    extra_at = start + 2 + 12 * len(entries) + 4
    for tag in sorted(entries):
        values = struct.pack(f"{tags.order}{len(entries[tag])}I", *entries[tag])
        table += struct.pack(f"{tags.order}HHI", tag, 4, len(entries[tag]))
        if len(values) > 4:
            table += struct.pack(f"{tags.order}I", extra_at + len(extra))
            extra += values
        else:
            table += values
    head = b"II" if tags.order == "<" else b"MM"
    head += struct.pack(f"{tags.order}HI", 42, start)
    number = struct.pack(f"{tags.order}H", len(entries))
    whole = b"".join(
        (head, data[8:], bytes(len(data) % 2), number, table, bytes(4), extra)
    )
    with TiffImagePlugin.TiffImageFile(io.BytesIO(whole)) as image:
        image.load()
        return np.asarray(image)


def _unpacked(stored: np.ndarray, count: int, size: int) -> np.ndarray:
    """Unpacks values of 9 to 15 bits; uint16 ``[height, count]``."""
    bits = np.unpackbits(stored, axis=1)[:, : count * size]
    bits = bits.reshape(len(stored), count, size)
    values = np.zeros(bits.shape[:2], np.uint16)
    for number in range(size):
        values = values << 1 | bits[..., number]
    return values


def _of_predictor_3(stored: np.ndarray, bands: int, size: int) -> np.ndarray:
    """Undoes TIFF's floating-point predictor; big-endian bytes ``[height, bytes]``."""
    height, length = stored.shape
    steps = stored.reshape(height, length // bands, bands)
    done = np.cumsum(steps, axis=1, dtype=np.uint8).reshape(height, size, -1)
    return np.ascontiguousarray(done.transpose(0, 2, 1)).reshape(height, length)


class Tags:
    """The first directory of a TIFF.

    Attributes:
      order: ``<`` or ``>``.
      big: whether it is a BigTIFF.
    """

    def __init__(self, data: bytes):
        self.order = "<" if data[:2] == b"II" else ">"
        self.big = data[2:4] in (b"+\0", b"\0+")
        self._data = data
        long, head, entry = ("Q", 8, 20) if self.big else ("I", 2, 12)
        (start,) = self._unpack(long, 8 if self.big else 4)
        (count,) = self._unpack("Q" if self.big else "H", start)
        if count > 4096:
            raise ValueError("too many tags")
        self._entries: dict[int, tuple[int, int, int]] = {}
        for number in range(count):
            place = start + head + number * entry
            tag, form, size = self._unpack(f"HH{long}", place)
            self._entries.setdefault(
                tag, (form, size, place + 4 + struct.calcsize(long))
            )
        self._inline = struct.calcsize(long)

    def one(self, tag: int, *, default: int | None = None) -> int:
        """Returns a tag's first value."""
        found = self.all(tag, default=None if default is None else (default,))
        if not found:
            raise ValueError(f"tag {tag} is empty")
        return found[0]

    def all(
        self, tag: int, *, default: tuple[int, ...] | None = None
    ) -> tuple[int, ...]:
        """Returns a tag's values."""
        if tag not in self._entries:
            if default is None:
                raise ValueError(f"tag {tag} is missing")
            return default
        number, count, place = self._entries[tag]
        if number not in _TYPES or count > _MOST_VALUES:
            raise ValueError(f"tag {tag} is of no known type")
        form = f"{count}{_TYPES[number]}"
        if struct.calcsize(self.order + form) > self._inline:
            (place,) = self._unpack("Q" if self.big else "I", place)
        return self._unpack(form, place)

    def bytes(self, tag: int) -> bytes | None:
        """Returns a tag's bytes; None if there is none."""
        if tag not in self._entries or self._entries[tag][1] <= self._inline:
            return None
        _, count, place = self._entries[tag]
        (place,) = self._unpack("Q" if self.big else "I", place)
        return self._data[place : place + count]

    def _unpack(self, form: str, place: int) -> tuple[Any, ...]:
        return struct.unpack_from(self.order + form, self._data, place)
