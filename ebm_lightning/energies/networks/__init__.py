"""Networks, independent of energies: tensors in, (B, outputs) out."""

from ebm_lightning.energies.networks.conv import ConvNet
from ebm_lightning.energies.networks.dit import DiT, DiTDenoiser
from ebm_lightning.energies.networks.igebm import IGEBMMnistNet, IGEBMNet
from ebm_lightning.energies.networks.mlp import MLP
from ebm_lightning.energies.networks.spectral import SpectralBound, SpectralNorm
from ebm_lightning.energies.networks.transformer import SIZES, Cache, CausalTransformer, Size, Trunk
from ebm_lightning.energies.networks.wide_resnet import WideResNet

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
