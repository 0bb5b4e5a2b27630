"""Decoding of untrusted image files to RGB arrays, or a one-line reason why not.

Files come from cameras, web pages and disks that were full. The format is detected by
the first bytes, never by the name; only a short list of parsers runs; sizes are checked
before pixels are decoded; and damaged files are rejected completely, since half an
image with a true label is worse than none. This module needs only Pillow and NumPy.
"""

import contextlib
import dataclasses
import io
import logging
import pathlib
import re
import stat
import struct
import warnings
from collections.abc import Iterator, Mapping

import numpy as np
from PIL import ExifTags, Image, JpegImagePlugin, UnidentifiedImageError, features

from noisy_student_jax.core.console import printable
from noisy_student_jax.core.errors import one_line
from noisy_student_jax.images import profiles, samples
from noisy_student_jax.images.samples import NotReadError, Samples, Scale

VERSION = 3
"""Number of these rules: another version may give other pixels."""
MAX_PIXELS = 64_000_000
_BUFFERED = 4
"""How many pixels of a JPEG of several scans take as much memory as a decoded one, at
any scale: libjpeg keeps the coefficients of them all."""
MAX_BYTES = 256 * 2**20
"""Maximum size of a file; larger files are not training images."""
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
    **dict.fromkeys((b"P1", b"P2", b"P3", b"P4"), "PPM"),
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
"""Transposes that make an image upright, by EXIF orientation."""
_COLORS = {"1": "L", "L": "L", "LA": "L", "CMYK": "CMYK", "LAB": "LAB"}
"""The mode in which a color profile sees an image, by Pillow's mode; else RGB."""

# Without a handler, Pillow's log of broken files is printed to the console.
logging.getLogger("PIL").addHandler(logging.NullHandler())


class UndecodableImageError(Exception):
    """The file cannot be decoded; the message gives the reason in one line.

    The reason is the same in every run and free of control characters and addresses,
    so reasons can be stored, compared and counted.
    """


class TooLargeError(UndecodableImageError):
    """The image has more pixels than may be decoded."""


class UnscaledError(UndecodableImageError):
    """The values that become black and white are not known.

    Attributes:
      kind: the type of the samples.
      lowest: the smallest value.
      highest: the largest value.
    """

    def __init__(self, kind: str, lowest: float, highest: float):
        """Takes the attributes."""
        super().__init__(
            f"{kind} values from {lowest:g} to {highest:g}, and which are black and"
            " white is not known (config.data.scale)"
        )
        self.kind, self.lowest, self.highest = kind, lowest, highest


@dataclasses.dataclass(frozen=True)
class Decoding:
    """How image files are decoded.

    Attributes:
      max_pixels: the most pixels that are decoded; of a JPEG that is shrunk, after
        shrinking.
      scales: the values that become black and white, by type of the samples (see
        `Samples`); ``*`` stands for all but 8-bit ones.
      observes: whether an image that needs another scale raises `UnscaledError`, even
        where its format has one.
    """

    max_pixels: int = MAX_PIXELS
    scales: Mapping[str, Scale] = dataclasses.field(default_factory=dict)
    observes: bool = False

    def scale(self, deep: Samples) -> Scale:
        """Returns the scale of an image.

        Raises:
          UnscaledError: it is not known.
        """
        kind = deep.kind
        if known := self.scales.get(ANY, self.scales.get(kind)):
            return known
        by_format = samples.declared(kind)
        lowest, highest = deep.range()
        if kind.startswith("float") and lowest >= 0 and highest <= 1:
            by_format = 0, 1
        unsure = self.observes and samples.is_ambiguous(kind)
        if by_format is None or unsure:
            raise UnscaledError(kind, lowest, highest)
        return by_format


ANY = "*"
CLIPPED = "have values beyond the scale of the others, and are clipped"
ONE_COLOR = "are nearly of one color when they have been decoded"
_SAME = 12
"""Levels of 255 that nearly all pixels of an image of one color lie in."""


