import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from profiles.prompts import domain
from recbole_kd.benchmark.resolve import load_experiment, read_experiment
from recbole_kd.errors import DataError, ProfileError, SpecError

ROOT = Path(__file__).resolve().parents[2]


def cells_of(path):
    return {str(c.label): c.cell for c in load_experiment(path).cells}


def test_order_completes_a_backbone_seed_by_seed_with_the_baseline_first(write_experiment):
    path = write_experiment(
        "order",
        {
            "backbones": ["SASRec", "BERT4Rec"],
            "variants": {"other": {"hparams": {"n_layers": 3}}, "plain": {}},
        },
    )
    labels = [(c.label.backbone, c.label.seed, c.label.variant) for c in load_experiment(path).cells]
    one = [("SASRec", 1, "plain"), ("SASRec", 1, "other"), ("SASRec", 2, "plain"), ("SASRec", 2, "other")]
    assert labels == one + [("BERT4Rec", *rest) for _, *rest in one]


def test_addresses_are_the_same_in_another_process(place):
    code = (
        "from recbole_kd.benchmark.resolve import load_experiment as f\n"
        "print(*[c.cell for c in f('small').cells])"
    )
    env = {**os.environ, "PYTHONHASHSEED": "123"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=env, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == [c.cell for c in load_experiment("small").cells]


def test_names_do_not_change_the_address(place, write_experiment):
    before = cells_of(place / "properties" / "experiment" / "small.yaml")
    base = yaml.safe_load((place / "properties" / "experiment" / "small.yaml").read_text())
    (place / "elsewhere").mkdir()
    for suffix in ("inter", "item"):
        (place / "data" / "tiny" / f"tiny.{suffix}").rename(place / "elsewhere" / f"copy.{suffix}")
    spec = yaml.safe_load((place / "properties" / "dataset" / "tiny.yaml").read_text())
    spec |= {"name": "copy", "path": str(place / "elsewhere"), "domain": "games"}
    (place / "properties" / "dataset" / "copy.yaml").write_text(yaml.safe_dump(spec))
    path = write_experiment(
        "renamed",
        {
            "datasets": ["copy"],
            "variants": {"a": base["variants"]["plain"], "b": base["variants"]["wide"]},
            "baseline": "a",
        },
    )
    assert sorted(cells_of(path).values()) == sorted(before.values())


@pytest.mark.parametrize(
    "change",
    [
        lambda place: (place / "data/tiny/tiny.inter").write_text(
            (place / "data/tiny/tiny.inter").read_text().replace("\t1000\n", "\t999\n", 1)
        ),
        lambda place: _edit(place, "dataset/tiny", {"max_item_list_length": 9}),
        lambda place: _edit(
            place,
            "dataset/tiny",
            {"filter": {"min_rating": 2, "min_user_inter": 0, "min_item_inter": 0, "iterate": True}},
        ),
        lambda place: _edit(
            place, "experiment/small", {"overrides": [{"where": {}, "train": {"learning_rate": 0.01}}]}
        ),
    ],
    ids=["data", "length", "filter", "train"],
)
def test_what_decides_the_numbers_changes_every_address(place, change):
    before = {c.cell for c in load_experiment("small").cells}
    change(place)
    assert not before & {c.cell for c in load_experiment("small").cells}


def _edit(place, name, changes):
    path = place / "properties" / f"{name}.yaml"
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), **changes}, sort_keys=False))


def line_of(path, text):
    return 1 + next(i for i, line in enumerate(path.read_text().splitlines()) if text in line)


