"""Decoding: people's image files to RGB arrays, or one line saying why not.

Files come from cameras, web pages and disks that were full. So: what a file is, its
first bytes say and never its name; only the parsers of a short list are run; sizes are
checked before pixels are decoded; and a file that is damaged is refused whole, since
half an image with a true label is worse than none. Pillow and NumPy only.
"""

import contextlib
import dataclasses
import io
import logging
import pathlib
import re
import stat
import warnings
from collections.abc import Iterator

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError, features

from noisy_student_jax.core.console import printable
from noisy_student_jax.core.errors import one_line

MAX_PIXELS = 64_000_000
MAX_BYTES = 256 * 2**20
"""Of a file; more is no image that anyone trains on."""
SIGNATURES = {
    b"\xff\xd8\xff": "JPEG",
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"GIF87a": "GIF",
    b"GIF89a": "GIF",
    b"BM": "BMP",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"II+\0": "TIFF",
    b"MM\0+": "TIFF",
    b"P4": "PPM",
    b"P5": "PPM",
    b"P6": "PPM",
}
AVIF_BRANDS = {b"avif", b"avis"}
HEIC_BRANDS = {
    *(b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"),
    *(b"mif1", b"msf1"),
}
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What sets an image upright, by its EXIF orientation."""

# Without a handler of its own, what Pillow logs of a broken file lands on the screen.
logging.getLogger("PIL").addHandler(logging.NullHandler())


class UndecodableImageError(Exception):
    """The file is no image that we read; the message says why, in one line.

    The line is the same on every run, and free of control characters and addresses,
    so that reasons can be stored, compared and counted.
    """


def decode(
    source: str | pathlib.Path | bytes, *, shorter_side: int | None = None
) -> np.ndarray:
    """Decodes an image file to RGB, upright by its EXIF orientation.

    JPEG, PNG, WebP, GIF, BMP, TIFF, PPM, AVIF, and, where `pillow_heif` is installed,
    HEIC. Of animations and of files with several pages, the first image. Transparent
    parts become white, as they look on most pages. Values of more than 8 bits are
    scaled. Color profiles are not applied. Damage inside a JPEG that keeps its
    structure cannot be told: the format has no checksums.

    Args:
      source: a path, or the file's bytes.
      shorter_side: shrinks to this length of the shorter side, if it is longer, with
        the aspect kept. A JPEG is then decoded at the smallest of 1/8, 1/4, 1/2 and
        its full size that still has so many pixels: several times faster.

    Returns:
      uint8 ``[height, width, 3]``.

    Raises:
      UndecodableImageError: whatever is wrong with the file: missing, truncated,
        damaged, not an image, more than `MAX_BYTES`, or more than `MAX_PIXELS` by
        its header (checked before any pixel is decoded).
    """
    if shorter_side is not None and shorter_side < 1:
        raise ValueError(f"shorter_side must be at least 1, got {shorter_side}")
    with _opened(source, whole=True) as image:
        drafted = None
        # Of the others, HEIC has a draft too: any thumbnail that it comes with.
        if shorter_side is not None and image.format in ("JPEG", "MPO"):
            drafted = image.draft(None, (shorter_side, shorter_side))
        image.load()
        turn = _turn(image)
        upright = _to_rgb(image)
        if shorter_side is not None:
            _, _, width, height = drafted[1] if drafted else (0, 0, *upright.size)
            upright = _shrink(upright, width, height, shorter_side)
        if turn is not None:
            upright = upright.transpose(turn)
        return np.asarray(upright)


@dataclasses.dataclass(frozen=True)
class Header:
    """What the first bytes of an image file tell.

    Attributes:
      height: of what `decode` would return, if the pixels are good.
      width: likewise.
      plain: it is a JPEG of one or three colors, stored upright.
    """

    height: int
    width: int
    plain: bool


def header(source: str | pathlib.Path | bytes) -> tuple[int, int]:
    """Reads an image's height and width, upright, without decoding its pixels.

    Args:
      source: a path, or the file's bytes.

    Returns:
      The height and the width of what `decode` would return, if the pixels are good.

    Raises:
      UndecodableImageError: as `decode`, as far as the header tells.
    """
    found = inspect(source)
    return found.height, found.width


def inspect(source: str | pathlib.Path | bytes) -> Header:
    """As `header`, and tells more."""
    with _opened(source) as image:
        width, height = image.size
        # Pillow gives the size of a TIFF upright already.
        if image.format != "TIFF" and _orientation(image) >= 5:
            width, height = height, width
        jpeg = image.format in ("JPEG", "MPO") and image.mode in ("L", "RGB")
        return Header(height, width, jpeg and _is_stored_upright(image))


def read(path: str | pathlib.Path) -> bytes:
    """Reads an image file's bytes.

    Raises:
      UndecodableImageError: it cannot be read, is no regular file (a pipe would be
        waited for, a device never end), or has more than `MAX_BYTES`.
    """
    path = pathlib.Path(path)
    try:
        found = path.stat()
        if stat.S_ISDIR(found.st_mode):
            raise UndecodableImageError("Is a directory")
        if not stat.S_ISREG(found.st_mode):
            raise UndecodableImageError("not a regular file")
        if found.st_size > MAX_BYTES:
            raise UndecodableImageError(
                f"{found.st_size:,} bytes, more than {MAX_BYTES:,}"
            )
        return path.read_bytes()
    except OSError as error:
        raise UndecodableImageError(error.strerror or _words(error)) from error
    except MemoryError as error:
        raise UndecodableImageError("too large for the memory that is free") from error
    except ValueError as error:  # a name with a null character
        raise UndecodableImageError(_words(error)) from error


@contextlib.contextmanager
def _opened(
    source: str | pathlib.Path | bytes, *, whole: bool = False
) -> Iterator[Image.Image]:
    """Opens an image, its size checked; tells what goes wrong then or later."""
    data = source if isinstance(source, bytes) else read(source)
    kind = _kind(data)
    _pass_over_warnings()
    try:
        if kind == "HEIF":
            _register_heic()
        elif kind == "AVIF" and not features.check("avif"):
            raise UndecodableImageError(
                "AVIF needs a newer Pillow (pip install 'pillow>=11.3')"
            )
        with Image.open(io.BytesIO(data), formats=[kind]) as image:
            _check_size(image)
            if whole:
                _check_whole(kind, data)
            yield image
    except UndecodableImageError:
        raise
    except MemoryError as error:
        raise UndecodableImageError("too large for the memory that is free") from error
    except Image.DecompressionBombError as error:
        # Pillow's own limit is higher, but it is checked earlier.
        raise UndecodableImageError(
            f"more than {MAX_PIXELS:,} pixels by its header"
        ) from error
    except UnidentifiedImageError as error:
        # Pillow's own words hold the address of the buffer, another in every run.
        reason = f"broken {kind} file: its header cannot be read"
        raise UndecodableImageError(reason) from error
    except Exception as error:  # Pillow's plugins raise many kinds on broken files
        raise UndecodableImageError(_reason(kind, error)) from error


def _pass_over_warnings() -> None:
    """Has Python ignore what Pillow warns of, from now on.

    And not with `warnings.catch_warnings`: one thread would put back what another has
    changed.
    """
    modules = rf"PIL\.|pillow_heif|{re.escape(__name__)}"
    first = warnings.filters[0][3] if warnings.filters else None
    if getattr(first, "pattern", None) != modules:
        warnings.filterwarnings("ignore", module=modules)


def _kind(data: bytes) -> str:
    """Names the format by the first bytes, as Pillow calls it."""
    if not data:
        raise UndecodableImageError("empty file")
    for signature, kind in SIGNATURES.items():
        if data.startswith(signature):
            return kind
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        # Its decoder would say only that it cannot.
        if len(data) < 8 + int.from_bytes(data[4:8], "little"):
            raise UndecodableImageError("truncated WEBP file")
        return "WEBP"
    brand = data[8:12]
    if data[4:8] == b"ftyp" and brand in AVIF_BRANDS | HEIC_BRANDS:
        end = min(int.from_bytes(data[:4], "big"), 256)
        compatible = {data[start : start + 4] for start in range(16, end, 4)}
        return "AVIF" if AVIF_BRANDS & {brand, *compatible} else "HEIF"
    raise UndecodableImageError("not an image of a known format")


def _register_heic() -> None:
    try:
        import pillow_heif
    except ImportError as error:
        raise UndecodableImageError(
            "HEIC needs the heic extra (pip install 'noisy-student-jax[heic]')"
        ) from error
    pillow_heif.register_heif_opener()


def _check_size(image: Image.Image) -> None:
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise UndecodableImageError(
            f"{width * height:,} pixels by its header, more than {MAX_PIXELS:,}"
        )


def _check_whole(kind: str, data: bytes) -> None:
    """Refuses damage that decoding would pass over."""
    if kind == "PNG":
        with Image.open(io.BytesIO(data), formats=[kind]) as image:
            image.verify()  # the checksums
    elif kind == "JPEG" and data.rfind(b"\xff\xd9", _first_scan(data)) < 0:
        # Where its end is missing, zeros in its place decode as well as any bytes.
        raise UndecodableImageError(f"truncated {kind} file")


def _first_scan(data: bytes) -> int:
    """Finds where a JPEG's pixels begin, behind a thumbnail that has its own end."""
    place = 2
    while data[place : place + 1] == b"\xff" and data[place + 1 : place + 2] != b"\xda":
        padding = data[place + 1 : place + 2] == b"\xff"
        length = int.from_bytes(data[place + 2 : place + 4], "big")
        place += 1 if padding else 2 + length
    return place


def _reason(kind: str, error: Exception) -> str:
    """Why an image cannot be decoded, in few kinds, so that they can be counted."""
    words = _words(error)
    if re.search("truncated|unexpected end of file", words, re.IGNORECASE):
        return f"truncated {kind} file"  # and not: by how many bytes
    words = words.removeprefix(f"broken {kind} file ").strip("()")
    return f"broken {kind} file: {words}"


def _words(error: Exception) -> str:
    """What an error says, in one harmless line."""
    text = " ".join(str(error).split())
    if not text or not isinstance(error, (OSError, SyntaxError, ValueError)):
        text = one_line(error)
    return printable(re.sub(r"\b0x[0-9a-fA-F]+", "0x…", text))[:200]


def _orientation(image: Image.Image) -> int:
    """The orientation by EXIF; a broken EXIF block does not lose the image."""
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation)
        return orientation if orientation in TURNS else 1
    except Exception:  # as many kinds as there are ways to break it
        return 1