DEFAULT = Decoding()


@dataclasses.dataclass(frozen=True)
class Decoded:
    """An image as `decoded` returns it.

    Attributes:
      pixels: uint8 ``[height, width, 3]``.
      original_size: height and width of the image in the file, upright.
      notes: what is to be counted about it, as in "3 images NOTE"; usually empty.
    """

    pixels: np.ndarray
    original_size: tuple[int, int]
    notes: tuple[str, ...] = ()


def decode(
    source: str | pathlib.Path | bytes,
    *,
    shorter_side: int | None = None,
    decoding: Decoding = DEFAULT,
) -> np.ndarray:
    """Decodes an image file to uint8 ``[height, width, 3]``; see `decoded`."""
    return decoded(source, shorter_side=shorter_side, decoding=decoding).pixels


def decoded(
    source: str | pathlib.Path | bytes,
    *,
    shorter_side: int | None = None,
    decoding: Decoding = DEFAULT,
) -> Decoded:
    """Decodes an image file to sRGB, upright by its EXIF orientation.

    Supports JPEG, PNG, WebP, GIF, BMP, TIFF, PPM, AVIF and, if `pillow_heif` is
    installed, HEIC. Animations and multi-page files yield their first image.
    Transparent parts become white, as they appear on most web pages. Embedded color
    profiles are applied; an unusable one is noted and ignored. Values of more than 8
    bits are scaled. Damage that preserves the structure of a JPEG is undetectable: the
    format has no checksums.

    Args:
      source: a path, or the file's bytes.
      shorter_side: downscales a longer shorter side to this length, keeping the aspect
        ratio. A JPEG is then decoded at the smallest of 1/8, 1/4, 1/2 and full size
        that is still large enough, which is several times faster.
      decoding: how to decode.

    Raises:
      UndecodableImageError: the file is missing, truncated, damaged, not an image, or
        larger than `MAX_BYTES`.
      TooLargeError: it has too many pixels by its header; none was decoded.
    """
    if shorter_side is not None and shorter_side < 1:
        raise ValueError(f"shorter_side must be at least 1, got {shorter_side}")
    with _opened(source, whole=True) as opened:
        image, deep = opened.image, opened.samples(decoding)
        drafted, notes = None, []
        if deep:
            original_size = opened.upright_size()
            turn, profile = TURNS.get(opened.orientation()), opened.profile()
            scale = decoding.scale(deep)
            colors, alpha = deep.eight_bits(scale)
            notes.append(scale_note(deep.kind, scale))
            if ANY not in decoding.scales:
                lowest, highest = deep.range()
                notes += [CLIPPED] if lowest < scale[0] or highest > scale[1] else []
        else:
            assert image is not None
            size = image.size
            # HEIC has drafts too, but those may be any embedded thumbnail.
            if shorter_side is not None and image.format in ("JPEG", "MPO"):
                drafted = image.draft(None, (shorter_side, shorter_side))
            _check_size(image, size, decoding.max_pixels)
            original_size = _upright(image, size)
            image.load()
            turn, profile = _turn(image), image.info.get("icc_profile")
            colors, alpha = _eight_bits(image)
        upright, noted = _to_rgb(colors, alpha, profile)
        notes += noted
        if shorter_side is not None:
            _, _, right, bottom = drafted[1] if drafted else (0, 0, *upright.size)
            upright = _shrink(upright, right, bottom, shorter_side)
        if turn is not None:
            upright = upright.transpose(turn)
        pixels = np.asarray(upright)
        notes += [ONE_COLOR] if _is_of_one_color(pixels) else []
        return Decoded(pixels, original_size, tuple(notes))


def scale_note(kind: str, scale: Scale) -> str:
    """Returns the note that an image of a type was decoded by a scale."""
    return f"scale {kind} {scale[0]!r} {scale[1]!r}"


