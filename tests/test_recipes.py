import re
import shlex
from dataclasses import replace
from fractions import Fraction
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import memory_estimate as doctor
import pytest
import torch
import trl
import yaml
from accelerate.commands.config.config_args import ClusterConfig, load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils import DistributedType
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM
from trl import GRPOTrainer, ModelConfig, get_peft_config
from trl.scripts.vllm_serve import ScriptArguments as ServeArguments
from trl.scripts.vllm_serve import build_command
from trl.trainer.utils import _CHUNKED_LOGPROB_CHUNK_SIZE

from rest_trl import ResTGRPOConfig
from rest_trl.lab.sft import ResTSFTConfig
from rest_trl.runs.listing import read_table
from rest_trl.runs.recipes import with_arms
from rest_trl.train import make_parser


ROOT = Path(__file__).resolve().parents[1]
TABLES = {Path("recipes/arms.yaml"), Path("recipes/studies.yaml")}
FILES = {path.relative_to(ROOT) for folder in ("recipes", "recipes/tiny") for path in ROOT.glob(f"{folder}/*.yaml")}
RECIPES = sorted(FILES - TABLES)
ARMS = list(read_table("arms"))
ACCELERATE_CONFIGS = sorted(path.relative_to(ROOT) for path in ROOT.glob("recipes/accelerate/*.yaml"))
DEMO = Path("recipes/demo.yaml")
FULL = Path("recipes/qwen3_8b.yaml")
SFT_RECIPES = [recipe for recipe in RECIPES if re.search(r"(^|_)sft$", recipe.stem)]
SFT_ARMS = ("tsft", "rsft")
QLORA_RECIPES = [recipe for recipe in RECIPES if recipe.stem.endswith("_qlora_24gb")]
SMOKE = Path("recipes/qwen3_1.7b_smoke.yaml")
ONE_CARD_RECIPES = [recipe for recipe in RECIPES if re.search(r"_lora_\d+gb$", recipe.stem)]
FAMILIES = ("qwen3_1.7b", "qwen3_4b_2507", "qwen3_8b", "qwen3_14b", "qwen3_32b", "llama3.2_3b")
ONE_NODE_RECIPES = [Path(f"recipes/{family}.yaml") for family in FAMILIES]
TWO_NODE_RECIPES = [recipe for recipe in RECIPES if recipe.stem.endswith("_2nodes")]
PAPER_RECIPES = [*ONE_NODE_RECIPES, *TWO_NODE_RECIPES]
# What each run of the paper has in its own way.
OWN = {"model_name_or_path", "output_dir", "per_device_train_batch_size", "gradient_accumulation_steps"}
# Keys in which a QLoRA run on one card differs from the LoRA run of the same model, beside those of vLLM.
QLORA = {
    "load_in_4bit",
    "bnb_4bit_quant_type",
    "use_bnb_nested_quant",
    "use_vllm",
    "output_dir",
    "generation_batch_size",
    "max_completion_length",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "num_train_epochs",
    "logging_steps",
    "save_steps",
}
# Keys in which a LoRA run on one card differs from that on eight GPUs, beside those of vLLM.
ONE_CARD = {
    "output_dir",
    "generation_batch_size",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "num_train_epochs",
    "logging_steps",
    "save_steps",
}
SOURCES = (
    "[paper]",
    "[script]",
    "[verl]",
    "[TRL]",
    "[LoRA]",
    "[QLoRA]",
    "[prototype]",
    "[ours]",
    "[rates]",
    "[t]",
    "[tiny]",
    "[demo]",
    "[sft]",
    "[method]",
)

by_name = pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
by_paper_name = pytest.mark.parametrize("recipe", PAPER_RECIPES, ids=lambda path: path.stem)
by_one_node_name = pytest.mark.parametrize("recipe", ONE_NODE_RECIPES, ids=lambda path: path.stem)
by_two_node_name = pytest.mark.parametrize("recipe", TWO_NODE_RECIPES, ids=lambda path: path.stem)
by_qlora_name = pytest.mark.parametrize("recipe", QLORA_RECIPES, ids=lambda path: path.stem)
by_one_card_name = pytest.mark.parametrize("recipe", [*ONE_CARD_RECIPES, SMOKE], ids=lambda path: path.stem)
by_accelerate_name = pytest.mark.parametrize("config", ACCELERATE_CONFIGS, ids=lambda path: path.stem)


