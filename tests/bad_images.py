"""A table of the image files that users have: broken, odd and hostile.

Each `Case` makes a file, and has the expected result of reading it. Good files show the
same card wherever they can: red and green above, blue and gray below.
"""

import dataclasses
import importlib.util
import io
import os
import pathlib
import re
import struct
import zlib
from collections.abc import Callable

import numpy as np
from PIL import Image, features

HEIGHT, WIDTH = 16, 24
RED, GREEN, BLUE, GRAY = (200, 30, 30), (30, 180, 40), (20, 40, 210), (128, 128, 128)
WHITE = (255, 255, 255)
CORNERS = (RED, GREEN, BLUE, GRAY)
HAS_HEIC = importlib.util.find_spec("pillow_heif") is not None
HAS_AVIF = features.check("avif")
XYZ = (b"rXYZ", b"gXYZ", b"bXYZ")
LINKS = "links that lead nowhere or back"
NOT_REGULAR = "not regular files"


@dataclasses.dataclass(frozen=True)
class Case:
    """A file, and the expected result of reading it.

    Attributes:
      name: title of the case.
      make: function that returns the file's bytes, or that puts something other than a
        file at a path.
      file: file name.
      size: height and width in the header; None if it has none.
      reason: pattern of the reason why it cannot be decoded; None if it can be.
      corners: colors of a decoded image's four corners; None if they are not known.
      may_be_good: whether the format cannot detect the damage, so that either result is
        right.
      left_out: reason why an image folder leaves it out; "" if it is left out without
        being counted.
    """

    name: str
    make: Callable[[], bytes] | Callable[[pathlib.Path], None]
    file: str
    size: tuple[int, int] | None = None
    reason: str | None = None
    corners: tuple[tuple[int, int, int], ...] | None = None
    may_be_good: bool = False
    left_out: str | None = None

    def put(self, folder: pathlib.Path) -> pathlib.Path:
        """Makes the file in a folder; returns its path."""
        path = folder / self.file
        if self.left_out is None:
            path.write_bytes(self.make())
        else:
            self.make(path)
        return path

    def check(self, image: np.ndarray) -> None:
        """Asserts that a decoded image has the file's content."""
        assert self.reason is None or self.may_be_good, image.shape
        assert image.shape == (*self.size, 3)
        assert image.dtype == np.uint8
        if self.corners is not None:
            found = image[[0, 0, -1, -1], [0, -1, 0, -1]].astype(int)
            assert np.abs(found - self.corners).max() <= 12, found

    def check_reason(self, reason: str) -> None:
        """Asserts that the file is refused for the right reason."""
        assert self.reason is not None, reason
        assert re.search(self.reason, reason), reason


# ---- making files


def card() -> np.ndarray:
    image = np.empty((HEIGHT, WIDTH, 3), np.uint8)
    half, middle = HEIGHT // 2, WIDTH // 2
    image[:half, :middle], image[:half, middle:] = RED, GREEN
    image[half:, :middle], image[half:, middle:] = BLUE, GRAY
    return image


def noise(height: int = 48, width: int = 40) -> np.ndarray:
    """An incompressible image, so that most bytes of its file are pixels."""
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


def encoded(image: np.ndarray | Image.Image, kind: str = "PNG", **options) -> bytes:
    if kind == "HEIF":
        import pillow_heif

        pillow_heif.register_heif_opener()
    if isinstance(image, np.ndarray):
        image = Image.fromarray(image)
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def jpeg(image: np.ndarray | Image.Image | None = None, **options) -> bytes:
    options = {"quality": 95, "subsampling": 0} | options
    return encoded(card() if image is None else image, "JPEG", **options)


