"""Every reader of foreign bytes, on mutated files: no traceback, no hang, no growth.

    python benchmarks/fuzz.py                       # two minutes a reader
    python benchmarks/fuzz.py --only csv tfrecord --seconds 600

Small valid files of each format are mutated by Hypothesis (bits, numbers, pieces that
are cut, doubled, moved or spliced), and read as a user's file would be. A reader may
return, or refuse with the package's own error; everything else is a failure, as are a
read that takes more than ten seconds and a process that has grown by more than 300 MB.
A failing input is shrunk and kept in ``tests/corpus/READER/``, which the tests read
again; commit it with the mend.
"""

import argparse
import dataclasses
import hashlib
import io
import json
import pathlib
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any, Literal

import hypothesis
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import strategies as st
from PIL import Image, ImageCms, features
from safetensors.numpy import save as to_safetensors

ROOT = pathlib.Path(__file__).parent.parent
CORPUS = ROOT / "tests" / "corpus"
SLOW = 10.0
"""Seconds that no read may take."""
GROWTH = 300e6
"""Bytes by which the process may grow."""
_INTERESTING = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 2**31 - 1, 2**32 - 1, 2**63 - 1)


@dataclasses.dataclass(frozen=True)
class Reader:
    """A reader of foreign bytes.

    Attributes:
      name: its name, and that of its corpus.
      suffix: the suffix of its files.
      seeds: returns valid files.
      read: reads a file as a user's command does.
      refusals: names of the package's errors that it may raise.
    """

    name: str
    suffix: str
    seeds: Callable[[], list[bytes]]
    read: Callable[[pathlib.Path], Any]
    refusals: tuple[str, ...] = ("UserError", "DamagedFileError")


class FaultError(AssertionError):
    """A reader neither returned nor refused."""


def read_one(reader: Reader, data: bytes, folder: pathlib.Path) -> str:
    """Reads one file.

    Returns:
      ``"read"`` or ``"refused"``.

    Raises:
      FaultError: the reader raised anything else, took too long, or its refusal is
        not one line.
    """
    path = folder / f"file{reader.suffix}"
    path.write_bytes(data)
    started = time.monotonic()
    try:
        reader.read(path)
        became = "read"
    except Exception as error:
        if type(error).__name__ not in reader.refusals:
            raise FaultError(
                f"{reader.name}: {type(error).__name__}: {error}"
            ) from error
        if not str(error) or "\n" in str(error):
            raise FaultError(f"{reader.name}: not one line: {error!r}") from error
        became = "refused"
    if (took := time.monotonic() - started) > SLOW:
        raise FaultError(f"{reader.name}: {took:.0f} s")
    return became


def mutated(seeds: list[bytes]) -> st.SearchStrategy[bytes]:
    """Returns a strategy for damaged copies of valid files."""
    place = st.integers(0, 2**20)
    length = st.one_of(st.integers(0, 8), st.integers(0, 2**12))
    step = st.one_of(
        st.tuples(st.just("bit"), place, st.integers(0, 7), st.just(b"")),
        st.tuples(
            st.just("number"),
            place,
            st.sampled_from(_INTERESTING),
            st.sampled_from([b"<", b">"]),
        ),
        st.tuples(st.just("write"), place, st.just(0), st.binary(max_size=16)),
        st.tuples(st.just("insert"), place, st.just(0), st.binary(max_size=16)),
        st.tuples(st.just("delete"), place, length, st.just(b"")),
        st.tuples(st.just("double"), place, length, st.just(b"")),
        st.tuples(st.just("cut"), place, st.just(0), st.just(b"")),
        st.tuples(st.just("splice"), place, st.integers(0, 63), st.just(b"")),
    )

    def apply(seed: bytes, steps: list[tuple[str, int, int, bytes]]) -> bytes:
        data = bytearray(seed)
        for how, where, number, extra in steps:
            at = where % (len(data) + 1)
            if how == "bit" and at < len(data):
                data[at] ^= 1 << number
            elif how == "number":
                order: Literal["little", "big"] = "little" if extra == b"<" else "big"
                width = max(1, (number.bit_length() + 7) // 8)
                data[at : at + width] = number.to_bytes(width, order)
            elif how == "write":
                data[at : at + len(extra)] = extra
            elif how == "insert":
                data[at:at] = extra
            elif how == "delete":
                del data[at : at + number]
            elif how == "double":
                data[at:at] = data[at : at + number]
            elif how == "cut":
                del data[at:]
            elif how == "splice":
                other = seeds[number % len(seeds)]
                data[at:] = other[at:]
        return bytes(data)

    return st.builds(
        apply, st.sampled_from(seeds), st.lists(step, min_size=1, max_size=6)
    )


def search(
    reader: Reader, folder: pathlib.Path, *, examples: int, seed: int = 0
) -> None:
    """Reads mutated files until one fails.

    Args:
      reader: the reader.
      folder: for the files; one at a time.
      examples: how many.
      seed: of the mutations.

    Raises:
      FaultError: of the smallest failing file found; it is ``file.SUFFIX`` in `folder`.
    """
    seeds = reader.seeds()
    for seed in seeds:
        assert read_one(reader, seed, folder) == "read", f"{reader.name}: a seed"

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=examples,
        deadline=None,
        database=None,
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(mutated(seeds))
    def run(data: bytes) -> None:
        read_one(reader, data, folder)

    run()


# Valid files


def _picture(mode: str = "RGB") -> Image.Image:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (12, 17, 3)).astype(np.uint8)
    return Image.fromarray(pixels).convert(mode)