class Command(NamedTuple):
    """A command in the comments of a file: environment variables, then words."""

    environment: dict[str, str]
    words: list[str]

    @property
    def gpus(self) -> set[str]:
        return set(self.environment["CUDA_VISIBLE_DEVICES"].split(","))

    def option(self, name: str) -> str:
        return self.words[self.words.index(name) + 1]


def header(path: Path) -> list[str]:
    """Comment lines at the top of a file."""
    lines = (ROOT / path).read_text().splitlines()
    end = next(i for i, line in enumerate(lines) if not line.startswith("#"))
    return [line.removeprefix("#").strip() for line in lines[:end]]


def commands(path: Path) -> list[Command]:
    """Commands in the header: of the vLLM server, if there is one, and of the training."""
    found = []
    for line in header(path):
        if re.match(r"([A-Z_]+=\S+ )*(accelerate launch|vllm serve) ", line):
            words = shlex.split(line)
            start = next(i for i, word in enumerate(words) if "=" not in word)
            found.append(Command(dict(word.split("=", 1) for word in words[:start]), words[start:]))
    return found


def launch_arguments(command: Command) -> Any:
    """The launch command as accelerate's own parser reads it."""
    assert command.words[:2] == ["accelerate", "launch"]
    return launch_command_parser().parse_args(command.words[2:])


def values(recipe: Path, *arms: str) -> dict[str, Any]:
    return with_arms(yaml.safe_load((ROOT / recipe).read_text()), arms)


def split_name(recipe: Path) -> tuple[str, str]:
    """Family and variant of a recipe."""
    family = next(family for family in FAMILIES if recipe.stem.startswith(f"{family}_"))
    return family, recipe.stem.removeprefix(f"{family}_")


def differing_keys(first: dict[str, Any], second: dict[str, Any]) -> set[str]:
    """Keys that only one of two recipes has, or whose values differ."""
    return {key for key in first | second if first.get(key) != second.get(key)}


def recipes_by_batches() -> list[Path]:
    """One recipe of the paper for each way of splitting its batch."""
    keys = ("per_device_train_batch_size", "gradient_accumulation_steps")
    return list({tuple(values(recipe)[key] for key in keys): recipe for recipe in PAPER_RECIPES}.values())


def parse(*arguments: str, parser: Any = make_parser) -> Any:
    # `use_cpu`, because TrainingArguments refuses bf16 where no GPU supports it. It changes nothing else that is
    # looked at here, and the recipe's bf16 stays.
    return parser().parse_args_and_config([*arguments, "--use_cpu", "true"], fail_with_unknown_args=True)


@pytest.fixture(autouse=True)
def in_root(monkeypatch: pytest.MonkeyPatch) -> None:
    """The commands are to be run in the root of the repository."""
    monkeypatch.chdir(ROOT)


