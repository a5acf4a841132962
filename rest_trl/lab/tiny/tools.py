"""The tools of the synthetic world and the requests that call for them."""

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any

from .language import (
    AMOUNT,
    CITY,
    COUNT,
    CURRENCY,
    DATE,
    IDENTIFIER,
    ITEMS,
    LABELS,
    PERSON,
    TEAMS,
    TIME,
    TOPICS,
    UNIT,
    Kind,
    flag,
    sample_identifier,
    word_of,
)


@dataclass(frozen=True)
class Tool:
    """A tool of the world."""

    description: str
    parameters: dict[str, Kind]  # all are required
    requests: tuple[str, ...]  # paraphrases, each with one `{slot}` per parameter
    result: Callable[[Random], dict[str, Any]] = lambda rng: {"ok": True}


TOOLS: dict[str, Tool] = {
    "get_weather": Tool(
        "Weather forecast for a city on a day.",
        {"city": CITY, "date": DATE, "unit": UNIT},
        (
            "what is the weather in {city} on {date} in {unit}",
            "give me the {unit} forecast for {city} on {date}",
            "on {date} how warm is {city} in {unit}",
        ),
    ),
    "find_train": Tool(
        "Find a train between two cities.",
        {"origin": CITY, "destination": CITY, "date": DATE},
        (
            "find a train from {origin} to {destination} on {date}",
            "I must be in {destination} on {date} by train from {origin}",
            "which trains leave {origin} for {destination} on {date}",
        ),
        lambda rng: {"train": sample_identifier(rng)[1]},
    ),
    "buy_ticket": Tool(
        "Buy tickets for a train.",
        {"train": IDENTIFIER, "seats": COUNT, "first_class": flag("first class", "second class")},
        (
            "buy {seats} {first_class} tickets for train {train}",
            "for train {train} I need {seats} seats in {first_class}",
            "get {first_class} tickets on train {train} for {seats} people",
        ),
    ),
    "book_room": Tool(
        "Book a hotel room.",
        {"city": CITY, "arrival": DATE, "nights": COUNT},
        (
            "book a room in {city} for {nights} nights from {arrival}",
            "I arrive in {city} on {arrival} and stay {nights} nights, book a hotel",
            "reserve {nights} nights in {city} starting {arrival}",
        ),
    ),
    "convert_money": Tool(
        "Convert an amount of money.",
        {"amount": AMOUNT, "source": CURRENCY, "target": CURRENCY},
        (
            "convert {amount} {source} to {target}",
            "how many {target} are {amount} {source}",
            "change {amount} {source} into {target}",
        ),
    ),
    "send_message": Tool(
        "Send a message to a person.",
        {"person": PERSON, "topic": word_of(TOPICS), "urgent": flag("an urgent", "a normal")},
        (
            "send {person} {urgent} message about the {topic}",
            "write {urgent} note on the {topic} to {person}",
            "tell {person} about the {topic} with {urgent} message",
        ),
    ),
    "order_food": Tool(
        "Order dishes.",
        {"items": ITEMS, "person": PERSON},
        (
            "order {items} for {person}",
            "{person} wants {items}, order it",
            "get {person} {items} for lunch",
        ),
    ),
    "set_alarm": Tool(
        "Set an alarm.",
        {"time": TIME, "label": word_of(LABELS), "daily": flag("every day", "once")},
        (
            "set an alarm for {label} at {time} {daily}",
            "wake me {daily} at {time} for {label}",
            "remind me of {label} {daily} at {time}",
        ),
    ),
    "find_person": Tool(
        "Look up a colleague's extension.",
        {"name": PERSON, "team": word_of(TEAMS)},
        (
            "find {name} from {team}",
            "look up {name} in the {team} team",
            "who is {name} in {team}",
        ),
        lambda rng: {"extension": sample_identifier(rng)[1]},
    ),
    "start_call": Tool(
        "Call an extension.",
        {"extension": IDENTIFIER, "video": flag("video", "voice")},
        (
            "start a {video} call with extension {extension}",
            "call extension {extension} by {video}",
            "dial {extension} for a {video} call",
        ),
    ),
}

# Two-step tasks: first tool, second tool, the parameter of the second that takes its value from the result of the
# first, and requests for the second, which have no slot for that parameter.
CHAINS: tuple[tuple[str, str, str, tuple[str, ...]], ...] = (
    (
        "find_train",
        "buy_ticket",
        "train",
        ("buy {seats} {first_class} tickets for it", "get {seats} seats in {first_class} on it"),
    ),
    (
        "find_person",
        "start_call",
        "extension",
        ("start a {video} call", "call them by {video}"),
    ),
)
