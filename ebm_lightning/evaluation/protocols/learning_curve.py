"""Learning curve: the slope of a logged metric over training."""

from dataclasses import dataclass

import numpy as np
import torch

from ebm_lightning.data.base import DataModule
from ebm_lightning.evaluation.protocol import Measurement, Protocol, ProtocolResult, snake_case
from ebm_lightning.runs.folder import RunFolder
from ebm_lightning.training.module import EBM
from ebm_lightning.utils import plots


@dataclass(eq=False)
class LearningCurve(Protocol):
    """A metric of the run against its training steps, and the slope of its logarithm on the logarithm of the steps.

    A power law metric ~ steps^b has the slope b: the scaling rate that Gladstone et al. (2025) compare between models
    of one family. It is fitted by least squares; the standard error is that of the regression and does not include the
    variation over seeds. With a constant batch, steps are proportional to data: tokens or images.

    Args:
        metric: its name in metrics.csv, > 0 at all steps.
        since: the first step of the fit: the beginning of training follows no power law.

    Raises:
        ValueError: when measuring, if the run has logged fewer than 3 such values, or one that is not positive.
    """

    metric: str = "val/loss"
    since: int = 0

    def measure(self, module: EBM, data: DataModule) -> ProtocolResult:
        run = RunFolder(module.trainer.default_root_dir)
        logged = run.metrics().get(self.metric, {})
        # A row of step k, counted from 0, is what the run was after k + 1 updates.
        steps = sorted(step for step in logged if step + 1 >= max(self.since, 1))
        x, y = np.array([step + 1.0 for step in steps]), np.array([logged[step] for step in steps])
        if len(steps) < 3 or not (y > 0).all():
            raise ValueError(
                f"{self.id} needs 3 or more positive values, but {run.path} has logged {len(steps)}"
                f"{f', the smallest {y.min():g}' if len(steps) else ''}: validate more often, or name another metric"
            )
        (slope, constant), covariance = np.polyfit(np.log(x), np.log(y), 1, cov=True)
        fitted = np.exp(constant + slope * np.log(x))
        lines: dict[str, tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]] = {
            name: (torch.tensor(x), torch.tensor(line), None) for name, line in (("run", y), ("power law", fitted))
        }
        found = Measurement(float(slope), float(covariance[0, 0] ** 0.5))
        return ProtocolResult(
            {
                f"log_slope_{snake_case(self.metric)}": found.labeled(f"slope of log {self.metric} on log steps"),
                f"last_{snake_case(self.metric)}": Measurement(float(y[-1]), label=f"last {self.metric}"),
            },
            {"curve": plots.plot_curves(lines, "steps", self.metric, logarithmic=True)},
        )