@pytest.fixture
def resolve(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Resolves the launch command of a recipe as it would be on the number of processes that it starts."""

    def resolved(recipe: Path, *arms: str) -> Any:
        launch = launch_arguments(commands(recipe)[-1])
        processes = launch.num_processes or load_config_from_file(launch.config_file).num_processes
        for config in (ResTGRPOConfig, ResTSFTConfig):
            monkeypatch.setattr(config, "world_size", property(lambda self: processes))
        parser = import_module(launch.training_script).make_parser
        return parse(*launch.training_script_args, *(f"--arm={arm}" for arm in arms), parser=parser)

    return resolved


class TestCollection:
    def test_nothing_lies_outside_what_is_tested(self):
        files = {path.relative_to(ROOT) for path in ROOT.glob("recipes/**/*") if path.is_file()}
        assert files == {*RECIPES, *ACCELERATE_CONFIGS, *TABLES}
        assert {*PAPER_RECIPES, *QLORA_RECIPES, *ONE_CARD_RECIPES, *SFT_RECIPES} < set(RECIPES)

    def test_no_two_recipes_write_to_one_directory(self):
        assert len({values(recipe)["output_dir"] for recipe in RECIPES}) == len(RECIPES)

    def test_misspelt_key_raises(self, tmp_path):
        misspelt = tmp_path / DEMO.name
        misspelt.write_text((ROOT / DEMO).read_text().replace("\nnum_generations:", "\nnum_generation:"))
        with pytest.raises(ValueError, match="num_generation"):
            parse("--config", str(misspelt))

    def test_command_line_overrides_the_recipe(self):
        _, args, _ = parse("--config", str(DEMO), "--coefficients", "uniform", "--max_steps", "3")
        assert (args.coefficients, args.max_steps) == ("uniform", 3)


def stated_and_resolved(stated: dict[str, Any], arguments: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """What a recipe states, and what its program makes of that."""
    resolved = {}
    for group in arguments:
        resolved |= vars(group)
    stated = stated | {"use_cpu": True}
    if "report_to" in stated:
        stated["report_to"] = {"none": []}[stated["report_to"]]  # how TrainingArguments spells it
    return stated, {key: resolved[key] for key in stated}


@by_name
class TestEveryRecipe:
    def test_parses_to_the_values_it_states(self, recipe, resolve):
        stated, resolved = stated_and_resolved(values(recipe), resolve(recipe))
        assert resolved == stated

    def test_first_comment_is_its_launch_command(self, recipe):
        launch = launch_arguments(commands(recipe)[-1])
        assert launch.module
        assert launch.training_script == ("rest_trl.lab.sft" if recipe in SFT_RECIPES else "rest_trl.train")
        assert launch.training_script_args == ["--config", str(recipe)]
        if launch.config_file is not None:
            assert Path(launch.config_file) in ACCELERATE_CONFIGS
        assert len(commands(recipe)) == len([line for line in header(recipe)[:2] if "--" in line])

    def test_every_number_has_its_source(self, recipe):
        numbers = {key for key, value in values(recipe).items() if type(value) in (int, float)}
        lines = {line.split(":")[0]: line for line in (ROOT / recipe).read_text().splitlines() if line[:1].isalpha()}
        assert len(numbers) > 5
        assert set(lines) == set(values(recipe))
        for key in numbers:
            comment = lines[key].partition("  # ")[2]
            assert comment.startswith(SOURCES), lines[key]


class TestEveryArm:
    @pytest.mark.parametrize("arm", ARMS)
    @pytest.mark.parametrize("large", [False, True], ids=["tiny", "large"])
    def test_parses_to_the_values_it_states(self, arm, large, resolve):
        recipe = FULL if large else DEMO
        if arm in SFT_ARMS:
            recipe = next(recipe for recipe in SFT_RECIPES if (recipe.parent.name == "tiny") != large)
        stated, resolved = stated_and_resolved(values(recipe, arm), resolve(recipe, arm))
        assert resolved == stated

    def test_has_its_purpose_above_it(self):
        for arm, purpose in read_table("arms").items():
            assert len(purpose) > 20 and purpose.endswith("."), arm

    def test_every_number_has_its_source(self):
        lines = (ROOT / "recipes/arms.yaml").read_text().splitlines()
        numbers = [line for line in lines if re.match(r"  \w+: [\d.e-]+( |$)", line)]
        # Not what an arm takes over from another one, which has its source there.
        text = re.sub(r"<<: \*\w+,? ?", "", "\n".join(lines))
        assert len(numbers) == sum(
            type(value) in (int, float)
            for settings in yaml.safe_load(text).values()
            for value in (settings or {}).values()
        )
        for line in numbers:
            assert line.partition("  # ")[2].startswith(SOURCES), line

    def test_command_of_the_table_parses(self):
        (command,) = commands(Path("recipes/arms.yaml"))
        launch = launch_arguments(command)
        _, args, _ = parse(*launch.training_script_args)
        assert (args.output_dir, args.coefficients) == ("outputs/qwen3_8b-gdpo", "uniform")


@by_paper_name
class TestPaperRecipes:
    @pytest.mark.parametrize("arms", [(), ("lora",)], ids="-".join)
    def test_rollout_has_512_groups_and_an_update_64(self, recipe, arms, resolve):
        args = resolve(recipe, *arms)[1]
        update = args.per_device_train_batch_size * args.gradient_accumulation_steps * args.world_size
        assert args.num_generations == 4
        assert args.generation_batch_size == 512 * args.num_generations
        assert update == 64 * args.num_generations
        assert args.steps_per_generation == 8 * args.gradient_accumulation_steps
        assert args.steps_per_rollout == 8

    def test_off_policy_updates_get_the_old_probabilities(self, recipe, resolve):
        # TRL computes them when generation and updates do not coincide; without them the ratio would always be 1.
        args = resolve(recipe)[1]
        assert args.gradient_accumulation_steps % (args.steps_per_generation * args.num_iterations) != 0

    def test_differs_from_the_others_only_in_model_and_machine(self, recipe):
        machine = {"vllm_server_base_url", "vllm_group_port"} if recipe in TWO_NODE_RECIPES else set()
        assert machine <= differing_keys(values(recipe), values(FULL)) <= OWN | machine

    def test_two_nodes_train_what_one_does(self, recipe):
        one = Path(f"recipes/{recipe.stem.removesuffix('_2nodes')}.yaml")
        keys = {"vllm_server_base_url", "vllm_group_port", "gradient_accumulation_steps", "output_dir"}
        assert differing_keys(values(recipe), values(one)) == (keys if recipe != one else set())

    def test_server_serves_the_model_as_trl_wants_it(self, recipe, resolve):
        script_args, training_args, model_args = resolve(recipe)
        assert (training_args.use_vllm, training_args.vllm_mode) == (True, "server")
        server, _ = commands(recipe)
        assert server.words[:3] == ["vllm", "serve", model_args.model_name_or_path]
        assert server.environment["VLLM_SERVER_DEV_MODE"] == "1"
        trl_command = build_command(ServeArguments(model=server.words[2]))
        for option in ("--weight-transfer-config", "--logprobs-mode", "--max-logprobs"):
            assert server.option(option) == trl_command[trl_command.index(option) + 1]
        assert training_args.max_completion_length is not None
        length = script_args.max_prompt_length + training_args.max_completion_length
        assert int(server.option("--max-model-len")) == length


class TestPaperRuns:
    @pytest.mark.parametrize("recipe", recipes_by_batches(), ids=lambda path: path.stem)
    def test_epoch_has_seven_rollouts_of_eight_updates(self, recipe, resolve):
        args = resolve(recipe)[1]
        trainer = SimpleNamespace(
            train_dataset=range(3920),  # ToolRL's training split; all 4,000 rows would give 7 rollouts as well
            num_generations=args.num_generations,
            num_iterations=args.num_iterations,
            shuffle_dataset=args.shuffle_dataset,
            args=args,
        )
        indices = list(GRPOTrainer._get_train_sampler(trainer))
        # TRL's loader hands out whole generation batches, one for each micro-batch.
        batches = [set(indices[i : i + 2048]) for i in range(0, len(indices), 2048)]
        assert {len(batch) for batch in batches} == {512}
        assert len(set().union(*batches)) == 7 * 512
        assert len(batches) == 7 * args.steps_per_generation
        assert len(batches) / args.gradient_accumulation_steps == 7 * 8
        assert args.num_train_epochs * 7 * 8 == 840


@by_one_node_name
class TestOneNodeRecipes:
    def test_server_and_training_share_a_node_but_no_gpu(self, recipe):
        server, training = commands(recipe)
        launch = launch_arguments(training)
        assert not server.gpus & training.gpus
        assert len(server.gpus | training.gpus) == 8
        assert launch.num_processes is None
        assert len(training.gpus) == load_config_from_file(launch.config_file).num_processes
        assert len(server.gpus) == int(server.option("--tensor-parallel-size"))

    def test_trainer_looks_for_the_server_on_its_own_node(self, recipe, resolve):
        args = resolve(recipe)[1]
        assert (args.vllm_server_base_url, args.vllm_server_host) == (None, "0.0.0.0")


@by_two_node_name
class TestTwoNodeRecipes:
    def test_server_and_training_have_all_gpus_of_their_nodes(self, recipe):
        server, training = commands(recipe)
        assert "CUDA_VISIBLE_DEVICES" not in server.environment | training.environment
        assert int(server.option("--tensor-parallel-size")) == 8
        # accelerate's own merging of the command line and the config file
        args, _, _ = _validate_launch_command(launch_arguments(training))
        assert (args.num_processes, args.num_machines, args.use_deepspeed) == (8, 1, True)

    def test_server_listens_where_the_trainer_looks_for_it(self, recipe, resolve):
        server, _ = commands(recipe)
        url = urlsplit(resolve(recipe)[1].vllm_server_base_url)
        assert server.option("--host") == "0.0.0.0"
        assert url.hostname == "server"  # a placeholder, not this node
        assert url.port == int(server.option("--port"))


class Dimensions(NamedTuple):
    """What a memory estimate needs of a model's config.json."""

    layers: int
    hidden: int
    intermediate: int
    heads: int
    key_value_heads: int = 8
    head_dim: int = 128
    vocab: int = 151936

    def config(self, **changes: Any) -> Qwen3Config:
        return Qwen3Config(
            **{
                "num_hidden_layers": self.layers,
                "hidden_size": self.hidden,
                "intermediate_size": self.intermediate,
                "num_attention_heads": self.heads,
                "num_key_value_heads": self.key_value_heads,
                "head_dim": self.head_dim,
                "vocab_size": self.vocab,
                "tie_word_embeddings": True,
            }
            | changes
        )

    def activations(self) -> int:
        """Bytes that one layer keeps for its backward pass, per token."""
        queries, keys = self.heads * self.head_dim, self.key_value_heads * self.head_dim
        mlp = 4 * 2 * self.intermediate  # gate, its activation, up, their product
        norms = (3 * 4 + 2 * 2) * self.hidden  # three in float32, the inputs of the projections in bfloat16
        # queries in float32 for their norm; queries, repeated keys and values, and the output in bfloat16
        return mlp + norms + (4 + 4 * 2) * queries + 4 * keys


DIMENSIONS = {"qwen3_1.7b": Dimensions(28, 2048, 6144, 16), "qwen3_4b_2507": Dimensions(36, 2560, 9728, 32)}


def memory(family: str, model_args: ModelConfig, args: ResTGRPOConfig, prompt_length: int) -> dict[str, float]:
    """The estimate of a header, from the model's dimensions and the recipe."""
    dimensions = DIMENSIONS[family]
    with torch.device("meta"):
        model = Qwen3ForCausalLM(dimensions.config())
        linear = {
            name: module.weight.numel()
            for name, module in model.named_modules()
            if isinstance(module, torch.nn.Linear) and name != "lm_head"
        }
        total = sum(parameter.numel() for parameter in model.parameters())
        adapted = get_peft_model(model, get_peft_config(model_args))
    adapters = sum(parameter.numel() for parameter in adapted.parameters() if parameter.requires_grad)
    packed = sum(linear.values())
    rollouts, update = args.generation_batch_size, args.per_device_train_batch_size
    assert args.max_completion_length is not None
    length = prompt_length + args.max_completion_length
    cache = dimensions.layers * 2 * dimensions.key_value_heads * dimensions.head_dim * 2  # per token
    # 4 bits; a scale of 8 bits for 64 weights; a scale of scales of 32 bits for 256 of these
    nf4 = 0.5 + 1 / 64 + 4 / (64 * 256)
    size = {
        "always: weights": packed * nf4 + (total - packed) * 2,
        "always: adapters": adapters * 4 * 2,
        "always: CUDA": 2 * 2**30,
        f"prompts: KV cache of {rollouts} x {prompt_length:,} tokens": rollouts * prompt_length * cache,
        "prompts: their pass": rollouts * prompt_length * 8 * (dimensions.intermediate + dimensions.hidden),
        f"last token: KV cache of {rollouts} x {length:,} tokens": rollouts * length * cache,
        "last token: keys": rollouts * length * 2 * dimensions.heads * dimensions.head_dim * 2,
        f"update: inputs of all layers, {update} x {length:,} tokens": (
            update * length * dimensions.layers * dimensions.hidden * 2
        ),
        "update: one layer": 2 * update * length * dimensions.activations(),
        f"update: logits and their gradient, one tile of {update} x {args.max_completion_length:,} tokens": (
            2 * update * args.max_completion_length * _CHUNKED_LOGPROB_CHUNK_SIZE * 2
        ),
    }
    moments = {
        name: sum(b for key, b in size.items() if key.startswith(name)) for name in ("prompts", "last", "update")
    }
    size["peak"] = sum(b for key, b in size.items() if key.startswith("always")) + max(moments.values())
    return {name: size[name] / 2**30 for name in size}


@by_qlora_name
class TestQLoRARecipes:
    def test_differs_from_the_lora_run_only_in_what_one_card_asks_for(self, recipe):
        family, _ = split_name(recipe)
        differing = differing_keys(values(recipe), values(Path(f"recipes/{family}.yaml"), "lora"))
        assert {key for key in differing if not key.startswith("vllm_")} == QLORA

    def test_starts_one_process_on_one_gpu(self, recipe, resolve):
        (training,) = commands(recipe)
        launch = launch_arguments(training)
        assert (launch.num_processes, launch.config_file) == (1, None)
        assert len(training.gpus) == 1
        assert resolve(recipe)[1].world_size == 1

    def test_updates_are_made_of_whole_rollouts_of_their_own(self, recipe, resolve):
        args = resolve(recipe)[1]
        update = args.per_device_train_batch_size * args.gradient_accumulation_steps
        assert update == 16 * args.num_generations
        assert update % args.generation_batch_size == 0
        assert args.gradient_accumulation_steps % (args.steps_per_generation * args.num_iterations) == 0
        assert args.steps_per_rollout == Fraction(args.generation_batch_size, update)

    def test_epoch_has_245_updates(self, recipe, resolve):
        args = resolve(recipe)[1]
        rollouts, rest = divmod(3920 * args.num_generations, args.generation_batch_size)
        assert rest == 0
        assert rollouts * args.steps_per_generation / args.gradient_accumulation_steps == 245

    def test_memory_of_the_header_is_that_of_the_dimensions_and_below_a_card_s(self, recipe, resolve):
        script_args, args, model_args = resolve(recipe)
        assert args.gradient_checkpointing and args.bf16
        stated = {}
        for line in header(recipe):
            if match := re.fullmatch(r"((?:always|prompts|last token|update): .*|peak) (\d+\.\d\d)", line):
                stated[match[1]] = float(match[2])
        expected = memory(split_name(recipe)[0], model_args, args, script_args.max_prompt_length)
        assert len(stated) == len(expected)
        for (line, found), (name, size) in zip(stated.items(), expected.items(), strict=True):
            assert line.startswith(name)
            assert found == pytest.approx(size, abs=0.0051), line
        assert stated["peak"] < 22.5
        assert "not measured" in " ".join(header(recipe))


DOCTOR_DIMENSIONS = {
    "qwen3_1.7b": doctor.Dimensions(28, 2048, 6144, 16, 8, 128, 151936, True, True),
    "qwen3_4b_2507": doctor.Dimensions(36, 2560, 9728, 32, 8, 128, 151936, True, True),
    "llama3.2_3b": doctor.Dimensions(28, 3072, 8192, 24, 8, 128, 128256, True, False),
}


def card(recipe: Path) -> float:
    """GiB that the card which the head names offers."""
    (size,) = {int(match) for match in re.findall(r"on one card of (\d+) GB", " ".join(header(recipe)))}
    return doctor.OFFERED[size]


@pytest.mark.parametrize("recipe", ONE_CARD_RECIPES, ids=lambda path: path.stem)
class TestOneCardLoRARecipes:
    def test_differs_from_the_lora_run_only_in_what_one_card_asks_for(self, recipe):
        family, variant = split_name(recipe)
        differing = differing_keys(values(recipe), values(Path(f"recipes/{family}.yaml"), "lora"))
        shorter = {"max_completion_length"} if variant == "lora_24gb" else set()
        assert {key for key in differing if not key.startswith("vllm_")} == ONE_CARD | shorter

    def test_an_update_has_as_many_prompts_and_a_run_as_many_updates_as_it_says(self, recipe, resolve):
        args = resolve(recipe)[1]
        prompts = args.generation_batch_size // args.num_generations
        assert prompts == {22.5: 16, 79.0: 64}[card(recipe)]
        (comment,) = (line for line in (ROOT / recipe).read_text().splitlines() if line.startswith("num_train_epochs"))
        assert f"= {int(args.num_train_epochs) * (3920 // prompts)} updates" in comment


@by_one_card_name
class TestOneCardRecipes:
    def test_starts_one_process_on_one_gpu_that_vllm_shares(self, recipe, resolve):
        (training,) = commands(recipe)
        launch = launch_arguments(training)
        assert (launch.num_processes, launch.config_file, len(training.gpus)) == (1, None, 1)
        args = resolve(recipe)[1]
        assert (args.world_size, args.use_vllm, args.vllm_mode) == (1, True, "colocate")
        # vLLM refuses to sleep with expandable segments.
        assert "PYTORCH_CUDA_ALLOC_CONF" not in training.environment
        assert args.vllm_max_model_length == doctor.longest_prompt(values(recipe)) + args.max_completion_length

    def test_every_update_has_one_rollout_of_its_own(self, recipe, resolve):
        args = resolve(recipe)[1]
        update = args.per_device_train_batch_size * args.gradient_accumulation_steps
        assert args.generation_batch_size == update
        assert args.gradient_accumulation_steps % (args.steps_per_generation * args.num_iterations) == 0

    def test_memory_of_the_header_is_that_of_the_dimensions_and_below_a_card_s(self, recipe):
        dimensions, recipe_values = DOCTOR_DIMENSIONS[split_name(recipe)[0]], values(recipe)
        lines = [re.fullmatch(r"((?:always|rollouts|update): .*|peak) (\d+\.\d\d)", line) for line in header(recipe)]
        stated = {match[1]: float(match[2]) for match in lines if match}
        expected = doctor.estimate(dimensions, recipe_values, card(recipe))
        assert len(stated) == len(expected)
        for (line, found), (name, size) in zip(stated.items(), expected.items(), strict=True):
            assert line.startswith(name)
            assert found == pytest.approx(size, abs=0.0051), line
        assert stated["peak"] < card(recipe)
        assert "not measured" in " ".join(header(recipe))
        at_once = doctor.cached_completions(dimensions, recipe_values, card(recipe))
        (line,) = (line for line in stated if line.startswith("rollouts"))
        assert f"KV cache of {at_once} x {recipe_values['vllm_max_model_length']:,} tokens" in line
        assert at_once >= recipe_values["num_generations"]

    def test_vllm_sleeps_only_where_the_update_does_not_fit_beside_it(self, recipe):
        awake = values(recipe) | {"vllm_enable_sleep_mode": False}
        peak = doctor.estimate(DOCTOR_DIMENSIONS[split_name(recipe)[0]], awake, card(recipe))["peak"]
        assert (peak > card(recipe)) == values(recipe).get("vllm_enable_sleep_mode", False)


class TestDoctorMemory:
    @pytest.mark.parametrize("family", DOCTOR_DIMENSIONS)
    def test_counts_the_weights_of_the_model_and_of_its_adapters(self, family):
        d = DOCTOR_DIMENSIONS[family]
        model_class, config_class = (
            (Qwen3ForCausalLM, Qwen3Config) if d.norms_queries else (LlamaForCausalLM, LlamaConfig)
        )
        config = config_class(
            num_hidden_layers=d.layers,
            hidden_size=d.hidden,
            intermediate_size=d.intermediate,
            num_attention_heads=d.heads,
            num_key_value_heads=d.key_value_heads,
            head_dim=d.head_dim,
            vocab_size=d.vocab,
            tie_word_embeddings=d.tied,
        )
        assert doctor.Dimensions.of(config) == d
        with torch.device("meta"):
            model = model_class(config)
            assert sum(parameter.numel() for parameter in model.parameters()) == d.parameters()
            adapted = get_peft_model(model, LoraConfig(r=32, target_modules="all-linear", task_type="CAUSAL_LM"))
        assert sum(p.numel() for p in adapted.parameters() if p.requires_grad) == d.adapters(32)

    def test_tiles_of_logits_are_those_of_trl(self):
        assert doctor.LOGITS_TILE == _CHUNKED_LOGPROB_CHUNK_SIZE

    @pytest.mark.parametrize("recipe", QLORA_RECIPES, ids=lambda path: path.stem)
    def test_agrees_with_the_headers_of_the_qlora_recipes(self, recipe):
        (stated,) = (float(line.split()[1]) for line in header(recipe) if line.startswith("peak "))
        found = doctor.estimate(DOCTOR_DIMENSIONS[split_name(recipe)[0]], values(recipe), 22.5)
        assert found["peak"] == pytest.approx(stated, abs=0.0051)

    @pytest.mark.parametrize(
        "changes", [{"use_peft": False}, {"max_prompt_length": None}, {"lora_target_modules": "q"}]
    )
    def test_other_runs_are_not_estimated(self, changes):
        recipe = values(Path("recipes/qwen3_1.7b_lora_24gb.yaml")) | changes
        assert doctor.estimate(DOCTOR_DIMENSIONS["qwen3_1.7b"], recipe, 22.5) is None

    @pytest.mark.parametrize("float32_adapters", [False, True])
    @pytest.mark.parametrize("family", DOCTOR_DIMENSIONS)
    def test_activations_of_a_layer_are_what_autograd_keeps(self, family, float32_adapters):
        full = DOCTOR_DIMENSIONS[family]
        small = replace(
            full,
            layers=1,
            hidden=full.hidden // 4,
            intermediate=full.intermediate // 4,
            heads=full.heads // 4,
            key_value_heads=2,
        )
        model_class, config_class = (
            (Qwen3ForCausalLM, Qwen3Config) if full.norms_queries else (LlamaForCausalLM, LlamaConfig)
        )
        config = config_class(
            num_hidden_layers=1,
            hidden_size=small.hidden,
            intermediate_size=small.intermediate,
            num_attention_heads=small.heads,
            num_key_value_heads=small.key_value_heads,
            head_dim=small.head_dim,
            vocab_size=64,
        )
        found = kept_bytes(model_class(config), small.hidden, float32_adapters)
        assert found == pytest.approx(small.activations(float32_adapters), rel=0.05)


def kept_bytes(model: Any, hidden: int, float32_adapters: bool) -> float:
    """Bytes that autograd keeps per token, in a forward pass with adapters and padding."""
    lora = LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM")
    model = model.to(torch.bfloat16)
    adapted = get_peft_model(model, lora, autocast_adapter_dtype=float32_adapters)
    parameters = {parameter.untyped_storage().data_ptr() for parameter in adapted.parameters()}
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            kept[storage.data_ptr()] = storage
        return tensor

    batch, length = 2, 32
    inputs = torch.randn(batch, length, hidden, dtype=torch.bfloat16, requires_grad=True)
    mask = torch.ones(batch, length, dtype=torch.long)
    mask[0, :8] = 0
    hooks = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
    with hooks, torch.autocast("cpu", torch.bfloat16):
        output = model.model(inputs_embeds=inputs, attention_mask=mask)
    assert output.last_hidden_state.requires_grad
    return sum(storage.nbytes() for storage in kept.values()) / (batch * length)


class TestMemoryEstimate:
    @pytest.mark.parametrize("family", DIMENSIONS)
    def test_activations_of_a_layer_are_what_autograd_keeps(self, family):
        # A quarter of the width, the same proportions and the padding mask that makes keys and values be repeated.
        full = DIMENSIONS[family]
        small = full._replace(
            layers=1,
            hidden=full.hidden // 4,
            intermediate=full.intermediate // 4,
            heads=full.heads // 4,
            key_value_heads=2,
            vocab=64,
        )
        model = Qwen3ForCausalLM(small.config()).to(torch.bfloat16)
        lora = LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM")
        adapted = get_peft_model(model, lora, autocast_adapter_dtype=False)
        parameters = {parameter.untyped_storage().data_ptr() for parameter in adapted.parameters()}
        kept: dict[int, torch.UntypedStorage] = {}

        def keep(tensor: torch.Tensor) -> torch.Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in parameters:
                kept[storage.data_ptr()] = storage
            return tensor

        batch, length = 2, 32
        inputs = torch.randn(batch, length, small.hidden, dtype=torch.bfloat16, requires_grad=True)
        mask = torch.ones(batch, length, dtype=torch.long)
        mask[0, :8] = 0
        hooks = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
        with hooks, torch.autocast("cpu", torch.bfloat16):
            output = model.model(inputs_embeds=inputs, attention_mask=mask)
        assert output.last_hidden_state.requires_grad
        found = sum(storage.nbytes() for storage in kept.values()) / (batch * length)
        assert found == pytest.approx(small.activations(), rel=0.05)


@by_accelerate_name
class TestAccelerateConfigs:
    def test_loads_with_accelerate(self, config):
        loaded = load_config_from_file(str(config))
        assert isinstance(loaded, ClusterConfig)
        types = {
            "ddp": DistributedType.MULTI_GPU,
            "fsdp2": DistributedType.FSDP,
            "zero3": DistributedType.DEEPSPEED,
            "zero3_offload": DistributedType.DEEPSPEED,
        }
        assert loaded.distributed_type == types[config.stem]
        assert (loaded.num_processes, loaded.num_machines, loaded.mixed_precision) == (4, 1, "bf16")

    def test_is_trl_s_but_for_the_processes_and_offloading(self, config):
        name = {"ddp": "multi_gpu"}.get(config.stem, config.stem.removesuffix("_offload"))
        reference = values(Path(trl.__file__).parent / "accelerate_configs" / f"{name}.yaml")
        expected = {key: reference[key] for key in values(config)} | {"num_processes": 4}
        if config.stem == "zero3_offload":
            expected["deepspeed_config"] |= {"offload_optimizer_device": "cpu"}
        expected.get("deepspeed_config", {}).pop("deepspeed_multinode_launcher", None)
        assert values(config) == expected

    def test_header_is_that_of_a_recipe_that_uses_it(self, config):
        recipe = Path(commands(config)[-1].option("--config"))
        assert header(config)[0].startswith("VLLM_SERVER_DEV_MODE=1 ")
        assert Path(commands(config)[-1].option("--config_file")) == config
        assert commands(config) == commands(recipe)
