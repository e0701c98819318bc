"""Models of trained runs, for models that build on them."""

from jsonargparse import ArgumentParser

from ebm_lightning.core import EnergyModel
from ebm_lightning.runs import checkpoints
from ebm_lightning.runs.dependencies import resolve_upstream
from ebm_lightning.runs.folder import RunFolder


def load_model(run: str) -> EnergyModel:
    """Load the model of a run from its newest valid checkpoint.

    In YAML, use ``class_path: ebm_lightning.load_model`` instead of a model's class. A name without a slash, such as
    ``layer1``, is the run of ``layer1.yaml`` with the same seed, in the folder of the experiment's runs.

    Args:
        run: the run folder.

    Raises:
        ValueError: if the folder is not that of a run, the run has no checkpoint, or its model cannot be created.
    """
    folder = RunFolder(run)
    config = folder.config()
    resolve_upstream(config, folder, folder.seed)
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(EnergyModel, "model")
    parsed = parser.parse_object({"model": config["model"]["init_args"]["model"]})
    model: EnergyModel = parser.instantiate(parsed).model
    newest = next(checkpoints.valid_checkpoints(folder.checkpoints()), None)
    if newest is None:
        raise ValueError(f"the run {folder.path} has no valid checkpoint: train it first with `ebm fit`")
    weights = checkpoints.load(newest)["state_dict"]
    own = {name.removeprefix("model."): value for name, value in weights.items() if name.startswith("model.")}
    checkpoints.check_weights(model, own)
    model.load_state_dict(own)
    return model
