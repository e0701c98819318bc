"""The Trainer of the command line."""

from typing import Any

from ebm_lightning.training.trainer import Trainer


class CLITrainer(Trainer):
    """Lightning's Trainer, with every rank's chains and random streams in its checkpoints.

    A limit of batches is parsed as an int before a float: 1 is one batch, 1.0 is all of them. Lightning's own
    annotations do not guarantee this: typing caches the first of Union[int, float] and Union[float, int] and returns
    it for both.

    Args:
        limit_train_batches: Number of training batches, or a share of them.
        limit_val_batches: Number of validation batches, or a share of them.
        limit_test_batches: Number of test batches, or a share of them.
        limit_predict_batches: Number of batches of prediction, or a share of them.
    """

    def __init__(
        self,
        *,
        limit_train_batches: int | float | None = None,
        limit_val_batches: int | float | None = None,
        limit_test_batches: int | float | None = None,
        limit_predict_batches: int | float | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            limit_train_batches=limit_train_batches,
            limit_val_batches=limit_val_batches,
            limit_test_batches=limit_test_batches,
            limit_predict_batches=limit_predict_batches,
            **kwargs,
        )
