"""Features are computed once for each content, backbone and view, and kept."""

import flax.linen as nn
import numpy as np
import pytest

from noisy_student_jax.core import files
from noisy_student_jax.core.console import Progress
from noisy_student_jax.core.preemption import Interrupted, Interruption
from noisy_student_jax.data.sources import ArraySource
from noisy_student_jax.features import store as stores
from noisy_student_jax.features.store import Backbone, FeatureStore, contents
from noisy_student_jax.images.preprocessing import Preprocessing

SIDE = 6


class Quarters(nn.Module):
    """A backbone that tells the left half of an image from the right one."""

    @nn.compact
    def __call__(self, images, train=False):
        half = images.shape[2] // 2
        left, right = images[:, :, :half], images[:, :, half:]
        means = 2 * left.mean((1, 2)) + right.mean((1, 2))
        return {"pooled": nn.Dense(4, name="trunk")(means)}


def backbone(weight=1.0, head=0.0, **preprocessing):
    trunk = {"kernel": np.full((3, 4), weight, np.float32), "bias": np.arange(4.0)}
    variables = {"params": {"trunk": trunk, "classifier": {"kernel": np.array([head])}}}
    prepared = Preprocessing(resolution=SIDE, crop_padding=0, **preprocessing)
    return Backbone(Quarters(), variables, prepared, 4, {"model": "quarters"})


def images(count, *, seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (count, SIDE, SIDE, 3))
    return ArraySource([f"i{n}" for n in range(count)], pixels.astype(np.uint8))


@pytest.fixture
def store(tmp_path):
    return FeatureStore(tmp_path, Interruption(), Progress(), batch=4)


@pytest.fixture
def computed(monkeypatch):
    """The number of records whose features were computed, in each call."""
    found = []
    whole = stores._write

    def write(folder, ids, *rest):
        found.append(len(ids))
        whole(folder, ids, *rest)

    monkeypatch.setattr(stores, "_write", write)
    return found


def rows(source):
    return source.rows(np.arange(len(source)))


def test_features_are_what_the_backbone_makes_of_the_images(store):
    source = images(5)
    own = backbone(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))

    found = store.source(own, source, "pool")

    scaled = source.images / 255
    left = scaled[:, :, : SIDE // 2].mean((1, 2))
    right = scaled[:, :, SIDE // 2 :].mean((1, 2))
    expected = (2 * left + right).sum(axis=1)[:, None] + np.arange(4)
    assert rows(found) == pytest.approx(expected, rel=1e-5)
    read = found.read([3, 0])
    assert [image.shape for image in read.images] == [(1, 1, 4)] * 2
    assert np.array_equal(read.images[0][0, 0], rows(found)[3])


def test_what_is_there_is_not_computed_again(store, computed):
    source = images(10)
    store.source(backbone(), source, "pool")
    whole = rows(store.source(backbone(), source, "pool"))
    # Another split of the same images, under other names, and two more of them.
    more = np.concatenate([source.images[::-1], images(2, seed=1).images])
    other = ArraySource([f"o{n}" for n in range(12)], more)

    found = rows(store.source(backbone(head=7.0), other, "labeled"))

    assert computed == [10, 2]
    assert np.array_equal(found[:10], whole[::-1])


@pytest.mark.parametrize(
    "other",
    [{"weight": 2.0}, {"mean": (0.5, 0.5, 0.5)}, {"interpolation": "bilinear"}],
    ids=str,
)
def test_features_of_other_weights_or_preprocessing_are_others(store, computed, other):
    source = images(3)
    store.source(backbone(), source, "pool")
    store.source(backbone(**other), source, "pool")

    assert computed == [3, 3]


def test_each_view_has_features_of_its_own(store):
    source = images(5)
    own = backbone(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))

    mirrored = rows(store.source(own, source, "pool", view=2))

    scaled = source.images[:, :, ::-1] / 255
    left = scaled[:, :, : SIDE // 2].mean((1, 2))
    right = scaled[:, :, SIDE // 2 :].mean((1, 2))
    expected = (2 * left + right).sum(axis=1)[:, None] + np.arange(4)
    assert mirrored == pytest.approx(expected, rel=1e-5)
    found = [rows(store.source(own, source, "pool", view=n)) for n in range(4)]
    assert np.array_equal(found[2], mirrored)
    assert len({one.tobytes() for one in found}) == 4


def test_a_stop_keeps_finished_chunks(store, computed, monkeypatch):
    monkeypatch.setattr(stores, "AT_ONCE", 4)
    source = images(10)
    whole = rows(store.source(backbone(), source, "pool"))
    interruption = Interruption()
    stopped = FeatureStore(store.folder / "s", interruption, Progress(), batch=4)
    calls = []

    def check():
        calls.append(1)
        if len(calls) == 2:
            raise Interrupted

    monkeypatch.setattr(interruption, "check", check)
    with pytest.raises(Interrupted):
        stopped.source(backbone(), source, "pool")
    monkeypatch.setattr(interruption, "check", lambda: None)
    del computed[:]

    assert np.array_equal(rows(stopped.source(backbone(), source, "pool")), whole)
    assert computed == [4, 2]


@pytest.mark.parametrize("suffix", ["npy", "parquet"])
@pytest.mark.parametrize("damage", ["a bit", "cut short", "away"])
def test_damaged_features_are_named_and_computed_again(store, capsys, suffix, damage):
    source = images(6)
    whole = rows(store.source(backbone(), source, "pool"))
    (path,) = store.folder.glob(f"*/*.{suffix}")
    data = bytearray(path.read_bytes())
    data[-40] ^= 1
    if damage == "away":
        path.unlink()
    else:
        path.write_bytes(data if damage == "a bit" else data[:-9])
    capsys.readouterr()

    again = store.source(backbone(), source, "pool")

    assert np.array_equal(rows(again), whole)
    said = capsys.readouterr().out
    assert (f"'{path}' is damaged (" in said) == (
        (suffix, damage) != ("parquet", "away")
    )
    assert files.is_file(path)


def test_an_image_without_features_says_why(store, monkeypatch):
    source = images(6)
    read = source.read

    def torn(indices):
        found = read(indices)
        bad = [n for n, index in enumerate(indices) if index in (1, 4)]
        for n in bad:
            found.images[n], found.status[n] = None, "torn"
        return found

    monkeypatch.setattr(source, "read", torn)
    for view in (0, 1):
        found = store.source(backbone(), source, "pool", view=view)

        assert found.status == ["ok", "torn", "ok", "ok", "torn", "ok"]
        assert [image is None for image in found.read(range(6)).images] == [
            why == "torn" for why in found.status
        ]


def test_copies_of_one_image_share_their_features(store, computed):
    source = images(3)
    twice = ArraySource(
        [f"t{n}" for n in range(6)], np.tile(source.images, (2, 1, 1, 1))
    )
    store.source(backbone(), source, "pool")

    found = rows(store.source(backbone(), twice, "pool"))

    assert computed == [3]
    assert np.array_equal(found[:3], found[3:])


def test_contents_follow_pixels_and_not_names():
    source = images(4)
    renamed = ArraySource([f"other{n}" for n in range(4)], source.images)

    assert np.array_equal(contents(source), contents(renamed))
    assert len(set(contents(source).tolist())) == 4
