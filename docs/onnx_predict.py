"""Class and probability of images from an exported ONNX file, without this package.

    python onnx_predict.py model.onnx IMAGE…

Needs onnxruntime, NumPy and Pillow. The images are those that ``noisy-student
predict`` sees: upright, on white, in sRGB. Images of more than 8 bits, whose scale the
model's run has chosen, are refused.
"""

import contextlib
import io
import json
import pathlib
import sys

import numpy as np
import onnxruntime
from PIL import Image, ImageCms, ImageOps


def pixels(path):
    """Decodes a file to uint8 ``[height, width, 3]``."""
    image = Image.open(io.BytesIO(pathlib.Path(path).read_bytes()))
    bits = getattr(image, "tag_v2", {}).get(258, (8,))
    deep = image.format == "PNG" and "16B" in str(image.tile)
    if deep or image.mode[0] in "IF" or max(bits) > 8:
        raise SystemExit(f"{path} has more than 8 bits: save it with 8")
    profile = image.info.get("icc_profile")
    image = ImageOps.exif_transpose(image)
    alpha = None
    if image.has_transparency_data:
        alpha = image.convert("RGBA").getchannel("A")
    colors = image if image.mode in ("L", "CMYK") else image.convert("RGB")
    if profile:
        # One that cannot be applied is ignored, as `predict` does.
        with contextlib.suppress(OSError, ImageCms.PyCMSError):
            colors = to_srgb(colors, profile)
    white = Image.new("RGB", image.size, "white")
    white.paste(colors.convert("RGB"), mask=alpha)
    return np.asarray(white)


def to_srgb(image, profile):
    """Returns an image whose ICC profile has been applied."""
    own = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    if own.profile.xcolor_space.strip() == "RGB":
        image = image.convert("RGB")
    return ImageCms.profileToProfile(
        image,
        own,
        ImageCms.createProfile("sRGB"),
        ImageCms.Intent.RELATIVE_COLORIMETRIC,
        outputMode="RGB",
        flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
    )


def main():
    """Prints the class of each image."""
    session = onnxruntime.InferenceSession(sys.argv[1])
    classes = json.loads(session.get_modelmeta().custom_metadata_map["classes"])
    for path in sys.argv[2:]:
        [[row]] = session.run(["probabilities"], {"images": pixels(path)[None]})
        print(f"{path}: {classes[row.argmax()]} ({row.max():.1%})")


if __name__ == "__main__":
    main()
