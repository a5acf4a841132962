"""What a user may have meant by a name that nothing has."""

import argparse
import re
from collections.abc import Iterable
from difflib import get_close_matches
from typing import NoReturn


_LEAST_LIKE = 0.7  # ratio of difflib; words that share less are mostly others


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """
    A hint for the message of an error; empty where no known name is like this one.

    ```python
    >>> did_you_mean("Regoin", ["completion", "region"])
    'do you mean region? '

    ```
    """
    lowered = {str(one).lower(): str(one) for one in known}
    near = get_close_matches(str(name).lower(), lowered, n=1, cutoff=_LEAST_LIKE)
    return f"do you mean {lowered[near[0]]}? " if near else ""


class HintingParser(argparse.ArgumentParser):
    """A parser whose errors name the choice or the option that was meant."""

    def error(self, message: str) -> NoReturn:
        """See `argparse.ArgumentParser`."""
        hint = ""
        if choice := re.search(r"invalid choice: '(.*?)' \(choose from (.*)\)", message):
            hint = did_you_mean(choice[1], re.findall(r"[^\s',]+", choice[2]))
        elif option := re.search(r"unrecognized arguments: (--[\w-]+)", message):
            hint = did_you_mean(option[1], re.findall(r"--[\w-]+", self.format_help()))
        super().error(f"{message}: {hint}".strip() if hint else message)
