"""What a reward must offer to be credited part by part."""

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

from .segments import Segment


@runtime_checkable
class DecomposedReward(Protocol):
    """
    A reward function of TRL that also says where its parts are decided.

    A reward without this method counts as undecided to the end of the completion.
    """

    def __call__(self, *args: Any, **kwargs: Any) -> list[float | None]: ...

    def segments(self, *args: Any, **kwargs: Any) -> Sequence[Sequence[Segment]]:
        """
        Segments of completions.

        Args:
            args, kwargs:
                What TRL calls the reward function with, all by name, except `log_extra` and `log_metric`: `prompts`,
                `completions`, `completion_ids`, `trainer_state`, the columns of the data set, and `environments`, if
                there are any.

        Returns:
            `Sequence[Sequence[Segment]]` of length `B`: for each completion, in the order of its tokens; columns are
            positions in `completion_ids`. `decided` and `own` are parts of the reward that the function returns.
        """
