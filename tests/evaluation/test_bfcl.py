import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import bfcl_golds
import pytest

from rest_trl.lab.evaluation import bfcl as bfcl_package
from rest_trl.lab.evaluation.bfcl import environment
from rest_trl.lab.evaluation.bfcl.environment import environment_python, setup
from rest_trl.lab.evaluation.bfcl.process import OfficialBFCL
from rest_trl.lab.evaluation.bfcl.questions import CATEGORIES, REFUSED, Verdict, check_category
from rest_trl.lab.evaluation.sandbox import LEVELS, Limits
from rest_trl.tool_calls import ToolCall


FOLDER = str(Path(bfcl_package.__file__).parent)


@pytest.fixture(scope="module", params=["v3", "v4"])
def official(request: pytest.FixtureRequest) -> Iterator[OfficialBFCL]:
    bfcl_golds.need_environment(request.param)
    with OfficialBFCL(request.param, limits=Limits(wall_seconds=20.0, cpu_seconds=5)) as official:
        yield official


def run_official(version: str, command: str, argument: str, folder: Path, standard_input: str = "") -> Any:
    """Run a program of bfcl_official.py and give what it prints."""
    program = [str(environment_python(version)), "-I", str(Path(__file__).with_name("bfcl_official.py"))]
    environment = {"PATH": os.defpath, "BFCL_PROJECT_ROOT": str(folder), "HOME": str(folder), "LANG": "C.UTF-8"}
    completed = subprocess.run(
        [*program, command, FOLDER, argument],
        input=standard_input,
        capture_output=True,
        text=True,
        env=environment,
        cwd=folder,
    )
    assert completed.returncode == 0, completed.stderr[-2000:]
    return json.loads(completed.stdout)


def through_text(calls: Any, syntax: str) -> Any:
    """What is read back of calls that were written as a completion, or as one completion a step."""
    if calls and isinstance(calls[0], list):
        return [[bfcl_golds.read(bfcl_golds.write(step, syntax), syntax) for step in turn] for turn in calls]
    return bfcl_golds.read(bfcl_golds.write(calls, syntax), syntax) if calls else []


def steps_of(calls: Any) -> Any:
    """A dialogue in the steps that the benchmark allows."""
    return [bfcl_golds.as_steps(turn) for turn in calls]


class TestCheckCategory:
    @pytest.mark.parametrize("category", REFUSED["v4"])
    def test_refuses_by_name_with_cause(self, category: str) -> None:
        with pytest.raises(ValueError, match=f"'{category}' is not supported: it"):
            check_category("v4", category)

    def test_names_of_the_other_version_are_unknown(self) -> None:
        with pytest.raises(ValueError, match="has no category 'simple'"):
            check_category("v4", "simple")


