"""From sampled ids to regions, and from regions to coefficients: the heart of the library."""

from ..tool_calls import Part, Region
from .coefficients import (
    curriculum_weights,
    entropy_coefficients,
    region_weights,
    released_coefficients,
    uniform_coefficients,
)
from .normalization import normalize, normalize_turns
from .partition import Partitioner, Reading, Turn, partition, to_regions
from .rules import PRESETS, CoefficientsFunc, get_coefficients_func
from .statistics import RegionMetrics, RegionStatistics, region_sums


__all__ = [
    "PRESETS",
    "CoefficientsFunc",
    "Part",
    "Partitioner",
    "Reading",
    "Region",
    "RegionMetrics",
    "RegionStatistics",
    "Turn",
    "curriculum_weights",
    "entropy_coefficients",
    "get_coefficients_func",
    "normalize",
    "normalize_turns",
    "partition",
    "region_sums",
    "region_weights",
    "released_coefficients",
    "to_regions",
    "uniform_coefficients",
]
