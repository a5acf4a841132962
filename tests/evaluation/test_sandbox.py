"""The sandbox, as the isolated environments load it: by its path, in a process of one thread."""

import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from rest_trl.lab.evaluation import sandbox
from rest_trl.lab.evaluation.sandbox import LEVELS


pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the sandbox needs Linux")

# Evaluates each expression in a child of its own and writes what came of it.
PROGRAM = """
import importlib.util, json, resource, socket, sys
spec = importlib.util.spec_from_file_location("sandbox", sys.argv[1])
sandbox = sys.modules["sandbox"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(sandbox)
level, expressions = sys.argv[2], json.loads(sys.argv[3])
for name, value in json.loads(sys.argv[4]).items():
    resource.setrlimit(vars(resource)[name], (value, value))
limits = sandbox.Limits(wall_seconds=3.0, cpu_seconds=2, answer_bytes=1 << 20)
outcomes = []
for expression in expressions:
    try:
        child = sandbox.SandboxedChild(lambda text: str(eval(text, {"socket": socket})), limits, level)
    except sandbox.SandboxError as error:
        print(json.dumps({"refused": str(error)}))
        sys.exit()
    child.send(expression)
    try:
        outcomes.append({"answer": child.receive()})
    except sandbox.SandboxError as error:
        outcomes.append({"error": str(error)})
    child.close()
print(json.dumps({"outcomes": outcomes}))
"""

OS = "__import__('os')"


def evaluate(level: str, *expressions: str, hard_limits: dict[str, int] | None = None) -> list[dict[str, str]]:
    arguments = [sandbox.__file__, level, json.dumps(expressions), json.dumps(hard_limits or {})]
    command = [sys.executable, "-I", "-c", PROGRAM, *arguments]
    output = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    result = json.loads(output)
    if "refused" in result:
        assert not hard_limits, result
        pytest.skip(f"this machine does not allow {level}: {result['refused']}")
    return result["outcomes"]


@pytest.fixture(params=LEVELS)
def level(request: pytest.FixtureRequest) -> str:
    return request.param


class TestSandboxedChild:
    def test_answers(self, level: str) -> None:
        assert evaluate(level, "1 + 1", "'a' * 3") == [{"answer": "2"}, {"answer": "aaa"}]

    def test_writes_no_file(self, level: str, tmp_path: Path) -> None:
        tmp_path.chmod(0o777)
        for parent in (tmp_path.parent, tmp_path.parent.parent):
            parent.chmod(0o711)
        kept = tmp_path / "kept"
        kept.write_text("kept")
        kept.chmod(0o666)
        attempts = (
            f"open({str(tmp_path / 'written')!r}, 'w').write('x')",
            f"open({str(kept)!r}, 'w').write('x')",
            f"{OS}.symlink('/etc/passwd', {str(tmp_path / 'link')!r})",
            f"{OS}.unlink({str(kept)!r})",
            f"{OS}.rename({str(kept)!r}, {str(tmp_path / 'moved')!r})",
            f"__import__('shutil').rmtree({str(tmp_path)!r})",
            f"{OS}.chmod({str(kept)!r}, 0)",
        )
        assert all("error" in outcome for outcome in evaluate(level, *attempts))
        assert [path.name for path in tmp_path.iterdir()] == ["kept"]
        assert kept.read_text() == "kept"
        assert kept.stat().st_mode & 0o777 == 0o666

    def test_starts_no_process(self, level: str, tmp_path: Path) -> None:
        outcomes = evaluate(level, f"{OS}.fork()", f"{OS}.system('true')", f"[{OS}.fork() for _ in range(10 ** 6)]")
        assert "error" in outcomes[0]
        assert outcomes[1]["answer"] in ("-1", str(127 << 8))  # of a shell that could not be started
        assert "error" in outcomes[2]

    def test_reaches_no_network(self, level: str) -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            connect = f"socket.create_connection({server.getsockname()!r}, 1)"
            outcomes = evaluate(level, connect, "socket.create_connection(('1.1.1.1', 53), 1)")
        assert all("error" in outcome for outcome in outcomes)

    def test_reaches_no_process_of_others(self, level: str) -> None:
        with subprocess.Popen(["sleep", "60"]) as other:
            (outcome,) = evaluate(level, f"{OS}.kill({other.pid}, 9)")
            assert "error" in outcome
            assert other.poll() is None
            other.kill()

    def test_ends_what_takes_too_long(self, level: str) -> None:
        outcomes = evaluate(level, "[1 for _ in iter(int, 1)]", "9 ** 9 ** 9 and 1", "__import__('time').sleep(60)")
        assert all("error" in outcome for outcome in outcomes)
        assert outcomes[2] == {"error": "no answer in 3.0 s"}

    def test_limits_memory_and_answers(self, level: str) -> None:
        outcomes = evaluate(level, "len('a' * 10 ** 9)", "'a' * (1 << 21)", "'a' * 10")
        assert outcomes[0]["error"].startswith("MemoryError")
        assert outcomes[1:] == [{"error": "an answer longer than 1048576 bytes"}, {"answer": "a" * 10}]

    def test_keeps_within_the_hard_limits_of_the_machine(self, level: str) -> None:
        evaluate(level, "1")  # a level that this machine does not allow at all is skipped here
        hard_limits = {"RLIMIT_CPU": 1, "RLIMIT_AS": 400 << 20, "RLIMIT_FSIZE": 1 << 20, "RLIMIT_NOFILE": 32}
        outcomes = evaluate(level, "1 + 1", "len('a' * (450 << 20))", hard_limits=hard_limits)
        assert outcomes[0] == {"answer": "2"}
        assert outcomes[1]["error"].startswith("MemoryError")

    def test_survives_a_child_that_ends(self, level: str) -> None:
        outcomes = evaluate(level, f"{OS}._exit(0)", "exit()", "(lambda f: f(f))(lambda f: f(f))", "2")
        assert outcomes[0] == {"error": "the process died"}
        assert outcomes[1]["error"].startswith(("SystemExit", "NameError"))
        assert outcomes[2]["error"].startswith("RecursionError")
        assert outcomes[3] == {"answer": "2"}

    def test_leaves_nothing_behind(self, level: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        for parent in (tmp_path, tmp_path.parent, tmp_path.parent.parent):
            parent.chmod(0o711)
        monkeypatch.setenv("TMPDIR", str(tmp_path))
        evaluate(level, "1", "open('here', 'w').write('x')", "[1 for _ in iter(int, 1)]")
        assert list(tmp_path.iterdir()) == []


class TestStrongestLevel:
    @pytest.mark.parametrize("system", ["darwin", "win32"])
    def test_is_refused_elsewhere_with_the_cure(self, system: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sys, "platform", system)
        with pytest.raises(sandbox.SandboxError, match=f"needs Linux, and this is {system}: .*Docker"):
            sandbox.strongest_level()

    def test_is_the_first_level_that_works(self) -> None:
        program = PROGRAM.split("level, expressions")[0] + "print(sandbox.strongest_level())"
        command = [sys.executable, "-I", "-c", program, sandbox.__file__]
        level = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout.strip()
        assert evaluate(level, "1") == [{"answer": "1"}]
        assert level in LEVELS