@pytest.mark.parametrize(
    ("changes", "wrong", "expected"),
    [
        ({"bakcbones": ["SASRec"]}, "bakcbones", "unknown key 'bakcbones'; did you mean 'backbones'"),
        ({"backbones": ["SASrec"]}, "backbones", "no model 'SASrec'; did you mean 'SASRec'"),
        ({"datasets": ["tinny"]}, "datasets", "no dataset 'tinny'; did you mean 'tiny'"),
        ({"metrics": ["NCDG@10"]}, "metrics", "did you mean 'NDCG'"),
        ({"baseline": "plian"}, "baseline", "baseline 'plian' is no variant; did you mean 'plain'"),
        ({"seeds": [1, 1]}, "seeds", "1 is listed twice"),
        ({"seeds": "one"}, "seeds", "'seeds' = 'one'"),
        (
            {"variants": {"plain": {"hparam": {}}}},
            "hparam",
            "unknown key 'variants.plain.hparam'; did you mean 'hparams'",
        ),
        (
            {"variants": {"plain": {"hparams": {"n_layer": 1}}}},
            "n_layer",
            "unknown SASRec hparams key 'n_layer'; did you mean 'n_layers'",
        ),
        (
            {"variants": {"plain": {"hparams": {"n_layers": "two"}}}},
            "n_layers",
            "'hparams.n_layers' = 'two' must be a whole number",
        ),
        (
            {"variants": {"plain": {"train": {"epochs": 0}}}},
            "epochs",
            "'train.epochs' = 0: input should be greater than or equal to 1",
        ),
        (
            {"variants": {"plain": {"distill": {"alpha": 0.1}}}},
            "distill",
            "has 'distill' but neither 'teacher' nor 'embeddings'",
        ),
        (
            {"variants": {"plain": {"grid": {"hparam.n_layers": [1]}}}},
            "hparam.n_layers",
            "grid path 'hparam.n_layers' must",
        ),
        ({"overrides": [{"where": {"bakbone": "SASRec"}}]}, "bakbone", "did you mean 'backbone'"),
        ({"include": "nothing"}, "include", "does not exist"),
        ({"experiment": "../out"}, "experiment", "'experiment' = '../out'"),
        (
            {"experiment": "cache"},
            "experiment",
            "'experiment' = 'cache': the store has a folder",
        ),
        ({"experiment": "Runs"}, "experiment", "'experiment' = 'Runs': the store has a folder"),
        ({"seeds": [-1]}, "seeds", "'seeds.0' = -1: input should be greater than or equal to 0"),
        (
            {"variants": {"plain": {}, "kd": {"teacher": "template", "grid": {"distill.alpha": []}}}},
            "distill.alpha",
            "'variants.kd.grid.distill.alpha' = []: list should have at least 1 item",
        ),
    ],
)
def test_a_slip_names_file_line_and_mend(write_experiment, changes, wrong, expected):
    path = write_experiment("wrong", changes)
    with pytest.raises(SpecError) as error:
        load_experiment(path)
    assert str(error.value).startswith(f"{path}:{line_of(path, wrong)}: ")
    assert expected in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("distill", "wrong", "expected"),
    [
        ({"objective": "cosin"}, "cosin", "no objective 'cosin'; did you mean 'cosine'"),
        ({"objective_args": {"temperature": 1}}, "temperature", "objective 'mse': unknown key 'temperature'"),
        ({"objective_args": 3}, "objective_args", "'distill.objective_args' = 3 must be"),
    ],
)
def test_a_slip_in_the_objective_names_file_line_and_mend(write_experiment, distill, wrong, expected):
    kd = {"teacher": "template", "distill": distill}
    path = write_experiment("wrong", {"variants": {"plain": {}, "kd": kd}})
    with pytest.raises(SpecError) as error:
        load_experiment(path)
    assert str(error.value).startswith(f"{path}:{line_of(path, wrong)}: ")
    assert expected in str(error.value)


def test_an_objective_is_one_file_and_one_line(write_experiment, monkeypatch):
    """Without parameters it needs no YAML."""
    import sys
    import types

    from recbole_kd.objectives import registry

    module = types.ModuleType("recbole_kd.objectives.absolute")
    module.absolute = lambda student, teacher, weight: (student - teacher).abs().mean()
    monkeypatch.setitem(sys.modules, module.__name__, module)
    name, entry = registry._objective("absolute", "vectors", "nobody")
    monkeypatch.setitem(registry.OBJECTIVES, name, entry)
    kd = {"teacher": "template", "distill": {"objective": "absolute"}}
    path = write_experiment("new", {"variants": {"plain": {}, "kd": kd}, "seeds": [1]})
    distill = load_experiment(path).cells[1].spec.student.distill
    assert (distill.objective, distill.objective_args) == ("absolute", {})
    assert entry.function is module.absolute


def test_objective_defaults_lie_beneath_what_the_experiment_says(write_experiment):
    kd = {
        "teacher": "template",
        "distill": {"projection": "teacher"},
        "grid": {"distill.objective": ["cka", "vicreg"]},
    }
    own = {"teacher": "template", "distill": {"objective": "vicreg", "objective_args": {"variance": 3}}}
    free = {"teacher": "template", "distill": {"objective": "cka"}}
    path = write_experiment("d", {"variants": {"plain": {}, "kd": kd, "own": own, "cka": free}, "seeds": [1]})
    found = {c.label.variant: c.spec.student.distill for c in load_experiment(path).cells}
    assert found["kd[objective=cka]"].projection == "teacher"
    assert found["cka"].projection == "none"
    assert found["own"].projection == "student"
    assert found["own"].objective_args["variance"] == 3.0
    assert found["own"].objective_args["invariance"] == 25.0


