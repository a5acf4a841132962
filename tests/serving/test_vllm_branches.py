"""Branched rollouts with a real vLLM server process."""

import pytest


pytest.importorskip("vllm", reason="needs vLLM: run `make test-vllm`")

import torch
from engines.cpu_client import use_cpu_weight_transfer
from engines.vllm_server import VLLMServer, free_port
from transformers import AutoTokenizer

from rest_trl import ResTGRPOConfig, ResTGRPOTrainer
from rest_trl.lab.tiny import TINY_MODEL_DIR, load_tiny_dataset


STEPS = 3
IN_SYNC = 1e-5  # nats: float32 on both sides, in another order of summation


class RecordingTrainer(ResTGRPOTrainer):
    def __init__(self, *args, **kwargs):
        self.scored = []
        super().__init__(*args, **kwargs)

    def _generate_and_score_completions(self, inputs):
        output = super()._generate_and_score_completions(inputs)
        self.scored.append((output, self.rollout.prefix_lengths))
        return output


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Three steps; the limit is so short that some completions are cut in their reasoning and some after it."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        use_cpu_weight_transfer(monkeypatch)
        with VLLMServer(TINY_MODEL_DIR, tmp_path_factory.mktemp("vllm") / "server.log") as server:
            args = ResTGRPOConfig(
                str(tmp_path_factory.mktemp("run")),
                branch_size=2,
                credit="region",
                use_vllm=True,
                vllm_mode="server",
                vllm_server_base_url=server.url,
                vllm_group_port=free_port(),
                vllm_server_timeout=60,
                use_cpu=True,
                bf16=False,
                max_steps=STEPS,
                learning_rate=2e-3,
                lr_scheduler_type="constant",
                per_device_train_batch_size=32,
                num_generations=8,
                max_completion_length=22,
                logging_steps=1,
                save_strategy="no",
                report_to="none",
                disable_tqdm=True,
            )
            trainer = RecordingTrainer(
                str(TINY_MODEL_DIR),
                None,
                args,
                train_dataset=load_tiny_dataset(size=32),
                processing_class=AutoTokenizer.from_pretrained(TINY_MODEL_DIR, padding_side="left"),
            )
            trainer.train()
        yield trainer


class TestBranchesOfAServer:
    def test_have_the_probabilities_of_the_policy(self, trained):
        logs = [log for log in trained.state.log_history if "loss" in log]
        assert len(logs) == STEPS
        assert all(log["sampling/sampling_logp_difference/max"] < 10 * IN_SYNC for log in logs)
        assert all(log["sampling/sampling_logp_difference/mean"] < IN_SYNC for log in logs)

    def test_share_their_reasoning_and_nothing_else(self, trained):
        different = 0
        for output, lengths in trained.scored:
            ids, logps = output["completion_ids"], output["sampling_per_token_logps"]
            for first in range(0, len(ids), 2):
                length = lengths[first]
                assert lengths[first + 1] == length
                assert torch.equal(ids[first, :length], ids[first + 1, :length])
                assert torch.equal(logps[first, :length], logps[first + 1, :length])
                different += not torch.equal(ids[first], ids[first + 1])
        assert different > 5

    def test_end_behind_the_closing_tag_or_are_whole(self, trained):
        close = trained.processing_class.convert_tokens_to_ids("</think>")
        kinds = set()
        for output, lengths in trained.scored:
            for ids, mask, length in zip(output["completion_ids"], output["completion_mask"], lengths, strict=True):
                is_whole = length == mask.sum()
                has_reasoning = close in ids[:length]
                kinds.add((bool(is_whole), bool(has_reasoning)))
                assert is_whole or not has_reasoning or ids[length - 1] == close
                assert mask.sum() <= 22
        assert {(False, True), (True, False)} <= kinds

    def test_are_counted_as_they_were_sampled(self, trained):
        logs = [log for log in trained.state.log_history if "loss" in log]
        for log, (output, lengths) in zip(logs, trained.scored, strict=True):
            prefixes = torch.tensor(lengths)
            kept = (output["completion_mask"].sum(1) - prefixes).sum() + prefixes[::2].sum()
            assert kept <= log["rest/generated_tokens"] < 2 * kept
            assert 0 < log["rest/branch/whole"] < 1
