"""Rows in the shape of public data sets, for the tests of several rooms."""

import json


TIDES = {
    "name": "Tide Table/v2",
    "description": "High and low water.",
    "parameters": {
        "type": "dict",
        "properties": {"harbour": {"type": "string"}, "days": {"type": "int", "description": "how many"}},
        "required": ["harbour"],
    },
    "required": None,
}
FERRIES = {"name": "ferries", "description": "Departures.", "parameters": {"type": "dict", "properties": {}}}


def toolace_row(*turns):
    system = (
        "You are the clerk of a harbour.\nYou should only return the function call in tools call sections.\n"
        f"Here is a list of functions in JSON format that you can invoke:\n{json.dumps([TIDES, FERRIES])}. \n"
        "Should you decide to return the function call(s). \n"
        "Put it in the format of [func1(params_name=params_value, params_name2=params_value2...), func2(params)]\n\n"
        "NO other text MUST be included. \nToday is a Monday."
    )
    return {
        "system": system,
        "conversations": [{"from": speaker, "value": value} for speaker, value in turns],
    }


TOOLACE = toolace_row(
    ("user", "Tides in Roscoff?"),
    ("assistant", '[Tide Table/v2(harbour="Roscoff, (old)", days=2), ferries()]'),
    ("tool", '[{"name": "Tide Table/v2", "results": [1, 2]}]'),
    ("assistant", "High water is at two."),
)
XLAM = {
    "id": 7,
    "query": "Depth at Brest and at Lorient?",
    "tools": json.dumps(
        [{"name": "depth", "description": "Depth.", "parameters": {"port": {"type": "str", "default": "Brest"}}}]
    ),
    "answers": json.dumps([{"name": "depth", "arguments": {"port": port}} for port in ("Brest", "Lorient")]),
}
OPENAI = {
    "messages": [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": "Depth at Brest?"},
        {"role": "assistant", "content": None, "function_call": {"name": "depth", "arguments": '{"port": "Brest"}'}},
        {"role": "function", "name": "depth", "content": "9"},
        {"role": "assistant", "content": "Nine metres.", "weight": 0},
        {"role": "user", "content": "And elsewhere?"},
        {"role": "assistant", "tool_calls": [{"id": "1", "function": {"name": "depth", "arguments": ""}}]},
    ],
    "functions": [{"name": "depth", "parameters": {"type": "object", "properties": {"port": {"type": "string"}}}}],
}


def query_row(number):
    name = f"depth_{number}"
    return {
        "query": f"How deep is the water at berth number {number} of our harbour?",
        "tools": [{"name": name, "description": "Depth.", "parameters": {"berth": {"type": "int"}}}],
        "answers": [{"name": name, "arguments": {"berth": number}}],
    }