def test_a_slip_in_a_model_file_names_that_file(place, write_experiment):
    path = place / "properties" / "model" / "SASRec.yaml"
    path.write_text(
        (ROOT / "properties/model/SASRec.yaml").read_text().replace("learning_rate", "learnin_rate")
    )
    with pytest.raises(
        SpecError, match=rf"SASRec\.yaml:{line_of(path, 'learnin_rate')}: .*did you mean 'learning_rate'"
    ):
        load_experiment("small")


def test_missing_files(place, write_experiment):
    with pytest.raises(SpecError, match=r"nowhere\.yaml: no such experiment"):
        load_experiment("nowhere.yaml")
    with pytest.raises(SpecError, match="no experiment 'smal'; did you mean 'small'"):
        load_experiment("smal")
    path = write_experiment("kd", {"variants": {"plain": {}, "kd": {"embeddings": "none.parquet"}}})
    with pytest.raises(ProfileError, match=rf"{path}:\d+: embedding file 'none.parquet' does not exist"):
        load_experiment(path)
    (place / "data" / "tiny" / "tiny.inter").unlink()
    with pytest.raises(DataError, match=r"tiny\.inter: dataset 'tiny' has no such file; put"):
        load_experiment("small")


def test_include_defaults_and_overrides(place, write_experiment):
    (place / "properties" / "experiment" / "part.yaml").write_text("seeds: [5]\nmetrics: [MRR]\n")
    path = write_experiment(
        "layers",
        {
            "include": "part",
            "overrides": [
                {"where": {"variant": "wide"}, "train": {"learning_rate": 0.5}},
                {"where": {"backbone": "GRU4Rec"}, "train": {"learning_rate": 0.7}},
            ],
        },
    )
    text = path.read_text().replace("seeds:\n- 1\n- 2\n", "").replace("metrics:\n- NDCG@10\n- MRR\n", "")
    path.write_text(text)
    experiment = load_experiment(path)
    assert experiment.spec.seeds == [5]
    assert experiment.spec.metrics == ["MRR"]
    rates = {c.label.variant: c.spec.student.train.learning_rate for c in experiment.cells}
    default = yaml.safe_load((ROOT / "properties/model/SASRec.yaml").read_text())["train"]
    assert rates == {"plain": default["learning_rate"], "wide": 0.5}
    (place / "properties" / "experiment" / "part.yaml").write_text("include: part\n")
    with pytest.raises(SpecError, match="round in circles"):
        load_experiment(path)


def test_a_file_of_another_folder_includes_a_known_experiment(place, tmp_path):
    """As the page on language models in the loop tells users to; what lies beside the file goes first."""
    own = tmp_path / "own"
    own.mkdir()
    path = own / "mine.yaml"
    for name in ("small", "small.yaml"):
        path.write_text(f"include: {name}\nexperiment: mine\nseeds: [7]\n")
        mine = load_experiment(path)
        assert (mine.name, mine.spec.seeds, mine.spec.datasets) == ("mine", [7], ["tiny"])
    path.write_text("include: quickstart\n")  # a shipped one
    shipped = yaml.safe_load((ROOT / "properties/experiment/quickstart.yaml").read_text())
    assert read_experiment(path)["variants"] == shipped["variants"]
    (own / "small.yaml").write_text("include: ../properties/experiment/small\nmetrics: [MRR]\n")
    path.write_text("include: small\n")
    assert load_experiment(path).spec.metrics == ["MRR"]
    path.write_text("include: smal\n")
    with pytest.raises(SpecError) as error:
        load_experiment(path)
    said = str(error.value)
    assert said.startswith(f"{path}:1: included file '{own / 'smal.yaml'}' does not exist, nor an experiment")
    assert str(place / "properties" / "experiment") in said
    assert said.endswith("did you mean 'small'?")


def test_grid_makes_a_variant_of_every_point(write_experiment):
    grid = {"hparams.n_layers": [1, 2], "train.learning_rate": [0.1, 0.2]}
    path = write_experiment("grid", {"seeds": [1], "variants": {"plain": {}, "g": {"grid": grid}}})
    found = {c.label.variant: c.spec.student for c in load_experiment(path).cells}
    assert set(found) == {"plain"} | {
        f"g[n_layers={n},learning_rate={r}]" for n in (1, 2) for r in (0.1, 0.2)
    }
    point = found["g[n_layers=2,learning_rate=0.1]"]
    assert point.hparams["n_layers"] == 2
    assert point.train.learning_rate == 0.1