def _is_of_one_color(pixels: np.ndarray) -> bool:
    """Returns whether nearly all pixels have nearly the same color."""
    few = pixels.shape[0] * pixels.shape[1] // 200
    for channel in range(3):
        counts = np.bincount(pixels[..., channel].ravel(), minlength=256).cumsum()
        low, high = np.searchsorted(counts, [few + 1, counts[-1] - few])
        if high - low > _SAME:
            return False
    return pixels.shape[0] * pixels.shape[1] > 1


@dataclasses.dataclass(frozen=True)
class Header:
    """The header of an image file.

    Attributes:
      height: of the image that `decode` would return, if the pixels are intact.
      width: likewise.
      plain: whether it is an upright sRGB JPEG with one or three channels.
      orientation: by EXIF, 1 to 8; 1 for an image that is stored as people see it.
    """

    height: int
    width: int
    plain: bool
    orientation: int = 1


def header(source: str | pathlib.Path | bytes) -> tuple[int, int]:
    """Reads an image's height and width, upright, without decoding its pixels.

    Args:
      source: a path, or the file's bytes.

    Returns:
      Height and width of the image that `decode` would return, if the pixels are
      intact.

    Raises:
      UndecodableImageError: as `decode`, as far as the header shows.
    """
    found = inspect(source)
    return found.height, found.width


def inspect(source: str | pathlib.Path | bytes) -> Header:
    """Reads an image's `Header`; raises as `header`."""
    with _opened(source) as opened:
        image = opened.image
        if image is None:
            turned = opened.orientation()
            return Header(*opened.upright_size(), plain=False, orientation=turned)
        is_jpeg = image.format in ("JPEG", "MPO")
        if not is_jpeg:  # of a PNG, Pillow decodes the pixels to find EXIF
            _check_size(image, image.size, MAX_PIXELS)
        height, width = _upright(image, image.size)
        is_jpeg &= image.mode in ("L", "RGB")
        plain = is_jpeg and _is_stored_upright(image) and _is_srgb(image)
        return Header(height, width, plain, _orientation(image))


def read(path: str | pathlib.Path) -> bytes:
    """Reads an image file's bytes.

    Raises:
      UndecodableImageError: it is unreadable, not a regular file (a pipe would block, a
        device never end), or larger than `MAX_BYTES`.
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
) -> Iterator["_Opened"]:
    """Opens an image; translates errors until it is closed."""
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
        with contextlib.ExitStack() as stack:
            image = None
            try:
                image = stack.enter_context(_parsed(kind, data))
            except UnidentifiedImageError:
                if kind != "TIFF":
                    raise
            if whole:
                _check_whole(kind, data)
            yield _Opened(kind, data, image)
    except UndecodableImageError:
        raise
    except NotReadError as error:
        raise UndecodableImageError(f"not read ({error})") from error
    except MemoryError as error:
        raise UndecodableImageError("too large for the memory that is free") from error
    except Image.DecompressionBombError as error:  # a frame of a GIF
        raise TooLargeError("too many pixels by its header") from error
    except UnidentifiedImageError as error:
        # Pillow's message contains the buffer's address, which varies between runs.
        reason = f"broken {kind} file: its header cannot be read"
        raise UndecodableImageError(reason) from error
    except Exception as error:  # Pillow's plugins raise many kinds on broken files
        raise UndecodableImageError(_reason(kind, error)) from error


@dataclasses.dataclass(frozen=True)
class _Opened:
    """A file whose header was read; `image` is None for TIFFs unknown to Pillow."""

    kind: str
    data: bytes
    image: Image.Image | None

    def samples(self, decoding: Decoding) -> Samples | None:
        """Returns the samples of an image that is not for Pillow, or None."""
        if self.image is None:
            try:
                height, width = self.upright_size()
            except Exception as error:  # of a parser of broken files
                raise UnidentifiedImageError from error
            _check_count(height * width, height * width, decoding.max_pixels)
        elif self.kind in ("PNG", "PPM", "TIFF"):
            _check_size(self.image, self.image.size, decoding.max_pixels)
        try:
            found = samples.read(self.kind, self.data, self.image)
        except (NotReadError, MemoryError):
            raise
        except Exception:  # of a parser of broken files
            if self.image is None or self.image.mode[0] in "IF":
                raise
            return None
        if found is None and (self.image is None or self.image.mode[0] in "IF"):
            raise UnidentifiedImageError
        return found

    def upright_size(self) -> tuple[int, int]:
        """Returns height and width."""
        if self.image is not None:
            return _upright(self.image, self.image.size)
        tags = samples.Tags(self.data)
        size = tags.one(257), tags.one(256)
        return size[::-1] if self.orientation() >= 5 else size

    def orientation(self) -> int:
        """Returns the EXIF orientation of an image that was not loaded."""
        if self.kind != "TIFF":
            return _orientation(self.image) if self.image else 1
        found = samples.Tags(self.data).one(ExifTags.Base.Orientation, default=1)
        return found if found in TURNS else 1

    def profile(self) -> bytes | None:
        """Returns the color profile."""
        if self.image is not None:
            return self.image.info.get("icc_profile")
        return samples.Tags(self.data).bytes(34675)


def _pass_over_warnings() -> None:
    """Makes Python ignore Pillow's warnings from now on.

    `warnings.catch_warnings` is not thread-safe: one thread would restore the filters
    that another has changed.
    """
    modules = rf"PIL\.|pillow_heif|{re.escape(__name__)}"
    first = warnings.filters[0][3] if warnings.filters else None
    if getattr(first, "pattern", None) != modules:
        warnings.filterwarnings("ignore", module=modules)


def _kind(data: bytes) -> str:
    """Returns Pillow's name of the format, detected by the first bytes."""
    if not data:
        raise UndecodableImageError("empty file")
    for signature, kind in SIGNATURES.items():
        if data.startswith(signature):
            return kind
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        # The decoder would not give the reason.
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


