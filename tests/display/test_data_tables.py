from io import StringIO

import pytest
from rich.console import Console

from rest_trl.data.examples import Example
from rest_trl.data.mixture import PartReport
from rest_trl.lab.display.data_tables import histogram, show_examples, show_mixture


def shown(*items):
    output = StringIO()
    console = Console(width=200, file=output)
    for item in items:
        console.print(item)
    return output.getvalue()


class TestShown:
    def test_names_of_files_that_look_like_markup_are_shown_as_they_are(self, tokenizer):
        example = Example("[/p]", "[/s]", "my[/x].jsonl", 0, None)
        text = shown(*show_examples([example], tokenizer, "hermes"), show_mixture([PartReport("a[/b]", "c", 1, [])]))
        for part in ("[/p]", "[/s]", "my[/x].jsonl, step 0", "a[/b]"):
            assert part in text


class TestHistogram:
    @pytest.mark.parametrize(
        ("lengths", "middle", "high", "longest"),
        [
            ([25, 63], "44", "63", "63"),
            ([7], "7", "7", "7"),
            ([1, 2, 4, 8], "3", "8", "8"),
            (list(range(1, 101)), "50.5", "95", "100"),
            (list(range(1, 1_002)), "501", "951", "1,001"),
        ],
    )
    def test_names_the_median_and_a_length_that_95_percent_do_not_exceed(self, lengths, middle, high, longest):
        first = histogram("Tokens", lengths, None).plain.splitlines()[0]
        assert first == f"Tokens: median {middle}, 95% {high}, longest {longest}"
        assert sum(length <= int(high) for length in lengths) >= 0.95 * len(lengths)
