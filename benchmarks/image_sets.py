"""Sets of image folders on which semi-supervised methods are compared, dealt by seed.

Each set has a fixed stock of images, so that features are computed once for all seeds:

- ``cifar``: CIFAR-10, 25 labels a class, 3,150 images in the pool;
- ``fashion``: the same of Fashion-MNIST;
- ``blood``: cells cut out of TXL-PBC's images, 25 labels a class, pool and test images
  at their natural shares (nine of ten are red);
- ``foreign``: seven of CIFAR-10's classes; 30 % of the pool is of the other three;

and those that are built to be hostile to a student:

- ``all_foreign``: five classes, and a pool of nothing but the other five;
- ``missing``: the pool lacks one of the ten classes;
- ``two_labels``: two labels a class;
- ``sixty``: sixty classes, letters and digits in many fonts, five labels a class;
- ``wrong_labels``: one in ten labels is wrong.

``DATA`` holds ``cifar10/{train,test}/CLASS/*``, ``txl_pbc/TXL_PBC``, and
``fashion/*-ubyte.gz`` (Debian's package dataset-fashion-mnist); letters are drawn with
the DejaVu fonts, of Debian's package fonts-dejavu.
"""

import dataclasses
import gzip
import hashlib
import pathlib
import random
import shutil
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw, ImageFont

TRAIN, TEST = 340, 100
"""Images of a class in the stock of a balanced set."""
FONTS = pathlib.Path("/usr/share/fonts/truetype/dejavu")
GLYPHS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabdefghijklmnpqrtuyz23456789ΓΔΘΛΣΦ"


@dataclasses.dataclass(frozen=True)
class Set:
    """How the images of a stock are dealt.

    Attributes:
      stock: name of the stock.
      labels: labeled images of each class.
      known: number of classes that are known, the first of the stock's; 0 for all.
      foreign: share of the pool that is of the others.
      missing: number of known classes, the last ones, that the pool lacks.
      wrong: share of labels that are wrong.
    """

    stock: str
    labels: int = 25
    known: int = 0
    foreign: float = 0.0
    missing: int = 0
    wrong: float = 0.0


SETS = {
    "cifar": Set("cifar"),
    "fashion": Set("fashion"),
    "blood": Set("blood"),
    "foreign": Set("cifar", known=7, foreign=0.3),
    "all_foreign": Set("cifar", known=5, foreign=1.0),
    "missing": Set("cifar", missing=1),
    "two_labels": Set("cifar", labels=2),
    "sixty": Set("glyphs", labels=5),
    "wrong_labels": Set("cifar", wrong=0.1),
}
HOSTILE = ("all_foreign", "missing", "two_labels", "sixty", "wrong_labels")


def deal(name: str, data: pathlib.Path, stocks: pathlib.Path, seed: int) -> None:
    """Links a set's images into ``stocks/NAME/seed_N/{labeled,unlabeled,test}``."""
    one = SETS[name]
    stock = stocks / "stock" / one.stock
    if not stock.exists():
        unfinished = stock.with_name(f".{stock.name}")
        shutil.rmtree(unfinished, ignore_errors=True)
        STOCKS[one.stock](data, unfinished)
        unfinished.rename(stock)
    folder = stocks / name / f"seed_{seed}"
    if folder.exists():
        return
    unfinished = folder.with_name(f".{folder.name}")
    shutil.rmtree(unfinished, ignore_errors=True)
    (unfinished / "unlabeled").mkdir(parents=True)
    drawn = random.Random(f"{name}/{seed}")
    classes = sorted(path.name for path in (stock / "train").iterdir())
    known = classes[: one.known or len(classes)]
    pool, strange = [], []
    for number, own in enumerate(classes):
        paths = sorted((stock / "train" / own).iterdir())
        drawn.shuffle(paths)
        if own not in known:
            strange += paths
            continue
        for path in paths[: one.labels]:
            label = own
            if drawn.random() < one.wrong:
                label = drawn.choice([other for other in known if other != own])
            link(path, unfinished / "labeled" / label)
        if number < len(known) - one.missing:
            pool += paths[one.labels :]
        for path in sorted((stock / "test" / own).iterdir()):
            link(path, unfinished / "test" / own)
    drawn.shuffle(strange)
    drawn.shuffle(pool)
    if one.foreign == 1:
        pool = []
    elif one.foreign:
        most = min(len(pool), round(len(strange) * (1 - one.foreign) / one.foreign))
        pool = pool[:most]
        strange = strange[: round(most * one.foreign / (1 - one.foreign))]
    for path in [*pool, *strange]:
        link(path, unfinished / "unlabeled", hidden(path))
    unfinished.rename(folder)


