"""
What rest_trl uses of TRL, transformers and bitsandbytes that these do not promise to keep.

This is the only list of it. Where TRL lacks an entry, one test fails with one line that says what is gone and what it
was for. Where rest_trl uses something that is not listed, a test fails and says where.
"""

import ast
import importlib
import inspect
import sys
import textwrap
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import trl


ROOT = Path(__file__).resolve().parents[1]


class Internal(NamedTuple):
    """A name that is not public: of a class or of a module, and what rest_trl does with it."""

    owner: str
    name: str
    purpose: str

    def __str__(self) -> str:
        return f"{self.owner}.{self.name}"


TRL_INTERNALS = [
    Internal("trl.GRPOTrainer", "_calculate_rewards", "the rewards of a rollout are shared out over its calls"),
    Internal("trl.GRPOTrainer", "_generate", "the rollout is read where it is sampled, before the rewards are called"),
    Internal("trl.GRPOTrainer", "_generate_and_score_completions", "regions are added to what it returns"),
    Internal(
        "trl.GRPOTrainer", "_generate_single_turn", "branches are sampled there; environments are asked before it"
    ),
    Internal("trl.GRPOTrainer", "_get_tool_suffix_ids", "tools may repeat half a character of the policy's"),
    Internal("trl.GRPOTrainer", "_env_tools", "the method of an environment that gives turn rewards is no tool"),
    Internal("trl.GRPOTrainer", "_sync_tool_dicts", "the method that gives turn rewards cannot be called as a tool"),
    Internal("trl.GRPOTrainer", "_get_per_token_logps_and_entropies", "the entropies of a micro-batch come from it"),
    Internal("trl.GRPOTrainer", "_prepare_inputs", "it shuffles completions over micro-batches and buffers them"),
    Internal("trl.GRPOTrainer", "_buffered_inputs", "the micro-batches of a rollout get whole groups"),
    Internal("trl.GRPOTrainer", "_step", "the number of the micro-batch whose turn it is"),
    Internal("trl.GRPOTrainer", "_is_vlm", "policies with images are told from those of text"),
    Internal("trl.GRPOTrainer", "_load_from_checkpoint", "adapters get back the dtype that they were trained in"),
    Internal("trl.GRPOTrainer", "_logs", "the table of completions gets a column with the regions"),
    Internal("trl.GRPOTrainer", "_metrics", "the metrics of a step are logged with those of TRL"),
    Internal("trl.GRPOTrainer", "_name", "the model card names the method by it"),
    Internal("trl.GRPOTrainer", "_paper", "the model card cites it"),
    Internal("trl.GRPOTrainer", "_pending_extra_logs", "what rewards log of a completion stays with it in a refill"),
    Internal("trl.GRPOTrainer", "_dist", "sharded weights are gathered for a generation with branches"),
    Internal("trl.GRPOTrainer", "_tag_names", "models on the Hub are tagged with it"),
    Internal("trl.GRPOTrainer", "_tokenizer", "regions are found with the tokenizer of text and multimodal models"),
    Internal("trl.SFTConfig", "_VALID_DICT_FIELDS", "a mapping on the command line is parsed as those of TRL"),
    Internal("trl.SFTTrainer", "_metrics", "the likelihoods of the regions are logged with TRL's metrics"),
    Internal("trl.SFTTrainer", "_prepare_dataset", "prompts and solutions are tokenized before TRL truncates them"),
    Internal("trl.SFTTrainer", "_tag_names", "models on the Hub are tagged with it"),
    Internal("trl.SFTTrainer", "_tokenizer", "regions are found with the tokenizer of text and multimodal models"),
    Internal("transformers.PretrainedConfig", "_name_or_path", "the policy is named by it"),
    Internal("transformers.Trainer", "_get_output_dir", "an older checkpoint of the same step is removed first"),
    Internal("transformers.Trainer", "_issue_warnings_after_load", "a tied weight is not reported as missing"),
    Internal("transformers.Trainer", "_save_checkpoint", "an interrupted save is never taken for a checkpoint"),
    Internal("transformers.Trainer", "_save_rng_state", "a checkpoint is whole when all ranks have written"),
    Internal("transformers.TrainingArguments", "_VALID_DICT_FIELDS", "a command line may give dictionaries as JSON"),
    Internal("transformers.PretrainedConfig", "_attn_implementation", "that of shared prompts takes its place"),
    Internal("transformers.PreTrainedModel", "_is_stateful", "recurrent layers cannot share prompts"),
    Internal("transformers.PreTrainedModel", "_supports_attention_backend", "its attention can be replaced"),
    Internal("trl.models.utils", "disable_gradient_checkpointing", "gold calls are scored without gradient"),
    Internal("trl.models", "unwrap_model_for_generation", "branches are sampled by the policy as TRL unwraps it"),
    Internal("trl.extras.profiling", "profiling_context", "the time of the regions is logged with TRL's times"),
    Internal("trl.trainer.utils", "get_comet_experiment_url", "the model card links the run"),
    Internal("trl.trainer.utils", "get_trackio_space_url", "the model card links the run"),
    Internal("trl.trainer.utils", "is_async_callable", "asynchronous reward functions may give turn rewards, too"),
    Internal("trl.trainer.utils", "nanstd", "advantages with credit are scaled as TRL scales its own"),
]
# These are needed with a vLLM server only, so they are checked where vLLM is installed (`make test-vllm`).
VLLM_INTERNALS = [
    Internal("trl.generation.vllm_client", "VLLMClient", "the client that survives a restart of the server wraps it"),
    Internal("trl.generation.vllm_generation", "VLLMGeneration", "the generation that is tried again wraps it"),
    *(
        Internal("trl.generation.vllm_client.VLLMClient", name, "the client that survives a restart wraps it")
        for name in (
            "base_url",
            "close_communicator",
            "generate",
            "image_features",
            "init_communicator",
            "reset_prefix_cache",
            "session",
            "update_named_params",
        )
    ),
    *(
        Internal("trl.generation.vllm_generation.VLLMGeneration", name, "the generation that is tried again uses it")
        for name in ("accelerator", "generate", "model", "sync_weights", "vllm_client")
    ),
    *(
        Internal("trl.generation.vllm_generation.VLLMGeneration", name, "each part of a branch has its own")
        for name in ("generation_kwargs", "max_completion_length")
    ),
    Internal(
        "bitsandbytes.functional",
        "_convert_weight_packed_for_cpu_inverse",
        "weights that bitsandbytes has packed for the CPU are unpacked on their way to the server",
    ),
]
# The standard library documents these names of named tuples.
PUBLIC = {"_asdict", "_fields", "_make", "_replace"}
# Classes of TRL that rest_trl extends.
OWNERS = ("trl.GRPOTrainer", "trl.GRPOConfig", "trl.TrlParser")


