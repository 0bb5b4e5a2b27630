"""Noisy Student Training: the algorithm of the paper, as stages of a run.

Xie, Luong, Hovy, Le: Self-training with Noisy Student improves ImageNet
classification, CVPR 2020, Algorithm 1.
"""

import dataclasses

from noisy_student_jax import files, starting
from noisy_student_jax.config import identity, plain
from noisy_student_jax.generation import (
    evaluate,
    label_pool,
    select_pseudo_labels,
    train,
)
from noisy_student_jax.judgement import judge
from noisy_student_jax.robustness import results as robustness
from noisy_student_jax.run import Run, Student
from noisy_student_jax.showing import CONTACT_SHEET, show_some
from noisy_student_jax.splitting import note_splits
from noisy_student_jax.stages import Stage


def noisy_student(run: Run) -> list[Stage]:
    """Returns the stages of the whole loop, in order."""
    stages = [data(run), contact_sheet(run)]
    for generation in range(run.last + 1):
        # 1. Train the teacher on labelled images. 3. Later, train an equal or larger
        # student, noised, on labelled and pseudo-labelled images together.
        stages += [training(run, generation), evaluation(run, generation)]
        if generation < run.last:
            # 2. The teacher, not noised, labels the unlabelled images; the confident
            # ones are kept, class by class. 4. The student becomes the next teacher.
            stages += [labelling(run, generation), selection(run, generation)]
    for name in run.compared_with:
        # What the student's architecture reaches on labelled images alone.
        stages += [training(run, name), evaluation(run, name)]
    return [*stages, judging(run, stages)]


def data(run: Run) -> Stage:
    """Notes which record is labelled, unlabelled, validation or test."""
    return Stage(
        name="data",
        config={
            "data": identity(plain(run.config.data), "data"),
            "seed": run.config.seed,
        },
        needs=(),
        inputs={
            **run.fingerprints,
            "classes": files.digest(list(run.dataset.classes)),
        },
        outputs=("data",),
        perform=lambda: note_splits(run),
    )


def contact_sheet(run: Run) -> Stage:
    """Shows some images as the last student will see them."""
    student = run.student(run.last)
    return Stage(
        name="contact_sheet",
        config={
            "seed": run.config.seed,
            "preprocessing": dataclasses.asdict(student.preprocessing),
            "noise": plain(student.config.noise),
        },
        needs=("data",),
        outputs=(CONTACT_SHEET,),
        perform=lambda: show_some(student, run.workdir / CONTACT_SHEET),
        derived=True,
    )


def training(run: Run, generation: int | str) -> Stage:
    """Trains a generation, or a model on labels only to compare it with."""
    student = run.student(generation)
    if student.adopted:
        return adoption(student)
    needs = ["data"]
    if student.teacher:
        needs.append(f"{student.teacher.name}/select")
    own = {
        name: identity(plain(student.config[name]), name)
        for name in ("model", "train", "noise")
    }
    images = student.steps * student.layout.total
    return Stage(
        name=f"{student.name}/train",
        config={"task": run.config.task, "seed": run.config.seed, **own},
        needs=tuple(needs),
        inputs=starting.digests(student),
        outputs=(f"{student.name}/model", f"{student.name}/train/raw_model"),
        working_files=(f"{student.name}/train",),
        perform=lambda: train(student),
        work=3.0 * images * student.flops,
    )


def adoption(student: Student) -> Stage:
    """Takes the teacher that the run is given, in place of training one."""
    return Stage(
        name=f"{student.name}/train",
        config={"task": student.run.config.task},
        needs=("data",),
        inputs=starting.digests(student),
        outputs=(f"{student.name}/model",),
        perform=lambda: starting.adopt(student),
    )


def evaluation(run: Run, generation: int | str) -> Stage:
    """Evaluates a trained model on validation and test images."""
    student = run.student(generation)
    own = identity(plain(run.config.evaluation), "evaluation")
    images = len(run.dataset.validation) + len(run.dataset.test)
    return Stage(
        name=f"{student.name}/evaluate",
        config={"task": run.config.task, "evaluation": own},
        needs=("data", f"{student.name}/train"),
        outputs=(
            f"{student.name}/evaluation.json",
            f"{student.name}/predictions.parquet",
        ),
        perform=lambda: evaluate(student),
        work=2.0 * images * student.flops,
    )


def labelling(run: Run, generation: int) -> Stage:
    """Has a generation label the pool."""
    teacher = run.student(generation)
    own = identity(plain(teacher.config.labels), "labels")
    return Stage(
        name=f"{teacher.name}/label",
        config={"task": run.config.task, "labels": own},
        needs=("data", f"{teacher.name}/train"),
        outputs=(f"{teacher.name}/labels",),
        perform=lambda: label_pool(teacher),
        work=1.0 * len(run.dataset.pool) * teacher.flops,
    )


def selection(run: Run, generation: int) -> Stage:
    """Selects, of a generation's labels, what its student is trained on.

    For its warnings it reads the teacher's scores on validation images too, and refuses
    to start without. They follow from what the labels follow from, so the evaluation is
    not among its needs: another confidence interval shall not make a student stale.
    """
    teacher, student = run.student(generation), run.student(generation + 1)
    return Stage(
        name=f"{teacher.name}/select",
        config={"selection": plain(student.config.selection)},
        needs=(f"{teacher.name}/label",),
        outputs=(f"{teacher.name}/selection",),
        perform=lambda: select_pseudo_labels(teacher, student),
    )


def judging(run: Run, before: list[Stage]) -> Stage:
    """Compares the generations and the rest; writes summary and report."""
    return Stage(
        name="report",
        config={
            "evaluation": identity(plain(run.config.evaluation), "evaluation"),
            "generations": len(run.config.generations),
            "compared_with": run.compared_with,
        },
        needs=tuple(stage.name for stage in before if not stage.derived),
        inputs=robustness.digests(run),
        outputs=("summary.json", "report.html", "README.md", "best"),
        perform=lambda: judge(run),
        derived=True,
    )
