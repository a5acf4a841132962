"""BFCL by its official packages, each in an environment of its own."""

from .categories import AVERAGES, CATEGORIES, REFUSED, check_category
from .client import OfficialBFCL
from .environment import PACKAGES, cache_dir, environment_python, setup
from .samples import Calls, Case, Dialogue, Verdict


__all__ = [
    "AVERAGES",
    "CATEGORIES",
    "PACKAGES",
    "REFUSED",
    "Calls",
    "Case",
    "Dialogue",
    "OfficialBFCL",
    "Verdict",
    "cache_dir",
    "check_category",
    "environment_python",
    "setup",
]
