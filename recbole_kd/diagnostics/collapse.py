"""Has one side of the distillation stopped telling users apart?"""

from __future__ import annotations


def collapse(
    side: str,
    start: tuple[float, float],
    end: tuple[float, float],
    *,
    rank_below: float,
    variance_below: float,
) -> str | None:
    """Compare (effective rank, variance) before training and at the end of distillation.

    A learned projection on the teacher's side has a trivial minimum: map every profile, and every user, to
    the same point. Vectors then lose their variance, or all but one direction. A side that was flat to begin
    with (a constant placebo) has not collapsed.

    Parameters
    ----------
    side : str
        How the side is called.
    start, end : (float, float)
        Effective rank and mean variance.
    rank_below : float
        Collapsed if the effective rank fell below this.
    variance_below : float
        Collapsed if the variance fell below this share of what it was.

    Returns
    -------
    str or None
        What happened, in words.
    """
    (rank_before, variance_before), (rank, variance) = start, end
    if rank_before >= rank_below > rank:
        return f"{side}: effective rank fell from {rank_before:.1f} to {rank:.2f} (limit {rank_below:g})"
    if variance_before > 0 and variance < variance_below * variance_before:
        share = variance / variance_before
        return f"{side}: variance fell to {share:.1e} of its start (limit {variance_below:g})"
    return None
