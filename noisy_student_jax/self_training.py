"""Noisy Student Training: the algorithm of the paper, as stages of a run.

Xie, Luong, Hovy, Le: Self-training with Noisy Student improves ImageNet
classification, CVPR 2020, Algorithm 1.
"""

import dataclasses

from noisy_student_jax.config import identity, plain
from noisy_student_jax.core import files
from noisy_student_jax.generation import init_weights
from noisy_student_jax.generation.evaluate import evaluate
from noisy_student_jax.generation.label import label_pool
from noisy_student_jax.generation.select import select_pseudo_labels
from noisy_student_jax.generation.train import train
from noisy_student_jax.report.contact_sheet import CONTACT_SHEET, show_some
from noisy_student_jax.report.summary import judge
from noisy_student_jax.robustness import results as robustness
from noisy_student_jax.runs import fixres
from noisy_student_jax.runs.run import Run, Student
from noisy_student_jax.runs.scheduler import Stage
from noisy_student_jax.runs.write_splits import note_splits


def noisy_student(run: Run) -> list[Stage]:
    """Returns the stages of the whole loop, in order."""
    stages = [data(run), contact_sheet(run)]
    for generation in range(run.last + 1):
        # 1. Train the teacher on labeled images. 3. Later, train an equal or larger
        # student, noised, on labeled and pseudo-labeled images together.
        stages += [*training(run, generation), evaluation(run, generation)]
        if generation < run.last:
            # 2. The teacher, not noised, labels the unlabeled images; the confident
            # ones are kept, class by class. 4. The student becomes the next teacher.
            stages += [labeling(run, generation), selection(run, generation)]
    for name in run.compared_with:
        # What the student's architecture reaches on labeled images alone.
        stages += [*training(run, name), evaluation(run, name)]
    return [*stages, judging(run, stages)]


def data(run: Run) -> Stage:
    """Notes which record is labeled, unlabeled, validation or test."""
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
            # Of a head alone the images are shown without noise.
            "part": student.config.train.part,
        },
        needs=("data",),
        outputs=(CONTACT_SHEET,),
        perform=lambda: show_some(student, run.workdir / CONTACT_SHEET),
        derived=True,
    )


def training(run: Run, generation: int | str) -> list[Stage]:
    """Trains a generation, or a model on labels only to compare it with.

    Then fine-tunes it, if FixRes is on.
    """
    student = run.student(generation)
    if student.adopted:
        return [adoption(student)]
    needs = ["data"]
    if student.teacher:
        needs.append(f"{student.teacher.name}/select")
    model, before = f"{student.name}/model", f"{student.name}/{fixres.BEFORE}"
    kept_at = {model: before} if student.final is student else {before: model}
    stages = [_training(student, needs, ("model", "train", "noise"), kept_at)]
    if student.final is not student:
        own = ("model", "train", "noise", "fixres")
        needs = ["data", f"{student.name}/train"]
        stages.append(_training(student.final, needs, own, {}))
    return stages


def _training(
    student: Student,
    needs: list[str],
    reads: tuple[str, ...],
    elsewhere: dict[str, str],
) -> Stage:
    run, folder = student.run, f"{student.name}/{student.stage}"
    own = {name: identity(plain(student.config[name]), name) for name in reads}
    if student.taught_on_the_fly:
        own["labels"] = {"mode": student.config.labels.mode}
    images = student.steps * student.layout.total
    return Stage(
        name=folder,
        config={"task": run.config.task, "seed": run.config.seed, **own},
        needs=tuple(needs),
        inputs={} if student.trained else init_weights.digests(student),
        outputs=(f"{student.name}/{student.bundle.name}", f"{folder}/raw_model"),
        working_files=(folder,),
        perform=lambda: train(student),
        work=3.0 * images * student.flops,
        elsewhere=elsewhere,
    )


def adoption(student: Student) -> Stage:
    """Takes the teacher that the run is given, in place of training one."""
    return Stage(
        name=f"{student.name}/train",
        config={"task": student.run.config.task},
        needs=("data",),
        inputs=init_weights.digests(student),
        outputs=(f"{student.name}/model",),
        perform=lambda: init_weights.adopt(student),
    )


def evaluation(run: Run, generation: int | str) -> Stage:
    """Evaluates a trained model on validation and test images."""
    student = run.student(generation).final
    own = identity(plain(run.config.evaluation), "evaluation")
    images = len(run.dataset.validation) + len(run.dataset.test)
    return Stage(
        name=f"{student.name}/evaluate",
        config={"task": run.config.task, "evaluation": own},
        needs=("data", f"{student.name}/{student.stage}"),
        outputs=(
            f"{student.name}/evaluation.json",
            f"{student.name}/predictions.parquet",
        ),
        perform=lambda: evaluate(student),
        work=2.0 * images * student.flops,
    )


def labeling(run: Run, generation: int) -> Stage:
    """Has a generation label the pool."""
    teacher = run.student(generation).final
    # The mode is the student's.
    own = {"top_k": teacher.config.labels.top_k}
    return Stage(
        name=f"{teacher.name}/label",
        config={"task": run.config.task, "labels": own},
        needs=("data", f"{teacher.name}/{teacher.stage}"),
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
    needs = [f"{teacher.name}/label"]
    own = plain(student.config.selection)
    del own["relabel"]
    if student.kept_selection:
        # Nothing is filtered: what was selected before has other labels now.
        needs.append(f"{teacher.teacher.name}/select")
        own = {"relabel": True}
    return Stage(
        name=f"{teacher.name}/select",
        config={"selection": own},
        needs=tuple(needs),
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
