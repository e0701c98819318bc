"""DataModules: batches whose order and randomness are reproducible, also when a run continues."""

from ebm_lightning.data.base import DataModule, Loading, Split, Subset
from ebm_lightning.data.images.augmentations import Augmentation, HorizontalFlip, ReflectPadCrop
from ebm_lightning.data.images.base import DataStream, ImageModule
from ebm_lightning.data.images.denoising_pairs import DenoisingPairs
from ebm_lightning.data.images.digits import Digits
from ebm_lightning.data.images.hub import HubImages, HubSplit
from ebm_lightning.data.images.named import Images, available, load_images
from ebm_lightning.data.images.preprocessing import (
    Dequantized,
    DynamicBinarization,
    FixedBinarization,
    Gray,
    Preprocessing,
    Threshold,
)
from ebm_lightning.data.sources import InMemory, LazySource, Source
from ebm_lightning.data.streams import Batches, BlockShuffledBatches, EvalLoader, JointBatches, Shard, ShuffledBatches
from ebm_lightning.data.synthetic.bars import Bars, BarsAndStripes
from ebm_lightning.data.synthetic.squares import Squares
from ebm_lightning.data.synthetic.toy2d import Toy2D
from ebm_lightning.data.text.corpora import Corpus, HubText, TextFile
from ebm_lightning.data.text.streaming import TextStream
from ebm_lightning.data.text.tokenizers import Bytes, Characters, Tokenizer, TokenizerFile
from ebm_lightning.data.text.windows import Text, TextModule, Windows

__all__ = [
    "Augmentation",
    "Bars",
    "BarsAndStripes",
    "Batches",
    "BlockShuffledBatches",
    "Bytes",
    "Characters",
    "Corpus",
    "DataModule",
    "DataStream",
    "DenoisingPairs",
    "Dequantized",
    "Digits",
    "DynamicBinarization",
    "EvalLoader",
    "FixedBinarization",
    "Gray",
    "HorizontalFlip",
    "HubImages",
    "HubSplit",
    "HubText",
    "ImageModule",
    "Images",
    "InMemory",
    "JointBatches",
    "LazySource",
    "Loading",
    "Preprocessing",
    "ReflectPadCrop",
    "Shard",
    "ShuffledBatches",
    "Source",
    "Split",
    "Squares",
    "Subset",
    "Text",
    "TextFile",
    "TextModule",
    "TextStream",
    "Threshold",
    "Tokenizer",
    "TokenizerFile",
    "Toy2D",
    "Windows",
    "available",
    "load_images",
]
