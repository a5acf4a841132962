import json
import re

import pytest

from rest_trl.data.mixture import TestQuestions, plain_words


def write(path, rows):
    path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    return str(path)


class TestTestQuestions:
    def questions(self, tmp_path, *texts):
        return TestQuestions([write(tmp_path / "tests.jsonl", [{"deep": [{"er": text}]} for text in texts])])

    def test_a_short_question_is_held_where_it_is_the_same_word_by_word(self, tmp_path):
        questions = self.questions(tmp_path, "Is it deep?")
        assert questions.hold(plain_words("is it DEEP"))
        assert not questions.hold(plain_words("is it very deep"))

    def test_a_long_question_is_held_where_eight_words_in_a_row_are_the_same(self, tmp_path):
        questions = self.questions(tmp_path, "Please tell me: is the water at berth seven deep enough for us?")
        assert questions.hold(plain_words("is the water at berth seven deep enough"))
        assert not questions.hold(plain_words("is the water at berth eight deep enough for us today"))

    def test_a_row_that_cannot_be_read_is_an_error_because_its_question_would_not_be_kept_out(self, tmp_path):
        path = tmp_path / "tests.jsonl"
        path.write_text('{"question": "Is it deep?"}\n\n{"question": "Is it', encoding="utf-8")
        with pytest.raises(ValueError, match=re.escape("tests.jsonl, row 1: line 3 is not valid JSON")) as error:
            TestQuestions([str(path)])
        assert "Correct the row" in str(error.value)
