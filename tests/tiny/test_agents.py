"""The help desk: what its API does, what pays, and what its tasks are."""

import json
import re
from itertools import islice
from pathlib import Path
from random import Random

import pytest
import yaml
from transformers import AutoTokenizer

from rest_trl.lab.evaluation.agents_benchmark import tools_of
from rest_trl.lab.tiny import TINY_AGENTS, TINY_MODELS, load_tiny_dataset
from rest_trl.lab.tiny.agents import HelpDesk, OutcomeHelpDesk, generate_tasks, load_tasks
from rest_trl.lab.tiny.agents.desk_tasks import KINDS, LOOKUPS
from rest_trl.lab.tiny.agents.dialogues import TOOLS, faulty_call, play, play_with_faults, tool_definitions
from rest_trl.lab.tiny.language import PEOPLE, TEAMS, TOPICS
from rest_trl.lab.tiny.tokenization import render_prompt
from rest_trl.lab.tiny.world import split_of_request


TASKS = list(islice(generate_tasks("train"), 150))
ANY_TASK = next(task for task in TASKS if task.kind == "find_status_message")


def start(task, factory=HelpDesk):
    desk = factory()
    desk.reset(task.to_json())
    return desk


def total(desk):
    return sum(desk.turn_rewards())


def carry_out(desk, name, **arguments):
    """A call as TRL's loop makes it: what it raises is its result."""
    try:
        return tools_of(desk)[name](**arguments)
    except ValueError as error:
        return str(error)


def follow(desk, calls):
    """What each of the calls earned."""
    earned, before = [], total(desk)
    for call in calls:
        carry_out(desk, call["name"], **call["arguments"])
        earned.append(total(desk) - before)
        before = total(desk)
    return earned


def plan_of(task):
    return [call for turn in task.plan for call in turn]


def any_call(task, rng):
    numbers = [*(ticket["number"] for ticket in task.tickets), 55]
    name = rng.choice(TOOLS)
    arguments = {
        "ticket": rng.choice(numbers),
        "person": rng.choice((*PEOPLE, "Zoe")),
        "topic": rng.choice((*TOPICS, *(ticket["subject"] for ticket in task.tickets))),
        "team": rng.choice((*TEAMS, "kitchen")),
    }
    (definition,) = (tool["function"] for tool in tool_definitions() if tool["function"]["name"] == name)
    return {"name": name, "arguments": {key: arguments[key] for key in definition["parameters"]["properties"]}}


class TestPlan:
    def test_succeeds_and_every_call_of_it_earns_the_same(self):
        for task in TASKS:
            desk, calls = start(task), plan_of(task)
            assert desk.get_reward() == 0 and total(desk) == 0
            assert follow(desk, calls) == pytest.approx([1 / len(calls)] * len(calls))
            assert desk.get_reward() == 1 and total(desk) == 1

    def test_without_one_of_its_changes_fails(self):
        for task in TASKS:
            calls = plan_of(task)
            for left_out, call in enumerate(calls):
                desk = start(task)
                follow(desk, [other for place, other in enumerate(calls) if place != left_out])
                # A change that was guessed rightly needs no lookup.
                assert desk.get_reward() == (call["name"] in LOOKUPS)

    def test_needs_one_to_four_calls(self):
        assert {len(plan_of(task)) for task in TASKS} == {1, 2, 3, 4}
        assert {task.kind for task in TASKS} == set(KINDS)

    def test_makes_later_calls_with_what_earlier_ones_show(self):
        needing = 0
        for task in TASKS:
            desk, shown = start(task), []
            request = re.findall(r"\w+", task.request)
            for turn in task.plan:
                for call in turn:
                    for value in call["arguments"].values():
                        assert str(value) in request or value in shown
                        needing += str(value) not in request
                shown += [carry_out(desk, call["name"], **call["arguments"]) for call in turn]
        assert needing > 100


