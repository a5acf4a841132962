"""
Tasks of the help desk: a state, a request, what it asks to be changed, and a plan that does so.

    request  close the ticket about the printer and tell its owner about the budget
    plan     find_ticket(topic="printer")                   3
             close_ticket(ticket=3), get_owner(ticket=3)    ok, Anna
             send_message(person="Anna", topic="budget")    ok
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from random import Random
from typing import Any

from ..language import PEOPLE, TEAMS, TOPICS
from ..world import Call, Split, distinct


SUBJECTS = ("printer", "login", "website", "backup", "payroll", "keyboard", "network", "monitor", "email", "scanner")
OPENINGS = ("", "please ", "hello, ", "okay, ")
NUMBERS = range(1, 10)
STATUSES = ("open", "open", "closed", "closed")
LOOKUPS = ("find_ticket", "get_lead", "get_owner")


@dataclass(frozen=True)
class Task:
    """A task; its JSON text stands in a column of a data set, and `Task(**json.loads(text))` reads it."""

    kind: str  # one of `KINDS`
    request: str  # what the user asks for
    tickets: list[dict[str, Any]]  # at the start: `number`, `subject`, `owner` and `status`, "open" or "closed"
    leads: dict[str, str]  # of the teams
    # What the request asks for: a new `status` or `owner` of the ticket `number`, and a `message`: person and topic.
    changes: dict[str, Any]
    lookups: list[list[Any]]  # what must be looked up for that: name of the tool and its argument
    plan: list[list[Call]]  # calls that do what is asked for, turn by turn

    def to_json(self) -> str:
        return json.dumps(vars(self))


@dataclass(frozen=True)
class Kind:
    """A kind of task."""

    requests: tuple[str, ...]  # with slots `verb`, `number`, `subject`, `person`, `team` and `topic`
    finds: bool = False  # the request names a ticket by its subject, and not by its number
    status: bool = False  # it asks for another status
    assigns: bool = False  # it asks for another owner
    messages: bool = False  # it asks for a message to the owner
    lead: bool = False  # the new owner is named as the lead of a team


KINDS = {
    # One call.
    "status": Kind(("{verb} ticket {number}", "ticket {number}: {verb} it"), status=True),
    "assign": Kind(("give ticket {number} to {person}", "{person} takes ticket {number}"), assigns=True),
    # Two calls, of which the second needs what the first one shows.
    "find_status": Kind(
        ("{verb} the ticket about the {subject}", "the {subject} ticket: {verb} it"), finds=True, status=True
    ),
    "assign_lead": Kind(
        ("give ticket {number} to the lead of {team}", "the lead of {team} takes ticket {number}"),
        assigns=True,
        lead=True,
    ),
    "message": Kind(
        ("tell the owner of ticket {number} about the {topic}", "ticket {number}: ask its owner about the {topic}"),
        messages=True,
    ),
    # Three calls.
    "find_message": Kind(
        (
            "tell the owner of the ticket about the {subject} about the {topic}",
            "the {subject} ticket: ask its owner about the {topic}",
        ),
        finds=True,
        messages=True,
    ),
    "status_message": Kind(
        (
            "{verb} ticket {number} and tell its owner about the {topic}",
            "ticket {number}: {verb} it and ask its owner about the {topic}",
        ),
        status=True,
        messages=True,
    ),
    # Four calls.
    "find_status_message": Kind(
        (
            "{verb} the ticket about the {subject} and tell its owner about the {topic}",
            "the {subject} ticket: {verb} it and ask its owner about the {topic}",
        ),
        finds=True,
        status=True,
        messages=True,
    ),
}
# Shares of the kinds in percent, in the order above.
_WEIGHTS = (10, 10, 15, 15, 15, 15, 10, 10)


def _call(name: str, **arguments: Any) -> Call:
    return {"name": name, "arguments": arguments}


def sample_task(rng: Random) -> Task:
    """Draw a task."""
    (name,) = rng.choices(list(KINDS), weights=_WEIGHTS)
    kind = KINDS[name]
    # Two tickets of each status and four owners: whatever is done to all tickets alike does harm to one of them.
    drawn = rng.sample(NUMBERS, 4), rng.sample(SUBJECTS, 4), rng.sample(PEOPLE, 4), rng.sample(STATUSES, 4)
    keys = ("number", "subject", "owner", "status")
    tickets = [dict(zip(keys, values, strict=True)) for values in zip(*drawn, strict=True)]
    leads = {team: rng.choice(PEOPLE) for team in TEAMS}
    ticket, team, topic = rng.choice(tickets), rng.choice(TEAMS), rng.choice(TOPICS)
    person = leads[team] = rng.choice([person for person in PEOPLE if person != ticket["owner"]])
    number, verb = ticket["number"], "close" if ticket["status"] == "open" else "reopen"

    changes: dict[str, Any] = {"number": number}
    first: list[Call] = [_call("find_ticket", topic=ticket["subject"])] if kind.finds else []
    second: list[Call] = []
    third: list[Call] = []
    if kind.status:
        changes["status"] = {"close": "closed", "reopen": "open"}[verb]
        second.append(_call(f"{verb}_ticket", ticket=number))
    if kind.lead:
        first.append(_call("get_lead", team=team))
    if kind.assigns:
        changes["owner"] = person
        second.append(_call("assign_ticket", ticket=number, person=person))
    if kind.messages:
        changes["message"] = [ticket["owner"], topic]
        second.append(_call("get_owner", ticket=number))
        third.append(_call("send_message", person=ticket["owner"], topic=topic))
    plan = [turn for turn in (first, second, third) if turn]
    lookups = [
        [call["name"], *call["arguments"].values()] for turn in plan for call in turn if call["name"] in LOOKUPS
    ]
    request = rng.choice(kind.requests).format(
        verb=verb, number=number, subject=ticket["subject"], person=person, team=team, topic=topic
    )
    return Task(name, rng.choice(OPENINGS) + request, tickets, leads, changes, lookups, plan)


def generate_tasks(split: Split, seed: int = 0) -> Iterator[Task]:
    """
    Distinct tasks of a split without end.

    Args:
        split (`str`):
            `"train"` or `"test"`. No request of one split occurs in the other, whatever the seeds.
        seed (`int`, *optional*, defaults to `0`):
            The same seed gives the same stream.

    Raises:
        ValueError: if there is no such split.
    """
    return distinct(split, seed, lambda rng: [sample_task(rng)], lambda task: task.request, Task.to_json)
