"""Folders of images like those of users, and the shortest run on them."""

import pathlib
import shutil

import numpy as np
from PIL import Image
from support import ROOT

FOLDER = ROOT / "configs" / "folder.py"
QUICK = [
    "--config.model.name=efficientnet_test",
    "--config.model.resolution=8",
    "--config.model.crop_padding=0",
    "--config.train.steps=6",
    "--config.train.batch=8",
    "--config.train.ratio=1",
    "--config.train.ema_decay=0.5",
    "--config.noise.labeled.randaugment_layers=0",
    "--config.noise.pseudo.randaugment_layers=0",
    "--config.noise.labeled.crop_padding=1",
    "--config.noise.pseudo.crop_padding=1",
    "--config.noise.labeled.crop_area=0",
    "--config.noise.pseudo.crop_area=0",
    "--config.selection.min_score=0.1",
    "--config.evaluation.batch=16",
    "--config.labels.batch=16",
    "--config.evaluation.bootstrap=1000",
    "--config.data.workers=1",
]
HOSTILE = "dog<script>alert(1)<"


def draw(path, label, number):
    """Writes an image of its class's color, with its own noise."""
    pixels = np.random.default_rng([label, number]).integers(0, 90, (11, 13, 3))
    pixels[..., label % 3] += 160
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.astype(np.uint8)).save(path)


def make_folders(root: pathlib.Path) -> pathlib.Path:
    """Makes three classes, and a pool with a torn file and a labeled image's copy."""
    for label, name in enumerate(("cat", HOSTILE, "Eule im Wald ü")):
        for number in range(16):
            draw(root / "labeled" / name / f"{number}.png", label, number)
        for number in range(100, 112):
            draw(root / "unlabeled" / f"{label}{number}.png", label, number)
    (root / "unlabeled" / "torn.jpg").write_bytes(b"\xff\xd8\xff torn")
    shutil.copy(root / "labeled" / "cat" / "0.png", root / "unlabeled" / "copy.png")
    return root


def line(command, folders, workdir, *more) -> list[str]:
    """Returns a command line on these folders."""
    return [
        command,
        f"--config={FOLDER}",
        f"--workdir={workdir}",
        f"--config.labeled={folders / 'labeled'}",
        f"--config.unlabeled={folders / 'unlabeled'}",
        *QUICK,
        *more,
    ]
