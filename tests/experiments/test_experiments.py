"""Every shipped experiment: it parses, it is complete, its tables are what its results say, and a tiny version runs."""

import io
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image
from support import TESTS

from ebm_lightning import reproduction
from ebm_lightning.cluster.sweep import points
from ebm_lightning.reproduction.reproduce import dependencies

ROOT = Path(__file__).parents[2] / "experiments"
GOLDEN = TESTS / "golden"
FOLDERS = sorted(path.parent for path in ROOT.glob("*/expected.yaml"))
FILES = {path: yaml.safe_load(path.read_text()) for folder in FOLDERS for path in sorted(folder.glob("*.yaml"))}
RUNS = [path for path, content in FILES.items() if "seed_everything" in content]
"""What has a seed is a run; the others are overlays of the tests, claims, and sweeps."""

FAMILIES = {
    "quickstart": ["digits"],
    "salakhutdinov2008_ais": ["cd1_25"],
    "tieleman2008_pcd": ["pcd_25", "pt_25"],
    "salakhutdinov2009_dbm": ["dbm"],
    "hinton1995_wake_sleep": ["bars"],
    "du2019_igebm": ["mnist_laptop"],
    "grathwohl2020_jem": ["mnist_laptop"],
    "gladstone2025_ebt": ["text_laptop", "text_laptop_s2"],
}
"""One run of each family, whose resolved configuration is kept in golden/."""

FAMILY_RUNS = [ROOT / folder / f"{name}.yaml" for folder, names in FAMILIES.items() for name in names]


def _name(run: Path) -> str:
    return f"{run.parent.name}.{run.stem}"


def _resolved(ebm, *arguments: object) -> dict:
    status, said = ebm("fit", *arguments, "--print_config")
    assert status == 0, said
    return yaml.safe_load(said)


@pytest.mark.parametrize("run", FAMILY_RUNS, ids=_name)
def test_the_resolved_configuration_is_the_golden_one(run: Path, ebm) -> None:
    """A default that a library changes shows here. To accept: delete the golden file and run this test once."""
    golden = GOLDEN / f"{_name(run)}.yaml"
    resolved = _resolved(ebm, "-c", run)
    if not golden.exists():
        golden.parent.mkdir(exist_ok=True)
        golden.write_text(yaml.safe_dump(resolved, sort_keys=False))
        pytest.fail(f"{golden.name} was missing and has been written: look at it, and commit it")
    assert resolved == yaml.safe_load(golden.read_text())


def test_there_is_a_golden_configuration_of_each_family_and_no_other() -> None:
    assert {file.stem for file in GOLDEN.iterdir()} == set(map(_name, FAMILY_RUNS))


@pytest.mark.parametrize("run", FAMILY_RUNS, ids=_name)
def test_the_resolved_configuration_resolves_to_itself(run: Path, ebm) -> None:
    """The golden file is the resolved configuration, as the test before says."""
    golden = GOLDEN / f"{_name(run)}.yaml"
    assert _resolved(ebm, "-c", golden) == yaml.safe_load(golden.read_text())


@pytest.mark.parametrize("kind", ["", "_transformer"])
def test_a_scaling_sweep_is_a_grid_of_runs(kind: str, ebm, tmp_path: Path) -> None:
    run = ROOT / "gladstone2025_ebt" / f"text_laptop{kind}.yaml"
    made = points(run, None, run.with_name(f"scaling{kind}.yaml"), [])
    widths = [(32, 1), (64, 1), (128, 2)]
    sizes = [(windows, layers, *width) for windows in (4000, None) for layers in (1, 2) for width in widths]
    assert len({point.folder(run, tmp_path) for point in made}) == len(sizes)
    for point, size in [*zip(made, sizes, strict=True)][::5]:  # every value of every axis
        config = _resolved(ebm, "-c", run, *point.overrides)
        model = config["model"]["init_args"]["model"]["init_args"]
        net = model["net"]["init_args"] if kind else model
        assert (
            config["data"]["init_args"]["loading"]["max_train"],
            *(net[key] for key in ("layers", "dim", "heads")),
        ) == size


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the smoke versions are trained. In data/, Parquet files in the hub's layout: 40 random images a split."""
    place = tmp_path_factory.mktemp("smoke")
    draw = np.random.default_rng(0)
    for name, shape, column in [("mnist", (28, 28), "image"), ("cifar10", (32, 32, 3), "img")]:
        for split in ("train", "test"):
            folder = place / "data" / name
            folder.mkdir(parents=True, exist_ok=True)
            rows = []
            for _ in range(40):
                stream = io.BytesIO()
                Image.fromarray(draw.integers(0, 256, shape, dtype=np.uint8)).save(stream, format="png")
                rows.append({"bytes": stream.getvalue(), "path": None})
            labels = np.arange(40) % 10
            pq.write_table(pa.table({column: rows, "label": labels}), folder / f"{split}-00000-of-00001.parquet")
    return place


