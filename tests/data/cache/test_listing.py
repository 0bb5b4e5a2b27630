"""Listing people's folders: what is an image, of which class, and what is left out."""

import os
import pathlib
import re
import socket

import numpy as np
import pytest

from noisy_student_jax.core.errors import UserError
from noisy_student_jax.data.cache.listing import (
    MISSING,
    NOT_REGULAR,
    list_classes,
    list_images,
)
from noisy_student_jax.data.cache.walk import safe_text

RUNS = "folders of runs, of prepared images, or given for another use"


def tree(root, *paths):
    for path in paths:
        whole = root / path
        if path.endswith("/"):
            whole.mkdir(parents=True)
        else:
            whole.parent.mkdir(parents=True, exist_ok=True)
            whole.write_bytes(b"x" * len(path))
    return root


def csv_file(folder, text, encoding="utf-8"):
    folder.mkdir(exist_ok=True)
    path = folder / "labels.csv"
    path.write_bytes(text.encode(encoding))
    return path


def labeled(listing):
    return {
        path: listing.classes[label]
        for path, label in zip(listing.paths, listing.labels, strict=True)
    }


def test_each_sub_folder_is_a_class(tmp_path):
    tree(tmp_path, "dog/b.JPG", "cat/deep/er/a.png", "cat/c.webp", "dog/a.Heic")

    listing = list_classes(tmp_path)

    assert listing.classes == ("cat", "dog")
    assert listing.paths == (
        "cat/c.webp",
        "cat/deep/er/a.png",
        "dog/a.Heic",
        "dog/b.JPG",
    )
    assert listing.labels.tolist() == [0, 0, 1, 1]
    assert listing.sizes.tolist() == [len(path) for path in listing.paths]
    stamps = [(tmp_path / path).stat().st_mtime_ns for path in listing.paths]
    assert listing.modified.tolist() == stamps
    assert {
        array.dtype for array in (listing.labels, listing.sizes, listing.modified)
    } == {np.dtype(np.int64)}
    assert listing.root == tmp_path
    assert listing.left_out == {}


def test_suffixes_of_images_are_known_in_any_case(tmp_path):
    names = "JPG jpg jpeg jpe jfif png webp bmp dib tif TIFF gif heic heif avif ppm pgm"
    tree(
        tmp_path, *(f"a.{name}" for name in names.split()), "a.jpgx", "png", "a.png.gz"
    )

    assert list_images(tmp_path).paths == tuple(
        sorted(f"a.{name}" for name in names.split())
    )


def test_a_tree_without_labels_is_listed_whole(tmp_path):
    tree(tmp_path, "b.png", "x/a.png", "x/y/z/c.png", "a-b.png", "a/b.png")

    listing = list_images(tmp_path)

    assert listing.paths == ("a-b.png", "a/b.png", "b.png", "x/a.png", "x/y/z/c.png")
    assert listing.labels is None
    assert listing.classes == ()


def test_what_is_left_out_is_counted_and_named(tmp_path):
    tree(tmp_path, "a/1.png", "b/1.png", "loose.png", "a/t.txt", "b/s.txt", "b/README")
    tree(tmp_path, "a/.DS_Store", ".git/1.png", "b/__MACOSX/1.png", "b/Thumbs.db")
    os.mkfifo(tmp_path / "a" / "pipe.png")
    (tmp_path / "b" / "nowhere.png").symlink_to("gone.png")
    (tmp_path / "b" / "itself.png").symlink_to("itself.png")
    (tmp_path / "b" / "null.png").symlink_to("/dev/null")

    listing = list_classes(tmp_path)

    assert listing.paths == ("a/1.png", "b/1.png")
    assert listing.left_out == {
        "hidden files and folders": 4,
        "images in no class folder": 1,
        "links that lead nowhere or back": 2,
        "not regular files": 2,
        "other kinds of file (.txt 2, no suffix 1)": 3,
    }


