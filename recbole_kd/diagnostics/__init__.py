"""What was transferred: pure functions of matrices with one row per user (numpy only).

One file each; ``docs/distillation.md`` says how to read them.
"""

from recbole_kd.diagnostics.cka import linear_cka
from recbole_kd.diagnostics.collapse import collapse
from recbole_kd.diagnostics.decode import cross_decode
from recbole_kd.diagnostics.neighbours import neighbour_overlap
from recbole_kd.diagnostics.probe import clusters, linear_probe
from recbole_kd.diagnostics.retrieval import chance_at_k, retrieval_at_k, retrieval_ranks
from recbole_kd.diagnostics.spectrum import effective_rank, mean_variance

__all__ = [
    "chance_at_k",
    "clusters",
    "collapse",
    "cross_decode",
    "effective_rank",
    "linear_cka",
    "linear_probe",
    "mean_variance",
    "neighbour_overlap",
    "retrieval_at_k",
    "retrieval_ranks",
]
