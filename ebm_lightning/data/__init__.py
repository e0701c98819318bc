"""DataModules: batches in an order and with a randomness that a resumed run repeats."""

from ebm_lightning.data.augment import Augmentation, HorizontalFlip, ReflectPadCrop
from ebm_lightning.data.bars import Bars, BarsAndStripes
from ebm_lightning.data.base import DataModule, Split, Subset
from ebm_lightning.data.corpora import Corpus, HubText, TextFile
from ebm_lightning.data.digits import Digits
from ebm_lightning.data.hub_images import HubImages, HubSplit
from ebm_lightning.data.image_module import ImageModule, Stream
from ebm_lightning.data.images import Images, available, load_images
from ebm_lightning.data.loader import Batches, BlockStream, EvalLoader, JointStream, TrainStream
from ebm_lightning.data.noised import Noised
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
from ebm_lightning.data.text import Text, TextModule, Windows
from ebm_lightning.data.text_stream import TextStream
from ebm_lightning.data.tokens import Bytes, Characters, Tokenizer, TokenizerFile
from ebm_lightning.data.toy2d import Toy2D

__all__ = [
    "Augmentation",
    "Bars",
    "BarsAndStripes",
    "Batches",
    "BlockStream",
    "Bytes",
    "Characters",
    "Corpus",
    "DataModule",
    "Dequantised",
    "Digits",
    "DynamicBinarisation",
    "EvalLoader",
    "FixedBinarisation",
    "Grey",
    "HorizontalFlip",
    "HubImages",
    "HubSplit",
    "HubText",
    "ImageModule",
    "Images",
    "InMemory",
    "JointStream",
    "Noised",
    "PixelConvention",
    "ReflectPadCrop",
    "Source",
    "Split",
    "Squares",
    "Stream",
    "Streaming",
    "Subset",
    "Text",
    "TextFile",
    "TextModule",
    "TextStream",
    "Threshold",
    "Tokenizer",
    "TokenizerFile",
    "Toy2D",
    "TrainStream",
    "Windows",
    "available",
    "load_images",
]