@pytest.mark.parametrize(
    "name",
    [
        *("$RECYCLE.BIN", "System Volume Information", "lost+found", ".Trash-1000"),
        *("#recycle", "@eaDir", "__MACOSX", ".ipynb_checkpoints", "__pycache__"),
        *(".dropbox.cache", "OneDriveTemp", ".tmp.drivedownload"),
    ],
)
def test_folders_that_systems_and_tools_leave_are_no_classes(tmp_path, name):
    tree(tmp_path, "cat/1.png", "dog/1.png", f"{name}/1.png", f"dog/{name}/2.png")

    listing = list_classes(tmp_path)

    assert listing.classes == ("cat", "dog")
    assert len(listing) == 2
    assert listing.left_out == {"hidden files and folders": 2}


def test_runs_and_folders_that_are_written_are_no_data(tmp_path):
    tree(tmp_path, "cat/1.png", "dog/1.png", "cat/old_run/contact_sheet.png")
    tree(tmp_path, "cat/old_run/config.json", "cat/old_run/ledger/data.json")
    tree(tmp_path, "new_run/1.png", "dog/config.json", "dog/.lock")
    tree(tmp_path, "cache/.lock", "cache/side_64/labeled-0/0.bin")

    listing = list_classes(tmp_path, apart=[tmp_path / "new_run", tmp_path / "absent"])

    assert listing.classes == ("cat", "dog")
    assert len(listing) == 2
    assert listing.left_out[RUNS] == 3
    images = list_images(tmp_path / "cat")
    assert images.paths == ("1.png",)
    assert images.left_out == {RUNS: 1}


def test_of_many_other_kinds_the_most_are_named(tmp_path):
    tree(tmp_path, "a.png", "x.g", "y.g", *(f"x.{kind}" for kind in "fedcba"))

    (told,) = list_images(tmp_path).left_out.items()

    assert told == ("other kinds of file (.g 2, .a 1, .b 1, .c 1, .d 1, …)", 8)


def test_pipes_and_sockets_are_not_opened(tmp_path):
    tree(tmp_path, "a.png")
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "to_pipe.png").symlink_to("pipe.png")
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(os.path.relpath(tmp_path / "s.png"))

        assert list_images(tmp_path).left_out == {"not regular files": 3}


def test_links_are_followed_once_for_each_real_folder(tmp_path):
    tree(tmp_path / "elsewhere", "1.png", "deep/2.png")
    root = tree(tmp_path / "root", "z/real.png")
    (root / "one").symlink_to(tmp_path / "elsewhere")
    (root / "two").symlink_to(tmp_path / "elsewhere" / "deep")
    (root / "a_name_of_z").symlink_to(root / "z")
    (root / "z" / "loop").symlink_to(root)
    (root / "z" / "up").symlink_to(tmp_path)
    (root / "file.png").symlink_to(root / "z" / "real.png")
    (tmp_path / "elsewhere" / "around").symlink_to(tmp_path / "elsewhere")

    listing = list_images(root)

    assert listing.paths == (
        "file.png",
        "one/1.png",
        "one/deep/2.png",
        "z/real.png",
    )
    assert listing.left_out == {"links that lead nowhere or back": 5}
    assert listing.sizes[0] == listing.sizes[3]


def test_class_folders_may_be_links_and_keep_their_images(tmp_path):
    tree(tmp_path / "store", "1/a.png", "2/b.png")
    root = tree(tmp_path / "root", "bird/c.png", "loose.png")
    (root / "cat").symlink_to(tmp_path / "store" / "1")
    (root / "dog").symlink_to(tmp_path / "store" / "2")
    (root / "bird" / "more").symlink_to(root / "dog")
    (root / "bird" / "all").symlink_to(root)

    listing = list_classes(root)

    assert labeled(listing) == {
        "bird/c.png": "bird",
        "cat/a.png": "cat",
        "dog/b.png": "dog",
    }
    assert listing.left_out["links that lead nowhere or back"] == 2