class TestReward:
    def test_is_one_exactly_where_the_potential_is(self):
        rng = Random(0)
        for task in TASKS:
            desk = start(task)
            calls = plan_of(task) + [any_call(task, rng) for _ in range(rng.randrange(3))]
            follow(desk, rng.sample(calls, len(calls)))
            assert desk.get_reward() == (total(desk) == 1)
            assert -1 <= total(desk) <= 1

    @pytest.mark.parametrize("repeat", [2, 5])
    def test_pays_a_step_once_however_often_it_is_made(self, repeat):
        for task in TASKS:
            calls = [call for call in plan_of(task) for _ in range(repeat) if call["name"] != "send_message"]
            desk = start(task)
            earned = follow(desk, calls)
            assert sum(earned) == pytest.approx(len(calls) / repeat / len(plan_of(task)))
            assert sum(1 for reward in earned if reward) == len(calls) / repeat

    def test_charges_what_undoes_as_much_as_was_paid(self):
        undo = {"close_ticket": "reopen_ticket", "reopen_ticket": "close_ticket"}
        for task in TASKS:
            for call in plan_of(task):
                if call["name"] in undo:
                    back = {"name": undo[call["name"]], "arguments": call["arguments"]}
                    desk = start(task)
                    forth, charged, again = follow(desk, [call, back, call])
                    assert forth == -charged == again > 0

    def test_of_a_circle_is_nothing(self):
        # Whatever is done in between: back at the same state, all rewards since then add up to nothing.
        ticket = ANY_TASK.tickets[0]["number"]
        desk = start(ANY_TASK)
        carry_out(desk, "get_owner", ticket=ticket)
        before = total(desk)
        owner = ANY_TASK.tickets[0]["owner"]
        for person in (*PEOPLE, owner):
            carry_out(desk, "assign_ticket", ticket=ticket, person=person)
        assert total(desk) == before

    def test_of_junk_and_no_ops_is_nothing(self):
        for task in TASKS:
            desk, owner = start(task), task.tickets[0]["owner"]
            number, is_open = task.tickets[0]["number"], task.tickets[0]["status"] == "open"
            assert carry_out(desk, "close_ticket", ticket=55) == "no such ticket"
            assert carry_out(desk, "close_ticket", ticket=str(number)) == "no such ticket"
            assert carry_out(desk, "get_owner", ticket=[number]) == "no such ticket"
            assert carry_out(desk, "assign_ticket", ticket=number, person="Zoe") == "no such person"
            assert carry_out(desk, "send_message", person=["Anna"], topic="budget") == "no such person"
            assert carry_out(desk, "send_message", person="Anna", topic=["budget"]) == "topic must be a string"
            assert carry_out(desk, "get_lead", team="kitchen") == "no such team"
            assert carry_out(desk, "find_ticket", topic={}) == "no such ticket"
            assert carry_out(desk, "reopen_ticket" if is_open else "close_ticket", ticket=number).startswith("already")
            assert carry_out(desk, "assign_ticket", ticket=number, person=owner) == "ok"
            assert total(desk) == 0 and desk.get_reward() == 0

    def test_of_sprayed_calls_is_no_success(self):
        for task in TASKS:
            numbers = [ticket["number"] for ticket in task.tickets]
            for spray in (
                [("close_ticket", {"ticket": number}) for number in numbers]
                + [("reopen_ticket", {"ticket": number}) for number in numbers],
                [("assign_ticket", {"ticket": number, "person": person}) for number in numbers for person in PEOPLE],
                [("send_message", {"person": person, "topic": topic}) for person in PEOPLE for topic in TOPICS],
            ):
                desk = start(task)
                follow(desk, [{"name": name, "arguments": arguments} for name, arguments in spray])
                assert desk.get_reward() == 0 and total(desk) <= 0

    def test_of_lookups_alone_is_no_success(self):
        for task in TASKS:
            desk = start(task)
            follow(desk, [call for call in plan_of(task) if call["name"] in LOOKUPS])
            assert desk.get_reward() == 0 and total(desk) == len(task.lookups) / len(plan_of(task))

    def test_of_a_message_to_the_wrong_person_cannot_be_mended(self):
        desk = start(ANY_TASK)
        right, topic = ANY_TASK.changes["message"]
        wrong = next(person for person in PEOPLE if person != right)
        follow(desk, [{"name": "send_message", "arguments": {"person": wrong, "topic": topic}}, *plan_of(ANY_TASK)])
        assert desk.get_reward() == 0 and total(desk) == 3 / 4


class TestHelpDesk:
    def test_offers_seven_documented_tools_of_known_types(self):
        assert tuple(tools_of(HelpDesk())) == tuple(tools_of(OutcomeHelpDesk())) == TOOLS
        for tool in tool_definitions():
            function = tool["function"]
            assert function["description"]
            assert function["parameters"]["required"] == list(function["parameters"]["properties"])
            assert {schema["type"] for schema in function["parameters"]["properties"].values()} <= {
                "integer",
                "string",
            }

    def test_starts_anew_with_every_task(self):
        desk = start(TASKS[0])
        follow(desk, plan_of(TASKS[0]))
        desk.reset(TASKS[1].to_json(), prompt="ignored")
        assert total(desk) == 0
        follow(desk, plan_of(TASKS[1]))
        assert desk.get_reward() == 1


