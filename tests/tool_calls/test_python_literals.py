import pytest

from rest_trl.tool_calls import get_syntax


TEXTS = {"pythonic": "[f(a={})]", "lfm2": "<|tool_call_start|>[f(a={})]<|tool_call_end|>"}
both_syntaxes = pytest.mark.parametrize("name", sorted(TEXTS))


class TestNeverRaises:
    @pytest.mark.parametrize("escape", [r"\UFFFFFFFF", r"\U80000000", r"\U00110000"])
    @both_syntaxes
    def test_an_escape_above_the_last_character_is_an_error(self, name, escape):
        parsed = get_syntax(name).parse(TEXTS[name].format(f'"{escape}"'))
        assert (parsed.calls, len(parsed.errors)) == ([], 1)
        assert "is not a character" in parsed.errors[0]
        with pytest.raises(ValueError, match="is not a character"):
            get_syntax(name).read_value(f"'{escape}'")

    @both_syntaxes
    def test_the_last_character_and_half_a_pair_are_characters(self, name):
        parsed = get_syntax(name).parse(TEXTS[name].format(r'"\U0010FFFF\ud800"'))
        assert parsed.calls[0].arguments == {"a": "\U0010ffff\ud800"}

    @pytest.mark.parametrize("number", ["9" * 5000, "0x" + "f" * 5000, "0b" + "1" * 20_000, "0o" + "7" * 6000])
    @pytest.mark.parametrize("value", ["{}", "-{}", "[{}]", "{{{}: 1}}"])
    @both_syntaxes
    def test_an_integer_too_long_to_be_written_is_an_error_in_any_base(self, name, value, number):
        # Python would hold it, but what shows it or writes it as JSON would fail.
        parsed = get_syntax(name).parse(TEXTS[name].format(value.format(number)))
        assert (parsed.calls, len(parsed.errors)) == ([], 1)
        with pytest.raises(ValueError, match="limit"):
            get_syntax(name).read_value(value.format(number))