NAMES = (
    "ünï 🐈.png",
    "new\nline.png",
    "<script>alert(1)</script>.png",
    "b\\n.png",
    "%.png",
)
NOT_UTF8 = os.fsdecode(b"caf\xe9.png")


def test_any_name_is_listed_and_has_a_safe_text_of_its_own(tmp_path):
    names = sorted([*(name.replace("/", "_") for name in NAMES), NOT_UTF8])
    tree(tmp_path, *names)

    listing = list_images(tmp_path)

    assert listing.paths == tuple(names)
    safe = [safe_text(path) for path in listing.paths]
    assert all("\n" not in text and text.encode() for text in safe)
    assert "ünï 🐈.png" in safe


def test_safe_texts_are_unique():
    texts = [
        "\n",
        "\\n",
        "\\\n",
        "\\\\n",
        "\udce9",
        "\\udce9",
        "\x85",
        "\u2028",
        "a/b",
        "é",
    ]

    assert len({safe_text(text) for text in texts}) == len(texts)
    assert safe_text("é/b c.png") == "é/b c.png"


def test_a_class_of_any_name_can_be_stored(tmp_path):
    tree(tmp_path, f"{NOT_UTF8}/1.png", "<script>/1.png", "a\\b/1.png")

    listing = list_classes(tmp_path)

    assert listing.classes == ("<script>", "a\\b", "caf\\udce9.png")
    assert [path.encode(errors="surrogateescape") for path in listing.paths][-1] == (
        b"caf\xe9.png/1.png"
    )


def test_a_test_set_is_read_with_the_classes_known(tmp_path):
    tree(tmp_path, "dog/1.png", "ant/1.png", "cat/")

    listing = list_classes(tmp_path, classes=["ant", "bee", "dog", "cat"])

    assert listing.classes == ("ant", "bee", "dog", "cat")
    assert listing.labels.tolist() == [0, 2]


def test_a_csv_file_says_paths_and_labels(tmp_path):
    tree(tmp_path / "in", "x/1.png", "2.dat")
    tree(tmp_path, "out/3.png")
    path = csv_file(
        tmp_path / "in",
        "who, Label ,path\r\n"
        "me,dog,x/1.png\r\n"
        "\r\n"
        f'me," cat ",{tmp_path / "out" / "3.png"}\r\n'
        f"you,dog,{tmp_path / 'in' / 'x' / '1.png'}\r\n"
        "you,dog,./x//1.png\r\n"
        'me,cat,"gone, ünï.png"\r\n'
        "me,cat,x\r\n"
        "me,cat,2.dat/deeper.png\r\n"
        "me,cat,nu\0ll.png\r\n"
        "me,dog,2.dat\r\n",
    )

    listing = list_classes(path)

    outside = str(tmp_path / "out" / "3.png")
    assert labeled(listing) == {
        outside: "cat",
        "2.dat": "dog",
        "2.dat/deeper.png": "cat",
        "gone, ünï.png": "cat",
        "nu\0ll.png": "cat",
        "x": "cat",
        "x/1.png": "dog",
    }
    sizes = dict(zip(listing.paths, listing.sizes.tolist(), strict=True))
    assert sizes == {
        outside: len("out/3.png"),
        "2.dat": len("2.dat"),
        "2.dat/deeper.png": MISSING,
        "gone, ünï.png": MISSING,
        "nu\0ll.png": MISSING,
        "x": NOT_REGULAR,
        "x/1.png": len("x/1.png"),
    }
    assert listing.root == tmp_path / "in"