class Use(NamedTuple):
    """A place in rest_trl that names something private."""

    name: str
    place: str


def load(path: str) -> Any:
    """The module or class at a dotted path."""
    try:
        return importlib.import_module(path)
    except ModuleNotFoundError:
        module, _, name = path.rpartition(".")
        return getattr(importlib.import_module(module), name)


@cache
def names_of(owner: str) -> frozenset[str]:
    """Names of a class or module, with those that the methods of a class give to `self`."""
    found = load(owner)
    names = set(dir(found))
    for base in inspect.getmro(found) if inspect.isclass(found) else ():
        if base is not object:
            for node in ast.walk(ast.parse(textwrap.dedent(inspect.getsource(base)))):
                if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
                    names.add(node.attr)
    return frozenset(names)


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__") and name not in PUBLIC


def names_bound_by(statement: ast.stmt) -> set[str]:
    """Names that a statement of a class body gives to the class."""
    if isinstance(statement, ast.FunctionDef):
        return {statement.name}
    return {node.id for node in ast.walk(statement) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}


class Scanner(ast.NodeVisitor):
    """Finds in one file the private names that belong to others."""

    def __init__(self, path: Path, root: Path, own: set[str], of_trl: set[str]) -> None:
        self.path, self.own, self.of_trl = path.relative_to(root.parent), own, of_trl
        # Classes that inherit names of TRL: imported ones, our own two, and those of this file that extend them.
        self.heirs = {"ResTGRPOTrainer", "ResTGRPOConfig"}
        self.extends_trl = False
        self.uses: list[Use] = []
        self.visit(ast.parse(path.read_text()))

    def add(self, name: str, node: ast.stmt | ast.expr) -> None:
        self.uses.append(Use(name, f"{self.path}:{node.lineno}"))

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        package = (node.module or "").split(".")[0] if not node.level else ""
        for alias in node.names:
            if package == "trl":
                self.heirs.add(alias.name)
            if (package == "trl" and node.module != "trl") or (package and is_private(alias.name)):
                self.add(alias.name, node)

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        outer, self.extends_trl = self.extends_trl, any(ast.unparse(base) in self.heirs for base in node.bases)
        if self.extends_trl:
            self.heirs.add(node.name)
            for statement in node.body:
                for name in names_bound_by(statement) & self.of_trl:
                    self.add(name, statement)
        self.generic_visit(node)
        self.extends_trl = outer

    def visit_Attribute(self, node: ast.Attribute) -> None:
        self.generic_visit(node)
        holder = ast.unparse(node.value)
        of_another_class = holder in ("self", "cls", "super()") and not self.extends_trl
        if not is_private(node.attr) or of_another_class or holder in sys.stdlib_module_names:
            return
        if node.attr in self.of_trl or node.attr not in self.own:
            self.add(node.attr, node)


