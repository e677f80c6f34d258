"""Statistical tests on paired per-user metrics; each returns a result that names its unit."""

from analysis.stats.correction import correct, corrected
from analysis.stats.effects import cliffs_delta, cohens_dz, dominance, relative_gain
from analysis.stats.paired import PAIRED_TESTS, bca_interval, sign_flip, t_test, wilcoxon
from analysis.stats.result import TestResult
from analysis.stats.seeds import seeds_t_test
from analysis.stats.twolevel import TwoWay, two_level, two_way

__all__ = [
    "PAIRED_TESTS",
    "TestResult",
    "TwoWay",
    "bca_interval",
    "cliffs_delta",
    "cohens_dz",
    "correct",
    "corrected",
    "dominance",
    "relative_gain",
    "seeds_t_test",
    "sign_flip",
    "t_test",
    "two_level",
    "two_way",
    "wilcoxon",
]