def test_plain_and_distilled_share_everything_but_the_teacher(place, write_experiment):
    (place / "e.npz").write_bytes(b"content")
    kd = {"embeddings": str(place / "e.npz"), "trust_unverified": True}
    path = write_experiment("kd", {"variants": {"plain": {}, "kd": kd}, "seeds": [1]})
    plain, distilled = load_experiment(path).cells
    assert distilled.spec.student.model == "SASRecKD"
    assert distilled.spec.student.hparams == plain.spec.student.hparams
    assert distilled.spec.student.train == plain.spec.student.train
    before = distilled.cell
    (place / "e.npz").write_bytes(b"other content")
    plain_again, distilled_again = load_experiment(path).cells
    assert plain_again.cell == plain.cell
    assert distilled_again.cell != before


def variants_of(path):
    return list(dict.fromkeys(c.label.variant for c in load_experiment(path).cells))


def test_a_language_model_gets_its_controls_once(write_experiment):
    llm = {"plain": {}, "kd": {"teacher": "smollm2"}}
    assert variants_of(write_experiment("c", {"variants": llm})) == [
        "plain",
        "kd",
        "kd-template",
        "kd-shuffled",
    ]
    assert variants_of(write_experiment("c", {"variants": llm, "controls": "none"})) == ["plain", "kd"]
    listed = {**llm, "mine": {"teacher": "shuffled"}, "other": {"teacher": "template"}}
    assert variants_of(write_experiment("c", {"variants": listed})) == list(listed)
    no_llm = {"plain": {}, "kd": {"teacher": "template"}}
    assert variants_of(write_experiment("c", {"variants": no_llm})) == ["plain", "kd"]


def test_profiles_that_a_system_reads_get_their_controls(write_experiment):
    read = {"plain": {}, "smol": {"system": "kar", "inputs": {"teacher": "smollm2"}}}
    path = write_experiment("c", {"variants": read, "seeds": [1]})
    assert variants_of(path) == ["plain", "smol", "smol-template", "smol-shuffled"]
    users = {c.label.variant: c.spec.inputs["users"]["spec"] for c in load_experiment(path).cells[1:]}
    assert users["smol-shuffled"]["writer"] == users["smol"]["writer"]
    assert users["smol-shuffled"]["placebo"]["kind"] == "shuffled"
    assert users["smol-template"]["writer"]["backend"] == "template"
    # The system's own default is the template: it is that control.
    listed = {**read, "mine": {"system": "kar"}}
    assert variants_of(write_experiment("c", {"variants": listed})) == [*listed, "smol-shuffled"]
    only = {"plain": {}, "mine": {"system": "kar"}}
    assert variants_of(write_experiment("c", {"variants": only})) == list(only)


def test_the_placebo_shuffles_the_teacher_that_it_controls(write_experiment):
    llm = {"plain": {}, "kd": {"teacher": "smollm2", "profile": {"writer": {"prompt": "few-shot"}}}}
    path = write_experiment("c", {"variants": llm, "seeds": [1]})
    specs = {c.label.variant: c.spec for c in load_experiment(path).cells}
    placebo = specs["kd-shuffled"].teacher
    assert placebo["writer"] == specs["kd"].teacher["writer"]
    assert placebo["placebo"]["kind"] == "shuffled"
    assert specs["kd-shuffled"].student == specs["kd"].student


def test_a_slip_in_a_profile_names_file_and_line(write_experiment):
    path = write_experiment("c", {"variants": {"plain": {}, "kd": {"teacher": "smollm3"}}})
    with pytest.raises(SpecError, match="no profile 'smollm3'; did you mean 'smollm2'"):
        load_experiment(path)
    wrong = {"teacher": "smollm2", "profile": {"writer": {"promt": "frame"}}}
    path = write_experiment("c", {"variants": {"plain": {}, "kd": wrong}})
    with pytest.raises(
        SpecError, match=rf"{path}:{line_of(path, 'promt')}: .*'writer.promt'; did you mean 'prompt'"
    ):
        load_experiment(path)