def _parsed(kind: str, data: bytes) -> Image.Image:
    """Reads an image's header, of any size: `Image.open` has a limit of its own."""
    if kind not in Image.OPEN:
        Image.init()
    make, _ = Image.OPEN[kind]
    try:
        return make(io.BytesIO(data), "")
    except (SyntaxError, IndexError, TypeError, struct.error) as error:
        raise UnidentifiedImageError from error


def _check_size(image: Image.Image, size: tuple[int, int], most: int) -> None:
    """Checks the number of pixels.

    Args:
      image: the image, perhaps to be decoded at a fraction of its size.
      size: width and height in the file.
      most: largest number of pixels that may be decoded.
    """
    count, whole = image.width * image.height, size[0] * size[1]
    if isinstance(image, JpegImagePlugin.JpegImageFile) and _has_scans(image):
        count = max(count, whole // _BUFFERED)
    _check_count(count, whole, most)


def _check_count(count: int, whole: int, most: int) -> None:
    if count > most:
        raise TooLargeError(
            f"{whole:,} pixels by its header, more than {most:,}"
            " (config.data.max_pixels)"
        )


def _has_scans(image: JpegImagePlugin.JpegImageFile) -> bool:
    """Returns whether a JPEG has several scans, which are all kept until its end."""
    assert isinstance(image.fp, io.BytesIO)
    data = image.fp.getbuffer()
    scan = _first_scan(data)
    return "progressive" in image.info or data[scan + 4] != image.layers


def _check_whole(kind: str, data: bytes) -> None:
    """Rejects damage that decoding would ignore."""
    if kind == "PNG":
        with _parsed(kind, data) as image:
            image.verify()  # the checksums
    elif kind == "JPEG" and data.rfind(b"\xff\xd9", _first_scan(data)) < 0:
        # Without an end marker, zero padding would decode without an error.
        raise UndecodableImageError(f"truncated {kind} file")


def _first_scan(data: bytes | memoryview) -> int:
    """Returns the offset of a JPEG's first scan, past any thumbnail's end marker."""
    place = 2
    while data[place : place + 1] == b"\xff" and data[place + 1 : place + 2] != b"\xda":
        padding = data[place + 1 : place + 2] == b"\xff"
        length = int.from_bytes(data[place + 2 : place + 4], "big")
        place += 1 if padding else 2 + length
    return place


def _reason(kind: str, error: Exception) -> str:
    """Returns the reason of a decoding error, normalized so that reasons group."""
    words = _words(error)
    if re.search("truncated|unexpected end of file", words, re.IGNORECASE):
        return f"truncated {kind} file"  # without the number of bytes
    words = words.removeprefix(f"broken {kind} file ").strip("()")
    return f"broken {kind} file: {words}"


def _words(error: Exception) -> str:
    """Returns an error's message as one printable line."""
    text = " ".join(str(error).split())
    if not text or not isinstance(error, (OSError, SyntaxError, ValueError)):
        text = one_line(error)
    return printable(re.sub(r"\b0x[0-9a-fA-F]+", "0x…", text))[:200]


def _orientation(image: Image.Image) -> int:
    """Returns the EXIF orientation, 1 if the EXIF block is broken."""
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation)
        return orientation if orientation in TURNS else 1
    except Exception:  # Pillow raises many kinds on broken EXIF blocks
        return 1


