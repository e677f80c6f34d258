"""How far each user's profile is to be believed: a column of a file, keyed by user token."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from recbole_kd.errors import ProfileError

if TYPE_CHECKING:
    import pandas as pd

    from recbole_kd.data.types import Split


def load_confidence(
    path: str | Path, column: str, split: Split, mask: NDArray[np.bool_]
) -> NDArray[np.float32]:
    """Read one weight per profile.

    Parameters
    ----------
    path : str or Path
        ``.parquet`` or ``.csv`` with columns ``user`` (token), ``column`` and, where users have several
        profiles, ``profile`` (0-based); ``profiles audit`` writes such a file.
    column : str
        Such as ``grounding``.
    split : Split
    mask : bool [n_users, K]
        Profiles that exist. Weights of others are not used.

    Returns
    -------
    float32 [n_users, K]
        0 where there is no profile.

    Raises
    ------
    ProfileError
        Missing file or column, unknown user, a user twice, NaN, negative or infinite weight, a profile
        without a weight, or nothing but zeros.
    """
    path = Path(path)
    frame = _read(path, column)
    weights = frame[column].to_numpy(np.float64)
    bad = np.flatnonzero(~(np.isfinite(weights) & (weights >= 0)))
    if len(bad):
        raise ProfileError(
            f"{path}, row {bad[0]}, field {column}: {weights[bad[0]]} (user '{frame['user'].iloc[bad[0]]}'); "
            "a confidence is a finite number of at least 0"
        )
    ids = {str(token): i for i, token in enumerate(split.dataset.user_tokens) if i}
    users = np.array([ids.get(token, -1) for token in frame["user"]], np.int64)
    if (users < 0).any():
        r = int(np.flatnonzero(users < 0)[0])
        raise ProfileError(
            f"{path}, row {r}, field user: user '{frame['user'].iloc[r]}' is not in dataset "
            f"{split.dataset.name}; score the profiles of this dataset"
        )
    profiles, k = _profiles(frame, path), mask.shape[1]
    out = np.full((split.dataset.n_users, k), np.nan)
    inside = profiles < k
    out[users[inside], profiles[inside]] = weights[inside]
    lacking = np.argwhere(mask & np.isnan(out))
    if len(lacking):
        user, profile = lacking[0]
        raise ProfileError(
            f"{path}, field {column}: no row for user '{split.dataset.user_tokens[user]}', profile "
            f"{profile}, which has a vector; give it a row (0 leaves it out)"
        )
    result = np.where(mask, out, 0).astype(np.float32)
    if not result.any():
        raise ProfileError(f"{path}, field {column}: 0 for every profile, so nothing would be distilled")
    return result


def _read(path: Path, column: str) -> pd.DataFrame:
    import pandas as pd

    if not path.is_file():
        raise ProfileError(
            f"{path}: no such file of confidences; write it with 'run_benchmark.py profiles audit "
            "DATASET PROFILE --out FILE'"
        )
    try:
        if path.suffix == ".parquet":
            frame = pd.read_parquet(path)
        else:
            # 'NA' is a possible user token, not a blank.
            frame = pd.read_csv(path, dtype={"user": str}, keep_default_na=False)
    except (ValueError, OSError) as error:
        raise ProfileError(f"{path}: not readable ({str(error).splitlines()[0][:120]})") from None
    for name in ("user", column):
        if name not in frame:
            shown = ", ".join(map(str, frame.columns))
            raise ProfileError(f"{path}, field {name}: column is missing; the file has {shown}")
    frame = frame.assign(user=frame["user"].astype(str))
    frame[column] = pd.to_numeric(frame[column], errors="coerce")
    return frame


def _profiles(frame: pd.DataFrame, path: Path) -> NDArray[np.int64]:
    """0-based number of the profile of every row."""
    if "teacher" in frame and frame["teacher"].nunique() > 1:
        named = ", ".join(sorted(map(str, frame["teacher"].unique())))
        raise ProfileError(f"{path}, field teacher: scores of {named}; audit one teacher per file")
    if "profile" in frame:
        profiles: NDArray[np.int64] = frame["profile"].to_numpy(np.int64)
        if (profiles < 0).any():
            r = int(np.flatnonzero(profiles < 0)[0])
            raise ProfileError(f"{path}, row {r}, field profile: {profiles[r]} is negative; count from 0")
    else:
        profiles = np.zeros(len(frame), np.int64)
    twice = frame.assign(profile=profiles).duplicated(["user", "profile"]).to_numpy()
    if twice.any():
        r = int(np.flatnonzero(twice)[0])
        raise ProfileError(
            f"{path}, row {r}: user '{frame['user'].iloc[r]}', profile {profiles[r]} stands twice; "
            "keep one row"
        )
    return profiles
