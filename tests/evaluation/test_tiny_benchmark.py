import pytest

from rest_trl.lab.evaluation.benchmark import Sample
from rest_trl.lab.evaluation.generation import Completion
from rest_trl.lab.evaluation.tiny_benchmark import TinyWorld


GOLD = '<tool_call>\n{"name": "f", "arguments": {"x": 1}}\n</tool_call>'


class TestTinyWorld:
    @pytest.mark.parametrize(
        ("text", "truncated", "why"),
        [
            (GOLD, False, None),
            (GOLD, True, None),
            ("No.", False, "calls [], gold ['f']"),
            ("No.", True, "truncated; calls [], gold ['f']"),
        ],
    )
    def test_a_wrong_completion_that_was_cut_off_is_named_so(self, text, truncated, why):
        sample = Sample("tiny_0", "one", "dialogue_0", "prompt", GOLD)
        score = TinyWorld([sample]).score(sample, Completion("tiny_0", [1], text, truncated))
        assert (score.why, score.scores) == (why, {"exact": float(why is None)})
