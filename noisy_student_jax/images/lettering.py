"""Text in pictures, in the one font that comes with Pillow."""

import functools
import unicodedata

from PIL import ImageFont

from noisy_student_jax.core.console import printable


@functools.cache
def font(size: int) -> ImageFont.FreeTypeFont:
    """Returns the font at a size in pixels."""
    found = ImageFont.load_default(size)
    assert isinstance(found, ImageFont.FreeTypeFont), (
        "Pillow's sized font is FreeType's"
    )
    return found


def in_font(text: str) -> str:
    """Converts text to the font's ASCII: é becomes e, other letters their number."""
    written = []
    for letter in printable(str(text)):
        bare = unicodedata.normalize("NFKD", letter).encode("ascii", "ignore").decode()
        written.append(bare or f"\\u{ord(letter):04x}")
    return "".join(written)


def shortened(text: str, of: ImageFont.FreeTypeFont, width: int) -> str:
    """Cuts text to a maximum width in pixels."""
    if of.getlength(text) <= width:
        return text
    while text and of.getlength(f"{text}…") > width:
        text = text[:-1]
    return f"{text}…"
