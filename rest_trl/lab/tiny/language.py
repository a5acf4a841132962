"""The words of the synthetic tool world and the kinds of values that its tools take."""

import datetime
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


YEAR = 2026
# The names are spelt out, because `strftime` would follow the user's locale.
MONTHS = _words("January February March April May June July August September October November December")

CITIES = _words(
    "Paris Rome Berlin Madrid London Oslo Vienna Prague Lisbon Dublin Athens Warsaw Cairo Tokyo Boston Zurich"
)
PEOPLE = _words("Anna Ben Clara David Emma Felix Grace Henry Ivan Julia Karim Laura Marco Nina Omar Paula")
TEAMS = ("sales", "support", "finance", "design", "legal", "research")
TOPICS = ("budget", "holiday", "contract", "meeting", "invoice", "party", "report", "deadline")
LABELS = ("gym", "medicine", "breakfast", "school", "yoga", "flight")
DISHES = ("pizza", "soup", "salad", "pasta", "sushi", "curry", "tacos", "noodles")
CURRENCIES = {"euros": "EUR", "dollars": "USD", "pounds": "GBP", "yen": "JPY", "francs": "CHF", "crowns": "SEK"}
UNITS = ("celsius", "fahrenheit")
NUMBER_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


@dataclass(frozen=True)
class Kind:
    """A type of argument value."""

    schema: dict[str, Any]  # JSON schema of the value, as it stands in the tool's definition
    sample: Callable[[Random], tuple[str, Any]]  # draws a value: how a request says it, and its JSON value


def word_of(words: tuple[str, ...]) -> Kind:
    """The kind of strings that a request says literally."""
    return Kind({"type": "string"}, lambda rng: (word := rng.choice(words), word))


def one_of(spoken: dict[str, Any], schema: dict[str, Any]) -> Kind:
    """The kind of a fixed set of values, each with what a request says for it."""
    return Kind(schema, lambda rng: rng.choice(list(spoken.items())))


def flag(yes: str, no: str) -> Kind:
    """The kind of booleans, with how a request says true and false."""
    return one_of({yes: True, no: False}, {"type": "boolean"})


def _sample_date(rng: Random) -> tuple[str, str]:
    date = datetime.date(YEAR, 1, 1) + datetime.timedelta(days=rng.randrange(365))
    month = MONTHS[date.month - 1]
    return rng.choice((f"{date.day} {month}", f"{month} {date.day}")), date.isoformat()


def _sample_time(rng: Random) -> tuple[str, str]:
    hour, minute, afternoon = rng.randint(1, 11), rng.choice((0, 30)), rng.random() < 0.5
    spoken = f"{hour}:{minute}" if minute else f"{hour}"
    return f"{spoken} {'pm' if afternoon else 'am'}", f"{hour + 12 * afternoon:02d}:{minute:02d}"


def _sample_count(rng: Random) -> tuple[str, int]:
    count = rng.randint(2, 9)
    return rng.choice((str(count), NUMBER_WORDS[count])), count


def _sample_amount(rng: Random) -> tuple[str, int]:
    amount = 10 * rng.randint(2, 99)
    return str(amount), amount


def sample_identifier(rng: Random) -> tuple[str, int]:
    """An identifier of three digits: how a request says it, and its JSON value."""
    identifier = rng.randint(100, 999)
    return str(identifier), identifier


def _sample_dishes(rng: Random) -> tuple[str, list[dict[str, Any]]]:
    spoken, items = [], []
    for dish in rng.sample(DISHES, rng.choice((1, 2))):
        word, count = _sample_count(rng)
        spoken.append(f"{word} {dish}")
        items.append({"dish": dish, "count": count})
    return " and ".join(spoken), items


CITY = word_of(CITIES)
PERSON = word_of(PEOPLE)
DATE = Kind({"type": "string", "format": "date"}, _sample_date)
TIME = Kind({"type": "string", "format": "time"}, _sample_time)
COUNT = Kind({"type": "integer"}, _sample_count)
AMOUNT = Kind({"type": "integer"}, _sample_amount)
IDENTIFIER = Kind({"type": "integer"}, sample_identifier)
CURRENCY = one_of(CURRENCIES, {"type": "string", "enum": list(CURRENCIES.values())})
UNIT = one_of({unit: unit for unit in UNITS}, {"type": "string", "enum": list(UNITS)})
DISH_ITEM = {"type": "object", "properties": {"dish": {"type": "string"}, "count": {"type": "integer"}}}
ITEMS = Kind({"type": "array", "items": {**DISH_ITEM, "required": ["dish", "count"]}}, _sample_dishes)

SMALL_TALK = (
    ("tell me a joke about {topic}", "I know no good joke about that."),
    ("who wrote the book about {city}", "I do not know that book."),
    ("do you like {dish}", "I am a program and eat nothing."),
    ("what do you think of {person}", "I do not know this person."),
    ("how far is {city} from {city2}", "I can not tell the distance."),
)
NO_TOOL_ANSWERS = ("I have no tool for that.", "Sorry, none of my tools can do this.")
DONE_ANSWERS = ("Done.", "All is done.", "It is done, anything else?")

OPENINGS = ("", "please ", "hello, ", "hi there, ", "okay, ", "quick one: ")
CLOSINGS = ("", ".", ", please.", ", thanks.")
JOINTS = (" and ", " and also ", ", then ")

# Sentences of reasoning that say nothing about the call. Half of the gold reasonings consist only of them.
NOISE = (
    "Okay, let me think about it.",
    "The user asks me for something.",
    "This looks easy enough.",
    "I should read the request again.",
    "Let me look at the tools first.",
    "There are some words here to copy.",
)
