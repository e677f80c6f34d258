"""Statistical tests on paired per-user metrics; each returns a result that names its unit."""

from analysis.stats.correction import correct, corrected
from analysis.stats.datasets import DatasetComparison, compare_over_datasets, critical_difference
from analysis.stats.effects import cliffs_delta, cohens_dz, dominance, relative_gain
from analysis.stats.equivalence import Posterior, bayesian_signed_rank, tost
from analysis.stats.interaction import gain_by_slice, gain_contrast, linear_weights
from analysis.stats.paired import PAIRED_TESTS, bca_interval, sign_flip, t_test, wilcoxon
from analysis.stats.power import Design, power, seeds_needed, smallest_detectable, users_needed
from analysis.stats.result import TestResult
from analysis.stats.seeds import seeds_t_test
from analysis.stats.twolevel import TwoWay, two_level, two_way

__all__ = [
    "PAIRED_TESTS",
    "DatasetComparison",
    "Design",
    "Posterior",
    "TestResult",
    "TwoWay",
    "bayesian_signed_rank",
    "bca_interval",
    "cliffs_delta",
    "cohens_dz",
    "compare_over_datasets",
    "correct",
    "corrected",
    "critical_difference",
    "dominance",
    "gain_by_slice",
    "gain_contrast",
    "linear_weights",
    "power",
    "relative_gain",
    "seeds_needed",
    "seeds_t_test",
    "sign_flip",
    "smallest_detectable",
    "t_test",
    "tost",
    "two_level",
    "two_way",
    "users_needed",
    "wilcoxon",
]