def hidden(path: pathlib.Path) -> str:
    """Returns a name for an image of the stock that does not reveal its class."""
    name = hashlib.sha256(f"{path.parent.name}/{path.name}".encode()).hexdigest()
    return name[:16] + path.suffix


def link(path: pathlib.Path, folder: pathlib.Path, name: str | None = None) -> None:
    """Links an image into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / (name or path.name)).hardlink_to(path)


def cifar(data: pathlib.Path, stock: pathlib.Path) -> None:
    for part, most in (("train", TRAIN), ("test", TEST)):
        for folder in sorted((data / "cifar10" / part).iterdir()):
            (stock / part / folder.name).mkdir(parents=True)
            for path in chosen(sorted(folder.iterdir()), most):
                name = f"{folder.name}_{path.name}"
                shutil.copyfile(path, stock / part / folder.name / name)


def fashion(data: pathlib.Path, stock: pathlib.Path) -> None:
    names = ("t_shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt")
    names += ("sneaker", "bag", "ankle_boot")
    for part, prefix, most in (("train", "train", TRAIN), ("test", "t10k", TEST)):
        images = idx(next(data.glob(f"**/{prefix}-images-idx3-ubyte.gz")), 16)
        labels = idx(next(data.glob(f"**/{prefix}-labels-idx1-ubyte.gz")), 8)
        images = images.reshape(len(labels), 28, 28)
        for label, name in enumerate(names):
            (stock / part / name).mkdir(parents=True)
            for row in chosen(np.flatnonzero(labels == label).tolist(), most):
                image = Image.fromarray(images[row])
                image.save(stock / part / name / f"{name}_{part}_{row}.png")


def idx(path: pathlib.Path, header: int) -> np.ndarray:
    return np.frombuffer(gzip.decompress(path.read_bytes()), np.uint8, offset=header)


def blood(data: pathlib.Path, stock: pathlib.Path) -> None:
    folder, names = data / "txl_pbc/TXL_PBC", ("white", "red", "platelet")
    for part, most in (("train", 3300), ("test", 1000)):
        boxes = []
        for path in sorted((folder / "labels" / part).glob("*.txt")):
            for number, line in enumerate(path.read_text().splitlines()):
                label, *box = line.split()
                if label.isdigit():  # a few lines are of another format
                    place = tuple(map(float, box))
                    boxes.append((path.stem, number, int(label), place))
        for stem, number, label, (x, y, width, height) in chosen(boxes, most):
            with Image.open(folder / "images" / part / f"{stem}.jpg") as image:
                side = 1.1 * max(width * image.width, height * image.height)
                x, y = x * image.width, y * image.height
                cut = image.convert("RGB").crop(
                    tuple(
                        round(z)
                        for z in (
                            x - side / 2,
                            y - side / 2,
                            x + side / 2,
                            y + side / 2,
                        )
                    )
                )
            own = stock / part / names[label]
            own.mkdir(parents=True, exist_ok=True)
            cut.save(own / f"{stem}_{number}.png")


def glyphs(data: pathlib.Path, stock: pathlib.Path) -> None:
    drawn, fonts = random.Random(0), sorted(FONTS.glob("DejaVuS*.ttf"))
    for part, most in (("train", 45), ("test", 15)):
        for glyph in GLYPHS:
            own = stock / part / f"{ord(glyph):04}"
            own.mkdir(parents=True)
            for number in range(most):
                font = ImageFont.truetype(drawn.choice(fonts), drawn.randint(28, 44))
                paper = drawn.randint(120, 255)
                image = Image.new("L", (64, 64), paper)
                at = (32 + drawn.randint(-6, 6), 32 + drawn.randint(-6, 6))
                ink = drawn.randint(0, paper - 60)
                ImageDraw.Draw(image).text(at, glyph, fill=ink, font=font, anchor="mm")
                image = image.rotate(drawn.uniform(-20, 20), fillcolor=paper)
                noise = np.random.default_rng([number, ord(glyph), most])
                speckled = np.asarray(image) + noise.normal(0, 12, (64, 64))
                pixels = np.clip(speckled, 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(own / f"{ord(glyph)}_{part}_{number}.png")


STOCKS: dict[str, Callable[[pathlib.Path, pathlib.Path], None]] = {
    "cifar": cifar,
    "fashion": fashion,
    "blood": blood,
    "glyphs": glyphs,
}


def chosen(items: list, most: int) -> list:
    """Returns `most` items at random, the same ones in every call."""
    return random.Random(0).sample(items, min(most, len(items)))