def scan(root: Path) -> list[Use]:
    """All uses of private names of others in the files of a package."""
    paths = sorted(root.rglob("*.py"))
    own = set()
    for path in paths:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef):
                own.add(node.name)
            elif isinstance(node, ast.Attribute | ast.Name) and isinstance(node.ctx, ast.Store):
                own.add(node.attr if isinstance(node, ast.Attribute) else node.id)
    of_trl = {name for owner in OWNERS for name in names_of(owner) if is_private(name)}
    return [use for path in paths for use in Scanner(path, root, own, of_trl).uses]


def check(internal: Internal) -> None:
    try:
        names = names_of(internal.owner)
    except (ImportError, AttributeError):
        names = frozenset()
    if internal.name not in names:
        places = ", ".join(sorted({use.place for use in scan(ROOT / "rest_trl") if use.name == internal.name}))
        package = internal.owner.split(".")[0]
        message = f"{package} {version(package)} has no {internal}: {internal.purpose} ({places})"
        pytest.fail(message, pytrace=False)


@pytest.mark.parametrize("internal", TRL_INTERNALS, ids=str)
def test_trl_has(internal):
    check(internal)


@pytest.mark.parametrize("internal", VLLM_INTERNALS, ids=str)
def test_trl_has_for_vllm(internal):
    pytest.importorskip("vllm", reason="needed with vLLM only: run `make test-vllm`")
    check(internal)


class TestList:
    def test_holds_every_private_name_that_rest_trl_uses(self):
        listed = {internal.name for internal in (*TRL_INTERNALS, *VLLM_INTERNALS)}
        missing = [use for use in scan(ROOT / "rest_trl") if use.name not in listed]
        message = "; ".join(f"{use.place} uses {use.name}" for use in missing)
        assert not missing, f"add to TRL_INTERNALS or VLLM_INTERNALS of {Path(__file__).name}: {message}"

    def test_of_the_core_are_in_the_seam(self):
        seam = ROOT / "rest_trl" / "trl_seam.py"
        of_trl = {internal.name for internal in TRL_INTERNALS if internal.owner.startswith("trl.")}
        beside = ("lab", "serving", "shared_prompts")
        # The configuration lists its mappings under TRL's name for such a list.
        uses = [use for use in scan(ROOT / "rest_trl") if use.name in of_trl - {"_VALID_DICT_FIELDS"}]
        places = [use.place for use in uses]
        elsewhere = [place for place in places if place.split("/")[1] not in (*beside, f"{seam.name}")]
        assert [place for place in elsewhere if not place.startswith(f"rest_trl/{seam.name}:")] == []

    def test_holds_nothing_that_rest_trl_does_not_use(self):
        paths = (ROOT / "rest_trl").rglob("*.py")
        nodes = [node for path in paths for node in ast.walk(ast.parse(path.read_text()))]
        used = {use.name for use in scan(ROOT / "rest_trl")}
        used |= {node.attr for node in nodes if isinstance(node, ast.Attribute)}
        unused = [str(internal) for internal in (*TRL_INTERNALS, *VLLM_INTERNALS) if internal.name not in used]
        assert not unused, f"rest_trl no longer uses {', '.join(unused)}: take it off the list"


class TestScan:
    @pytest.fixture
    def uses(self, tmp_path):
        def found(source):
            package = tmp_path / "package"
            package.mkdir()
            (package / "module.py").write_text(textwrap.dedent(source))
            return [(use.name, use.place) for use in scan(package)]

        return found

    def test_finds_what_an_heir_overrides_calls_and_reads(self, uses):
        source = """\
            from trl import GRPOTrainer
            class Trainer(GRPOTrainer):
                _tag_names = ["a"]
                def _generate(self):
                    self._own = 1
                    return super()._generate(), self._metrics, self._own, self._gone
            class Heir(Trainer):
                def f(self):
                    return self._logs
        """
        places = [f"package/module.py:{line}" for line in (3, 4, 6, 6, 6, 9)]
        names = ["_tag_names", "_generate", "_generate", "_metrics", "_gone", "_logs"]
        assert uses(source) == list(zip(names, places, strict=True))

    def test_finds_what_is_read_from_another_object_and_imported_from_inside(self, uses):
        source = """\
            from trl.trainer.utils import pad
            from transformers.trainer import _private
            def f(trainer):
                return trainer._metrics, trainer.model.config._name_or_path, trainer._own()
            class Other:
                def _own(self):
                    return self._metrics
        """
        assert [name for name, _ in uses(source)] == ["pad", "_private", "_metrics", "_name_or_path"]

    def test_leaves_out_the_standard_library(self, uses):
        assert uses("import os\nos._exit(0)\n") == []


def test_names_what_is_gone_in_one_line():
    gone = Internal("trl.GRPOTrainer", "_gone", "nothing needs it")
    with pytest.raises(pytest.fail.Exception) as error:
        check(gone)
    assert str(error.value) == f"trl {trl.__version__} has no trl.GRPOTrainer._gone: nothing needs it ()"
