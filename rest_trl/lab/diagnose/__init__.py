"""
Where the gradient's noise comes from: covariance, signal and signal-to-noise by region and rule, and the paper's
theory measured on a policy.
"""

from .callback import DiagnoseCallback
from .measure import Diagnosis, Settings, diagnose
from .moments import Moments, Tables, measures, moments, tables, tables_without_each
from .rules import GRPO, Rule


__all__ = [
    "GRPO",
    "DiagnoseCallback",
    "Diagnosis",
    "Moments",
    "Rule",
    "Settings",
    "Tables",
    "diagnose",
    "measures",
    "moments",
    "tables",
    "tables_without_each",
]
