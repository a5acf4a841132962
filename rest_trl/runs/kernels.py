"""
Keeps back a warning of bitsandbytes that does not concern most runs. This module imports nothing that is slow.

When it is imported, bitsandbytes warns that its CPU kernel for 4-bit weights is missing. PEFT imports it in every run,
even in one without such weights, and before the arguments are read.
"""

import logging


_LOGGER = logging.getLogger("bitsandbytes.backends.cpu.ops")


class _Hold(logging.Filter):
    """Keeps records back until it is known whether they matter."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def filter(self, record: logging.LogRecord) -> bool:
        self.records.append(record)
        return False


_hold = _Hold()


def hold_kernels_warning() -> None:
    """Keep the warning back. A program calls this before anything imports PEFT."""
    _LOGGER.addFilter(_hold)


def release_kernels_warning(is_quantized: bool) -> None:
    """Emit what [`hold_kernels_warning`] has kept back if the run has 4-bit weights, and drop it otherwise."""
    _LOGGER.removeFilter(_hold)
    if is_quantized:
        for record in _hold.records:
            _LOGGER.handle(record)
    _hold.records.clear()