def profile(colors: np.ndarray | None = None, gamma: float = 2.2) -> bytes:
    """A color profile by hand.

    Args:
      colors: columns are red, green and blue in XYZ under D50; None for a gray profile.
      gamma: of the curve.
    """

    def fixed(*values: float) -> bytes:
        return struct.pack(f">{len(values)}i", *(round(v * 65_536) for v in values))

    white = 0.9642, 1.0, 0.8249
    curve = b"curv\0\0\0\0" + struct.pack(">IHxx", 1, round(gamma * 256))
    named = b"desc\0\0\0\0" + struct.pack(">I", 5) + b"mine" + bytes(80)
    tags = {b"desc": named + bytes(-len(named) % 4), b"wtpt": white}
    if colors is None:
        space, own = b"GRAY", {b"kTRC": curve}
    else:
        space = b"RGB "
        own = {b"rTRC": curve, b"gTRC": curve, b"bTRC": curve}
        own |= {name: tuple(colors[:, i]) for i, name in enumerate(XYZ)}
    table, body = b"", b""
    start = 132 + 12 * len(tags | own)
    for name, value in (tags | own).items():
        if isinstance(value, tuple):
            value = b"XYZ \0\0\0\0" + fixed(*value)
        table += name + struct.pack(">II", start + len(body), len(value))
        body += value
    head = struct.pack(
        ">I4sI4s4s4s", start + len(body), b"lcms", 0x2400000, b"mntr", space, b"XYZ "
    )
    head += struct.pack(">6H", 2020, 1, 1, 0, 0, 0) + b"acsp" + bytes(28)
    head += fixed(*white) + bytes(48)
    return head + struct.pack(">I", len(tags | own)) + table + body


DISPLAY_P3 = np.array(
    [[0.5151, 0.2920, 0.1571], [0.2412, 0.6922, 0.0666], [-0.0011, 0.0419, 0.7841]]
)
"""Red, green and blue of Display P3 in XYZ under D50."""


def animated(kind: str, **options) -> bytes:
    frames = [Image.fromarray(card()), Image.new("RGB", (WIDTH, HEIGHT))]
    options = {"save_all": True, "append_images": frames[1:]} | options
    return encoded(frames[0], kind, **options)


