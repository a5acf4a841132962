"""What the training program writes to the terminal beside its progress."""

import logging
import sys
import warnings

import datasets
import transformers
from accelerate import PartialState
from tqdm.auto import tqdm

from .kernels import hold_kernels_warning


hold_kernels_warning()  # with this module, so that a program can import it before PEFT


class _Formatter(logging.Formatter):
    """Level and message, with the rank where there are several."""

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        alone = text.startswith("[RANK 0] ") and PartialState().num_processes == 1  # accelerate writes it always
        text = text.removeprefix("[RANK 0] ") if alone else text
        return text if record.levelno <= logging.INFO else f"{record.levelname.lower()}: {text}"


class _Handler(logging.Handler):
    """Writes to stderr, above a progress bar instead of into it."""

    def emit(self, record: logging.LogRecord) -> None:
        tqdm.write(self.format(record), file=sys.stderr)


def configure_logging() -> None:
    """
    Let the program write its own messages to stderr, and no bars of loading and saving where there is no terminal.

    A handler that the root logger already has is kept, and takes the messages. A warning of Transformers that is for
    TRL, and not for its users, is left out.
    """
    logging.getLogger("rest_trl").setLevel(logging.INFO)
    if not logging.getLogger().handlers:
        handler = _Handler()
        handler.setFormatter(_Formatter())
        logging.getLogger().addHandler(handler)
    # TRL 1.16 sets the name that later releases of Transformers gave up, whatever the recipe says.
    warnings.filterwarnings("ignore", "`(is_)?gradient_checkpointing` is deprecated", FutureWarning)
    if not sys.stderr.isatty():
        transformers.utils.logging.disable_progress_bar()
        datasets.disable_progress_bars()