def _is_stored_upright(image: Image.Image) -> bool:
    """Returns whether the image is surely upright; False for a broken EXIF block."""
    try:
        return image.getexif().get(ExifTags.Base.Orientation, 1) == 1
    except Exception:  # see `_orientation`
        return False


def _is_srgb(image: Image.Image) -> bool:
    """Returns whether the image's color profile, if any, leaves it as it is."""
    profile = image.info.get("icc_profile")
    try:
        return not profile or profiles.conversion(profile, image.mode) is None
    except profiles.UnusableProfileError:
        return True


def _upright(image: Image.Image, size: tuple[int, int]) -> tuple[int, int]:
    """Returns the upright height and width of an image that was not loaded yet."""
    width, height = size
    # Pillow gives the size of a TIFF upright already.
    if image.format != "TIFF" and _orientation(image) >= 5:
        width, height = height, width
    return height, width


def _turn(image: Image.Image) -> Image.Transpose | None:
    # A loaded TIFF is upright already and has no orientation left.
    return TURNS.get(_orientation(image))


def _shrink(image: Image.Image, width: float, height: float, side: int) -> Image.Image:
    """Downscales to a shorter side.

    Args:
      image: the image, perhaps decoded at a fraction of its size.
      width: of the valid area in pixels; fractional if the edge of a reduced JPEG is
        padded.
      height: likewise.
      side: the target length of the shorter side.
    """
    scale = min(1, side / min(width, height))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    if size == image.size:
        return image
    return image.resize(size, Image.Resampling.BICUBIC, box=(0, 0, width, height))


def _eight_bits(image: Image.Image) -> tuple[Image.Image, Image.Image | None]:
    """Returns a loaded image of the mode L, RGB, CMYK or LAB, and its alpha or None."""
    if image.mode == "La":  # premultiplied; Pillow converts it only to LA
        image = image.convert("LA")
    elif image.mode in ("RGBa", "PA"):
        image = image.convert("RGBA")
    alpha = None
    if image.has_transparency_data:
        alpha = image.convert("RGBA").getchannel("A")
    return image.convert(_COLORS.get(image.mode, "RGB")), alpha


def _to_rgb(
    colors: Image.Image, alpha: Image.Image | None, profile: bytes | None
) -> tuple[Image.Image, list[str]]:
    """Returns an image in sRGB on white, and its notes."""
    notes = []
    if colors.mode == "LAB":
        colors, profile = profiles.of_lab(colors), None
    try:
        colors = profiles.to_srgb(colors, profile)
    except profiles.UnusableProfileError:
        notes = [profiles.UNREADABLE]
    colors = colors.convert("RGB")
    if alpha is None:
        return colors, notes
    white = Image.new("RGB", colors.size, "white")
    white.paste(colors, mask=alpha)
    return white, notes
