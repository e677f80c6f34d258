"""Compare our students with reference runs, user by user.

    python -m benchmarks.compare_quality --reference RecBole DIR/ranks.parquet \
        --experiment results/quickstart/experiment.json --backbone SASRec --variant plain

Every side is one or more files of ranks (``split, user, item, rank``): those of the reference scripts,
of ``student_run`` or of run directories. Several files of one side are seeds: a user's value is their
mean. Sides must have ranked the same targets for the same users. Printed are the means and the paired
difference, ours minus the reference, with two 95 % intervals: a bootstrap over users (10,000 resamples),
which says nothing about other seeds, and, where a side has several, one over users and seeds: it decides.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import bootstrap, t

from benchmarks.common import METRICS
from recbole_kd.metrics import per_user

RESAMPLES = 10_000


@dataclass(frozen=True)
class Comparison:
    """Paired difference, ours minus the reference, with its interval over users, and over seeds too."""

    metric: str
    ours: float
    reference: float
    difference: float
    low: float
    high: float
    n_users: int
    seeds_too: tuple[float, float] | None = None

    @property
    def verdict(self) -> str:
        """What the interval over users and seeds allows to say, or, where there is none, that over users."""
        low, high = (self.low, self.high) if self.seeds_too is None else self.seeds_too
        if low > 0:
            return "ours higher"
        return "ours lower" if high < 0 else "not distinguishable"


def read_side(paths: list[Path], part: str, column: str) -> dict[str, pd.DataFrame]:
    """Values of each metric per (user, target), a column per file.

    Raises
    ------
    ValueError
        If two files did not rank the same targets.
    """
    columns = []
    for path in paths:
        file = path / "ranks.parquet" if path.is_dir() else path
        frame = pd.read_parquet(file)
        frame = frame[frame["split"].astype(str) == part]
        columns.append(frame.set_index(["user", "item"])[column].sort_index())
    if any(not column.index.equals(columns[0].index) for column in columns):
        raise ValueError(f"these files do not have the same {part} targets: {', '.join(map(str, paths))}")
    ranks = np.stack([c.to_numpy() for c in columns])
    return {m: pd.DataFrame(per_user(ranks, m).T, index=columns[0].index) for m in METRICS}


def compare(
    ours: dict[str, pd.DataFrame], reference: dict[str, pd.DataFrame], seed: int = 0
) -> list[Comparison]:
    """Compare two sides on each metric.

    Raises
    ------
    ValueError
        If the two did not rank the same targets for the same users.
    """
    found = []
    for metric in METRICS:
        mine, other = ours[metric], reference[metric]
        if not mine.index.equals(other.index):
            raise ValueError(
                f"the two sides share {len(mine.index.intersection(other.index))} of {len(mine)} targets"
            )
        difference: NDArray[np.float64] = mine.mean(axis=1).to_numpy() - other.mean(axis=1).to_numpy()
        seeds = mine.mean().to_numpy(), other.mean().to_numpy()
        found.append(
            Comparison(
                metric,
                float(seeds[0].mean()),
                float(seeds[1].mean()),
                float(difference.mean()),
                *interval(difference, seed),
                len(difference),
                over_seeds_too(difference, *seeds),
            )
        )
    return found


def over_seeds_too(
    difference: NDArray[np.float64], ours: NDArray[np.float64], reference: NDArray[np.float64]
) -> tuple[float, float] | None:
    """95 % interval of the mean difference over other users and other seeds; None if nobody has two seeds.

    The variance is that of the mean over users plus that of the two means over seeds, whose scatter is taken
    to be the same on both sides (one of them may have a single seed); Student's t with Satterthwaite's
    (1946) degrees of freedom. Three seeds against one, two or three cover 93 to 94 % in simulations. (The
    suite's crossed test, ``analysis.stats.twolevel``, wants the same seeds on both sides.)

    Parameters
    ----------
    difference : float [n_users]
        Of values averaged over seeds.
    ours, reference : float [n_seeds]
        Means over users.
    """
    free = len(ours) + len(reference) - 2
    if free == 0:
        return None
    scatter = sum(float(((side - side.mean()) ** 2).sum()) for side in (ours, reference)) / free
    users = float(difference.var(ddof=1)) / len(difference)
    seeds = scatter * (1 / len(ours) + 1 / len(reference))
    if users + seeds == 0:
        return float(difference.mean()), float(difference.mean())
    degrees = (users + seeds) ** 2 / (users**2 / (len(difference) - 1) + seeds**2 / free)
    half = float(t.ppf(0.975, degrees)) * (users + seeds) ** 0.5
    return float(difference.mean()) - half, float(difference.mean()) + half


def interval(difference: NDArray[np.float64], seed: int) -> tuple[float, float]:
    """95 % percentile bootstrap interval of the mean; a constant difference is its own interval."""
    if np.ptp(difference) == 0:
        return float(difference[0]), float(difference[0])
    rng = np.random.default_rng(seed)
    result = bootstrap(
        (difference,),
        np.mean,
        n_resamples=RESAMPLES,
        batch=500,
        method="percentile",
        rng=rng,
        vectorized=True,
    )
    return float(result.confidence_interval.low), float(result.confidence_interval.high)


def from_experiment(path: Path, dataset: str, backbone: str, variant: str) -> list[Path]:
    """Run directories of one variant, all seeds."""
    listed = json.loads(path.read_text(encoding="utf-8"))["cells"]
    wanted = {"dataset": dataset, "backbone": backbone, "variant": variant}
    found = [path.parent / c["run"] for c in listed if all(c[key] == value for key, value in wanted.items())]
    if not found:
        known = sorted({(c["dataset"], c["backbone"], c["variant"]) for c in listed})
        raise SystemExit(f"{path}: no cell {tuple(wanted.values())}; there are {known}")
    return found


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--reference",
        nargs="+",
        action="append",
        required=True,
        metavar="NAME PATH",
        help="a name and its files",
    )
    parser.add_argument("--ours", nargs="+", type=Path, default=[], help="files of ranks, or run directories")
    parser.add_argument(
        "--experiment", type=Path, help="experiment.json; take --backbone and --variant from it"
    )
    parser.add_argument("--dataset", default="ml-100k")
    parser.add_argument("--backbone", default="SASRec")
    parser.add_argument("--variant", default="plain")
    parser.add_argument("--split", choices=("valid", "test"), default="test")
    parser.add_argument(
        "--masked", action="store_true", help="ranks with seen items removed, where both sides have them"
    )
    args = parser.parse_args()
    column = "rank_masked" if args.masked else "rank"
    paths = args.ours or (
        from_experiment(args.experiment, args.dataset, args.backbone, args.variant) if args.experiment else []
    )
    if not paths:
        parser.error("name our side with --ours or --experiment")
    ours = read_side(paths, args.split, column)
    print("| ours against | metric | ours | reference | difference | over users | and seeds | users | |")
    print("|---|---|---|---|---|---|---|---|---|")
    for name, *files in args.reference:
        for c in compare(ours, read_side([Path(file) for file in files], args.split, column)):
            wide = "" if c.seeds_too is None else _shown(*c.seeds_too)
            print(
                f"| {name} | {c.metric} | {c.ours:.4f} | {c.reference:.4f} | {c.difference:+.4f} "
                f"| {_shown(c.low, c.high)} | {wide} | {c.n_users} | {c.verdict} |"
            )


def _shown(low: float, high: float) -> str:
    return f"[{low:+.4f}, {high:+.4f}]"


if __name__ == "__main__":
    main()
