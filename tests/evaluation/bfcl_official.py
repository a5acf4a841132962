"""
Programs for the isolated environments of BFCL, which know the official package and not ours.

`python -I bfcl_official.py evaluate FOLDER_OF_PROGRAM CALLS`: runs the official `bfcl evaluate` on the JSON file
`{category: {sample: calls}}` and prints `{category: [samples that failed]}`.

`python -I bfcl_official.py execute FOLDER_OF_PROGRAM VERSION`: gives each text of the JSON list on the standard input
to the official executor as it is, in a sandbox of its own, and prints what came of each.
"""

import json
import os
import sys
from pathlib import Path


def evaluate(official, path):
    class Handler:
        def __init__(self, *args, **kwargs):
            pass

        def decode_ast(self, result, *args, **kwargs):
            if result is None:
                raise ValueError("no calls")
            return [{call["name"]: call["arguments"]} for call in result]

        def decode_execute(self, result, *args, **kwargs):
            return [
                f"{call['name']}({','.join(f'{key}={value!r}' for key, value in call['arguments'].items())})"
                for call in result
            ]

    official.register_model(Handler)
    from bfcl_eval.__main__ import cli
    from bfcl_eval.constants.category_mapping import VERSION_PREFIX

    root = Path(os.environ["BFCL_PROJECT_ROOT"])
    folder = root / "result" / official.MODEL
    folder.mkdir(parents=True)
    samples = json.loads(path.read_text())
    for category, calls in samples.items():
        lines = [json.dumps({"id": sample, "result": result}) + "\n" for sample, result in calls.items()]
        (folder / f"{VERSION_PREFIX}_{category}_result.json").write_text("".join(lines))
    printed, sys.stdout = sys.stdout, sys.stderr
    cli(
        ["evaluate", "--model", official.MODEL, "--test-category", ",".join(samples)],
        standalone_mode=False,
    )
    failed = {}
    for category in samples:
        (score,) = (root / "score").rglob(f"{VERSION_PREFIX}_{category}_score.json")
        failed[category] = [json.loads(line)["id"] for line in score.read_text().splitlines()[1:]]
    printed.write(json.dumps(failed))


def execute(official, version):
    texts = json.load(sys.stdin)
    server = official.Server(version, {"wall_seconds": 4.0, "cpu_seconds": 2})
    entry, answer = server._official.entry("multi_turn_base", "multi_turn_base_0")
    outcomes = []
    for text in texts:
        child, _ = server._start(entry, answer)
        child.send({"step": [text]})
        try:
            outcomes.append(child.receive()[0])
        except server._sandbox.SandboxError as error:
            outcomes.append(f"ended: {error}")
        child.close()
    print(json.dumps(outcomes))


if __name__ == "__main__":
    command, folder, argument = sys.argv[1:]
    sys.path.insert(0, folder)
    import official

    if command == "evaluate":
        evaluate(official, Path(argument))
    else:
        execute(official, argument)
