"""What `hermes` and `rlla` have in common: JSON calls between `<tool_call>` tags."""


def call(name, arguments, key, end="}"):
    return [('{"name": "', "F"), (name, "N"), (f'", "{key}": ', "F"), (arguments, "P"), (end, "F")]


def think(text="I need the weather in Oslo."):
    return [("<think>", "F"), (text, "R"), ("</think>\n", "F")]


NESTED = '{"stops": [{"name": "Oslo"}, {"name": "Bergen", "days": 2}], "options": {"rail": true, "budget": null}}'

NESTED_VALUE = {
    "stops": [{"name": "Oslo"}, {"name": "Bergen", "days": 2}],
    "options": {"rail": True, "budget": None},
}

UNICODE = r'{"to": "Zoë", "text": "東京 🌦 \"hi\" \u00fc\n}]"}'

UNICODE_VALUE = {"to": "Zoë", "text": '東京 🌦 "hi" ü\n}]'}

QUOTE = 'I write <tool_call>{"name": "x"}</tool_call> next.'