def with_alpha(mode: str = "RGBA") -> Image.Image:
    """The card, with the lower half transparent and of a hidden color."""
    image = Image.fromarray(card()).convert(mode)
    alpha = np.full((HEIGHT, WIDTH), 255, np.uint8)
    alpha[HEIGHT // 2 :] = 0
    image.putalpha(Image.fromarray(alpha))
    return image


def palette(**options) -> bytes:
    """The card with a palette in the order red, green, blue, gray."""
    numbers = np.zeros((HEIGHT, WIDTH), np.uint8)
    numbers[:, WIDTH // 2 :] += 1
    numbers[HEIGHT // 2 :] += 2
    image = Image.fromarray(numbers)
    image.putpalette(bytes(value for color in CORNERS for value in color))
    return encoded(image, **options)


def png(
    width: int, height: int, bits: int, color: int, rows: bytes, *chunks, interlace=0
) -> bytes:
    """A PNG by hand."""
    form = (width, height, bits, color, 0, 0, interlace)
    whole = [(b"IHDR", struct.pack(">IIBBBBB", *form)), *chunks]
    whole += [(b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    file = b"\x89PNG\r\n\x1a\n"
    for name, body in whole:
        checked = name + body
        file += struct.pack(">I", len(body)) + checked
        file += struct.pack(">I", zlib.crc32(checked))
    return file


def deep_png() -> bytes:
    """The card with 16 bits a channel."""
    rows = (card().astype(np.uint16) * 257).astype(">u2")
    return png(WIDTH, HEIGHT, 16, 2, b"".join(b"\0" + row.tobytes() for row in rows))


def interlaced() -> bytes:
    """The card in seven passes, each over a finer grid."""
    steps = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2)]
    steps += [(0, 1, 2, 2), (1, 0, 2, 1)]
    rows = b"".join(
        b"\0" + row.tobytes()
        for top, left, down, right in steps
        for row in card()[top::down, left::right]
    )
    return png(WIDTH, HEIGHT, 8, 2, rows, interlace=1)


def tiff(width: int, height: int, bits: int, data: bytes) -> bytes:
    """A gray TIFF by hand."""
    short, long = 3, 4
    tags = [
        (256, long, width),
        (257, long, height),
        (258, short, bits),
        (259, short, 1),  # not compressed
        (262, short, 1),  # black is 0
        (273, long, 8),  # where the pixels are
        (277, short, 1),  # channels
        (278, long, height),
        (279, long, len(data)),
    ]
    entries = b"".join(
        struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags
    )
    head = b"II*\0" + struct.pack("<I", 8 + len(data))
    return head + data + struct.pack("<H", len(tags)) + entries + bytes(4)


def gif(canvas: tuple[int, int], frame: tuple[int, int]) -> bytes:
    """A GIF whose header has any sizes, with one pixel."""
    screen = struct.pack("<HHBBB", *canvas, 0x80, 0, 0) + bytes(6)
    picture = struct.pack("<BHHHHB", 0x2C, 0, 0, *frame, 0)
    return b"GIF89a" + screen + picture + b"\x02\x02\x44\x01\x00;"


def webp_header(width: int, height: int) -> bytes:
    """A lossless WebP whose header has any size, without pixels."""
    body = b"\x2f" + struct.pack("<I", width - 1 | (height - 1) << 14) + bytes(11)
    chunk = b"VP8L" + struct.pack("<I", len(body)) + body
    return b"RIFF" + struct.pack("<I", 4 + len(chunk)) + b"WEBP" + chunk


def jpeg_of_size(width: int, height: int) -> bytes:
    """A JPEG whose header has a wrong size."""
    return renamed_size(jpeg(), b"\xff\xc0\x00\x11\x08", ">HH", height, width)


def renamed_size(file: bytes, before: bytes, form: str, *sizes: int) -> bytes:
    """Overwrites the sizes in a file, which follow the given bytes."""
    start = file.index(before) + len(before)
    end = start + struct.calcsize(form)
    return file[:start] + struct.pack(form, *sizes) + file[end:]


def turned(orientation: int) -> bytes:
    """The card as a rotated camera stores it, with its EXIF orientation."""
    image = card()
    lying = {
        1: image,
        2: image[:, ::-1],
        3: image[::-1, ::-1],
        4: image[::-1],
        5: image.transpose(1, 0, 2),
        6: np.rot90(image),
        7: np.rot90(image.transpose(1, 0, 2), 2),
        8: np.rot90(image, -1),
    }[orientation]
    return jpeg(np.ascontiguousarray(lying), exif=exif(orientation))


def exif(orientation: int) -> Image.Exif:
    block = Image.Exif()
    block[0x0112] = orientation
    return block


def broken_exif() -> bytes:
    file = jpeg(exif=exif(6))
    return file.replace(b"Exif\0\0MM\0*", b"Exif\0\0MM\x7f\x7f").replace(
        b"Exif\0\0II*\0", b"Exif\0\0II\x7f\x7f"
    )


def flipped(file: bytes, seed: int, first: int) -> bytes:
    """Changes three bytes after the first ones."""
    random = np.random.default_rng(seed)
    changed = bytearray(file)
    for place in random.integers(first, len(file) - 2, 3):
        changed[place] ^= random.integers(1, 256)
    return bytes(changed)


def cut(file: bytes, share: float) -> bytes:
    return file[: int(len(file) * share)]


def ftyp(brand: bytes) -> bytes:
    return struct.pack(">I", 24) + b"ftyp" + brand + bytes(4) + b"mp42" + bytes(500)


def float_tiff() -> bytes:
    values = np.linspace(0, 1, HEIGHT * WIDTH, dtype=np.float32)
    return encoded(values.reshape(HEIGHT, WIDTH), "TIFF")


def endless_loop(path: pathlib.Path) -> None:
    path.symlink_to(path.name)


def dangling_link(path: pathlib.Path) -> None:
    path.symlink_to("nothing-is-called-so.jpg")


# ---- the table

UNKNOWN = "^not an image of a known format$"
LARGE = "pixels by its header"
ABOVE = (RED, GREEN)
FOUR_DARK = ((0, 0, 0),) * 4
FOUR_WHITE = (WHITE,) * 4


def good(name, make, file, size=(HEIGHT, WIDTH), corners=CORNERS):
    return Case(name, make, file, size, corners=corners)


def bad(name, make, file, reason, size=None, **fields):
    return Case(name, make, file, size, reason, **fields)


NO_IMAGES = [
    bad("empty", lambda: b"", "empty.jpg", "^empty file$"),
    bad("one byte", lambda: b"\xff", "one_byte.jpg", UNKNOWN),
    bad("HTML", lambda: b"<!DOCTYPE html><h1>404</h1>", "html.jpg", UNKNOWN),
    bad("text", lambda: b"Buy my book, Pamela.\n", "text.png", UNKNOWN),
    bad("JSON", lambda: b'{"error": "quota"}', "json.png", UNKNOWN),
    bad("PDF", lambda: b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n", "pdf.tif", UNKNOWN),
    bad("SVG", lambda: b'<svg xmlns="http://www.w3.org/2000/svg"/>', "a.gif", UNKNOWN),
    bad("ZIP", lambda: b"PK\x03\x04\x14\0\0\0\x08\0", "zip.jpg", UNKNOWN),
    # Pillow would start Ghostscript for it.
    bad(
        "EPS",
        lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n",
        "eps.jpg",
        UNKNOWN,
    ),
    bad("icon", lambda: encoded(card(), "ICO"), "icon.png", UNKNOWN),
    bad("zeros", lambda: bytes(4096), "zeros.jpg", UNKNOWN),
    bad("video", lambda: ftyp(b"isom"), "video.heic", UNKNOWN),
    bad("JPEG behind junk", lambda: b"\r\n" + jpeg(), "leading_junk.jpg", UNKNOWN),
]

JPEGS = [
    good("JPEG", jpeg, "plain.jpg"),
    good("progressive", lambda: jpeg(progressive=True), "progressive.jpeg"),
    good(
        "CMYK",
        lambda: jpeg(Image.fromarray(card()).convert("CMYK")),
        "cmyk.jpg",
    ),
    good(
        "gray",
        lambda: jpeg(np.full((HEIGHT, WIDTH), 77, np.uint8)),
        "gray.jpg",
        corners=((77,) * 3,) * 4,
    ),
    good("junk behind", lambda: jpeg() + b"trailing" * 99, "trailing_junk.jpg"),
    good("padding behind", lambda: jpeg() + bytes(3_000_000), "padded.jpg"),
    good("broken EXIF", broken_exif, "broken_exif.jpg"),
    good("two pictures", lambda: animated("MPO"), "stereo.jpg", corners=None),
    good("a JPEG named PNG", jpeg, "really_jpeg.png"),
    *(
        good(f"turned {number}", lambda number=number: turned(number), f"t{number}.jpg")
        for number in range(1, 9)
    ),
    bad(
        "JPEG of 3 bytes", lambda: jpeg()[:3], "jpeg_3.jpg", "^broken JPEG file: its h"
    ),
    bad("JPEG cut in its header", lambda: jpeg()[:100], "jpeg_100.jpg", "^truncated J"),
    bad(
        "half a JPEG",
        lambda: cut(jpeg(noise()), 0.6),
        "jpeg_half.jpg",
        "^truncated JPEG file$",
        (48, 40),
    ),
    bad(
        "JPEG without its last bytes",
        lambda: jpeg(noise())[:-30],
        "jpeg_end.jpg",
        "^truncated JPEG file$",
        (48, 40),
    ),
    # A stopped download leaves this where the space was allocated beforehand.
    bad(
        "half a JPEG and zeros",
        lambda: cut(jpeg(noise()), 0.6) + bytes(2000),
        "jpeg_zeros.jpg",
        "^truncated JPEG file$",
        (48, 40),
    ),
    *(
        bad(
            f"JPEG with bytes flipped {seed}",
            lambda seed=seed: flipped(jpeg(noise()), seed, 700),
            f"jpeg_flipped_{seed}.jpg",
            "^(broken|truncated) JPEG file",
            (48, 40),
            may_be_good=True,
        )
        for seed in range(5)
    ),
    bad("no height", lambda: jpeg_of_size(9, 0), "no_height.jpg", "its header cannot"),
    bad(
        "JPEG bomb",
        lambda: jpeg_of_size(65_000, 65_000),
        "bomb.jpg",
        LARGE,
        (65_000, 65_000),
    ),
]

PNGS = [
    good("PNG", lambda: encoded(card()), "plain.png"),
    good("a PNG named JPEG", lambda: encoded(card()), "really_png.jpg"),
    good("no suffix that fits", lambda: encoded(card()), "really_png.TIFF"),
    good(
        "16-bit gray",
        lambda: encoded(np.full((4, 6), 257 * 99, np.uint16)),
        "gray_16.png",
        (4, 6),
        ((99,) * 3,) * 4,
    ),
    good("16-bit RGB", deep_png, "rgb_16.png"),
    good(
        "1-bit",
        lambda: encoded(Image.new("1", (9, 5), 1)),
        "bits.png",
        (5, 9),
        FOUR_WHITE,
    ),
    good(
        "2-bit gray",
        lambda: png(4, 1, 2, 0, b"\0\x1b"),
        "two_bits.png",
        (1, 4),
        ((0, 0, 0), WHITE, (0, 0, 0), WHITE),
    ),
    good("palette", palette, "palette.png"),
    good(
        "palette with transparency",
        lambda: palette(transparency=bytes([255, 255, 0, 255])),
        "palette_alpha.png",
        corners=(*ABOVE, WHITE, GRAY),
    ),
    good(
        "RGBA",
        lambda: encoded(with_alpha()),
        "rgba.png",
        corners=(*ABOVE, WHITE, WHITE),
    ),
    good(
        "LA",
        lambda: encoded(with_alpha("L")),
        "la.png",
        corners=((81,) * 3, (119,) * 3, WHITE, WHITE),
    ),
    good("interlaced", interlaced, "interlaced.png"),
    good(
        "a single pixel",
        lambda: encoded(card()[:1, :1]),
        "pixel.png",
        (1, 1),
        (RED,) * 4,
    ),
    good(
        "very wide",
        lambda: encoded(np.zeros((1, 60_000, 3), np.uint8)),
        "wide.png",
        (1, 60_000),
        FOUR_DARK,
    ),
    good(
        "very high",
        lambda: encoded(np.zeros((60_000, 1, 3), np.uint8)),
        "high.png",
        (60_000, 1),
        FOUR_DARK,
    ),
    bad(
        "PNG of 20 bytes", lambda: encoded(card())[:20], "png_20.png", "^truncated PNG"
    ),
    bad(
        "half a PNG",
        lambda: cut(encoded(noise()), 0.5),
        "png_half.png",
        "^truncated PNG file$",
        (48, 40),
    ),
    bad(
        "PNG without an end",
        lambda: encoded(card())[:-12],
        "png_no_end.png",
        "^truncated PNG file$",
        (HEIGHT, WIDTH),
    ),
    bad(
        "PNG with bytes flipped",
        lambda: flipped(encoded(noise()), 0, 100),
        "png_flipped.png",
        "^broken PNG file: bad header checksum in b'IDAT'$",
        (48, 40),
    ),
    bad(
        "PNG with nothing in it",
        lambda: png(8, 8, 8, 2, b""),
        "png_no_pixels.png",
        "^truncated PNG file$",
        (8, 8),
    ),
    bad("no width", lambda: png(0, 5, 8, 2, b""), "no_width.png", "its header cannot"),
    bad(
        "PNG bomb",
        lambda: png(30_000, 30_000, 8, 2, b""),
        "bomb.png",
        LARGE,
    ),
    bad(
        "PNG just too large",
        lambda: png(8001, 8000, 8, 2, b""),
        "8001.png",
        LARGE,
    ),
    bad(
        "bomb of text",
        lambda: png(
            *(8, 8, 8, 0, bytes(72)),
            (b"zTXt", b"a\0\0" + zlib.compress(bytes(8 << 20))),
        ),
        "text_bomb.png",
        "^broken PNG file: Decompressed data too large",
    ),
    bad(
        "bomb of a color profile",
        lambda: png(
            *(8, 8, 8, 0, bytes(72)),
            (b"iCCP", b"a\0\0" + zlib.compress(bytes(8 << 20))),
        ),
        "profile_bomb.png",
        "^broken PNG file: Decompressed data too large",
    ),
]

OTHERS = [
    good("GIF", lambda: encoded(card(), "GIF"), "plain.gif"),
    good("animated GIF", lambda: animated("GIF"), "animated.gif"),
    bad(
        "half a GIF",
        lambda: cut(encoded(noise(), "GIF"), 0.8),
        "half.gif",
        "^truncated GIF file$",
        (48, 40),
    ),
    bad(
        "GIF bomb",
        lambda: gif((60_000, 60_000), (1, 1)),
        "bomb.gif",
        LARGE,
    ),
    bad("GIF frame bomb", lambda: gif((1, 1), (60_000, 60_000)), "frame.gif", LARGE),
    good("BMP", lambda: encoded(card(), "BMP"), "plain.bmp"),
    bad(
        "half a BMP",
        lambda: cut(encoded(noise(), "BMP"), 0.5),
        "half.bmp",
        "^truncated BMP file$",
        (48, 40),
    ),
    bad(
        "BMP bomb",
        lambda: renamed_size(
            encoded(card(), "BMP"), struct.pack("<I", 40), "<ii", 30_000, 30_000
        ),
        "bomb.bmp",
        LARGE,
    ),
    good("PPM", lambda: encoded(card(), "PPM"), "plain.ppm"),
    good("TIFF", lambda: encoded(card(), "TIFF", compression="tiff_lzw"), "plain.tif"),
    good(
        "CMYK TIFF",
        lambda: encoded(Image.fromarray(card()).convert("CMYK"), "TIFF"),
        "cmyk.tiff",
    ),
    good("TIFF of pages", lambda: animated("TIFF"), "pages.tiff"),
    good(
        "16-bit TIFF",
        lambda: encoded(np.full((4, 6), 257 * 99, np.uint16), "TIFF"),
        "gray_16.tiff",
        (4, 6),
        ((99,) * 3,) * 4,
    ),
    good(
        "12-bit TIFF",
        lambda: tiff(2, 1, 12, bytes([0x80, 0x0F, 0xFF])),
        "gray_12.tiff",
        (1, 2),
        ((128,) * 3, WHITE, (128,) * 3, WHITE),
    ),
    good(
        "float TIFF from 0 to 1",
        float_tiff,
        "float.tiff",
        corners=((0, 0, 0), (15,) * 3, (240,) * 3, WHITE),
    ),
    bad(
        "integer TIFF of no known scale",
        lambda: encoded(np.full((4, 6), 10**9, np.int32), "TIFF"),
        "int_large.tiff",
        r"^int32 values from 1e\+09 to 1e\+09, and which are black",
        (4, 6),
        may_be_good=True,  # where the scale of a source is observed
    ),
    bad(
        "half a TIFF",
        lambda: cut(encoded(noise(), "TIFF"), 0.5),
        "half.tif",
        "^truncated TIFF file$",
        (48, 40),
    ),
    bad(
        "TIFF bomb",
        lambda: tiff(60_000, 60_000, 8, b"x"),
        "bomb.tif",
        LARGE,
    ),
    good("WebP", lambda: encoded(card(), "WEBP", lossless=True), "plain.webp"),
    good("animated WebP", lambda: animated("WEBP", lossless=True), "animated.webp"),
    good(
        "WebP with alpha",
        lambda: encoded(with_alpha(), "WEBP", lossless=True),
        "alpha.webp",
        corners=(*ABOVE, WHITE, WHITE),
    ),
    bad(
        "half a WebP",
        lambda: cut(encoded(noise(), "WEBP"), 0.5),
        "half.webp",
        "^truncated WEBP file$",
    ),
    bad(
        "WebP of most pixels",
        lambda: webp_header(16_384, 16_384),
        "max.webp",
        LARGE,
    ),
]

HEICS = [
    good("HEIC", lambda: encoded(card(), "HEIF", quality=-1, chroma=444), "plain.heic"),
    good(
        "HEIC turned",
        lambda: encoded(np.rot90(card()), "HEIF", quality=-1, exif=exif(6).tobytes()),
        "turned.heic",
    ),
    bad(
        "half a HEIC",
        lambda: cut(encoded(noise(), "HEIF"), 0.5),
        "half.heic",
        "^truncated HEIF",
        (48, 40),
    ),
    bad("no HEIC behind its name", lambda: ftyp(b"heic"), "only_name.heic", "HEIF"),
    bad(
        "HEIC bomb",
        lambda: renamed_size(
            encoded(noise(64, 64), "HEIF"), b"ispe\0\0\0\0", ">II", 30_000, 30_000
        ),
        "bomb.heic",
        LARGE,
    ),
]

AVIFS = [
    good(
        "AVIF",
        lambda: encoded(card(), "AVIF", quality=100, subsampling="4:4:4"),
        "plain.avif",
    ),
    bad(
        "half an AVIF", lambda: cut(encoded(noise(), "AVIF"), 0.5), "half.avif", "AVIF"
    ),
    bad(
        "AVIF bomb",
        lambda: renamed_size(
            encoded(card(), "AVIF"), b"ispe\0\0\0\0", ">II", 15_000, 15_000
        ),
        "bomb.avif",
        LARGE,
    ),
]

NAMES = [
    good(f"named {name!r}", lambda: encoded(card()), name)
    for name in (
        "größe – 猫 🐈.png",
        "two\nlines.png",
        "<script>alert(1)</script>.jpg".replace("/", "∕"),
        "\x1b[2Jcleared.png",
        "l" * 251 + ".png",
        os.fsdecode(b"caf\xe9.png"),
        "-rf.png",
        "spaces  .png",
        'it\'s "quoted" & $HOME `id`.png',
        "UPPER.PNG",
        "%2e%2e%2fpercent.png",
    )
]

NO_FILES = [
    bad(
        "link to itself",
        endless_loop,
        "loop.jpg",
        "^Too many levels of symbolic links$",
        left_out=LINKS,
    ),
    bad("dangling link", dangling_link, "dangling.jpg", "^No such f", left_out=LINKS),
    bad("folder", pathlib.Path.mkdir, "folder.jpg", "^Is a directory", left_out=""),
    bad("pipe", os.mkfifo, "pipe.jpg", "^not a regular file$", left_out=NOT_REGULAR),
]

CASES = [*NO_IMAGES, *JPEGS, *PNGS, *OTHERS, *NAMES, *NO_FILES]
CASES += HEICS if HAS_HEIC else []
CASES += AVIFS if HAS_AVIF else []
