"""Folders in the layouts of robustness benchmarks, and a model with known answers."""

import numpy as np
from PIL import Image

from noisy_student_jax.images.preprocessing import Preprocessing
from noisy_student_jax.models import bundle as bundles
from noisy_student_jax.models.bundle import Bundle

CLASSES = tuple(f"n0000000{k} thing {k}" for k in range(6))
WNIDS = tuple(name.split()[0] for name in CLASSES)
SIDE = 8


def write_model(folder, *, crop_padding=0, origin=None, classes=CLASSES):
    """Writes a bundle that classifies brightness, dark first; returns its folder."""
    bundles.write(
        Bundle(
            architecture="outside.brightness:Brightness",
            arguments={"outputs": len(classes)},
            preprocessing=Preprocessing(
                SIDE, crop_padding, mean=(0, 0, 0), std=(1, 1, 1)
            ),
            task="classification",
            classes=classes,
            variables={"params": {"gain": np.float32(20)}, "batch_stats": {}},
            origin=origin or {},
            trained_on=np.zeros(0, np.uint64),
        ),
        folder,
    )
    return folder


def gray(band, *, side=SIDE, of=6):
    """Returns an image with the brightness of a band's middle."""
    value = round(255 * (band + 0.5) / of)
    return np.full((side, side, 3), value, np.uint8)


def write_image(path, image):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path)


def write_video(path, frames):
    import av

    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as video:
        stream = video.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
        stream.bit_rate = 4_000_000
        for frame in frames:
            picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
            video.mux(stream.encode(picture))
        video.mux(stream.encode(None))
