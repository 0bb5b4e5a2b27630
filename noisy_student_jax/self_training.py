"""Noisy Student Training: the paper's algorithm as stages of a run.

Xie, Luong, Hovy, Le: Self-training with Noisy Student improves ImageNet
classification, CVPR 2020, Algorithm 1.
"""

from noisy_student_jax.config import identity, plain
from noisy_student_jax.core import files
from noisy_student_jax.data.encoded import is_encoded
from noisy_student_jax.generation import init_weights
from noisy_student_jax.generation.adopt import adopt
from noisy_student_jax.generation.evaluate import evaluate
from noisy_student_jax.generation.label import label_pool
from noisy_student_jax.generation.select import select_pseudo_labels
from noisy_student_jax.generation.train import train
from noisy_student_jax.report.contact_sheet import CONTACT_SHEET, write_contact_sheet
from noisy_student_jax.report.summary import judge
from noisy_student_jax.robustness import results as robustness
from noisy_student_jax.runs import fixres
from noisy_student_jax.runs.paths import (
    EVALUATION,
    FOLD_LABELS,
    LABELS,
    MODEL,
    OUT_OF_FOLD,
    PREDICTIONS,
    RAW_MODEL,
    SELECTION,
    SUSPECTS,
    VALIDATION,
)
from noisy_student_jax.runs.run import Generation, Run
from noisy_student_jax.runs.scheduler import Stage
from noisy_student_jax.runs.write_splits import write_splits


def noisy_student(run: Run) -> list[Stage]:
    """Returns the stages of a run, in order."""
    stages = [data(run), contact_sheet(run)]
    for generation in range(run.last + 1):
        # 1. Train the teacher on labeled images. 3. Later, train an equal or larger
        # student, noised, on labeled and pseudo-labeled images together.
        stages += [*training(run, generation), evaluation(run, generation)]
        if generation < run.last:
            # 2. The teacher labels the unlabeled images without noise; the confident
            # ones are kept, class by class. 4. The student becomes the next teacher.
            stages += [labeling(run, generation), selection(run, generation)]
    for name in run.compared_with:
        # Baselines: the student's architecture on labeled images alone.
        stages += [*training(run, name), evaluation(run, name)]
    return [*stages, judging(run, stages)]


def data(run: Run) -> Stage:
    """Returns the stage that records which part each record belongs to."""
    config = {"data": identity(plain(run.config.data), "data"), "seed": run.config.seed}
    if is_encoded(run.dataset.labeled):
        # The pixels differ by a level from those of version 0.1.
        config["data"]["decoded_by"] = "tf.data"
    return Stage(
        name="data",
        config=config,
        needs=(),
        inputs={
            **run.fingerprints,
            "classes": files.digest(list(run.dataset.classes)),
        },
        outputs=("data",),
        perform=lambda: write_splits(run),
    )


def contact_sheet(run: Run) -> Stage:
    """Returns the stage that draws some images as the last student will see them."""
    student = run.student(run.last)
    seen = student.spec.config.model.views
    return Stage(
        name="contact_sheet",
        config={
            "seed": run.config.seed,
            "preprocessing": student.spec.model.preprocessing.to_json(),
            "noise": plain(student.spec.config.noise),
            # A head that is trained in steps sees images without noise.
            "part": "all" if student.spec.noises_images else "head",
            **({"views": seen} if student.spec.solves else {}),
        },
        needs=("data",),
        outputs=(CONTACT_SHEET,),
        perform=lambda: write_contact_sheet(student, run.workdir / CONTACT_SHEET),
        derived=True,
    )


def training(run: Run, generation: int | str) -> list[Stage]:
    """Returns the stages that train a generation or baseline, and fine-tune it.

    FixRes fine-tunes where the config asks for it. A first teacher that is given is
    adopted, not trained.
    """
    student = run.student(generation)
    spec = student.spec
    if spec.adopted:
        return [adoption(student)]
    needs = ["data"]
    if spec.teacher:
        needs.append(f"{spec.teacher}/select")
    elif start := student.start:
        # A baseline that starts from the first teacher.
        needs.append(f"{start.spec.name}/{start.final.spec.stage}")
    model, before = f"{spec.name}/{MODEL}", f"{spec.name}/{fixres.BEFORE}"
    kept_at = {before: model} if spec.refined else {model: before}
    stages = [_training(student, needs, ("model", "train", "noise"), kept_at)]
    if spec.refined:
        own = ("model", "train", "noise", "fixres")
        needs = ["data", f"{spec.name}/train"]
        stages.append(_training(student.final, needs, own, {}))
    return stages


