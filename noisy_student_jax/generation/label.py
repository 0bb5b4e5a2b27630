"""Labels the pool with a teacher, without noise (paper §2, step 2)."""

from typing import Any

from noisy_student_jax.data.sources import shard_bounds
from noisy_student_jax.generation.trainable import part, predictor
from noisy_student_jax.models import bundle as bundles
from noisy_student_jax.pseudo_labels import label
from noisy_student_jax.runs.run import Generation


def label_pool(teacher: Generation) -> dict[str, Any]:
    """Labels the pool with a teacher's bundle, without noise; returns counts."""
    run, config = teacher.run, teacher.spec.config
    bundle = bundles.read(teacher.paths.model)
    trained = part(teacher.final)
    pool = trained.source(run.dataset.pool, "pool", bundle=bundle)
    bounds = shard_bounds(len(pool), min(run.config.data.pool_shards, len(pool)))
    return label.label_pool(
        predictor(trained, batch=config.labels.batch),
        trained.of(bundle.variables),
        run.task,
        pool,
        [label.Shard(number, *ends) for number, ends in enumerate(bounds)],
        teacher.paths.labels,
        top_k=config.labels.top_k,
        metadata={
            "task": run.config.task,
            "model": bundle.architecture,
            "model_sha256": bundle.sha256,
            "classes": str(len(run.dataset.classes)),
        },
        interruption=run.interruption,
        progress=run.progress,
    )
