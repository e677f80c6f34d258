"""``grounding.parquet`` beside ``experiment.json``: how far histories support the profiles."""

from __future__ import annotations

import io
from pathlib import Path

from recbole_kd.benchmark import rundir
from recbole_kd.benchmark.artefacts import read_split, split_file, write_bytes_atomic
from recbole_kd.benchmark.extras.plan import Pair, pairs, read_plan, results_of
from recbole_kd.benchmark.extras.texts import make_auditor, profile_texts

FILE = "grounding.parquet"
_KEY = b"recbole_kd_profiles"


def write_grounding(folder: Path) -> Path | None:
    """Score the profiles of one teacher per dataset (the one of `plan.pairs`), unless the file has them.

    Columns: ``dataset``, ``variant``, ``user``, ``grounding`` (see ``profiles.audit``).

    Returns
    -------
    Path or None
        None where no run has profile texts.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    chosen = pairs(folder, read_plan(folder))
    state = " ".join(str(rundir.read_manifest(p.after).get("profile_digest")) for p in chosen).encode()
    path = folder / FILE
    if path.is_file() and (pq.read_schema(path).metadata or {}).get(_KEY) == state:
        return path
    rows = [row for pair in chosen for row in _scores(results_of(folder), pair)]
    if not rows:
        path.unlink(missing_ok=True)
        return None
    names = ("dataset", "variant", "user", "grounding")
    table = pa.table({name: [row[i] for row in rows] for i, name in enumerate(names)})
    buffer = io.BytesIO()
    pq.write_table(table.replace_schema_metadata({_KEY: state}), buffer)
    write_bytes_atomic(path, buffer.getvalue())
    return path


def _scores(results: Path, pair: Pair) -> list[tuple[str, str, str, float]]:
    from recbole_kd.data.load import load_item_texts
    from recbole_kd.serving.student import read_spec

    texts = profile_texts(results, rundir.read_manifest(pair.after))
    if not texts:
        return []
    spec = read_spec(pair.after)
    auditor = make_auditor(spec, read_split(split_file(results, spec)), load_item_texts(spec.dataset))
    if auditor is None:
        return []
    own = (pair.dataset, pair.variant)
    return [(*own, user, float(auditor.score(user, p.text).grounding)) for user, p in texts.items()]
