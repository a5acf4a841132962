from io import StringIO

from rich.console import Console

from rest_trl.data.examples import Example
from rest_trl.data.mixture import PartReport
from rest_trl.lab.display.dataset import show_examples, show_mixture


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