def _is_stored_upright(image: Image.Image) -> bool:
    """Whether there is no doubt of it: not where the EXIF block makes no sense."""
    try:
        return image.getexif().get(ExifTags.Base.Orientation, 1) == 1
    except Exception:  # see `_orientation`
        return False


def _turn(image: Image.Image) -> Image.Transpose | None:
    # A loaded TIFF is turned, and no longer says how.
    return TURNS.get(_orientation(image))


def _shrink(image: Image.Image, width: float, height: float, side: int) -> Image.Image:
    """Shrinks to a shorter side.

    Args:
      image: it, perhaps decoded at a fraction of its size.
      width: what of it is image, in its pixels: not whole where a fraction's edge
        was padded.
      height: the same.
      side: the shorter side that is wanted.
    """
    scale = min(1, side / min(width, height))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    if size == image.size:
        return image
    return image.resize(size, Image.Resampling.BICUBIC, box=(0, 0, width, height))


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        image = _to_eight_bits(image)
    if image.mode == "La":  # premultiplied, and converted to its neighbor alone
        image = image.convert("LA")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGB", image.size, "white")
        white.paste(image, mask=image.getchannel("A"))
        return white
    return image.convert("RGB")


def _to_eight_bits(image: Image.Image) -> Image.Image:
    """Scales deep grays, which Pillow would clip at 255."""
    values = np.asarray(image)
    transparent = image.info.get("transparency")
    if image.mode.startswith("I;16") or image.format in ("PNG", "PPM"):
        bits = 12 if _is_twelve_bits(image) else 16
        gray = (values >> (bits - 8)).astype(np.uint8)
    else:
        gray = _on_a_known_scale(values)
    if transparent is not None:
        gray[values == transparent] = 255
    return Image.fromarray(gray)


def _is_twelve_bits(image: Image.Image) -> bool:
    """TIFF alone stores numbers of 12 bits, which Pillow then calls 16."""
    tags = getattr(image, "tag_v2", {})
    return tags.get(ExifTags.Base.BitsPerSample) == (12,)


def _on_a_known_scale(values: np.ndarray) -> np.ndarray:
    """Takes whole or floating numbers to uint8.

    The files do not say what is white. So it is the least of 1 (for floating
    numbers), 255 and 65,535 that no value is above.
    """
    whites = (255, 65_535) if values.dtype.kind in "iu" else (1, 255, 65_535)
    values = np.nan_to_num(values.astype(np.float32), posinf=np.inf)
    largest = values.max(initial=0)
    for white in whites:
        if largest <= white:
            scaled = np.clip(values * (255 / white), 0, 255)
            return scaled.round().astype(np.uint8)
    raise UndecodableImageError(
        f"values up to {largest:.6g}, more than 65,535: on no known scale"
    )
