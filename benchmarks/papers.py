"""`python -m benchmarks --only papers --device cuda`: training steps at the papers' model sizes on one GPU.

Each is a run of the experiment's configuration by `ebm fit`, with data, buffer, optimizer and logging: unchanged, in
bfloat16, and with the negative phase as a CUDA graph. The table also has the prediction of `ebm plan` for the GPU, at
the default share of the peak rate, and the share reached.
"""

from collections.abc import Iterator
from pathlib import Path

import torch

from benchmarks.common import HERE, Options, Record, facts, facts_text, spread
from benchmarks.fitting import fit_ms, instantiate
from ebm_lightning.data import available
from ebm_lightning.planning import Cluster, count
from ebm_lightning.planning.hardware import GPUS, Arithmetic
from ebm_lightning.planning.roofline import Step

DEVICES = ("cuda",)
ROUNDS = 1
EXPERIMENTS = HERE.parent / "experiments"
SETTINGS: dict[str, tuple[Path, int]] = {
    "JEM: WRN-28-10, batch 64, 20 transitions": (EXPERIMENTS / "grathwohl2020_jem" / "cifar10.yaml", 30),
    "IGEBM: ResNet32Large, batch 128, 60 transitions": (EXPERIMENTS / "du2019_igebm" / "cifar10_uncond.yaml", 6),
}
"""The configuration, and the number of training steps."""
BF16 = {"--trainer.precision": "bf16-mixed"}
GRAPHS = {"--model.init_args.acceleration.cuda_graphs": "true"}
WAYS: dict[str, dict[str, object]] = {
    "as shipped": {},
    "`precision: bf16-mixed`": {**BF16},
    "`precision: bf16-mixed`, `cuda_graphs: true`": {**BF16, **GRAPHS},
}


def counted(config: Record) -> Step:
    """The cost of a step of a complete configuration, counted on this GPU in float32."""
    module, data = instantiate(config)
    return count(module.cuda(), data)


def measure(options: Options) -> Iterator[Record]:
    """Yield the record after each setting; nothing without CIFAR-10."""
    rounds, name = options.turns(ROUNDS), torch.cuda.get_device_name()
    record = facts(torch.get_num_threads(), rounds, "lightning", device="cuda") | {"settings": {}}
    gpu = next((gpu for gpu in GPUS if gpu in name.lower().replace(" ", "")), None)
    if not available("cifar10"):
        print("CIFAR-10 is missing (EBM_DATA): nothing is measured", flush=True)
        return
    for label, (config, steps) in SETTINGS.items():
        found = record["settings"][label] = {}
        every = 1 if options.quick else steps // 6
        length = {"--trainer.max_steps": 6 * every, "--trainer.log_every_n_steps": every}
        step = None
        for way, changed in WAYS.items():
            taken = [fit_ms(config, {**length, **changed}) for _ in range(rounds)]
            found[way] = {"ms": spread([ms for ms, _ in taken])}
            if gpu is not None:
                step = step or counted(taken[0][1])
                arithmetic: Arithmetic = "bf16" if "--trainer.precision" in changed else "fp32"
                cluster, peak = Cluster(gpu, arithmetic=arithmetic), GPUS[gpu].peak(arithmetic.replace("fp32", "tf32"))
                found[way]["plan"] = (step.flop / 1e9, 1e3 * cluster.rows(step)[0].slowest, peak / 1e12)
            yield record


def table(record: Record) -> list[str]:
    """Milliseconds per step, measured and predicted."""
    lines = [facts_text(record)]
    for label, found in record["settings"].items():
        lines += [
            "",
            f"{label}:",
            "",
            "| | ms per step | / as shipped | TFLOP/s | of the peak | predicted, ms | measured / predicted |",
        ]
        lines.append("|---|---|---|---|---|---|---|")
        first = found["as shipped"]["ms"]["median"]
        for way, one in found.items():
            ms, plan = one["ms"]["median"], one.get("plan")
            cells = [way, f"{ms:.4g}", f"{ms / first:.2f}"]
            if plan is None:
                cells += ["-"] * 4
            else:
                gflop, expected, peak = plan
                cells += [f"{gflop / ms:.4g}", f"{gflop / ms / peak:.0%}", f"{expected:.4g}", f"{ms / expected:.2f}"]
            lines.append(f"| {' | '.join(cells)} |")
    return lines
