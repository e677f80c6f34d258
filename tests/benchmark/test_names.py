"""Names that cells get in an experiment: told apart, and chosen by ``--only``."""

import pytest
import yaml

from recbole_kd.benchmark.filters import parse_filter
from recbole_kd.benchmark.resolve import load_experiment
from recbole_kd.errors import SpecError


def test_two_datasets_of_one_name_are_refused(place, write_experiment):
    """Their cells would have the same labels, and the tables would mix them."""
    folder = place / "properties" / "dataset"
    spec = yaml.safe_load((folder / "tiny.yaml").read_text())
    spec["filter"]["min_user_inter"] = 8
    (folder / "tiny-dense.yaml").write_text(yaml.safe_dump(spec, sort_keys=False))
    path = write_experiment("two", {"datasets": ["tiny", "tiny-dense"]})
    line = 1 + path.read_text().splitlines().index("datasets:")
    with pytest.raises(SpecError) as error:
        load_experiment(path)
    assert str(error.value).startswith(f"{path}:{line}: 'tiny' and 'tiny-dense' are both")


def test_a_point_of_a_grid_is_chosen_by_its_name(write_experiment):
    grid = {"hparams.n_layers": [1, 2], "train.learning_rate": [0.1, 0.2]}
    path = write_experiment("grid", {"seeds": [1], "variants": {"plain": {}, "g": {"grid": grid}}})
    cells = load_experiment(path).cells

    def kept(only):
        return [c.label.variant for c in filter(parse_filter(only), cells)]

    one, other = "g[n_layers=1,learning_rate=0.2]", "g[n_layers=2,learning_rate=0.1]"
    assert kept(f"variant={one}") == [one]
    assert kept(f"variant={one},plain,{other} & seed=1") == ["plain", one, other]
    rest = [v for v in kept("variant=g*") if v not in (one, other)]
    assert kept(f"variant!={one},{other}") == ["plain", *rest]
    assert kept("variant=[gh]*") == kept("variant=g*") == [c.label.variant for c in cells[1:]]
    assert kept("variant=g[[]n_layers=2*,plain") == ["plain", *kept("variant=g?n_layers=2*")]
