"""What a public repository needs: workflows, citation, hooks and templates say what is true here."""

import configparser
import re
from pathlib import Path

import pytest
import yaml

from rest_trl import __version__


ROOT = Path(__file__).parents[1]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
SETUP = configparser.ConfigParser()
SETUP.read(ROOT / "setup.cfg")
PYTHONS = re.findall(r"Python :: (3\.\d+)", SETUP["metadata"]["classifiers"])

by_workflow = pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)


def read(path: Path) -> dict:
    return yaml.safe_load(path.read_text())


def steps(workflow: dict) -> list[dict]:
    return [step for job in workflow["jobs"].values() for step in job["steps"]]


def triggers(workflow: dict) -> dict:
    # YAML 1.1, which PyYAML reads, takes the key `on` for a boolean.
    return workflow[True]


@by_workflow
class TestEveryWorkflow:
    def test_has_the_keys_of_a_workflow(self, path):
        workflow = read(path)
        assert set(workflow) <= {"name", True, "permissions", "concurrency", "jobs"}
        assert triggers(workflow).keys() <= {"push", "pull_request", "schedule", "workflow_dispatch"}
        for job in workflow["jobs"].values():
            assert {"runs-on", "timeout-minutes", "steps"} <= set(job)
            assert set(job) <= {
                *("runs-on", "timeout-minutes", "steps", "strategy", "needs", "environment", "permissions"),
            }
            assert set(job.get("needs", "").split()) <= set(workflow["jobs"])
        for step in steps(workflow):
            assert ("run" in step) != ("uses" in step)
            assert set(step) <= {"name", "run", "uses", "with", "if"}

    def test_runs_targets_that_exist(self, path):
        commands = [step["run"] for step in steps(read(path)) if "run" in step]
        made = [target for command in commands for target in re.findall(r"\bmake ([a-z-]+)", command)]
        assert made
        assert set(made) <= TARGETS

    def test_names_the_version_of_each_action(self, path):
        for step in steps(read(path)):
            assert "uses" not in step or re.fullmatch(r"[\w-]+/[\w-]+@[\w./-]+", step["uses"])

    def test_may_only_read_unless_it_publishes(self, path):
        workflow = read(path)
        assert workflow["permissions"] == {"contents": "read"}
        granted = [job["permissions"] for job in workflow["jobs"].values() if "permissions" in job]
        assert granted == ([{"id-token": "write"}] if path.stem == "publish" else [])

    def test_uses_only_what_its_matrix_has(self, path):
        for job in read(path)["jobs"].values():
            used = set(re.findall(r"matrix\.([\w-]+)", str(job["steps"])))
            assert used == set(job.get("strategy", {}).get("matrix", {}))


class TestWorkflows:
    def test_are_found(self):
        assert {path.stem for path in WORKFLOWS} == {"tests", "docs", "canary", "publish"}

    @pytest.mark.parametrize("name", ["tests", "canary"])
    def test_cover_every_declared_python(self, name):
        (job,) = read(ROOT / ".github" / "workflows" / f"{name}.yml")["jobs"].values()
        assert PYTHONS and job["strategy"]["matrix"]["python-version"] == PYTHONS

    def test_run_what_the_ci_runs(self):
        (line,) = re.findall(r"^make (.+)$", (ROOT / ".ci" / "run").read_text(), re.MULTILINE)
        run = [
            step["run"]
            for name in ("tests", "docs")
            for step in steps(read(WORKFLOWS[0].with_name(f"{name}.yml")))
            if "run" in step
        ]
        made = [re.match(r"make ([a-z-]+)", command)[1] for command in run if command.startswith("make")]
        assert made == line.split()

    def test_canary_is_weekly(self):
        (schedule,) = triggers(read(ROOT / ".github/workflows/canary.yml"))["schedule"]
        minute, hour, day, month, weekday = schedule["cron"].split()
        assert (day, month) == ("*", "*") and minute.isdigit() and hour.isdigit() and weekday.isdigit()

    def test_only_tags_are_published(self):
        assert triggers(read(ROOT / ".github/workflows/publish.yml")) == {"push": {"tags": ["v*"]}}

    def test_version_of_a_tag_is_read_as_it_is_written(self):
        (check,) = [
            step["run"] for step in steps(read(ROOT / ".github/workflows/publish.yml")) if "sed" in step.get("run", "")
        ]
        pattern = re.search(r"s/\^(.+)\\\(\.\*\\\)(.+)/\\1/p", check)
        assert f"{pattern[1]}{__version__}{pattern[2]}" in (ROOT / "rest_trl" / "__init__.py").read_text()


class TestCitation:
    def test_has_what_the_format_demands(self):
        citation = read(ROOT / "CITATION.cff")
        assert {"cff-version", "title", "message", "authors"} <= set(citation)
        assert all(
            {"family-names", "given-names"} <= set(author) for author in citation["preferred-citation"]["authors"]
        )

    def test_agrees_with_the_package(self):
        citation = read(ROOT / "CITATION.cff")
        assert citation["version"] == __version__
        assert citation["license"] == SETUP["metadata"]["license"]
        assert citation["preferred-citation"]["identifiers"][0]["value"] == "arXiv:2509.21826"


class TestHooks:
    def test_ruff_is_the_version_that_the_ci_has(self):
        (pinned,) = re.findall(r"^ruff==(.+)$", (ROOT / ".ci/constraints.txt").read_text(), re.MULTILINE)
        (repo,) = [repo for repo in read(ROOT / ".pre-commit-config.yaml")["repos"] if "ruff" in repo["repo"]]
        assert repo["rev"] == f"v{pinned}"


class TestTemplates:
    @pytest.mark.parametrize(
        "path", sorted((ROOT / ".github/ISSUE_TEMPLATE").glob("[!c]*.yml")), ids=lambda path: path.stem
    )
    def test_is_a_form(self, path):
        form = read(path)
        assert {"name", "description", "body"} <= set(form)
        assert all(field["type"] in ("input", "textarea") and "label" in field["attributes"] for field in form["body"])
        ids = [field["id"] for field in form["body"]]
        assert len(set(ids)) == len(ids)


class TestContributing:
    TEXT = (ROOT / ".github/CONTRIBUTING.md").read_text()

    def test_names_files_that_exist(self):
        for path in re.findall(r"`((?:rest_trl|tests|docs|\.github)/[\w./]*)`", self.TEXT):
            assert (ROOT / path).exists(), path
        for link in re.findall(r"\]\((\.\./[^)]+)\)", self.TEXT):
            assert (ROOT / ".github" / link).exists(), link

    def test_names_targets_that_exist(self):
        assert set(re.findall(r"make ([a-z-]+)", self.TEXT)) <= TARGETS
