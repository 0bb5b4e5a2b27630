"""A part of a dataset without images is refused, with what to do."""

from drawn_boxes import write_yolo
from support import ROOT

from noisy_student_jax.cli.main import main


def test_too_few_images_for_all_parts_are_refused(tmp_path, capsys):
    root, pool = tmp_path / "labeled", tmp_path / "pool"
    write_yolo(root, [[(0.0, 0.0, 12.0, 12.0)]] * 2, [[0]] * 2, ("cell",))
    write_yolo(pool, [[]] * 9, [[]] * 9, ("cell",))
    line = ["plan", f"--config={ROOT / 'configs' / 'boxes.py'}"]
    line += [f"--config.labeled={root}", f"--config.unlabeled={pool / 'images'}"]

    assert main([*line, "--config.model.name=fcos_test"]) == 2

    told = capsys.readouterr().err
    assert "the validation part of dataset" in told
    assert "give more of them, or a folder with --config." in told
