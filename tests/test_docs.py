"""The docs: their code runs, their commands parse, their links lead somewhere, their quotes are in the source."""

import ast
import importlib.util
import json
import os
import re
import sys
from dataclasses import fields
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from documents import DOCUMENTS, PAGES, README, ROOT, blocks, commands

from rest_trl import ResTGRPOConfig
from rest_trl.lab.commands.data import make_parser as make_data_parser
from rest_trl.lab.commands.diagnose import make_parser as make_diagnose_parser
from rest_trl.lab.commands.study import make_parser as make_study_parser
from rest_trl.lab.evaluation import compare, evaluate
from rest_trl.lab.evaluation.benchmark import find_benchmarks
from rest_trl.lab.inspect import make_parser as make_inspect_parser
from rest_trl.lab.sft import ResTSFTConfig
from rest_trl.lab.sft import make_parser as make_sft_parser
from rest_trl.lab.study.arms import load_study
from rest_trl.runs.launching import split_accelerate_config
from rest_trl.runs.listing import TABLES, read_table
from rest_trl.runs.listing import make_parser as make_recipes_parser
from rest_trl.runs.program import DataArguments
from rest_trl.runs.recipes import find_recipe
from rest_trl.tool_calls import SYNTAXES
from rest_trl.train import ResTScriptArguments
from rest_trl.train import make_parser as make_train_parser


COMMANDS = commands(*DOCUMENTS)
WITH_CODE = [page for page in PAGES if any(block.language == "python" and not block.title for block in blocks(page))]
SITE = yaml.safe_load(re.sub(r"!!python/\S+", "", (ROOT / "docs/site/mkdocs.yml").read_text()))

by_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)


def of_program(*programs: str) -> pytest.MarkDecorator:
    found = [command for command in COMMANDS if command.words[:2] in {("rest-trl", program) for program in programs}]
    return pytest.mark.parametrize("command", found, ids=str)


@pytest.fixture(autouse=True)
def in_root(monkeypatch):
    """The commands are to be run in the root of the repository."""
    monkeypatch.chdir(ROOT)


class TestCode:
    @pytest.mark.parametrize("page", WITH_CODE, ids=lambda page: page.stem)
    def test_runs_from_top_to_bottom(self, page, tmp_path, monkeypatch, registry):
        monkeypatch.chdir(tmp_path)
        monkeypatch.syspath_prepend(tmp_path)
        original = ResTGRPOConfig.__init__

        def shortened(self, *args, **kwargs):
            short = {"max_steps": 1, "per_device_train_batch_size": 8, "max_completion_length": 8}
            original(self, *args, **{**kwargs, **short, "report_to": "none", "save_strategy": "no"})

        monkeypatch.setattr(ResTGRPOConfig, "__init__", shortened)
        scope: dict = {}
        files = []
        for block in blocks(page):
            if block.title and block.language == "json":
                Path(block.title).write_text(json.dumps(json.loads(block.text)) + "\n")
            elif block.title:
                Path(block.title).write_text(block.text)
                files.append(Path(block.title).stem)
            elif block.language == "python":
                exec(compile(block.text, str(page), "exec"), scope)
        for name in files:
            sys.modules.pop(name, None)
        if "trainer" in scope:
            assert scope["trainer"].state.global_step == 1

    def test_of_the_benchmark_is_a_complete_benchmark(self, tmp_path, monkeypatch):
        (file,) = (block for block in blocks(ROOT / "docs/own_benchmark.md") if block.title)
        (command,) = (command for command in COMMANDS if "sums.Sums" in command.words)
        (tmp_path / file.title).write_text(file.text)
        monkeypatch.chdir(tmp_path)
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.setattr(sys, "argv", ["rest-trl", *command.words[2:]])
        evaluate.main(list(command.words[2:]))
        sys.modules.pop("sums", None)
        summary = json.loads(Path("outputs/sums/summary.json").read_text())
        assert summary["overall"]["n"] == 9