class TestSetup:
    def test_refuses_an_unknown_version(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="unknown BFCL version 'v2'"):
            setup("v2", root=tmp_path)

    def test_missing_environment_is_named_with_its_cure(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError, match="rest-trl evaluate --setup bfcl_v3"):
            environment_python("v3", root=tmp_path)

    def test_unfinished_environment_is_none(self, tmp_path: Path) -> None:
        (tmp_path / "bfcl_v3" / "bin").mkdir(parents=True)
        (tmp_path / "bfcl_v3" / "bin" / "python").touch()
        with pytest.raises(FileNotFoundError, match="missing or out of date"):
            environment_python("v3", root=tmp_path)

    def test_refuses_while_another_is_at_work(self, tmp_path: Path) -> None:
        (tmp_path / "bfcl_v3.lock").touch()
        with pytest.raises(RuntimeError, match="another setup of BFCL v3 is at work"):
            setup("v3", root=tmp_path)

    def test_what_it_makes_can_be_read_by_others(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(environment, "_check_python", lambda python: None)
        monkeypatch.setattr(environment, "_install", lambda python, requirements: None)

        def run(command: list[str], **kwargs: Any) -> Any:
            Path(command[-1]).mkdir()
            return subprocess.CompletedProcess(command, 0)

        monkeypatch.setattr(environment.subprocess, "run", run)
        before = os.umask(0o022)
        try:
            setup("v3", root=tmp_path)
        finally:
            os.umask(before)
        (stamp,) = (tmp_path / "bfcl_v3").iterdir()
        assert stamp.stat().st_mode & 0o777 == 0o644


class TestGolds:
    @pytest.mark.parametrize("syntax", ["hermes", "rlla", "pythonic"])
    def test_single_turn_golds_are_valid(self, official: OfficialBFCL, syntax: str) -> None:
        failed = set()
        for category in bfcl_golds.SINGLE_TURN[official.version]:
            answers = official.answers(category)
            for case in official.cases(category):
                calls = through_text(bfcl_golds.gold(case, answers[case.id], category), syntax)
                if not official.check(category, case.id, calls).valid:
                    failed.add(case.id)
        assert failed == bfcl_golds.UNSATISFIABLE

    @pytest.mark.parametrize("category", bfcl_golds.MULTI_TURN)
    def test_multi_turn_golds_are_valid(self, official: OfficialBFCL, category: str) -> None:
        answers, cases = official.answers(category), official.cases(category)
        assert len(cases) == 200
        golds = {case.id: bfcl_golds.gold(case, answers[case.id], category) for case in cases}
        if category == "multi_turn_base":
            # The others reach the checker as they are in `test_bfcl_benchmark.py`, which holds whole dialogues.
            unfinishable = bfcl_golds.UNFINISHABLE[official.version]
            golds = {id: gold for id, gold in golds.items() if id in unfinishable or gold != steps_of(gold)}
        verdicts = {id: official.check(category, id, through_text(gold, "hermes")) for id, gold in golds.items()}
        assert {sample: verdict for sample, verdict in verdicts.items() if not verdict.valid} == {}


class TestParity:
    def test_verdicts_are_those_of_bfcl_evaluate(self, official: OfficialBFCL, tmp_path: Path) -> None:
        """Golds and six kinds of wrong answers: single-turn Python categories and one of several turns."""
        samples: dict[str, dict[str, Any]] = {}
        ours = {}
        for category in (*bfcl_golds.SINGLE_TURN[official.version], "multi_turn_base"):
            answers = official.answers(category)
            samples[category], ours[category] = {}, []
            for number, case in enumerate(official.cases(category)):
                calls, way = bfcl_golds.gold(case, answers[case.id], category), number % 7
                if category == "multi_turn_base" and way < 6:
                    last = next(turn for turn in reversed(calls) if turn)
                    step = bfcl_golds.spoil(last.pop(), way)
                    last += [step] if step is not None else []
                elif way < 6:
                    calls = bfcl_golds.spoil(calls, way)
                samples[category][case.id] = as_json(calls)
                if not official.check(category, case.id, calls).valid:
                    ours[category].append(case.id)
        path = tmp_path / "calls.json"
        path.write_text(json.dumps(samples))
        theirs = run_official(official.version, "evaluate", str(path), tmp_path)
        assert {name: sorted(failed) for name, failed in theirs.items()} == {
            name: sorted(failed) for name, failed in ours.items()
        }
        for category, failed in ours.items():
            assert len(failed) > 0.4 * len(samples[category]), category


def as_json(calls: Any) -> Any:
    if calls is None:
        return None
    if isinstance(calls, ToolCall):
        return {"name": calls.name, "arguments": calls.arguments}
    return [as_json(call) for call in calls]


SAMPLE = "multi_turn_base_0"


class TestHostileCompletions:
    def test_none_escapes_the_sandbox(self, official: OfficialBFCL, tmp_path: Path) -> None:
        """The texts reach `eval` of the official executor here, which they do not otherwise."""
        target, project = tmp_path / "target", tmp_path / "project"
        target.mkdir()
        project.mkdir()
        for folder in (target, *list(target.parents)[:3]):
            folder.chmod(0o777)
        (target / "kept").write_text("kept")
        texts = bfcl_golds.hostile_texts(target)
        outcomes = run_official(official.version, "execute", official.version, project, json.dumps([*texts, "ls()"]))
        assert [path.name for path in target.iterdir()] == ["kept"]
        refused = [outcome.startswith(("Error during execution", "ended: ")) for outcome in outcomes]
        # What `os.system` gives for a shell that could not be started.
        assert [index for index, is_refused in enumerate(refused) if not is_refused] == [7, 10]
        assert outcomes[7] in ("-1", str(127 << 8))
        assert json.loads(outcomes[10]) == {"current_directory_content": ["document", "archive"]}

    @pytest.mark.parametrize("place", ["name", "parameter", "value"])
    def test_each_is_scored_wrong_and_the_run_goes_on(
        self, official: OfficialBFCL, place: str, tmp_path: Path
    ) -> None:
        case = next(case for case in official.cases("multi_turn_base") if case.id == SAMPLE)
        right = bfcl_golds.gold(case, official.answers("multi_turn_base")[SAMPLE], "multi_turn_base")
        for number, text in enumerate(bfcl_golds.hostile_texts(tmp_path)):
            call = {
                "name": ToolCall(text, {}),
                "parameter": ToolCall("cd", {f"folder={text}, x": "document"}),
                "value": ToolCall("cd", {"folder": text}),
            }[place]
            completion = bfcl_golds.write([call], "hermes")
            step = bfcl_golds.read(completion, "hermes")
            assert step == [call]
            assert not official.check("multi_turn_base", SAMPLE, [[step], *right[1:]]).valid
            rollout = f"{place}-{number}"
            official.open(rollout, "multi_turn_base", SAMPLE)
            results = official.step({rollout: step})[rollout]
            assert results is not None
            assert results[0].startswith(("Error during execution", '{"error"'))
            official.close_rollout(rollout)
        assert list(tmp_path.iterdir()) == []
        assert official.check("multi_turn_base", SAMPLE, right).valid

    def test_the_executor_itself_is_no_tool(self, official: OfficialBFCL, tmp_path: Path) -> None:
        """A literal call of a function beside the simulators could hand any text to `eval`."""
        inner = [f"open({str(tmp_path / 'written')!r}, 'w')"]
        arguments = {"func_call_list": inner, "initial_config": {}, "involved_classes": [], "model_name": "m"}
        official.open("inner", "multi_turn_base", SAMPLE)
        call = ToolCall("execute_multi_turn_func_call", arguments | {"test_entry_id": "t"})
        results = official.step({"inner": [call]})["inner"]
        official.close_rollout("inner")
        assert results == ["Error during execution: name 'execute_multi_turn_func_call' is not defined"]

    def test_values_that_json_cannot_hold(self, official: OfficialBFCL) -> None:
        deep: Any = []
        for _ in range(100_000):
            deep = [deep]
        for value in (deep, 10**5000):
            verdict = official.check("multi_turn_base", SAMPLE, [[[ToolCall("cd", {"folder": value})]]])
            assert (verdict.valid, verdict.error_type) == (False, "unreadable_calls")


class TestStep:
    def test_executes_rollouts_of_the_same_sample_apart(self, official: OfficialBFCL) -> None:
        for rollout in ("first", "second"):
            official.open(rollout, "multi_turn_base", SAMPLE)
        made = official.step({"first": [ToolCall("mkdir", {"dir_name": "new"})], "second": []})
        assert made == {"first": ["None"], "second": []}
        listed = official.step({rollout: [ToolCall("ls", {})] for rollout in ("first", "second")})
        assert listed["first"] == ['{"current_directory_content": ["document", "archive", "new"]}']
        assert listed["second"] == ['{"current_directory_content": ["document", "archive"]}']
        for rollout in ("first", "second"):
            official.close_rollout(rollout)

    def test_says_which_sandbox_is_active(self, official: OfficialBFCL) -> None:
        assert official.sandbox in LEVELS


class TestCases:
    def test_missing_functions_come_with_their_turn(self, official: OfficialBFCL) -> None:
        cases = official.cases("multi_turn_miss_func")
        assert len(cases) == 200
        for case in cases:
            for turn, functions in case.functions_added.items():
                assert case.turns[turn][0]["content"].startswith("I have updated some more functions")
                names = {function["name"] for function in case.functions}
                assert not names & {function["name"] for function in functions}

    def test_functions_have_the_official_hint(self, official: OfficialBFCL) -> None:
        case = official.cases("multiple")[0]
        assert case.functions[0]["description"].endswith("Note that the provided function is in Python 3 syntax.")


class TestCheck:
    def test_planted_errors_are_named(self, official: OfficialBFCL) -> None:
        case = official.cases("multiple")[0]
        (call,) = bfcl_golds.gold(case, official.answers("multiple")[case.id], "multiple")
        verdicts = [
            official.check("multiple", case.id, calls)
            for calls in ([call], None, [], [ToolCall("f", call.arguments)], [ToolCall(call.name, {})])
        ]
        assert verdicts[0] == Verdict(valid=True, error_type="", error="")
        assert [verdict.error_type for verdict in verdicts[1:]] == [
            "ast_decoder:decoder_failed",
            "multiple_function_checker:wrong_count",
            "simple_function_checker:wrong_func_name",
            "simple_function_checker:missing_required",
        ]

    def test_a_gold_after_a_wrong_rollout_is_valid(self, official: OfficialBFCL) -> None:
        case = official.cases("multi_turn_base")[0]
        right = bfcl_golds.gold(case, official.answers("multi_turn_base")[case.id], "multi_turn_base")
        wrong = [[*right[0], [ToolCall("mkdir", {"dir_name": "more"})]], *right[1:]]
        verdicts = [official.check("multi_turn_base", case.id, calls).valid for calls in (wrong, right, right[:-1])]
        assert verdicts == [False, True, False]

    def test_unknown_sample_is_named(self, official: OfficialBFCL) -> None:
        with pytest.raises(RuntimeError, match="multiple has no sample nothing"):
            official.check("multiple", "nothing", [])


class TestAverages:
    def test_no_average_over_categories_that_were_not_run(self, official: OfficialBFCL) -> None:
        averages = official.averages(dict.fromkeys(bfcl_golds.MULTI_TURN, (0.5, 200)))
        assert averages.pop("multi_turn") == 50.0
        assert sorted(averages) == ["live", "non_live", "overall"]
        assert all(str(value).startswith("not given: ") for value in averages.values())

    def test_no_average_over_a_part_of_a_category(self, official: OfficialBFCL) -> None:
        averages = official.averages(dict.fromkeys(bfcl_golds.MULTI_TURN, (0.5, 100)))
        assert averages["multi_turn"] == "not given: multi_turn_base has 100 of 200 samples" + "".join(
            f", {name} has 100 of 200 samples" for name in bfcl_golds.MULTI_TURN[1:]
        )

    def test_are_those_of_the_official_formula(self, official: OfficialBFCL) -> None:
        accuracies = {
            name: (number / 20, len(official.cases(name)))
            for number, name in enumerate(CATEGORIES[official.version], start=1)
        }
        averages = official.averages(accuracies)
        value = {name: accuracy for name, (accuracy, _) in accuracies.items()}
        names = CATEGORIES[official.version]
        simple = sum(value[name] for name in names[:3]) / 3
        parts = [simple, *(value[name] for name in ("multiple", "parallel", "parallel_multiple"))]
        if official.version == "v3":
            parts.append(value["irrelevance"])
            assert isinstance(averages["overall"], float)
        else:
            assert str(averages["overall"]).startswith("not given: web_search_base not run")
        assert averages["non_live"] == pytest.approx(100 * sum(parts) / len(parts), abs=0.005001)
        assert averages["multi_turn"] == pytest.approx(
            25 * sum(value[name] for name in bfcl_golds.MULTI_TURN), abs=0.005001
        )