def test_a_csv_file_may_begin_with_a_byte_order_mark(tmp_path):
    tree(tmp_path, "a.png", "b.png")
    path = csv_file(tmp_path, "\ufeffpath,label\na.png,cat\nb.png,dog\n")

    assert list_classes(path).paths == ("a.png", "b.png")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a.png,cat\n", r"needs a first line .* has 'a\.png,cat'"),
        ("path;label\na;b\n", "separated by commas, and has 'path;label'"),
        ("", "needs a first line"),
        ("path,label\n", "names no images"),
        ("path,label\na.png,cat\nb.png\n", "line 3 of .* has no label"),
        ("path,label\n,cat\n", "line 2 of .* has no path"),
        (
            "path,label\na.png,cat\n./a.png,dog\n",
            "two labels, up to line 3, 'cat' and 'dog'",
        ),
        ("path,label\na.png,cat\nb.png,cat\n", "has one class, 'cat': at least two"),
        ("path,label\na.png,cat\nb.png,Cat\n", "'Cat' and 'cat' .* differ only in"),
        pytest.param(
            "path,label\na.png," + "x" * 200_000, "line 2 of .* is not CSV", id="huge"
        ),
    ],
)
def test_a_csv_file_that_is_not_clear_is_refused(tmp_path, text, message):
    with pytest.raises(UserError, match=message):
        list_classes(csv_file(tmp_path, text))


def test_a_csv_file_in_another_encoding_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"labels\.csv' is not UTF-8 text .*: save it"):
        list_classes(csv_file(tmp_path, "path,label\nä.png,b\n", "latin-1"))


def test_spaces_around_a_path_are_no_part_of_it_unless_its_name_has_them(tmp_path):
    tree(tmp_path, "a.png", "b.png", "c.png ")
    path = csv_file(tmp_path, "path,label\n a.png , cat\nb.png ,dog\nc.png ,dog\n")

    listing = list_classes(path)

    assert listing.paths == ("a.png", "b.png", "c.png ")
    assert listing.sizes.min() > 0


WRITTEN = {
    "backslashes": ("cat\\1.png", r"\\ separates no folders here, so write /"),
    "above": ("in/cat/1.png", "it is there without 'in', so write it without"),
    "no suffix": ("cat/1", "'1.png' is there: write names with their suffix"),
    "capitals": ("cat/1.PNG", "'1.png' is there: write names as they are stored"),
    "nowhere": ("dog/1.png", "give paths that are relative to the folder of the .csv"),
}


@pytest.mark.parametrize("how", WRITTEN)
def test_a_csv_file_whose_paths_lead_nowhere_is_refused_with_the_first(tmp_path, how):
    written, advice = WRITTEN[how]
    tree(tmp_path / "in", "cat/1.png")
    path = csv_file(tmp_path / "in", f"path,label\n{written},cat\n{written}x,dog\n")

    with pytest.raises(UserError) as caught:
        list_classes(path)

    assert str(caught.value).startswith(
        f"2 of 2 paths in '{path}' lead to no file, the first being '{written}' in line"
        f" 2, looked for at '{tmp_path}/in/{written}': "
    )
    assert re.search(advice, str(caught.value))


def test_some_paths_of_a_csv_file_that_lead_nowhere_are_told_of(tmp_path, capsys):
    tree(tmp_path, "a.png")
    path = csv_file(tmp_path, "path,label\na.png,cat\nb.png,dog\n")

    assert list_classes(path).sizes.tolist() == [len("a.png"), MISSING]

    assert "WARNING: 1 of 2 paths in" in (out := capsys.readouterr().out)
    assert f"'b.png' in line 3, looked for at '{tmp_path}/b.png'" in out


def test_a_csv_file_has_to_keep_to_known_classes_too(tmp_path):
    path = csv_file(tmp_path, "path,label\n1.png,dogg\n")

    with pytest.raises(UserError) as caught:
        list_classes(path, classes=["cat", "dog"])

    assert str(caught.value) == (
        f"'1.png' in '{path}' is of the class 'dogg', which is not among the 2 known"
        " classes; did you mean 'dog'?"
    )


