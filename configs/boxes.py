"""Your own images with boxes: object detection with a few classes.

Command: ``noisy-student run --config=configs/boxes.py --workdir=W --config.labeled=DIR
--config.unlabeled=DIR2 [--config.test=DIR3] [--config.budget_hours=2]``. DIR holds
images with boxes as COCO, Pascal VOC, YOLO or a CSV file, which is found out; DIR2 is
any tree of images. Model, resolution, steps and the noise that is measured in pixels
follow from the boxes and the machine, and are printed; your own settings
(``--config.model.name=fcos_lite2``) are kept. Time: estimated by ``noisy-student plan
--measure`` with the same flags. What to expect: docs/boxes.md.
"""

from noisy_student_jax.config import ConfigDict, base_config


def get_config() -> ConfigDict:
    """A teacher and two students, from published weights where they are installed."""
    config = base_config()
    config.task = "detection"
    config.data.update(name="boxes", validation_fraction=None)
    config.model.update(
        name=None,
        init=None,
        framing="letterbox",
        crop_padding=0,
        # The image and its mirror: how well both agree tells how sure a box's place is.
        views=2,
        batch_norm_momentum=0.9,
        dropout_rate=0.2,
    )
    config.train.update(
        part="all",
        # Small steps: of as many image draws, more and smaller ones are the better.
        batch=4,
        ratio=1.0,
        epochs=None,
        optimizer="adamw",
        learning_rate=None,
        schedule="cosine",
        warmup_epochs=2.0,
        weight_decay=0.01,
        # The score of a pseudo box learns how well the student's box fits it, as for
        # true boxes; with the teacher's scores a student was worse (docs/boxes.md).
        targets="hard",
        # As much weight for pseudo-labeled boxes as for true ones; published settings
        # of 2 to 4 are for online teachers.
        loss_normalization="sum",
        ema_decay=0.99,
    )
    for stream in ("labeled", "pseudo"):
        config.noise[stream].update(
            randaugment_layers=2,
            randaugment_magnitude=8.0,
            randaugment_translate=None,
            randaugment_cutout=None,
            crop_area=0.0,
            crop_padding=0,
            zoom=1.5,
        )
    # All of the pool: an image without objects tells as much as one with some. Boxes
    # are chosen within images, by a threshold for each class.
    config.selection.update(method="all", share=1.0, min_score=0.0)
    # A step of the teacher has as many images as a student's, so that it is about as
    # good as the control.
    config.generations = ({"train": {"batch": 8}}, {}, {})
    config.labels.batch = 32
    config.evaluation.update(batch=32, bootstrap=1000)
    config.checkpoint.every_steps = 250
    config.log.update(every_steps=25, validate_every_steps=500)
    return config