def _training(
    student: Generation,
    needs: list[str],
    reads: tuple[str, ...],
    elsewhere: dict[str, str],
) -> Stage:
    run, spec = student.run, student.spec
    folder = f"{spec.name}/{spec.stage}"
    own = {name: identity(plain(spec.config[name]), name) for name in reads}
    if spec.taught_by:
        own["labels"] = {"mode": spec.config.labels.mode}
    work = 3.0 * spec.schedule.steps * spec.layout.total
    outputs = [f"{spec.name}/{student.paths.averaged.name}", f"{folder}/{RAW_MODEL}"]
    if spec.solves:
        seen = len(run.dataset.labeled) + bool(spec.teacher) * len(run.dataset.pool)
        work = seen * float(spec.model.views)
        outputs += [f"{folder}/{name}" for name in (OUT_OF_FOLD, FOLD_LABELS, SUSPECTS)]
    return Stage(
        name=folder,
        config={"task": run.config.task, "seed": run.config.seed, **own},
        needs=tuple(needs),
        inputs={} if spec.fine_tunes else init_weights.digests(student),
        outputs=tuple(outputs),
        working_files=(folder,),
        perform=lambda: train(student),
        work=work * student.cost.flops,
        elsewhere=elsewhere,
    )


def adoption(student: Generation) -> Stage:
    """Returns the stage that adopts a given teacher instead of training one."""
    return Stage(
        name=f"{student.spec.name}/train",
        config={"task": student.run.config.task},
        needs=("data",),
        inputs=init_weights.digests(student),
        outputs=(f"{student.spec.name}/{MODEL}",),
        perform=lambda: adopt(student),
    )


def evaluation(run: Run, generation: int | str) -> Stage:
    """Returns the stage that evaluates a model on validation and test images."""
    student = run.student(generation).final
    name = student.spec.name
    own = identity(plain(run.config.evaluation), "evaluation")
    images = sum(map(len, run.dataset.predicted().values()))
    return Stage(
        name=f"{name}/evaluate",
        config={"task": run.config.task, "evaluation": own},
        needs=("data", f"{name}/{student.spec.stage}"),
        outputs=tuple(
            f"{name}/{file}" for file in (EVALUATION, PREDICTIONS, VALIDATION)
        ),
        perform=lambda: evaluate(student),
        work=2.0 * images * student.cost.flops,
    )


def labeling(run: Run, generation: int) -> Stage:
    """Returns the stage in which a generation labels the pool."""
    teacher = run.student(generation).final
    # Of the labeling options, the mode belongs to the student.
    own = {"top_k": teacher.spec.config.labels.top_k}
    name = teacher.spec.name
    return Stage(
        name=f"{name}/label",
        config={"task": run.config.task, "labels": own},
        needs=("data", f"{name}/{teacher.spec.stage}"),
        outputs=(f"{name}/{LABELS}",),
        perform=lambda: label_pool(teacher),
        work=1.0 * len(run.dataset.pool) * teacher.cost.flops,
    )


def selection(run: Run, generation: int) -> Stage:
    """Returns the stage that selects the pseudo-labels a student is trained on.

    Its warnings also read the teacher's scores on validation images, and it refuses to
    start without them. These scores depend on the same inputs as the labels, so the
    evaluation is not among its needs: a change of the confidence interval does not make
    a student stale.
    """
    teacher, student = run.student(generation), run.student(generation + 1)
    name, earlier = teacher.spec.name, student.spec.relabels
    needs = [f"{name}/label"]
    own = identity(plain(student.spec.config.selection), "selection")
    del own["relabel"]
    if earlier:
        # The earlier selection is kept without filtering, with new labels.
        needs.append(f"{earlier}/select")
        own = {"relabel": True}
    return Stage(
        name=f"{name}/select",
        config={"selection": own},
        needs=tuple(needs),
        outputs=(f"{name}/{SELECTION}",),
        perform=lambda: select_pseudo_labels(teacher, student),
    )


def judging(run: Run, before: list[Stage]) -> Stage:
    """Returns the stage that compares the models and writes summary and report."""
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
