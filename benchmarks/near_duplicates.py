"""How often are images taken for near-duplicates, and how often are those found?

    python benchmarks/near_duplicates.py FOLDER…     # a folder of images each

For each folder, and for scikit-learn's digits enlarged to 28 pixels,
the output has

- pairs of different files within each distance (bits of the perceptual hash), per
  million pairs, and the images with such a pair at the distance that the program uses;
- the share of seeded, changed copies that are within each distance of their original.

Whether a pair of different files is a true near-duplicate is for people to judge:
``--pairs=FILE.png`` draws some of them at each distance, of the last folder. Then the
search is timed, among random hashes of which a fifth is held out.
"""

import argparse
import io
import json
import pathlib
import time
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageEnhance
from sklearn.datasets import load_digits

from noisy_student_jax.data.cache.listing import list_images
from noisy_student_jax.data.near_duplicates import RADIUS, nearest
from noisy_student_jax.images.decode import decode
from noisy_student_jax.images.perceptual import NO_HASH, distances, perceptual_hash

DISTANCES = (0, 2, 4, 6, 8, 10)
SIDE = 256
ROWS_AT_ONCE = 200


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folders", type=pathlib.Path, nargs="*")
    parser.add_argument("--images", type=int, default=10_000, help="most of a folder")
    parser.add_argument("--changed", type=int, default=300, help="images to change")
    parser.add_argument("--hashes", type=int, nargs="*", default=[100_000, 1_000_000])
    parser.add_argument("--pairs", type=pathlib.Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    rng = np.random.default_rng(options.seed)
    sets = {"digits, 28 px": digits(28)}
    sets |= {
        str(folder): read(folder, options.images, rng) for folder in options.folders
    }
    found: dict[str, dict] = {"sets": {}, "search": {}}
    for name, images in sets.items():
        hashes = np.array([perceptual_hash(image) for image in images], np.uint64)
        some = rng.permutation(len(images))[: options.changed]
        found["sets"][name] = {
            **pairs(hashes),
            "copies": {
                kind: within(hashes[some], [change(images[i]) for i in some])
                for kind, change in CHANGES.items()
            },
        }
        if options.pairs and name == list(sets)[-1]:
            draw(images, hashes, options.pairs, rng)
    for count in options.hashes:
        found["search"][count] = seconds(count, rng)
    if options.json:
        print(json.dumps(found))
        return
    tell(found)


def digits(side: int) -> list[np.ndarray]:
    return [
        np.asarray(
            Image.fromarray((digit * 15.9375).astype(np.uint8))
            .resize((side, side), Image.Resampling.BILINEAR)
            .convert("RGB")
        )
        for digit in load_digits().images
    ]


def read(folder: pathlib.Path, most: int, rng: np.random.Generator) -> list[np.ndarray]:
    paths = list_images(folder).paths
    chosen = np.sort(rng.permutation(len(paths))[:most])
    return [decode(folder / paths[i], shorter_side=SIDE) for i in chosen]


def pairs(hashes: np.ndarray) -> dict:
    """Counts pairs of different images within each distance."""
    counts = np.zeros(65, np.int64)
    known = np.flatnonzero(hashes != NO_HASH)
    near = np.zeros(len(hashes), bool)
    for start in range(0, len(known), ROWS_AT_ONCE):
        rows = known[start : start + ROWS_AT_ONCE]
        apart = distances(hashes[rows, None], hashes[None, known])
        apart[np.arange(len(rows)), start + np.arange(len(rows))] = 64
        counts += np.bincount(apart.ravel(), minlength=65)
        near[rows] = (apart <= RADIUS).any(1)
    counts[64] -= len(known)
    total = len(known) * (len(known) - 1)
    return {
        "images": len(hashes),
        "without a hash": int(len(hashes) - len(known)),
        "pairs a million": {
            d: 1e6 * int(counts[: d + 1].sum()) / total for d in DISTANCES
        },
        "images with a pair": float(near.mean()),
    }


def within(hashes: np.ndarray, changed: list[np.ndarray]) -> dict[int, float]:
    """Returns the share of changed copies within each distance of their original."""
    others = np.array([perceptual_hash(image) for image in changed], np.uint64)
    known = (hashes != NO_HASH) & (others != NO_HASH)
    apart = distances(hashes, others)
    return {d: float((known & (apart <= d)).mean()) for d in DISTANCES}


def encoded(quality: int) -> Callable[[np.ndarray], np.ndarray]:
    def change(image: np.ndarray) -> np.ndarray:
        file = io.BytesIO()
        Image.fromarray(image).save(file, "JPEG", quality=quality)
        return np.asarray(Image.open(file).convert("RGB"))

    return change


def resized(image: np.ndarray) -> np.ndarray:
    height, width, _ = image.shape
    size = max(1, width * 2 // 3), max(1, height * 2 // 3)
    small = Image.fromarray(image).resize(size, Image.Resampling.LANCZOS)
    return np.asarray(small)


def cropped(fraction: float) -> Callable[[np.ndarray], np.ndarray]:
    def change(image: np.ndarray) -> np.ndarray:
        height, width, _ = image.shape
        top, left = round(height * fraction / 2), round(width * fraction / 2)
        return np.ascontiguousarray(image[top : height - top, left : width - left])

    return change


def brightened(factor: float) -> Callable[[np.ndarray], np.ndarray]:
    def change(image: np.ndarray) -> np.ndarray:
        return np.asarray(
            ImageEnhance.Brightness(Image.fromarray(image)).enhance(factor)
        )

    return change


CHANGES = {
    "JPEG, quality 75": encoded(75),
    "JPEG, quality 20": encoded(20),
    "2/3 of the size": resized,
    "cropped by 2 %": cropped(0.02),
    "cropped by 5 %": cropped(0.05),
    "cropped by 10 %": cropped(0.1),
    "brighter by 1/5": brightened(1.2),
    "darker by 1/3": brightened(2 / 3),
}


def draw(
    images: list[np.ndarray],
    hashes: np.ndarray,
    path: pathlib.Path,
    rng: np.random.Generator,
) -> None:
    """Draws up to 16 pairs at each distance, a row each."""
    side, across = 72, 16
    sheet = Image.new("RGB", (across * 2 * (side + 4), len(DISTANCES) * (side + 8)))
    for row, distance in enumerate(DISTANCES):
        at = [
            (i, i + 1 + int(j))
            for i in range(len(hashes) - 1)
            for j in np.flatnonzero(distances(hashes[i], hashes[i + 1 :]) == distance)
            if hashes[i] != NO_HASH
        ]
        for place, chosen in enumerate(rng.permutation(len(at))[:across]):
            for half, index in enumerate(at[chosen]):
                tile = Image.fromarray(images[index])
                tile = tile.resize((side, side), Image.Resampling.BICUBIC)
                left = (2 * place + half) * (side + 1) + place * 6
                sheet.paste(tile, (left, row * (side + 8)))
    sheet.save(path)


def seconds(count: int, rng: np.random.Generator) -> float:
    """Times the search for hashes with half of their bits set, as real ones."""
    bits = rng.permuted(np.tile(np.arange(64) < 32, (count, 1)), axis=1)
    hashes = np.packbits(bits, axis=1).view(np.uint64)[:, 0]
    start = time.perf_counter()
    nearest(hashes[count // 5 :], hashes[: count // 5])
    return time.perf_counter() - start


def tell(found: dict) -> None:
    header = "".join(f"{'≤ ' + str(d):>9}" for d in DISTANCES)
    for name, one in found["sets"].items():
        print(
            f"\n{name}: {one['images']:,} images, {one['without a hash']} without hash"
        )
        print(f"{'bits':<34}{header}")
        row = "".join(f"{one['pairs a million'][d]:>9.2f}" for d in DISTANCES)
        print(f"{'pairs of different files, a million':<35}{row[1:]}")
        for kind, shares in one["copies"].items():
            row = "".join(f"{shares[d]:>9.0%}" for d in DISTANCES)
            print(f"{kind:<34}{row}")
        print(f"images with a pair at ≤ {RADIUS}: {one['images with a pair']:.1%}")
    for count, taken in found["search"].items():
        print(f"{count:,} hashes, a fifth of them held out: {taken:.1f} s")


if __name__ == "__main__":
    main()
