"""Parts of configurations, as the tests write and read them."""

from jsonargparse import ArgumentParser

from ebm_lightning.data import DataModule


def component(class_path: str, **arguments: object) -> dict:
    """A class and its arguments, as a configuration has them."""
    return {"class_path": class_path, "init_args": arguments}


def configured_data(text: str) -> DataModule:
    """The data of a configuration in YAML that has nothing else."""
    parser = ArgumentParser()
    parser.add_subclass_arguments(DataModule, "data")
    return parser.instantiate_classes(parser.parse_string(text)).data
