"""TRL's own loop of tool calls with a real vLLM server process."""

from collections import defaultdict
from itertools import groupby

import pytest


pytest.importorskip("vllm", reason="needs vLLM: run `make test-vllm`")

import torch
from engines.agent import Station, agent_dataset, agent_tokenizer, buy_ticket, calls_in_turns, find_train
from engines.cpu_client import use_cpu_weight_transfer
from engines.vllm_server import VLLMServer, free_port
from trl.generation.vllm_client import VLLMClient

from rest_trl import ResTGRPOConfig, ResTGRPOTrainer
from rest_trl.lab.tiny import TINY_MODEL_DIR
from rest_trl.regions import Partitioner, to_regions
from rest_trl.serving.recovery import VLLMServerError
from rest_trl.tool_calls import Region, get_syntax


STEPS, ROWS, GENERATIONS, LIMIT = 3, 16, 4, 192
IN_SYNC = 1e-5  # nats: float32 on both sides, in another order of summation
LOOPS = {
    "tools": {"tools": [find_train, buy_ticket], "reward_funcs": calls_in_turns},
    "environment": {"environment_factory": Station},
}


class RecordingTrainer(ResTGRPOTrainer):
    """Keeps what the server was asked and answered, what became of it, and what the loss read."""

    def __init__(self, *args, **kwargs):
        self.served, self.messages, self.scored, self.turns = [], [], [], []
        self.computed, self.coefficients = [], []
        super().__init__(*args, **kwargs)

    def _generate(self, prompts):
        self.served.append([])
        return super()._generate(prompts)

    def _calculate_rewards(self, inputs, prompts, completions, completion_ids_list):
        self.messages.append(completions)
        self.turns.append(self.reader.turns(completion_ids_list))
        return super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)

    def _generate_and_score_completions(self, inputs):
        output = super()._generate_and_score_completions(inputs)
        self.scored.append(dict(output))
        return output

    def _coefficients(self, batch, **of_forward_pass):
        coefficients = super()._coefficients(batch, **of_forward_pass)
        self.coefficients.append((batch, coefficients))
        return coefficients

    def _get_per_token_logps_and_entropies(self, model, input_ids, *args, **kwargs):
        output = super()._get_per_token_logps_and_entropies(model, input_ids, *args, **kwargs)
        if output[1] is not None:  # only the loss asks for entropies
            self.computed.append(input_ids)
        return output


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with VLLMServer(TINY_MODEL_DIR, tmp_path_factory.mktemp("vllm") / "server.log") as server:
        yield server


def make_trainer(server, path, loop, **changes):
    settings = {
        "credit": "turn",
        "coefficients": {"rule": "entropy", "scope": "turn"},
        "use_vllm": True,
        "vllm_mode": "server",
        "vllm_server_base_url": server.url,
        "vllm_group_port": free_port(),
        "vllm_server_timeout": 60,
        "use_cpu": True,
        "bf16": False,
        "max_steps": STEPS,
        "learning_rate": 2e-3,
        "lr_scheduler_type": "constant",
        "per_device_train_batch_size": ROWS,
        "num_generations": GENERATIONS,
        "max_completion_length": LIMIT,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
    } | changes
    return RecordingTrainer(
        str(TINY_MODEL_DIR),
        args=ResTGRPOConfig(str(path), **settings),
        train_dataset=agent_dataset(),
        processing_class=agent_tokenizer(),
        **LOOPS[loop],
    )


@pytest.fixture
def cpu_transfer(monkeypatch):
    use_cpu_weight_transfer(monkeypatch)


