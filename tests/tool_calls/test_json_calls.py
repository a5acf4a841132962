import json

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rest_trl.tool_calls.json_calls import (
    write_arguments_parts,
    write_call_parts,
    write_json_arguments,
    write_json_call,
)
from rest_trl.tool_calls.parsed import STRUCTURE, Draft


KEYS = ("arguments", "parameters")

# A busy machine is slow, which is no failure.
relaxed = settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.too_slow])

strings = st.text(max_size=6) | st.sampled_from(
    ["", "name", "arguments", '"', "\\", 'a": "b', "{", "}]", "é🌦", ",", ":"]
)
scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | strings
values = scalars | st.lists(scalars, max_size=2) | st.dictionaries(strings, scalars, max_size=2)
# The short way reads four plain parameters at once, so there are more than that.
arguments = st.dictionaries(strings, values, max_size=7)
layouts = st.fixed_dictionaries(
    {
        "indent": st.none() | st.just(1),
        "separators": st.none() | st.sampled_from([(",", ":"), (" , ", " : ")]),
        "ensure_ascii": st.booleans(),
    }
)


def parts_of(text, write):
    """What `write` makes of the object after a blank."""
    draft = Draft(" " + text)
    write(draft)
    assert draft.position == len(text) + 1
    return draft.parsed.parts


def tolerant_parts(text, write):
    """What the scanner for any text makes of it."""

    def write_all(draft):
        draft.write(1, STRUCTURE)
        write(draft)

    return parts_of(text, write_all)


class TestShortWay:
    @given(arguments=arguments, layout=layouts, name=strings, key=st.sampled_from([*KEYS, "args"]), more=st.booleans())
    @relaxed
    def test_gives_calls_the_parts_of_the_tolerant_scanner(self, arguments, layout, name, key, more):
        text = json.dumps({"name": name, key: arguments} | ({"id": [1]} if more else {}), **layout)
        assert parts_of(text, lambda draft: write_json_call(draft, 1, len(text) + 1, KEYS)) == tolerant_parts(
            text, lambda draft: write_call_parts(draft, len(text) + 1, KEYS)
        )

    @given(arguments=arguments, layout=layouts)
    @relaxed
    def test_gives_arguments_the_parts_of_the_tolerant_scanner(self, arguments, layout):
        text = json.dumps(arguments, **layout)

        def short(draft):
            draft.write(1, STRUCTURE)
            write_json_arguments(draft)

        assert parts_of(text, short) == tolerant_parts(text, lambda draft: write_arguments_parts(draft, len(text) + 1))