CASES = {
    "gone": ([], "place' does not exist: give a folder"),
    "nothing in it": (["place/"], "place' holds no class folders: put the images"),
    "other kinds of file in it": (
        ["place/1.dcm"],
        r"no class folders \(left out: 1 other kinds of file \(\.dcm 1\)\): put the",
    ),
    "images and no folders": (
        ["place/1.png", "place/2.png"],
        "holds 2 images but no class folders: put the images of each class into a",
    ),
    "one class": (["place/cat/1.png"], "has one class, 'cat': at least two"),
    "a class with no images": (
        ["place/cat/1.png", "place/dog/notes.txt", "place/eel/"],
        r"no image is in the 2 class folders 'dog' \(left out: 1 other kinds of file"
        r" \(\.txt 1\)\), 'eel' of '.*': put some in, or remove them",
    ),
    "splits": (
        [
            f"place/{part}/{name}/1.png"
            for part in ("t", "v")
            for name in ("cat", "dog")
        ],
        r"like a folder of splits \('t', 'v'\) with the same sub-folders in each: give",
    ),
    "splits that differ a little": (
        ["place/Train/cat/1.png", "place/Train/dog/1.png", "place/val/cat/1.png"],
        "looks like a folder of splits .*--config.labeled=.*/place/Train and"
        " --config.test=.*/place/val, or give a .csv",
    ),
    "classes beside images to be tested": (
        ["place/train/cat/1.png", "place/train/dog/1.png", "place/test/1.png"],
        r"\('test', 'train'\): give --config.labeled=.*/place/train, or give a .csv",
    ),
    "splits beside other folders": (
        ["place/train_images/1.png", "place/test1/1.png", "place/depth/1.png"],
        "like a folder of splits .* sort the images in them into one folder per class",
    ),
    "a folder around the classes": (
        ["place/photos/cat/1.png", "place/photos/dog/1.png"],
        "one class, 'photos': .*2 sub-folders .* --config.labeled=.*/place/photos",
    ),
    "a class of a kind that is not read": (
        ["place/cat/1.png", "place/dog/1.dcm", "place/dog/2.dcm"],
        r"the class folder 'dog' \(left out: 2 other kinds of file \(\.dcm 2\)\) of",
    ),
    "names that differ in spaces": (
        ["place/sea lion/1.png", "place/sea  lion /1.png"],
        "'sea .*lion' of .* differ only in spaces",
    ),
    "names that differ in what has no shape": (
        ["place/cat/1.png", "place/cat\u200b/1.png"],
        "'cat' and 'cat\\\\u200b' of .* differ only in characters that cannot be seen",
    ),
    "names that are one number": (
        ["place/1/1.png", "place/1.0/1.png", "place/01/1.png"],
        "differ only in how a number is written",
    ),
    "names that differ in case and spaces": (
        ["place/Cat/1.png", "place/cat\u00a0/1.png"],
        "differ only in signs that look the same",
    ),
    "names that differ in case": (
        ["place/Cat/1.png", "place/cat/1.png"],
        "classes '[Cc]at' and '[Cc]at' of .* differ only in upper and lower case",
    ),
    "names that differ in bytes": (
        ["place/caf\u00e9/1.png", "place/cafe\u0301/1.png"],
        "how an accent is stored",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_place_that_is_not_clear_is_refused(tmp_path, case):
    paths, message = CASES[case]
    tree(tmp_path, *paths)

    with pytest.raises(UserError, match=message) as caught:
        list_classes(tmp_path / "place")

    assert "\n" not in str(caught.value)
    assert "place" in str(caught.value)


@pytest.mark.parametrize(
    "paths",
    [
        ["cat/2023/1.png", "dog/2023/1.png"],
        ["cat/a/1.png", "cat/b/1.png", "dog/a/1.png", "dog/c/1.png"],
        ["cat/a/1.png", "cat/b/1.png", "dog/a/1.png", "dog/b/1.png", "dog/1.png"],
        ["train/1.png", "bus/1.png"],
        ["1.1/1.png", "1.10/1.png"],
        ["left/a/1.png", "left/b/1.png", "right/1.png"],
    ],
)
def test_images_of_a_class_may_lie_in_folders(tmp_path, paths):
    assert len(list_classes(tree(tmp_path, *paths))) == len(paths)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("cat", "'kitty' .* is the same folder as 'cat'"),
        ("cat/sub", "'kitty' .* lies in 'cat'"),
    ],
)
def test_class_folders_that_share_images_are_refused(tmp_path, target, message):
    tree(tmp_path, "cat/sub/1.png", "cat2/1.png")
    (tmp_path / "kitty").symlink_to(target)

    with pytest.raises(UserError, match=message):
        list_classes(tmp_path)


