"""The mean over a user's profiles, by hand."""

from __future__ import annotations

import numpy as np

from recbole_kd.data.profile_mean import mean_profile


def test_several_profiles_are_averaged_over_those_that_exist():
    vectors = np.array(
        [[[1.0, 2.0], [3.0, 4.0]], [[5.0, 6.0], [np.nan, np.nan]], [[9.0, 9.0], [9.0, 9.0]]], np.float32
    )
    mask = np.array([[True, True], [True, False], [False, False]])
    got, known = mean_profile(vectors, mask)
    assert got.tolist() == [[2.0, 3.0], [5.0, 6.0], [0.0, 0.0]]
    assert known.tolist() == [True, True, False]
