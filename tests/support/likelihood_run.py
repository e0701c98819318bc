"""A run whose likelihood is monitored and measured."""

from pathlib import Path

import yaml

RUN = {
    "seed_everything": 3,
    "trainer": {
        "max_steps": 12,
        "accelerator": "cpu",
        "devices": 1,
        "log_every_n_steps": 1,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "callbacks": [
            {
                "class_path": "ebm_lightning.evaluation.monitors.likelihood.LikelihoodMonitor",
                "init_args": {
                    "estimator": {
                        "class_path": "AIS",
                        "init_args": {
                            "betas": {"class_path": "Linear", "init_args": {"num_temperatures": 20}},
                            "chains": 20,
                        },
                    },
                    "num_examples": 50,
                },
            }
        ],
    },
    "model": {
        "class_path": "EBM",
        "init_args": {
            "model": {
                "class_path": "RBM",
                "init_args": {
                    "visible": {"x": {"class_path": "Bernoulli", "init_args": {"shape": [1, 8, 8]}}},
                    "hidden": 6,
                    "weight_std": 0.1,
                },
            },
            "objective": {"class_path": "ContrastiveDivergence"},
            "sampler": {"class_path": "Gibbs", "init_args": {"free": ["h", "x"]}},
            "optimizer": {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.05}},
        },
    },
    "data": {
        "class_path": "Digits",
        "init_args": {"batch_size": 50, "pixels": {"class_path": "FixedBinarization", "init_args": {"seed": 4}}},
    },
    "samples": {"every_n_steps": 0},
    "evaluation": [
        {
            "class_path": "Likelihood",
            "init_args": {
                "estimator": {
                    "class_path": "AIS",
                    "init_args": {
                        "betas": {"class_path": "Linear", "init_args": {"num_temperatures": 200}},
                        "chains": 60,
                    },
                },
                "compare": {"class_path": "Exact", "init_args": {"largest": 8}},
                "num_raise_examples": 40,
            },
        }
    ],
}
"""A machine that is small enough to be enumerated, on binarized digits, monitored and measured."""


def likelihood_config(folder: Path, **trainer: object) -> Path:
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump({**RUN, "trainer": {**RUN["trainer"], **trainer}}))
    return path


def refuse_constant(name: str) -> None:
    raise AssertionError(f"{name} is no JSON")
