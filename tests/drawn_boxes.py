"""Folders with images and their boxes, made in tests."""

import json

import numpy as np
from PIL import Image

NAMES = ("cell", "dust")
BOXES = (
    [(2.0, 3.0, 12.0, 13.0), (20.0, 4.0, 36.0, 28.0)],
    [(5.0, 5.0, 15.0, 25.0)],
    [],
    [(0.0, 0.0, 40.0, 30.0), (8.5, 9.25, 18.5, 19.25)],
)
"""Left, top, right and bottom in images of 40×30 pixels."""
CLASSES = ([0, 1], [0], [], [1, 0])


def save(path, number=0, *, size=(40, 30), orientation=None):
    """Writes an image of its own; `size` is the width and height as stored."""
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = (size[1], size[0], 3)
    pixels = np.random.default_rng(number).integers(0, 256, shape, np.uint8)
    image = Image.fromarray(pixels)
    exif = image.getexif()
    if orientation:
        exif[0x0112] = orientation
    image.save(path, exif=exif)


def save_all(root, folder="images", count=4):
    """Writes images ``0.jpg`` and so on; returns their paths."""
    for number in range(count):
        save(root / folder / f"{number}.jpg", number)
    return [f"{folder}/{number}.jpg" for number in range(count)]


def coco_document(boxes=BOXES, classes=CLASSES, names=NAMES, *, size=(40, 30)):
    """Returns a COCO dataset of images ``0.jpg`` and so on."""
    annotations = [
        {
            "id": 100 * image + number,
            "image_id": image,
            "category_id": 7 + label,
            "bbox": [box[0], box[1], box[2] - box[0], box[3] - box[1]],
            "iscrowd": 0,
        }
        for image, (some, labels) in enumerate(zip(boxes, classes, strict=True))
        for number, (box, label) in enumerate(zip(some, labels, strict=True))
    ]
    return {
        "images": [
            {"id": n, "file_name": f"{n}.jpg", "width": size[0], "height": size[1]}
            for n in range(len(boxes))
        ],
        "annotations": annotations,
        "categories": [{"id": 7 + n, "name": name} for n, name in enumerate(names)],
    }


def write_json(path, document):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document))


def write_coco(root, boxes=BOXES, classes=CLASSES, names=NAMES):
    """Writes ``images/`` and ``annotations/instances.json``."""
    save_all(root, count=len(boxes))
    document = coco_document(boxes, classes, names)
    write_json(root / "annotations" / "instances.json", document)


def write_yolo(root, boxes=BOXES, classes=CLASSES, names=NAMES, *, size=(40, 30)):
    """Writes images, ``labels/`` and ``data.yaml``."""
    save_all(root, count=len(boxes))
    (root / "labels").mkdir(exist_ok=True)
    for image, (some, labels) in enumerate(zip(boxes, classes, strict=True)):
        text = ""
        for (left, top, right, bottom), label in zip(some, labels, strict=True):
            x, y = (left + right) / 2 / size[0], (top + bottom) / 2 / size[1]
            width, height = (right - left) / size[0], (bottom - top) / size[1]
            text += f"{label} {x} {y} {width} {height}\n"
        (root / "labels" / f"{image}.txt").write_text(text)
    if names is not None:
        (root / "data.yaml").write_text(f"nc: {len(names)}\nnames: {list(names)}\n")


def write_voc(root, boxes=BOXES, classes=CLASSES, names=NAMES, *, size=(40, 30)):
    """Writes ``JPEGImages/`` and ``Annotations/``."""
    save_all(root, "JPEGImages", count=len(boxes))
    (root / "Annotations").mkdir(exist_ok=True)
    for image, (some, labels) in enumerate(zip(boxes, classes, strict=True)):
        objects = "".join(
            f"\n<object><name>{names[label]}</name><difficult>0</difficult><bndbox>"
            f"<xmin>{box[0]}</xmin><ymin>{box[1]}</ymin><xmax>{box[2]}</xmax>"
            f"<ymax>{box[3]}</ymax></bndbox></object>"
            for box, label in zip(some, labels, strict=True)
        )
        (root / "Annotations" / f"{image}.xml").write_text(
            f"<annotation><filename>{image}.jpg</filename><size><width>{size[0]}"
            f"</width><height>{size[1]}</height></size>{objects}</annotation>"
        )


def write_csv(root, boxes=BOXES, classes=CLASSES, names=NAMES):
    """Writes ``images/`` and ``boxes.csv``, with an empty line for an empty image."""
    save_all(root, count=len(boxes))
    lines = ["filename,class,xmin,ymin,xmax,ymax"]
    for image, (some, labels) in enumerate(zip(boxes, classes, strict=True)):
        for box, label in zip(some, labels, strict=True):
            lines.append(f"{image}.jpg,{names[label]},{','.join(map(str, box))}")
        if not some:
            lines.append(f"{image}.jpg,,,,,")
    (root / "boxes.csv").write_text("\n".join(lines) + "\n")


FORMS = {"coco": write_coco, "yolo": write_yolo, "voc": write_voc, "csv": write_csv}
