"""The help desk: tickets and messages with seven tools, as an environment for TRL's loop of tool calls."""

import json
from collections import Counter
from typing import Any

from ..language import PEOPLE, TEAMS
from .desk_tasks import Task


class OutcomeHelpDesk:
    """
    A help desk whose reward tells whether all changes that the task asks for, and no others, were made.

    All public methods but `reset` and `get_reward` are tools. A call that cannot be carried out raises, which TRL's
    loop shows to the policy as the result, and changes nothing.
    """

    def reset(self, task: str, **kwargs: Any) -> None:
        """
        Start a task.

        Args:
            task (`str`):
                A [`~rest_trl.lab.tiny.agents.desk_tasks.Task`] as text.
            kwargs:
                Other columns of the row.
        """
        self._task = Task(**json.loads(task))
        self._tickets = {ticket["number"]: dict(ticket) for ticket in self._task.tickets}
        self._messages: Counter[tuple[str, str]] = Counter()
        self._shown: set[tuple[str, Any]] = set()

    def assign_ticket(self, ticket: int, person: str) -> str:
        """
        Give a ticket to a person, who owns it from then on.

        Args:
            ticket: Number of the ticket.
            person: First name of the person.
        """
        self._ticket(ticket)["owner"] = self._known(person, PEOPLE, "person")
        return "ok"

    def close_ticket(self, ticket: int) -> str:
        """
        Close an open ticket.

        Args:
            ticket: Number of the ticket.
        """
        return self._set_status(ticket, "closed")

    def find_ticket(self, topic: str) -> int:
        """
        Find the ticket about a topic.

        Args:
            topic: What the ticket is about.

        Returns:
            Its number.
        """
        for number, ticket in self._tickets.items():
            if ticket["subject"] == topic:
                self._shown.add(("find_ticket", topic))
                return number
        raise ValueError("no such ticket")

    def get_lead(self, team: str) -> str:
        """
        Look up who leads a team.

        Args:
            team: Name of the team.

        Returns:
            First name of the lead.
        """
        lead = self._task.leads[self._known(team, TEAMS, "team")]
        self._shown.add(("get_lead", team))
        return lead

    def get_owner(self, ticket: int) -> str:
        """
        Look up who owns a ticket.

        Args:
            ticket: Number of the ticket.

        Returns:
            First name of the owner.
        """
        owner: str = self._ticket(ticket)["owner"]
        self._shown.add(("get_owner", ticket))
        return owner

    def reopen_ticket(self, ticket: int) -> str:
        """
        Open a closed ticket again.

        Args:
            ticket: Number of the ticket.
        """
        return self._set_status(ticket, "open")

    def send_message(self, person: str, topic: str) -> str:
        """
        Send a message to a person. It cannot be taken back.

        Args:
            person: First name of the person.
            topic: What the message is about.
        """
        if not isinstance(topic, str):
            raise ValueError("topic must be a string")
        self._messages[self._known(person, PEOPLE, "person"), topic] += 1
        return "ok"

    def get_reward(self) -> float:
        """
        Whether the task is done.

        Returns:
            `float`: 1.0 if all that is asked for is done, and nothing else is changed, otherwise 0.0.
        """
        done, harm = self._done_and_harm()
        return float(all(done) and not harm)

    def _ticket(self, number: Any) -> dict[str, Any]:
        if type(number) is not int or number not in self._tickets:
            raise ValueError("no such ticket")
        return self._tickets[number]

    def _known(self, name: Any, names: tuple[str, ...], what: str) -> str:
        if name not in names:
            raise ValueError(f"no such {what}")
        return str(name)

    def _set_status(self, number: int, status: str) -> str:
        ticket = self._ticket(number)
        if ticket["status"] == status:
            raise ValueError(f"already {status}")
        ticket["status"] = status
        return "ok"

    def _done_and_harm(self) -> tuple[list[bool], int]:
        """Whether each change that is asked for is done, and the number of other differences from the start."""
        changes, done, harm = self._task.changes, [], 0
        for start in self._task.tickets:
            for slot in ("status", "owner"):
                is_asked = start["number"] == changes["number"] and slot in changes
                value = self._tickets[start["number"]][slot]
                if is_asked:
                    done.append(value == changes[slot])
                harm += value != start[slot] and not (is_asked and done[-1])
        asked = tuple(changes.get("message", ()))
        if asked:
            done.append(self._messages[asked] > 0)
        harm += self._messages.total() - (1 if asked and done[-1] else 0)
        return done, harm

    def _potential(self) -> float:
        """
        How far the task has come, in [-1, 1]: 0 at its start, and 1 exactly when it is done.

        It is the share of the changes and lookups that are done, and each harm takes away as much as one of them adds.
        It depends on the state alone, which includes what has been looked up, so going in a circle earns nothing.
        """
        done, harm = self._done_and_harm()
        if all(done) and not harm:
            return 1.0  # even if a right guess made a lookup unnecessary
        shown = sum(tuple(lookup) in self._shown for lookup in self._task.lookups)
        return max(-1.0, (sum(done) + shown - harm) / (len(done) + len(self._task.lookups)))


class HelpDesk(OutcomeHelpDesk):
    """
    A help desk that rewards, besides the outcome, each call for the progress that it makes.

    A call earns the change of a potential. Looking something up again thus earns nothing, and undoing a change costs
    what the change earned. The rewards of all calls of a dialogue add up to 1 if the task is done.
    """

    def turn_rewards(self) -> list[float]:
        """
        What the calls have earned so far, see [`~rest_trl.credit.environments.EnvironmentTurns`].

        Returns:
            `list[float]`: one number, their sum.
        """
        return [self._potential()]
