"""What a study found: a row for each variant, a sentence for each claim."""

import dataclasses
import math
import statistics
from collections.abc import Sequence
from typing import Any

from noisy_student_jax.core.console import printable
from noisy_student_jax.core.errors import UserError
from noisy_student_jax.report import formatting
from noisy_student_jax.report.text_table import aligned
from noisy_student_jax.studies import comparison
from noisy_student_jax.studies.comparison import Compared, compared, holm
from noisy_student_jax.studies.study import Claim, Study, Variant


@dataclasses.dataclass(frozen=True)
class Row:
    """What a variant gave.

    Attributes:
      variant: the variant.
      values: the metric of each seed that has a model.
      against: its difference to the base; None for the base, or without a pair.
    """

    variant: Variant
    values: tuple[float, ...]
    against: Compared | None

    @property
    def told(self) -> str:
        """Mean and standard deviation over seeds, in percent."""
        if not self.values:
            return "no student"
        mean = f"{100 * statistics.fmean(self.values):.1f}"
        if len(self.values) < 2:
            return mean
        return f"{mean} ± {100 * statistics.stdev(self.values):.1f}"


@dataclasses.dataclass(frozen=True)
class Judged:
    """A claim and what the runs say of it.

    Attributes:
      claim: the claim.
      found: the comparison; None if no seed has both models.
      verdict: `comparison.HOLDS`, `FAILS` or `UNKNOWN`.
      says: the verdict in a phrase.
    """

    claim: Claim
    found: Compared | None
    verdict: str
    says: str


@dataclasses.dataclass(frozen=True)
class Findings:
    """Everything that a study's page shows.

    Attributes:
      study: the study.
      seeds: the seeds, in order.
      metric: name of the metric.
      images: number of test images of a seed.
      pool: number of unlabeled images.
      rows: a row for each variant.
      claims: the judged claims.
    """

    study: Study
    seeds: tuple[int, ...]
    metric: str
    images: int
    pool: int
    rows: tuple[Row, ...]
    claims: tuple[Judged, ...]


def findings(study: Study, results: Sequence[dict[str, Any]]) -> Findings:
    """Puts the results of all seeds together.

    Args:
      study: the study.
      results: at least one, of `perform.Performed.result`.

    Raises:
      UserError: results are of different bases or metrics.
    """
    for name in ("study", "base", "metric"):
        if len(found := {one[name] for one in results}) > 1:
            raise UserError(
                f"the results of seeds are of several ({', '.join(sorted(found))}) as"
                f" {name}: keep those of each in a folder of their own, and give it"
                " with --results=DIR"
            )
    base, *others = study.variants
    pairs = {pair: _pair(results, pair) for pair in study.pairs}
    of_rows = _corrected([pairs[one.name, base.name] for one in others])
    of_claims = _corrected([pairs[c.better, c.than] for c in study.claims])
    rows = [Row(base, _values(results, base), None)]
    rows += [
        Row(variant, _values(results, variant), against)
        for variant, against in zip(others, of_rows, strict=True)
    ]
    claims = [
        _judged(claim, found, study.margin)
        for claim, found in zip(study.claims, of_claims, strict=True)
    ]
    first = results[0]
    return Findings(
        study=study,
        seeds=tuple(sorted(one["seed"] for one in results)),
        metric=first["metric"],
        images=first["images"],
        pool=first["pool"],
        rows=tuple(rows),
        claims=tuple(claims),
    )


def text(found: Findings) -> str:
    """Formats the table, and a sentence for each claim."""
    rows = [("", f"{found.metric}, %", "against the base", "paper")]
    rows += [
        (
            printable(row.variant.name),
            row.told,
            "" if row.against is None else difference(row.against),
            row.variant.paper,
        )
        for row in found.rows
    ]
    count = len(found.seeds)
    lines = [
        found.study.question,
        "",
        aligned(rows, left=1),
        "",
        f"{count} seed{'s' * (count > 1)}, {found.images:,} test images;"
        " mean ± standard deviation over seeds; differences in points, with intervals"
        " over seeds and images, corrected for the number of comparisons (Holm)",
    ]
    lines += [f"- {sentence(one)}" for one in found.claims]
    return "\n".join(lines)


def sentence(one: Judged) -> str:
    """Says a claim, the verdict, the difference, and the paper's figures."""
    paper = f" (paper: {one.claim.paper})" if one.claim.paper else ""
    told = f", {difference(one.found)} points" if one.found else ""
    return f"{one.claim.says}{paper}: {one.says}{told}."


def difference(one: Compared) -> str:
    """Formats a difference in points, with its interval if there is one."""
    told = formatting.points(one.mean)
    low, high = one.interval
    if math.isnan(low):
        return told
    return f"{told} {formatting.interval((low, high), signed=True)}"


def as_json(found: Findings) -> dict[str, Any]:
    """Returns the findings as plain values."""
    return {
        "schema": 1,
        "study": found.study.name,
        "question": found.study.question,
        "seeds": list(found.seeds),
        "metric": found.metric,
        "images": found.images,
        "variants": [
            {
                "name": row.variant.name,
                "values": list(row.values),
                "against_base": _plain(row.against),
                "paper": row.variant.paper,
            }
            for row in found.rows
        ],
        "claims": [
            {
                "says": one.claim.says,
                "verdict": one.verdict,
                "told": one.says,
                "difference": _plain(one.found),
                "paper": one.claim.paper,
            }
            for one in found.claims
        ],
    }


def _plain(one: Compared | None) -> dict[str, Any] | None:
    if one is None:
        return None
    known = len(one.gaps) > 1
    return {
        "mean": one.mean,
        "by_seed": list(one.gaps),
        "interval": list(one.interval) if known else None,
        "level": one.level if known else None,
        "p": one.p if known else None,
    }


def _pair(results: Sequence[dict[str, Any]], pair: tuple[str, str]) -> Compared | None:
    """Compares two variants over the seeds that have both; None if none has."""
    found = [
        (one, entry)
        for one in results
        for entry in one["pairs"]
        if (entry["of"], entry["than"]) == pair and entry["difference"] is not None
    ]
    if not found:
        return None
    # Where seeds have other test images each, these vary with the seeds.
    shared = len({one["test"] for one, _ in found}) == 1
    variances = [entry["variance"] or 0.0 for _, entry in found]
    images = statistics.fmean(variances) if shared else 0.0
    return compared([entry["difference"] for _, entry in found], images)


def _corrected(found: Sequence[Compared | None]) -> list[Compared | None]:
    """Returns comparisons corrected for their number; those there are none of stay."""
    known = iter(holm([one for one in found if one is not None]))
    return [one if one is None else next(known) for one in found]


def _judged(claim: Claim, found: Compared | None, margin: float) -> Judged:
    if found is None:
        missing = f"{comparison.UNKNOWN}: no seed has both models"
        return Judged(claim, None, comparison.UNKNOWN, missing)
    return Judged(
        claim,
        found,
        comparison.verdict(found, margin=margin),
        comparison.says(found, margin=margin),
    )


def _values(results: Sequence[dict[str, Any]], variant: Variant) -> tuple[float, ...]:
    values = (one["variants"][variant.name]["value"] for one in results)
    return tuple(value for value in values if value is not None)