def test_a_class_that_is_not_known_is_named(tmp_path):
    tree(tmp_path, "dgo/1.png", "cat/1.png")

    with pytest.raises(
        UserError, match=r"class 'dgo', .* 2 known classes; did you mean 'dog'"
    ):
        list_classes(tmp_path, classes=["cat", "dog"])


def test_all_classes_that_are_not_known_are_named(tmp_path):
    tree(tmp_path, *(f"{name}/1.png" for name in ("cat", "x1", "x2", "x3")))

    with pytest.raises(UserError, match=r"'x1', which .* 2 more are not: 'x2', 'x3'\)"):
        list_classes(tmp_path, classes=["cat", "dog"])


def test_all_names_that_look_alike_are_named(tmp_path):
    tree(tmp_path, *(f"{name}/1.png" for name in ("a", "A", "b", "b ", "c")))

    with pytest.raises(UserError) as caught:
        list_classes(tmp_path)

    assert str(caught.value) == (
        f"the classes 'A' and 'a' of '{tmp_path}' differ only in upper and lower case,"
        f" 'b' and 'b ' of '{tmp_path}' differ only in spaces: merge them, or rename"
        " one"
    )


def test_a_class_that_only_looks_like_a_known_one_is_explained(tmp_path):
    tree(tmp_path, "cafe\u0301/1.png")

    with pytest.raises(UserError, match="it differs from 'café' in how an accent is"):
        list_classes(tmp_path, classes=["caf\u00e9", "dog"])


def test_a_test_set_without_images_is_refused(tmp_path):
    with pytest.raises(UserError, match="holds no images"):
        list_classes(tree(tmp_path, "cat/"), classes=["cat", "dog"])


def test_a_tree_without_images_is_refused(tmp_path):
    tree(tmp_path, "a/notes.txt", ".hidden.png")

    with pytest.raises(UserError) as caught:
        list_images(tmp_path)

    assert str(caught.value) == (
        f"'{tmp_path}' holds no images (left out: 1 hidden files and folders, 1 other"
        " kinds of file (.txt 1)): give a folder with images in it"
    )


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (
            list_classes,
            r"a\.txt' is a file: give a folder with one sub-folder per class",
        ),
        (list_images, r"a\.txt' is a file: give a folder of images"),
    ],
)
def test_a_file_is_no_folder(tmp_path, function, message):
    tree(tmp_path, "a.txt")

    with pytest.raises(UserError, match=message):
        function(tmp_path / "a.txt")


def test_a_folder_that_cannot_be_read_is_named(tmp_path, monkeypatch):
    tree(tmp_path, "a/1.png", "b/locked/1.png")
    scandir = os.scandir

    def guarded(path):
        if pathlib.Path(path).name == "locked":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", guarded)

    with pytest.raises(
        UserError, match=r"cannot read '.*/b/locked' \(Permission denied\)"
    ):
        list_images(tmp_path)


def test_times_after_the_year_2262_are_times(tmp_path):
    for number, seconds in enumerate((0, 13_569_465_600, 13_569_465_601, -1)):
        path = tmp_path / "a" / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"")
        os.utime(path, (seconds, seconds))
    (tmp_path / "list.csv").write_text(
        "path,label\n" + "".join(f"a/{n}.png,{n % 2}\n" for n in range(4))
    )

    for listing in (list_images(tmp_path), list_classes(tmp_path / "list.csv")):
        assert len(set(listing.modified.tolist())) == 4
        assert listing.modified[[0, 3]].tolist() == [0, -1_000_000_000]
