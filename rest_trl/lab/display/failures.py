"""Keeps failures in writing cards, pictures and tables from ending the training beside which they are written."""

from collections.abc import Iterator
from contextlib import contextmanager

from accelerate.logging import get_logger


logger = get_logger(__name__)


@contextmanager
def warned_if_failing(what: str) -> Iterator[None]:
    """
    Context manager, and decorator, for what is written beside a training: a failure is logged and passed over.

    The trainer writes the model card before the checkpoint, so an exception in a card would cost the checkpoint.

    Args:
        what (`str`):
            What is missing if the block fails.
    """
    try:
        yield
    except Exception as error:
        cause = " ".join(f"{type(error).__name__}: {error}".split())
        logger.warning(f"{what} was not written, and the run goes on without it: {cause}")
