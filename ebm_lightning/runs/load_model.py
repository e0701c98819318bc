"""Models of finished runs, for models that build on them."""

from jsonargparse import ArgumentParser

from ebm_lightning.core import EnergyModel
from ebm_lightning.runs import checkpoints
from ebm_lightning.runs.dependencies import name_runs_below
from ebm_lightning.runs.folder import RunFolder


def load_model(run: str) -> EnergyModel:
    """The model of a run as its newest whole checkpoint has it.

    In YAML it is ``class_path: ebm_lightning.load_model`` where a model is expected. A name without a
    slash, such as ``layer1``, is the run of ``layer1.yaml`` beside the one that is configured, with the same seed.

    Args:
        run: its folder.

    Raises:
        ValueError: where the folder holds no run, the run has no checkpoint yet, or its model cannot be made.
    """
    folder = RunFolder(run)
    config = folder.config()
    name_runs_below(config, folder, folder.seed)
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(EnergyModel, "model")
    made = parser.instantiate(parser.parse_object({"model": config["model"]["init_args"]["model"]}))
    model: EnergyModel = made.model
    newest = next(checkpoints.valid_checkpoints(folder.checkpoints()), None)
    if newest is None:
        raise ValueError(f"the run {folder.path} has no whole checkpoint: train it first with `ebm fit`")
    weights = checkpoints.load(newest)["state_dict"]
    own = {name.removeprefix("model."): value for name, value in weights.items() if name.startswith("model.")}
    checkpoints.check_weights(model, own)
    model.load_state_dict(own)
    return model
