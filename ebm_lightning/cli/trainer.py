"""The Trainer whose options the command line reads."""

from typing import Any

from ebm_lightning.training.trainer import Trainer


class CLITrainer(Trainer):
    """Lightning's Trainer, whose checkpoints hold every rank's chains and random streams.

    A limit of batches is read as an int before it is read as a float: 1 is one batch, 1.0 is all of them. Lightning's
    own annotations cannot say so: typing keeps whichever of Union[int, float] and Union[float, int] it sees first.

    Args:
        limit_train_batches: Batches of training, or the share of them.
        limit_val_batches: Batches of validation, or the share of them.
        limit_test_batches: Batches of the test, or the share of them.
        limit_predict_batches: Batches of prediction, or the share of them.
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
