"""BFCL by its official packages, each in an environment of its own."""

from .categories import AVERAGES, CATEGORIES, REFUSED, check_category, expand_categories
from .client import OfficialBFCL
from .environment import PACKAGES, cache_dir, environment_python, setup
from .samples import BFCLError, Calls, Case, Dialogue, Verdict


__all__ = [
    "AVERAGES",
    "CATEGORIES",
    "PACKAGES",
    "REFUSED",
    "BFCLError",
    "Calls",
    "Case",
    "Dialogue",
    "OfficialBFCL",
    "Verdict",
    "cache_dir",
    "check_category",
    "environment_python",
    "expand_categories",
    "setup",
]
