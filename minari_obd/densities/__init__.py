"""Densities: how common a state is in the data, and the tempered weights that favour the rare ones."""

from minari_obd.densities.base import Density, describe_density
from minari_obd.densities.flow import MaskedAutoregressiveFlow
from minari_obd.densities.mixture import GaussianMixture
from minari_obd.densities.neighbours import KNearestNeighbours
from minari_obd.densities.picture import draw_weights
from minari_obd.densities.weights import TemperedWeights, tempered_reciprocal

__all__ = [
    "Density",
    "GaussianMixture",
    "KNearestNeighbours",
    "MaskedAutoregressiveFlow",
    "TemperedWeights",
    "describe_density",
    "draw_weights",
    "tempered_reciprocal",
]