class TestTasks:
    def test_come_again_with_the_same_seed(self):
        assert list(islice(generate_tasks("train", 3), 50)) == list(islice(generate_tasks("train", 3), 50))
        assert list(islice(generate_tasks("train", 3), 50)) != list(islice(generate_tasks("train", 4), 50))

    def test_of_the_splits_share_no_request(self):
        requests = {
            split: {task.request for seed in range(3) for task in islice(generate_tasks(split, seed), 300)}
            for split in ("train", "test")
        }
        assert not requests["train"] & requests["test"]
        assert {split_of_request(request) for request in requests["test"]} == {"test"}
        with pytest.raises(ValueError, match="use 'train' or 'test'"):
            next(generate_tasks("validation"))

    def test_are_rows_with_what_reset_reads(self):
        dataset = load_tasks("test", 20)
        assert dataset.column_names == ["prompt", "task"] and len(dataset) == 20
        for row in dataset:
            desk = OutcomeHelpDesk()
            desk.reset(**row)
            assert row["prompt"] == [{"role": "user", "content": json.loads(row["task"])["request"]}]
        assert dataset[:5] == load_tasks("test", 5)[:]


class TestDialogues:
    def test_hold_the_results_of_the_desk_and_end_with_an_answer(self):
        for task in TASKS[:100]:
            *turns, last = play(task)
            assert [step.calls for step in turns] == task.plan and last.answer and not last.calls
            assert len(last.messages) == 1 + sum(1 + len(turn) for turn in task.plan)

    def test_reasoning_names_the_calls_and_their_values(self):
        for task in TASKS[:100]:
            for step in play(task)[:-1]:
                values = [[call["name"], *map(str, call["arguments"].values())] for call in step.calls]
                assert step.reasoning == ", ".join(" ".join(words) for words in values)


class TestTokenizer:
    def test_reads_completions_back_into_messages(self):
        tokenizer = AutoTokenizer.from_pretrained(TINY_MODELS[TINY_AGENTS])
        for task in TASKS[:30]:
            for step in play(task):
                found = tokenizer.parse_response(tokenizer(step.solution + tokenizer.eos_token).input_ids, prefix=[])
                calls = [call["function"] for call in found.get("tool_calls", [])]
                assert (calls, found.get("content", "")) == (step.calls, step.answer)
                assert found["reasoning_content"] == step.reasoning


class TestFaultyDialogues:
    def test_fail_often_and_not_always(self):
        rng, outcomes = Random(0), []
        for task in TASKS:
            desk = start(task)
            for step in play_with_faults(task, rng):
                follow(desk, step.calls)
            outcomes.append(desk.get_reward())
        assert 0.4 < sum(outcomes) / len(outcomes) < 0.75

    def test_show_what_the_desk_says_to_faulty_calls(self):
        rng, errors = Random(0), 0
        for task in TASKS:
            desk, *_, last = start(task), *play_with_faults(task, rng)
            calls = [call["function"] for message in last.messages for call in message.get("tool_calls", [])]
            results = [message["content"] for message in last.messages if message["role"] == "tool"]
            for call, result in zip(calls, results, strict=True):
                found = carry_out(desk, call["name"], **call["arguments"])
                assert result in (str(found), str({"error": found}))
                errors += result.startswith("{'error'")
        assert errors > 20

    def test_a_hard_value_goes_wrong_in_one_way(self):
        rng, wrong = Random(0), {}
        for _ in range(4000):
            team = rng.choice(TEAMS)
            found = faulty_call({"name": "get_lead", "arguments": {"team": team}}, rng)["arguments"]["team"]
            if found != team:
                wrong.setdefault(team, []).append(found)
        assert all(len(set(values)) == 1 for values in wrong.values())
        counts = sorted(map(len, wrong.values()))
        assert counts[-1] > 5 * counts[0]


class TestCheckpoint:
    def test_is_small_and_agrees_with_its_tokenizer(self):
        assert sum(file.stat().st_size for file in TINY_MODELS[TINY_AGENTS].iterdir()) < 2_000_000
        config = json.loads((TINY_MODELS[TINY_AGENTS] / "config.json").read_text())
        assert config["vocab_size"] == len(AutoTokenizer.from_pretrained(TINY_MODELS[TINY_AGENTS]))

    def test_dialogues_fit_the_recipe(self):
        tokenizer = AutoTokenizer.from_pretrained(TINY_MODELS[TINY_AGENTS])
        recipe = yaml.safe_load((Path(__file__).parents[2] / "recipes" / "tiny" / "agents.yaml").read_text())
        for task in TASKS:
            first, *_, last = play(task)
            whole, prompt = render_prompt(last, tokenizer) + last.solution, render_prompt(first, tokenizer)
            length = len(tokenizer(whole).input_ids) - len(tokenizer(prompt).input_ids)
            assert length < recipe["max_completion_length"]
            assert len(task.plan) <= recipe["max_tool_calling_iterations"]

    def test_steps_are_a_data_set_of_their_own(self):
        dataset = load_tiny_dataset("test", size=12, name="tiny/agents")
        assert dataset.column_names == ["prompt", "solution"]
        assert any("<tool_response>" in prompt for prompt in dataset["prompt"])
