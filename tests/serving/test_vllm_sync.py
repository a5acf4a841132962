import pytest


pytest.importorskip("vllm", reason="needs vLLM: run `make test-vllm`")

import torch
from engines.cpu_client import use_cpu_weight_transfer
from engines.vllm_server import VLLMServer, free_port
from peft import LoraConfig
from transformers import AutoTokenizer, BitsAndBytesConfig
from trl.generation.vllm_client import VLLMClient

from rest_trl import ResTGRPOConfig, ResTGRPOTrainer
from rest_trl.lab.tiny import TINY_MODEL_DIR, load_tiny_dataset
from rest_trl.regions import Partitioner, to_regions
from rest_trl.tool_calls import Region, get_syntax


STEPS = 4
IN_SYNC = 1e-5  # nats: float32 on both sides, in another order of summation
LORA = {"r": 8, "lora_alpha": 32, "target_modules": "all-linear"}
POLICIES = {
    "full": {},
    "lora": {"peft_config": LoraConfig(**LORA)},
    "nf4": {
        "peft_config": LoraConfig(**LORA),
        "quantization_config": BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4"),
    },
    "nf4-double": {
        "peft_config": LoraConfig(**LORA),
        "quantization_config": BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True
        ),
    },
    "int8": {
        "peft_config": LoraConfig(**LORA),
        "quantization_config": BitsAndBytesConfig(load_in_8bit=True),
    },
}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with VLLMServer(TINY_MODEL_DIR, tmp_path_factory.mktemp("vllm") / "server.log") as server:
        yield server


@pytest.fixture(autouse=True)
def cpu_weight_transfer(monkeypatch):
    use_cpu_weight_transfer(monkeypatch)


class RecordingTrainer(ResTGRPOTrainer):
    def __init__(self, *args, **kwargs):
        self.scored = []
        super().__init__(*args, **kwargs)

    def _generate_and_score_completions(self, inputs):
        output = super()._generate_and_score_completions(inputs)
        self.scored.append(output)
        return output


def distinct_tokens(completion_ids, **kwargs):
    return [float(len(set(ids)) % 7) for ids in completion_ids]


def make_trainer(server, path, policy, learning_rate=2e-2):
    args = ResTGRPOConfig(
        str(path),
        use_vllm=True,
        vllm_mode="server",
        vllm_server_base_url=server.url,
        vllm_group_port=free_port(),
        vllm_server_timeout=30,
        use_cpu=True,
        bf16=False,
        max_steps=STEPS,
        learning_rate=learning_rate,
        lr_scheduler_type="constant",
        per_device_train_batch_size=8,
        num_generations=4,
        max_completion_length=32,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    return RecordingTrainer(
        str(TINY_MODEL_DIR),
        distinct_tokens,
        args,
        train_dataset=load_tiny_dataset(size=32),
        processing_class=AutoTokenizer.from_pretrained(TINY_MODEL_DIR, padding_side="left"),
        **POLICIES[policy],
    )


def in_float32(trainer):
    """TRL has cast the adapters of a quantised policy to bfloat16."""
    for parameter in trainer.model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()


def differences(trainer):
    """Between the log-probabilities of the server and of the policy, in nats: mean and maximum of each step."""
    trainer.train()
    name = "sampling/sampling_logp_difference"
    steps = [(log[f"{name}/mean"], log[f"{name}/max"]) for log in trainer.state.log_history if f"{name}/mean" in log]
    assert len(steps) == STEPS
    print(f"{[f'{mean:.1e} {maximum:.1e}' for mean, maximum in steps]}")
    return steps


class TestServerMode:
    @pytest.mark.parametrize("policy", POLICIES)
    def test_weights_are_in_sync_at_every_step(self, server, tmp_path, policy):
        trainer = make_trainer(server, tmp_path, policy)
        in_float32(trainer)
        for mean, maximum in differences(trainer):
            assert mean < IN_SYNC
            assert maximum < 10 * IN_SYNC

    def test_adapters_in_bfloat16_are_in_sync_to_their_rounding(self, server, tmp_path):
        # The policy multiplies by A and B in bfloat16, which rounds to 2^-9, and the server by their product. The
        # rounding grows with the adapters, so they grow slowly here.
        trainer = make_trainer(server, tmp_path, "nf4", learning_rate=5e-3)
        assert all(p.dtype is torch.bfloat16 for p in trainer.model.parameters() if p.requires_grad)
        first, *later = differences(trainer)
        assert first[0] < IN_SYNC  # B is still zero
        assert all(mean < 1e-3 for mean, _ in later)

    @pytest.mark.parametrize("policy", ["full", "lora", "nf4"])
    def test_stale_weights_show(self, server, tmp_path, monkeypatch, policy):
        trainer = make_trainer(server, tmp_path, policy)
        client, sent = trainer.vllm_generation.vllm_client.client, []
        send = client.update_named_params

        def send_the_first(metadata, named_params):
            current = [(name, tensor.clone()) for name, tensor in named_params]
            sent.append(current)
            send(metadata, iter(sent[0]))

        monkeypatch.setattr(client, "update_named_params", send_the_first)
        first, *later = differences(trainer)
        assert first[0] < IN_SYNC
        assert max(mean for mean, _ in later) > 0.05

    def test_regions_are_those_of_the_ids_that_the_server_sampled(self, server, tmp_path, monkeypatch):
        sampled, generate = [], VLLMClient.generate

        def record(self, *args, **kwargs):
            output = generate(self, *args, **kwargs)
            sampled.extend(output["completion_ids"])
            return output

        monkeypatch.setattr(VLLMClient, "generate", record)
        trainer = make_trainer(server, tmp_path, "full")
        trainer.train()
        partitioner = Partitioner(trainer.processing_class, get_syntax("hermes"))
        trained = [
            (ids[mask.bool()], parts[mask.bool()])
            for scored in trainer.scored
            for ids, mask, parts in zip(
                scored["completion_ids"], scored["completion_mask"], scored["part_ids"], strict=True
            )
        ]
        assert [ids.tolist() for ids, _ in trained] == sampled
        assert len(sampled) == STEPS * 8
        for ids, (_, parts) in zip(sampled, trained, strict=True):
            ids = torch.tensor([ids])
            assert torch.equal(partitioner(ids, torch.ones_like(ids))[0], parts)
        found = {Region(region) for _, parts in trained for region in to_regions(parts).tolist()}
        assert {Region.FORMAT, Region.REASONING} <= found
