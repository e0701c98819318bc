"""The profile of a site: options of sbatch and of the trainer, and mistakes in one sentence."""

from pathlib import Path

import pytest
from support import ROOT
from support.submission import NET

from ebm_lightning.cluster import profile
from ebm_lightning.cluster.profile import Profile


def test_a_profile_is_the_options_of_sbatch_and_of_the_trainer(tmp_path: Path) -> None:
    file = tmp_path / "site.yaml"
    file.write_text(
        "partition: gpu\ntime: 24:00:00\ngpus_per_node: a100:4\nnodes: 2\ncpus_per_task: 8\nmem: 64G\naccount: '0042'\n"
        "qos: high\nconstraint: ib\nexclude: n[1-3]\nextra: {exclusive: '', mail-type: END}\n"
        "setup: [module load cuda]\n"
    )
    made = profile.read(file)
    assert dict(made.sbatch()) == {
        **{"nodes": "2", "ntasks-per-node": "4", "gpus-per-node": "a100:4", "cpus-per-task": "8", "mem": "64G"},
        **{"time": "24:00:00", "partition": "gpu", "account": "0042", "qos": "high", "constraint": "ib"},
        **{"exclude": "n[1-3]", "exclusive": "", "mail-type": "END"},
    }
    assert made.trainer() == ["--trainer.num_nodes", "2", "--trainer.devices", "4"]
    assert made.setup == ("module load cuda",)
    assert profile.read(None) == Profile()
    assert (Profile().ranks, Profile(devices=3).ranks, Profile(gpus_per_node="2").ranks) == (1, 3, 2)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("partitoin: gpu", "there is no key 'partitoin': .* did you mean 'partition'?"),
        ("nodes: two", "nodes must be an integer, not 'two'"),
        ("nodes: 0", "nodes must be at least 1, not 0"),
        ("devices: 0", "ranks must be at least 1, not 0"),
        ("gpus_per_node: many", "gpus_per_node must end with a number, as 4 or a100:4, not 'many'"),
        ("gpus_per_node: 4\ndevices: 8", "devices is 8 and gpus_per_node 4: each GPU is one rank"),
        ("partition:", "partition must be text in one line, not ''"),
        ("setup: module load cuda", "setup must be a list of texts"),
        ('partition: "a\\nb"', "partition must be text in one line"),
        ("env: {A-B: 1}", "'A-B' is not a name of an environment variable"),
        ("extra: {partition: gpu}", "extra: partition is set by `ebm submit` or by a key of the profile"),
        ("extra: {output: x}", "extra: output is set by `ebm submit`"),
        (
            "extra: {--mail-type: END}",
            "'--mail-type' is not an option of sbatch: give its full name without leading dashes",
        ),
        ("- gpu", "is not a profile: expected keys with values"),
        ("{", "is not YAML"),
    ],
)
def test_a_mistake_in_a_profile_is_one_sentence(ebm, checkout: Path, text: str, sentence: str) -> None:
    (checkout / "site.yaml").write_text(text)
    with pytest.raises(ValueError, match=f"site.yaml.*{sentence}"):
        profile.read(checkout / "site.yaml")
    status, said = ebm("submit", NET, "--profile", "site.yaml", "--dry-run")
    assert (status, said.count("\n"), said[:12]) == (1, 1, "ebm: error: ")


def test_every_shipped_profile_is_one(ebm, checkout: Path) -> None:
    files = [file for file in (ROOT / "cluster").rglob("*.yaml") if file.stem not in ("sweep", "interrupted")]
    assert len(files) >= 6
    for file in files:
        assert ebm("submit", NET, "--profile", file, "--dry-run")[0] == 0, file