@pytest.fixture(scope="module", params=LOOPS)
def trained(request, server, tmp_path_factory):
    """Three steps of the policy as it is: it calls, calls wrongly, calls twice, answers, and is cut."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        use_cpu_weight_transfer(monkeypatch)
        trainer = make_trainer(server, tmp_path_factory.mktemp("run"), request.param)
        generate = VLLMClient.generate

        def record(self, prompts, n=1, **arguments):
            output = generate(self, prompts, n=n, **arguments)
            asked = [tuple(ids) for ids in prompts for _ in range(n)]
            answers = zip(asked, output["completion_ids"], output["logprobs"], strict=True)
            # Copies, because TRL may cut the lists in place.
            trainer.served[-1].append(
                [(ids, list(sampled), [top[0] for top in logps]) for ids, sampled, logps in answers]
            )
            return output

        monkeypatch.setattr(VLLMClient, "generate", record)
        trainer.train()
    return trainer


def own(tensors, row, name):
    return tensors[name][row][tensors["completion_mask"][row].bool()].tolist()


def tool_results(messages):
    """The messages of tools after each assistant turn."""
    runs = [(role, list(run)) for role, run in groupby(messages, key=lambda message: message["role"])]
    return [run for role, run in runs if role == "tool"]


def retrace(trainer, step):
    """
    Each row of a rollout, put together from the server's answers: `(column, ids)` of the turns, `(column, stop)` of
    what stands between them, and the server's log-probability of every token, 0 for those that it did not sample.
    """
    waiting = []
    for answers in trainer.served[step]:
        waiting.append(defaultdict(list))
        for asked, *answer in answers:
            waiting[-1][asked].append(answer)
    rows = []
    for row in range(ROWS):
        scored = trainer.scored[step]
        prompt = scored["prompt_ids"][row][scored["prompt_mask"][row].bool()].tolist()
        ids, mask = own(scored, row, "completion_ids"), own(scored, row, "tool_mask")
        turns, between, logps = [], [], []
        for of_turn in waiting:
            # Rows with the same history have their answers in their own order.
            sampled, its_logps = of_turn[tuple(prompt + ids[: len(logps)])].pop(0)
            kept = LIMIT - len(logps)  # TRL cuts the last turn
            if sampled[:kept]:
                turns.append((len(logps), sampled[:kept]))
            logps += its_logps[:kept]
            if len(logps) == len(ids):
                break
            stop = next((n for n in range(len(logps), len(ids)) if mask[n]), len(ids))
            between.append((len(logps), stop))
            logps += [0.0] * (stop - len(logps))
        rows.append((turns, between, logps))
    assert not any(left for of_turn in waiting for left in of_turn.values())  # nothing that was sampled is lost
    return rows


class TestLoopOfAServer:
    def test_really_calls_tools(self, trained):
        logs = [log for log in trained.state.log_history if "loss" in log]
        assert len(logs) == len(trained.scored) == STEPS
        assert all(log["tools/call_frequency"] > 1 for log in logs)
        numbers = {len(turns) for step in range(STEPS) for turns, _, _ in retrace(trained, step)}
        assert {2, 3} <= numbers

    def test_the_ids_are_those_that_were_sampled_in_order(self, trained):
        for step in range(STEPS):
            scored = trained.scored[step]
            for row, (turns, between, _) in enumerate(retrace(trained, step)):
                ids, mask = own(scored, row, "completion_ids"), own(scored, row, "tool_mask")
                rebuilt, expected_mask = [None] * len(ids), [None] * len(ids)
                for column, sampled in turns:
                    rebuilt[column : column + len(sampled)] = sampled
                    expected_mask[column : column + len(sampled)] = [1] * len(sampled)
                for start, stop in between:
                    rebuilt[start:stop] = ids[start:stop]  # see the next test
                    expected_mask[start:stop] = [0] * (stop - start)
                assert rebuilt == ids
                assert expected_mask == mask

    def test_between_the_turns_stand_the_tool_results_alone(self, trained):
        tokenizer = trained.processing_class
        for step in range(STEPS):
            for row, (_, between, _) in enumerate(retrace(trained, step)):
                ids, results = (
                    own(trained.scored[step], row, "completion_ids"),
                    tool_results(trained.messages[step][row]),
                )
                assert len(between) == len(results)
                for (start, stop), messages in zip(between, results, strict=True):
                    said = "".join(
                        f"<|im_start|>user\n<tool_response>\n{message['content']}\n</tool_response><|im_end|>\n"
                        for message in messages
                    )
                    assert ids[start:stop] == tokenizer(f"\n{said}<|im_start|>assistant\n")["input_ids"]

    def test_the_loss_reads_these_ids(self, trained):
        assert len(trained.computed) == STEPS
        for scored, (inputs, _), read in zip(trained.scored, trained.coefficients, trained.computed, strict=True):
            assert torch.equal(read, torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], dim=1))
            names = ["prompt_ids", "completion_ids", "completion_mask", "tool_mask", "part_ids", "advantages"]
            names.append("sampling_per_token_logps")
            rows = [
                sorted(zip(*(tensors[name].tolist() for name in names), strict=True)) for tensors in (scored, inputs)
            ]
            assert rows[0] == rows[1]  # shuffled by TRL, row by row

    def test_the_log_probabilities_are_those_of_the_ids(self, trained):
        for step in range(STEPS):
            for row, (_, _, logps) in enumerate(retrace(trained, step)):
                found = trained.scored[step]["sampling_per_token_logps"][row][: len(logps)]
                assert torch.equal(found, torch.tensor(logps))
        logs = [log for log in trained.state.log_history if "loss" in log]
        assert all(log["sampling/sampling_logp_difference/mean"] < IN_SYNC for log in logs)
        assert all(log["sampling/sampling_logp_difference/max"] < 10 * IN_SYNC for log in logs)

    def test_every_turn_has_the_regions_that_it_has_alone(self, trained):
        partitioner, seen = Partitioner(trained.processing_class, get_syntax("hermes")), set()
        for step in range(STEPS):
            for row, (turns, between, _) in enumerate(retrace(trained, step)):
                spans = [(turn.column, len(turn.token_starts)) for turn in trained.turns[step][row]]
                assert spans == [(column, len(sampled)) for column, sampled in turns]
                parts = trained.scored[step]["part_ids"][row]
                for column, sampled in turns:
                    ids = torch.tensor([sampled])
                    of_turn = parts[column : column + len(sampled)]
                    assert torch.equal(of_turn, partitioner(ids, torch.ones_like(ids))[0])
                    assert to_regions(of_turn).ne(Region.NONE).all()
                    seen |= {Region(region) for region in to_regions(of_turn).tolist()}
                assert all(to_regions(parts[start:stop]).eq(Region.NONE).all() for start, stop in between)
        assert seen == set(Region) - {Region.NONE}

    def test_every_turn_has_its_credit_and_coefficients(self, trained):
        differing = 0
        for step in range(STEPS):
            inputs, coefficients = trained.coefficients[step]
            by_ids = {tuple(own(inputs, row, "completion_ids")): coefficients[row] for row in range(ROWS)}
            scored = trained.scored[step]
            for row, (turns, between, _) in enumerate(retrace(trained, step)):
                advantages, of_row = scored["advantages"][row], by_ids[tuple(own(scored, row, "completion_ids"))]
                for column, sampled in turns:
                    span = slice(column, column + len(sampled))
                    assert advantages[span].eq(advantages[column]).all()
                    assert of_row[span].mean().item() == pytest.approx(1, abs=1e-5)
                assert all(of_row[start:stop].eq(0).all() for start, stop in between)
                differing += len({advantages[column].item() for column, _ in turns}) > 1
        assert differing > STEPS


@pytest.mark.usefixtures("cpu_transfer")
def test_a_context_too_short_for_a_later_turn_is_named(server, tmp_path, caplog):
    trainer = make_trainer(server, tmp_path, "tools", max_steps=1, max_completion_length=400)
    assert "--max-model-len 512" in caplog.text and "twice max_completion_length=400" in caplog.text
    with pytest.raises(VLLMServerError, match=r"refused a request .*maximum context length is 512"):
        trainer.train()
