"""DataModules: batches in an order and with a randomness that a resumed run repeats."""

from ebm_lightning.data.augment import Augmentation, HorizontalFlip, ReflectPadCrop
from ebm_lightning.data.bars import Bars, BarsAndStripes
from ebm_lightning.data.base import DataModule, Split, Subset
from ebm_lightning.data.digits import Digits
from ebm_lightning.data.image_module import ImageModule, Stream
from ebm_lightning.data.images import Images, available, load_images
from ebm_lightning.data.loader import EvalLoader, JointStream, TrainStream
from ebm_lightning.data.pixels import (
    Dequantised,
    DynamicBinarisation,
    FixedBinarisation,
    Grey,
    PixelConvention,
    Threshold,
)
from ebm_lightning.data.sources import InMemory, Source, Streaming
from ebm_lightning.data.squares import Squares
from ebm_lightning.data.toy2d import Toy2D

__all__ = [
    "Augmentation",
    "Bars",
    "BarsAndStripes",
    "DataModule",
    "Dequantised",
    "Digits",
    "DynamicBinarisation",
    "EvalLoader",
    "FixedBinarisation",
    "Grey",
    "HorizontalFlip",
    "ImageModule",
    "Images",
    "InMemory",
    "JointStream",
    "PixelConvention",
    "ReflectPadCrop",
    "Source",
    "Split",
    "Squares",
    "Stream",
    "Streaming",
    "Subset",
    "Threshold",
    "Toy2D",
    "TrainStream",
    "available",
    "load_images",
]