class TestCommands:
    def test_are_of_known_programs(self):
        programs = {"accelerate", "hf", "make", "pip", "rest-trl", "vllm"}
        assert {command.words[0] for command in COMMANDS} == programs

    def test_make_targets_exist(self):
        targets = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
        assert {command.words[1] for command in COMMANDS if command.words[0] == "make"} <= targets

    def test_extras_exist(self):
        named = [
            extra
            for command in COMMANDS
            if command.words[0] == "pip"
            for extra in re.findall(r"\[(.+)\]", command.words[-1])
        ]
        declared = set(re.findall(r"^(\w+) =$", (ROOT / "setup.cfg").read_text(), re.MULTILINE))
        assert named
        assert {extra for names in named for extra in names.split(",")} <= declared

    @of_program("train", "sft")
    def test_training_parses(self, command):
        if "--help" in command.words:
            return
        file, arguments = split_accelerate_config(list(command.words[2:]))
        assert file is None or find_recipe(file, "accelerate").is_file()
        parser = make_train_parser() if command.words[1] == "train" else make_sft_parser()
        # `use_cpu` only because bf16 is refused where no GPU supports it.
        parser.parse_args_and_config([*arguments, "--use_cpu", "true"], fail_with_unknown_args=True)

    def test_launches_parse(self):
        launches = [command for command in COMMANDS if command.words[:2] == ("accelerate", "launch")]
        assert launches
        for command in launches:
            words = list(command.words)
            if "--config_file" in words:
                assert Path(command.option("--config_file")).is_file()
            assert command.option("-m") == "rest_trl.train"
            arguments = words[words.index("-m") + 2 :]
            make_train_parser().parse_args_and_config([*arguments, "--use_cpu", "true"], fail_with_unknown_args=True)

    @of_program("evaluate")
    def test_evaluations_parse(self, command):
        benchmarks = find_benchmarks()
        if "sums.Sums" not in command.words:  # which brings an option of its own, and is run above
            arguments = evaluate.make_parser(benchmarks).parse_args(command.words[2:])
            arguments.benchmark = evaluate.chosen_benchmark(command.words[2:])
            evaluate.check_options(arguments, benchmarks)

    @of_program("compare")
    def test_comparisons_parse(self, command):
        compare.make_parser().parse_args(command.words[2:])

    @of_program("inspect")
    def test_inspections_parse(self, command):
        make_inspect_parser().parse_args(command.words[2:])

    @of_program("data")
    def test_data_commands_parse(self, command):
        arguments = make_data_parser().parse_args(command.words[2:])
        assert getattr(arguments, "config", None) is None or find_recipe(arguments.config).is_file()

    @of_program("recipes")
    def test_recipes_that_are_printed_exist(self, command):
        name = make_recipes_parser().parse_args(command.words[2:]).name
        assert name is None or find_recipe(name).is_file()

    @of_program("study")
    def test_studies_parse(self, command):
        arguments = make_study_parser().parse_args(command.words[2:])
        load_study(find_recipe(arguments.config), name=arguments.study)

    @of_program("diagnose")
    def test_diagnoses_parse(self, command):
        own, overrides = make_diagnose_parser().parse_known_args(command.words[2:])
        make_train_parser().parse_args_and_config(["--config", own.config, "--output_dir", "unused", *overrides])

    @of_program("doctor")
    def test_doctors_name_recipes_that_exist(self, command):
        assert "--config" not in command.words or find_recipe(command.option("--config")).is_file()

    def test_every_command_of_rest_trl_exists(self):
        from rest_trl.cli import _COMMANDS

        assert {command.words[1] for command in COMMANDS if command.words[0] == "rest-trl"} <= set(_COMMANDS)


class TestRecipesInPages:
    @by_page
    def test_have_arguments_that_exist(self, page):
        known = {field.name for config in (ResTScriptArguments, ResTGRPOConfig) for field in fields(config)}
        from trl import ModelConfig

        known |= {field.name for field in fields(ModelConfig)}
        for block in blocks(page):
            if block.language == "yaml" and not block.title:
                assert set(yaml.safe_load(block.text)) <= known

    def test_the_study_is_one(self, tmp_path):
        (block,) = (block for block in blocks(ROOT / "docs/studies.md") if block.title)
        file = tmp_path / block.title
        file.write_text(block.text.replace("recipe: ", f"recipe: {ROOT}/"))
        assert set(load_study(file).arms) == {"grpo", "rest", "slow_region"}


class TestLinks:
    @pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: document.stem)
    def test_lead_to_files_and_headings(self, document):
        for link in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"```.*?```", "", document.read_text(), flags=re.DOTALL)):
            if re.match(r"https?:", link):
                continue
            path, _, anchor = link.partition("#")
            target = (document.parent / path) if path else document
            assert target.exists(), link
            if anchor:
                headings = re.findall(r"^#+ (.+)$", target.read_text(), re.MULTILINE)
                slugs = {re.sub(r"[^\w\s-]", "", heading).strip().lower().replace(" ", "-") for heading in headings}
                assert anchor in slugs, link

    def test_files_of_the_theme_exist_and_are_published(self):
        docs = ROOT / "docs"
        for path in (*SITE["extra_css"], SITE["theme"]["logo"], SITE["theme"]["favicon"]):
            assert (docs / path).is_file(), path
            assert Path(path).parent.name == "figures" or f"!{path}" in SITE["exclude_docs"].split()

    def test_every_page_is_in_the_navigation(self):
        def named(entry):
            if isinstance(entry, str):
                return [entry]
            return [name for value in (entry.values() if isinstance(entry, dict) else entry) for name in named(value)]

        notebooks = [f"notebooks/{path.name}" for path in ROOT.glob("notebooks/*.ipynb")]
        assert sorted(named(SITE["nav"])) == sorted([*(page.name for page in PAGES), *notebooks])


