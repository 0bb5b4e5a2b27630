"""Two sets of images with boxes, dealt into folders by seed, in YOLO's layout.

- ``cells``: TXL-PBC (MIT; red and white blood cells and platelets): of its 1,008
  training images 100 labeled ones, drawn anew for each seed, and 908 in the pool;
- ``digits``: scikit-learn's handwritten threes, sixes and eights, none to four of them
  in varying size and color on images of CIFAR-10: 100 labeled ones, and 3,000 in the
  pool. Strokes and backgrounds of validation and test images are others.

Validation images (60 each) choose nothing that the comparison of models shows; test
images are the same for all seeds. The hidden truth of the pool is kept beside it.
``DATA`` holds ``txl_pbc/TXL_PBC`` and ``cifar10/{train,test}/CLASS/*``.
"""

import json
import pathlib
import random
import shutil
from collections.abc import Callable

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

LABELED, POOL, VALIDATION, TEST = 100, 3000, 60, 200
SIDE = 128
DIGITS = {3: "three", 6: "six", 8: "eight"}
Lines = list[str]
Stock = dict[str, list[tuple[pathlib.Path, Lines]]]
"""By part, images and the lines of their label files."""


def deal(
    name: str, data: pathlib.Path, folder: pathlib.Path, seed: int, labels: int
) -> pathlib.Path:
    """Deals a set, unless that has been done; returns its folder.

    Args:
      name: ``cells`` or ``digits``.
      data: see the module.
      folder: holds the sets.
      seed: draws the labeled images.
      labels: number of labeled images; −1 for all but one.

    Returns:
      A folder of ``labeled``, ``unlabeled``, ``validation`` and ``test``, and the
      pool's hidden truth in ``truth.json``.
    """
    done = folder / name / f"seed_{seed}_of_{labels}"
    if done.exists():
        return done
    classes, stock = STOCKS[name](data, folder / "stock" / name)
    unfinished = done.with_name(f".{done.name}")
    shutil.rmtree(unfinished, ignore_errors=True)
    train = list(stock["train"])
    random.Random(f"{name}/{seed}").shuffle(train)
    parts = {
        "labeled": train[:labels],
        "validation": stock["validation"],
        "test": stock["test"],
    }
    for part, images in parts.items():
        own = unfinished / part
        for path, lines in images:
            link(path, own / "images")
            (own / "labels").mkdir(exist_ok=True)
            text = "".join(f"{line}\n" for line in lines)
            (own / "labels" / f"{path.stem}.txt").write_text(text, encoding="utf-8")
        names = json.dumps(classes)
        (own / "data.yaml").write_text(f"names: {names}\n", encoding="utf-8")
    for path, _ in train[labels:]:
        link(path, unfinished / "unlabeled")
    truth = {path.name: lines for path, lines in train[labels:]}
    (unfinished / "truth.json").write_text(json.dumps(truth), encoding="utf-8")
    unfinished.rename(done)
    return done


def link(path: pathlib.Path, folder: pathlib.Path) -> None:
    """Links an image into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / path.name).hardlink_to(path)


def cells(data: pathlib.Path, stock: pathlib.Path) -> tuple[list[str], Stock]:
    """Returns the classes and images of TXL-PBC; copies those that are used."""
    source = data / "txl_pbc" / "TXL_PBC"
    found: Stock = {}
    for part, own in (("train", "train"), ("validation", "val"), ("test", "test")):
        images = sorted((source / "images" / own).iterdir())
        if part == "validation":
            images = random.Random(part).sample(images, VALIDATION)
        found[part] = []
        for path in images:
            copy = stock / part / path.name
            copy.parent.mkdir(parents=True, exist_ok=True)
            if not copy.exists():
                shutil.copyfile(path, copy)
            text = source / "labels" / own / f"{path.stem}.txt"
            found[part].append((copy, text.read_text(encoding="utf-8").splitlines()))
    return ["WBC", "RBC", "Platelets"], found


def digits(data: pathlib.Path, stock: pathlib.Path) -> tuple[list[str], Stock]:
    """Returns the classes and images of digits on photographs; draws them once."""
    strokes = load_digits()
    counts = {"train": LABELED + POOL, "validation": VALIDATION, "test": TEST}
    found: Stock = {}
    for part, count in counts.items():
        held_out = part != "train"
        # Every third digit is kept for validation and test images.
        numbers = np.arange(len(strokes.target))
        mine = numbers[(numbers % 3 == 0) == held_out]
        ours = [n for n in mine.tolist() if strokes.target[n] in DIGITS]
        folder = data / "cifar10" / ("test" if held_out else "train")
        backgrounds = sorted(folder.glob("*/*"))
        drawn = random.Random(part)
        drawn.shuffle(backgrounds)
        if part == "test":
            backgrounds = backgrounds[VALIDATION:]
        (stock / part).mkdir(parents=True, exist_ok=True)
        found[part] = []
        for number in range(count):
            chosen = [drawn.choice(ours) for _ in range(drawn.randint(0, 4))]
            image, lines = pasted(
                backgrounds[number % len(backgrounds)],
                [(strokes.images[n], int(strokes.target[n])) for n in chosen],
                drawn,
            )
            path = stock / part / f"{part}_{number:05d}.png"
            if not path.exists():
                image.save(path)
            found[part].append((path, lines))
    return list(DIGITS.values()), found


def pasted(
    background: pathlib.Path,
    chosen: list[tuple[np.ndarray, int]],
    drawn: random.Random,
) -> tuple[Image.Image, Lines]:
    """Pastes digits on an image, where they hardly cover each other.

    Args:
      background: path of an image.
      chosen: strokes ``[8, 8]`` from 0 to 16 of each digit, and its class.
      drawn: draws sizes, places and colors.
    """
    with Image.open(background) as small:
        large = small.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    canvas = np.asarray(large, np.float32)
    taken: list[tuple[int, int, int]] = []
    lines = []
    for strokes, label in chosen:
        side = drawn.randint(18, 56)
        left, top = (drawn.randint(0, SIDE - side) for _ in range(2))
        color = np.array([drawn.randint(0, 255) for _ in range(3)], np.float32)
        if any(
            max(left, x) < min(left + side, x + s) - 4
            and max(top, y) < min(top + side, y + s) - 4
            for x, y, s in taken
        ):
            continue
        taken.append((left, top, side))
        raw = Image.fromarray((strokes * (255 / 16)).astype(np.uint8))
        mask = np.asarray(raw.resize((side, side), Image.Resampling.BICUBIC))
        opacity = (mask.astype(np.float32) / 255)[..., None]
        part = canvas[top : top + side, left : left + side]
        canvas[top : top + side, left : left + side] += opacity * (color - part)
        rows, columns = (np.flatnonzero((mask > 64).any(axis)) for axis in (1, 0))
        x0, x1 = left + columns[0], left + columns[-1] + 1
        y0, y1 = top + rows[0], top + rows[-1] + 1
        box = ((x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0)
        told = " ".join(f"{value / SIDE:.6f}" for value in box)
        lines.append(f"{list(DIGITS).index(label)} {told}")
    return Image.fromarray(np.clip(canvas, 0, 255).astype(np.uint8)), lines


STOCKS: dict[str, Callable[[pathlib.Path, pathlib.Path], tuple[list[str], Stock]]] = {
    "cells": cells,
    "digits": digits,
}
