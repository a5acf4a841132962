"""
`rest-trl study`: arms and seeds of one recipe, paired, in parallel, with intervals.

```shell
rest-trl study --config recipes/studies.yaml --study demo
```
"""

import argparse
import shlex
from collections.abc import Sequence
from pathlib import Path

from ...spelling import HintingParser


def make_parser() -> argparse.ArgumentParser:
    """Parser of `rest-trl study`."""
    parser = HintingParser(
        "rest-trl study", description="Train arms of one recipe with several seeds, and tell them apart."
    )
    parser.add_argument("--config", type=Path, required=True, help="YAML file of the study")
    parser.add_argument("--study", metavar="NAME", help="which study, where the file holds several")
    parser.add_argument("--seeds", type=int, help="number of seeds (default: the file's); more can be added later")
    parser.add_argument("--workers", type=int, help="runs at once (default: the file's, or one per GPU or core)")
    parser.add_argument("--report_only", action="store_true", help="report on the finished runs, and start none")
    return parser


def _command(arguments: argparse.Namespace) -> str:
    """The command that reproduces a report. It leaves out `--workers` and `--report_only`, which change no figure."""
    study = [] if arguments.study is None else ["--study", arguments.study]
    seeds = [] if arguments.seeds is None else ["--seeds", str(arguments.seeds)]
    return shlex.join(["rest-trl", "study", "--config", str(arguments.config), *study, *seeds])


def main(args: Sequence[str] | None = None) -> None:
    """
    Run a study and report on it.

    Args:
        args (`Sequence[str]`, *optional*):
            The command line, by default the process's.

    Raises:
        SystemExit: with one line that names cause and cure, if the study is wrong or was interrupted; with status 1 if
            a run failed.
    """
    arguments = make_parser().parse_args(args)
    # Imported here, because `--help` needs none of it.
    from rich.console import Console

    from ...runs.endings import one_line
    from ...runs.files import write_table
    from ..study.arms import StudyFolder, load_study

    try:
        study = load_study(arguments.config, arguments.seeds, arguments.workers, name=arguments.study)
        folder = StudyFolder(study.output_dir)
        if arguments.report_only:
            folder.check(study)
        else:
            from accelerate import PartialState

            from ..study import scheduler
            from ..study.worker import check_arms

            PartialState()  # accelerate's loggers raise without it
            check_arms(study)
            with folder.lock():
                folder.register(study)
                processes = scheduler.Processes()
                try:
                    scheduler.run_study(study, folder, processes)
                finally:
                    processes.close()
        from ..study.study_report import write_report

        results = folder.results()
        write_table(results, study.output_dir / "results.parquet")
        failures = {
            run: line for run, line in folder.failures().items() if run[0] in study.arms and run[1] in study.seeds
        }
        report = write_report(study, results, failures, folder.manifest()["versions"], _command(arguments))
    except (ValueError, OSError, ImportError) as error:
        raise SystemExit(f"rest-trl study: error: {one_line(error)}") from error
    except KeyboardInterrupt as error:
        raise SystemExit("rest-trl study: interrupted; the same command makes the runs that are missing") from error
    console = Console(markup=False, emoji=False)  # a path or an error may hold what rich would replace
    for cause in dict.fromkeys(failures.values()):
        runs = [run for run, line in failures.items() if line == cause]
        named = "; ".join(f"arm {arm}, seed {seed}" for arm, seed in runs)
        log = f" ({folder.log(runs[0])})" if folder.log(runs[0]).exists() else ""
        console.print(f"{named} failed: {cause}{log}", soft_wrap=True, highlight=False)
    console.print(f"Results: {study.output_dir / 'results.parquet'}", soft_wrap=True, highlight=False)
    console.print(f"Report:  {report}", soft_wrap=True, highlight=False)
    if failures:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