def test_a_domain_is_a_file_of_words(place, write_experiment, monkeypatch):
    """No code: its name in the dataset YAML, and the prompts of the teacher are in its words."""
    folder = place / "domains"
    shutil.copytree(domain.FOLDER, folder)
    (folder / "books.yaml").write_text((folder / "movies.yaml").read_text().replace("movie", "book"))
    kd = {"variants": {"plain": {}, "kd": {"teacher": "template"}}, "seeds": [1]}
    path = write_experiment("domains", kd)
    of_movies = load_experiment(path).cells
    _edit(place, "dataset/tiny", {"domain": "books"})
    with pytest.raises(SpecError) as error:
        load_experiment(path)
    where = place / "properties" / "dataset" / "tiny.yaml"
    line = line_of(where, "domain: books")
    assert str(error.value).startswith(f"{where}:{line}: dataset: domain: unknown domain 'books'; use one of")
    monkeypatch.setattr(domain, "FOLDER", folder)
    monkeypatch.setattr(domain, "DOMAINS", (*domain.DOMAINS, "books"))
    plain, taught = load_experiment(path).cells
    assert taught.spec.dataset.domain == "books"
    assert taught.spec.teacher_source["prompt"].startswith("books/")
    assert plain.cell == of_movies[0].cell
    assert taught.cell != of_movies[1].cell
    _edit(place, "dataset/tiny", {"domain": "book"})
    with pytest.raises(SpecError, match=r"tiny\.yaml:\d+: .*did you mean 'books'"):
        load_experiment(path)


def test_speed_settings_and_names_of_a_teacher_do_not_change_the_address(write_experiment):
    def address(profile):
        variants = {"plain": {}, "kd": {"teacher": "smollm2", "profile": profile}}
        path = write_experiment("c", {"variants": variants, "seeds": [1], "controls": "none"})
        return load_experiment(path).cells[1].cell

    same = [{"writer": {"batch_size": 3, "device": "cpu"}}, {"name": "x", "description": "y"}]
    assert {address(profile) for profile in same} == {address({})}
    assert address({"writer": {"decoding": {"max_new_tokens": 7}}}) != address({})


def test_what_an_endpoint_is_passed_and_weights_of_a_folder_change_the_address(write_experiment, tmp_path):
    def address(profile):
        variants = {"plain": {}, "kd": {"teacher": "openai", "profile": profile}}
        path = write_experiment("c", {"variants": variants, "seeds": [1], "controls": "none"})
        return load_experiment(path).cells[1].cell

    api = {"writer": {"api": {"extra_body": {"chat_template_kwargs": {"enable_thinking": True}}}}}
    assert address(api) != address({})
    weights = tmp_path / "encoder"
    weights.mkdir()
    found = set()
    for content in ("old", "tuned"):
        (weights / "model.safetensors").write_text(content)
        found.add(address({"encoder": {"model": str(weights)}}))
    assert len(found) == 2


def test_weights_of_a_folder_that_items_are_encoded_with_change_the_address(place, write_experiment):
    """A system's item vectors have an encoder of their own."""
    weights = place / "encoder"
    weights.mkdir()
    items = plain_items(place, model=str(weights))
    found = set()
    for content in ("old", "tuned"):
        (weights / "model.safetensors").write_text(content)
        variants = {"plain": {}, "text": {"system": "text-init", "inputs": {"items": items}}}
        path = write_experiment("c", {"variants": variants, "seeds": [1], "controls": "none"})
        found.add(load_experiment(path).cells[1].cell)
    assert len(found) == 2


def plain_items(place, **encoder):
    data = yaml.safe_load((ROOT / "properties" / "items" / "minilm.yaml").read_text())
    data["encoder"] |= encoder
    (place / "properties" / "items").mkdir(exist_ok=True)
    (place / "properties" / "items" / "own.yaml").write_text(yaml.safe_dump(data))
    return "own"


def test_the_experiment_of_the_runner_s_page_resolves(place, monkeypatch, repo_root):
    import re

    monkeypatch.delenv("RECBOLE_KD_DATA")  # ml-100k comes with RecBole
    text = (repo_root / "docs" / "runner.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```yaml\n(experiment:.*?)```", text, re.DOTALL)
    folder = place / "properties" / "experiment"
    (folder / "common.yaml").write_text("description: shared\n")
    (folder / "page.yaml").write_text(example)
    experiment = load_experiment("page")
    variants = {c.label.variant for c in experiment.cells}
    assert {"plain", "kd[alpha=0.4]", "kd-wide"} <= variants
    caser = {c.label.variant for c in experiment.cells if c.label.backbone == "Caser"}
    assert caser == {"plain"}
    assert {c.spec.dataset.filter.min_user_inter for c in experiment.cells} == {10}