def _saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def _images() -> list[bytes]:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    exif = Image.Exif()
    exif[0x0112] = 6
    sixteen = Image.fromarray(np.arange(204, dtype=np.uint16).reshape(12, 17) * 321)
    floats = Image.fromarray(np.linspace(0, 1, 204, dtype=np.float32).reshape(12, 17))
    made = [
        _saved(_picture(), "JPEG", exif=exif, icc_profile=profile),
        _saved(_picture("L"), "JPEG", progressive=True),
        _saved(_picture("CMYK"), "JPEG"),
        _saved(_picture(), "PNG", icc_profile=profile),
        _saved(_picture("P"), "PNG", transparency=3),
        _saved(_picture("RGBA"), "PNG"),
        _saved(_picture("1"), "PNG"),
        _saved(sixteen, "PNG"),
        _saved(_picture("P"), "GIF"),
        _saved(_picture(), "BMP"),
        _saved(_picture(), "PPM"),
        _saved(sixteen, "PPM"),
        _saved(_picture(), "TIFF", compression="tiff_lzw"),
        _saved(_picture(), "TIFF", compression="jpeg"),
        _saved(_picture("CMYK"), "TIFF"),
        _saved(sixteen, "TIFF"),
        _saved(floats, "TIFF"),
        _saved(_picture(), "WEBP"),
        _saved(_picture("RGBA"), "WEBP", lossless=True),
    ]
    if features.check("avif"):
        made.append(_saved(_picture(), "AVIF"))
    return made


def _csv() -> list[bytes]:
    text = 'path,label\na.png,cat\n"b, c.png",dog\nsub/ü.png,cat\nd.png,dog\n'
    return [
        text.encode(),
        text.replace("\n", "\r\n").encode("utf-8-sig"),
        b'label,path,more\ncat,a.png,1\ndog,"b\n.png",2\n',
    ]


def _names() -> list[bytes]:
    return [b"cat\ndog\n", "Käse\r\ndog\n".encode("utf-8-sig")]


def _arrays() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "conv_stem.weight": rng.normal(size=(4, 3, 3, 3)).astype(np.float32),
        "bn1.num_batches_tracked": np.array([3], np.int64),
    }


def _torch() -> list[bytes]:
    sys.path.insert(0, str(ROOT / "tests"))
    import torch_writer

    value = {"state_dict": torch_writer.state_dict(_arrays())}
    made = []
    with tempfile.TemporaryDirectory() as folder:
        for write in (torch_writer.write_zip, torch_writer.write_legacy):
            path = pathlib.Path(folder) / write.__name__
            write(path, value, torch_writer.contents(_arrays()))
            made.append(path.read_bytes())
    return made


def _safetensors() -> list[bytes]:
    return [to_safetensors(_arrays()), to_safetensors(_arrays(), {"format": "pt"})]


def _npy() -> list[bytes]:
    out = io.BytesIO()
    np.save(out, _arrays()["conv_stem.weight"])
    return [out.getvalue()]


def _npz() -> list[bytes]:
    out, packed = io.BytesIO(), io.BytesIO()
    np.savez(out, **_arrays())  # type: ignore[arg-type]
    np.savez_compressed(packed, **_arrays())  # type: ignore[arg-type]
    return [out.getvalue(), packed.getvalue()]


def _json() -> list[bytes]:
    value = {"schema": 1, "list": [1, 2.5, None, True, "ü"], "deep": [[[[{}]]]]}
    return [json.dumps(value, indent=2).encode()]


def _parquet() -> list[bytes]:
    table = pa.table({"key": ["a", "b", "c"], "score": [0.1, 0.5, 0.9]})
    made = []
    for compression in ("zstd", "none"):
        out = io.BytesIO()
        pq.write_table(table, out, compression=compression)
        made.append(out.getvalue())
    return made