def _smoked(ebm, run: Path, place: Path) -> Path:
    """The folder of a run's smoke version, which is trained unless it was for a run that builds on it."""
    if found := list(place.glob(f"runs/{run.parent.name}/{run.stem}-*")):
        return found[0]
    own = [file for file in run.parent.glob("smoke_*.yaml") if run.stem.startswith(file.stem[len("smoke_") :])]
    overlays = [run.parent / "smoke.yaml", *sorted(own, key=lambda file: len(file.stem))[-1:]]  # the most specific one
    chosen = [argument for overlay in overlays for argument in ("-c", overlay)]
    options = ["--trainer.enable_progress_bar", "false"]
    if yaml.safe_load(run.read_text())["data"]["class_path"] != "DenoisingPairs":  # whose images hold out themselves
        options += ["--data.init_args.val_size", "0.2"]
    for below in dependencies(run.parent, run.name):
        _smoked(ebm, run.parent / below, place)
    status, said = ebm("fit", "-c", run, *chosen, *options)
    assert status == 0, said
    return next(place.glob(f"runs/{run.parent.name}/{run.stem}-*"))


@pytest.mark.parametrize("run", RUNS, ids=_name)
def test_the_smoke_version_takes_two_steps(run: Path, ebm, place: Path, monkeypatch) -> None:
    monkeypatch.setenv("EBM_DATA", str(place / "data"))
    monkeypatch.setenv("EBM_RUNS", str(place / "runs"))
    folder = _smoked(ebm, run, place)
    assert list(folder.glob("checkpoints/step=00000002.ckpt"))
    if yaml.safe_load((folder / "config.yaml").read_text())["model"]["init_args"]["sampler"]:
        assert list(folder.glob("samples/*.npz"))


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_every_claim_names_a_run_a_protocol_and_where_its_number_comes_from(folder: Path) -> None:
    found = reproduction.claims(folder)
    assert len({claim.id for claim in found}) == len(found)
    for claim in found:
        config = yaml.safe_load((folder / claim.run).read_text())
        assert claim.protocol in [one["class_path"] for one in config["evaluation"]]
        assert re.fullmatch("[a-z0-9_]+", claim.metric)
        assert claim.source
        assert len(claim.label) <= 80
        assert (folder / "README.md").exists()
        assert (folder / "smoke.yaml").exists()


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_the_tables_are_what_the_results_say(folder: Path) -> None:
    """In both READMEs and in the details; `ebm reproduce --all --tables` writes them."""
    places = reproduction.places(folder)
    assert ROOT.parent / "README.md" in [file for file, _, _ in places]
    for file, begin, lines in places:
        between = file.read_text().split(begin)[1].split(reproduction.END)[0].strip().splitlines()
        assert between == lines()
    assert (folder / "results" / "details.md").read_text().splitlines() == reproduction.details(folder)


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_every_record_is_of_a_claim_or_curve_and_says_where_it_comes_from(folder: Path) -> None:
    known = {one.id for one in reproduction.expected(folder).entries}
    for record in reproduction.load(folder):
        assert (record.get("claim") or record["curve"]) in known
        assert record["commit"]
        assert record["dirty"] is False
        kept = {"x", "y", "metric", "against"} if "curve" in record else {"value", "protocol"}
        assert kept | {"seed", "minutes", "processor", "versions", "config"} <= record.keys()