class TestConfigPage:
    @pytest.mark.parametrize("config", [ResTGRPOConfig, ResTSFTConfig, ResTScriptArguments, DataArguments])
    def test_every_field_of_our_own_is_in_the_docstring(self, config):
        described = set(re.findall(r"^ *(\w+) \(`", config.__doc__, re.MULTILINE))
        own = {name for name in config.__annotations__ if not name.startswith("_")}
        inherited = {
            field.name
            for parent in config.__mro__[1:]
            if hasattr(parent, "__dataclass_fields__")
            for field in fields(parent)
        }
        assert own - inherited <= described
        assert described <= {field.name for field in fields(config)}

    def test_every_class_with_arguments_is_on_the_page(self):
        page = (ROOT / "docs/config.md").read_text()
        for config in (ResTGRPOConfig, ResTSFTConfig, ResTScriptArguments, DataArguments):
            assert f"::: {config.__module__}.{config.__name__}\n" in page + "\n"

    def test_every_object_of_the_reference_exists(self):
        for page in PAGES:
            for name in re.findall(r"^::: (\S+)$", page.read_text(), re.MULTILINE):
                module, _, attribute = name.rpartition(".")
                assert hasattr(importlib.import_module(module), attribute), name


@cache
def texts_of_the_source() -> list[str]:
    """Every string of the package, with … in the place of what is filled in."""
    found = []
    for path in (ROOT / "rest_trl").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.JoinedStr):
                found.append("".join(str(v.value) if isinstance(v, ast.Constant) else "…" for v in node.values))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(re.sub(r"%[rsd]", "…", node.value))
    return found


class TestTroubleshooting:
    QUOTES = re.findall(r"^### `(.+)`$", (ROOT / "docs/troubleshooting.md").read_text(), re.MULTILINE)

    def test_has_quotes(self):
        assert len(self.QUOTES) > 40

    @pytest.mark.parametrize("quote", QUOTES)
    def test_quotes_what_the_source_says(self, quote):
        assert any(quote in text for text in texts_of_the_source())


class TestSyntaxes:
    def test_are_all_listed(self):
        page = (ROOT / "docs/own_syntax.md").read_text()
        rows = re.findall(r"^\| (`[^|]+) \|", page, re.MULTILINE)
        assert sorted(re.findall(r"`(\w+)`", " ".join(rows))) == sorted(SYNTAXES)

    def test_are_counted_right(self):
        (count,) = re.findall(r"wire syntax \((\d+) are known", README.read_text())
        assert int(count) == len(SYNTAXES)


class TestMetrics:
    def test_are_all_in_the_source(self):
        for name in re.findall(r"^\| `(rest/[\w/]+)", (ROOT / "docs/metrics.md").read_text(), re.MULTILINE):
            stem = name.rstrip("/")
            assert any(stem in text for text in texts_of_the_source()), name


@pytest.fixture(scope="module")
def hook():
    """The hook that writes into the pages what the package knows."""
    spec = importlib.util.spec_from_file_location("generated", ROOT / "docs/site/generated.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class TestGenerated:
    def test_every_recipe_has_description_and_command(self, hook):
        tables = {ROOT / "recipes" / f"{name}.yaml" for name in TABLES}
        for path in {*ROOT.glob("recipes/*.yaml"), *ROOT.glob("recipes/tiny/*.yaml")} - tables:
            found, description = hook.recipe_header(path)
            assert found and description, path
            assert all(str(path.relative_to(ROOT)) in command or "vllm" in command for command in found), path
            name = path.relative_to(ROOT / "recipes").with_suffix("").as_posix()
            assert f"### {name}\n" in hook.recipes_page()

    def test_every_arm_and_study_has_its_description(self, hook):
        page = hook.recipes_page()
        for table, option in TABLES.items():
            for name, purpose in read_table(table).items():
                assert f"| `{option} {name}` | {purpose} |" in page

    def test_markers_are_filled_in(self, hook):
        page = (ROOT / "docs/own_data.md").read_text()
        assert "<!-- formats -->" in page
        assert "| `messages` |" in hook.on_page_markdown(page)

    def test_links_of_notebooks_lead_to_pages(self, hook):
        page = SimpleNamespace(file=SimpleNamespace(src_uri="notebooks/own_data.ipynb"))
        links = (
            '<a href="../docs/hub.md#push">Hub</a> <a href="evaluate.ipynb">next</a> <a href="https://a.b/c.md">c</a>'
        )
        assert hook.on_page_content(links, page) == (
            '<a href="../hub.html#push">Hub</a> <a href="evaluate.html">next</a> <a href="https://a.b/c.md">c</a>'
        )

    def test_commands_are_asked_for_their_help(self, hook, monkeypatch):
        monkeypatch.setattr(hook, "_COMMANDS", {"doctor": ("rest_trl.lab.doctor", "report")})
        page = hook.commands_page()
        assert "## rest-trl doctor" in page and "usage: rest-trl doctor" in page

    @pytest.mark.parametrize("name", ["completion.svg", "data_flow.svg", "logo.svg"])
    def test_figures_are_small(self, name):
        assert os.path.getsize(ROOT / "docs/figures" / name) < 100_000
