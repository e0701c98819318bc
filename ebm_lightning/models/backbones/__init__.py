"""Networks that know nothing of energies: tensors in, (B, outputs) out."""

from ebm_lightning.models.backbones.conv import ConvNet
from ebm_lightning.models.backbones.dit import DiT, DiTDenoiser
from ebm_lightning.models.backbones.igebm import IGEBMMnistNet, IGEBMNet
from ebm_lightning.models.backbones.mlp import MLP
from ebm_lightning.models.backbones.spectral import SpectralBound, SpectralNorm
from ebm_lightning.models.backbones.transformer import SIZES, Cache, CausalTransformer, Size, Trunk
from ebm_lightning.models.backbones.wide_resnet import WideResNet

__all__ = [
    "MLP",
    "SIZES",
    "Cache",
    "CausalTransformer",
    "ConvNet",
    "DiT",
    "DiTDenoiser",
    "IGEBMMnistNet",
    "IGEBMNet",
    "Size",
    "SpectralBound",
    "SpectralNorm",
    "Trunk",
    "WideResNet",
]