def _tfrecord() -> list[bytes]:
    from noisy_student_jax.data.streaming.tfrecord import masked

    out = b""
    for number in range(3):
        data = f"record {number}".encode() * (number + 1)
        length = len(data).to_bytes(8, "little")
        out += length + masked(length).to_bytes(4, "little")
        out += data + masked(data).to_bytes(4, "little")
    return [out]


# Readers


def _read_image(path: pathlib.Path) -> None:
    from noisy_student_jax.images import decode

    decode.decode(path, shorter_side=8)


def _read_header(path: pathlib.Path) -> None:
    from noisy_student_jax.images import decode

    decode.header(path)


def _read_csv(path: pathlib.Path) -> None:
    from noisy_student_jax.data.cache import listing

    (path.parent / "sub").mkdir(exist_ok=True)
    for name in ("a.png", "b, c.png", "sub/ü.png", "d.png", "b .png"):
        (path.parent / name).touch()
    listing.list_classes(path)


def _read_names(path: pathlib.Path) -> None:
    from noisy_student_jax.interop import importing

    importing._classes(str(path))


def _read_foreign(path: pathlib.Path) -> None:
    from noisy_student_jax.interop import foreign

    foreign.read(path)


def _read_npy(path: pathlib.Path) -> None:
    from noisy_student_jax.core import files

    files.read_array(path)


def _read_npz(path: pathlib.Path) -> None:
    from noisy_student_jax.core import files

    files.read_arrays(path)


def _read_json(path: pathlib.Path) -> None:
    from noisy_student_jax.core import files

    files.read_json(path)


def _read_parquet(path: pathlib.Path) -> None:
    from noisy_student_jax.core import files

    files.read_parquet(path).to_pydict()


def _read_tfrecord(path: pathlib.Path) -> None:
    from noisy_student_jax.data.streaming import tfrecord

    file = tfrecord.TFRecordFile(path, tfrecord._starts(path))
    file.read(range(len(file)))


UNDECODABLE = ("UndecodableImageError", "UnscaledError")
READERS = (
    Reader("image", ".jpg", _images, _read_image, UNDECODABLE),
    Reader("header", ".jpg", _images, _read_header, UNDECODABLE),
    Reader("csv", ".csv", _csv, _read_csv),
    Reader("names", ".txt", _names, _read_names),
    Reader("torch", ".pth", _torch, _read_foreign),
    Reader("safetensors", ".safetensors", _safetensors, _read_foreign),
    Reader("npy", ".npy", _npy, _read_npy),
    Reader("npz", ".npz", _npz, _read_npz),
    Reader("json", ".json", _json, _read_json),
    Reader("parquet", ".parquet", _parquet, _read_parquet),
    Reader("tfrecord", ".tfrecord", _tfrecord, _read_tfrecord),
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", nargs="+", choices=[one.name for one in READERS])
    parser.add_argument("--seconds", type=float, default=120.0, help="of each reader")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    failed = 0
    print("| reader | seconds | files | refused | growth, MB | outcome |")
    print("|---|---|---|---|---|---|", flush=True)
    for reader in READERS:
        if options.only is None or reader.name in options.only:
            failed += _for_a_time(reader, options.seconds, options.seed)
    return failed > 0


def _for_a_time(reader: Reader, seconds: float, seed: int) -> bool:
    """Searches for a time; prints a row, keeps a failing file."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = pathlib.Path(scratch)
        counts = {"read": 0, "refused": 0}

        def read(path: pathlib.Path) -> Any:
            try:
                value = reader.read(path)
            except Exception:
                counts["refused"] += 1
                raise
            counts["read"] += 1
            return value

        counting = dataclasses.replace(reader, read=read)
        outcome, started, before, number = "whole", time.monotonic(), 0.0, seed
        try:
            while time.monotonic() - started < seconds:
                number += 1
                search(counting, folder, examples=400, seed=number)
                # What the first searches load is no growth.
                before = before or _peak()
        except FaultError as fault:
            data = (folder / f"file{reader.suffix}").read_bytes()
            kept = CORPUS / reader.name / hashlib.sha256(data).hexdigest()[:12]
            kept.parent.mkdir(parents=True, exist_ok=True)
            kept.write_bytes(data)
            outcome = f"{' '.join(str(fault).split())[:200]} (kept as {kept.name})"
        growth = _peak() - (before or _peak())
        if outcome == "whole" and growth > GROWTH:
            outcome = "grew"
        print(
            f"| {reader.name} | {time.monotonic() - started:.0f} |"
            f" {sum(counts.values()):,} | {counts['refused']:,} | {growth / 1e6:.0f} |"
            f" {outcome} |",
            flush=True,
        )
        return outcome != "whole"


def _peak() -> float:
    """Returns the largest size of the process so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    sys.exit(main())
