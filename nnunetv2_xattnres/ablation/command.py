"""``nnunetv2_xattnres ablate DATASET``: runs a grid of trainings with their scores, and continues it."""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any

from nnunetv2_xattnres.ablation.commands import Device
from nnunetv2_xattnres.ablation.grid import parse_folds
from nnunetv2_xattnres.ablation.listing import Events, summary, table
from nnunetv2_xattnres.ablation.observe import observe
from nnunetv2_xattnres.ablation.study import State, Study
from nnunetv2_xattnres.arguments import parse_names
from nnunetv2_xattnres.catalogue import NETWORKS, STUDIES, TRAINER
from nnunetv2_xattnres.errors import InputError
from nnunetv2_xattnres.evaluation.command import add_rules
from nnunetv2_xattnres.plans.files import VARIANT_PLANS, dataset_folder
from nnunetv2_xattnres.system import interrupt, told_of

if TYPE_CHECKING:
    from nnunetv2_xattnres.ablation.slurm import Resources

# the options that only SLURM has, with their defaults
_SLURM: dict[str, Any] = {
    "partition": None, "time": 1440, "memory": None, "cpus": 8, "sbatch": [], "detach": False, "poll": 15.0,
}  # fmt: skip
_LONGEST_POLL = 24 * 3600.0
_SBATCH_OPTION = re.compile(r"[A-Za-z][\w-]*(=.+)?")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``ablate``."""
    parser.add_argument("dataset", metavar="DATASET", help="number or name of the preprocessed data set, such as 11")
    grid = parser.add_argument_group("what to run")
    text = f"studies: {', '.join(STUDIES)} or all (default: skip)"
    grid.add_argument("--study", nargs="+", default=["skip"], metavar="STUDY", help=text)
    grid.add_argument(
        "--folds", nargs="+", default=["0"], metavar="FOLD", help="folds, as in 0 1 2, or all (default: 0)"
    )
    grid.add_argument("--seeds", type=int, default=3, metavar="N", help="train with the seeds 0 to N-1 (default: 3)")
    grid.add_argument("--trainer", default=TRAINER, metavar="NAME", help="nnU-Net trainer (default: %(default)s)")
    grid.add_argument("-c", "--configuration", default="2d", metavar="NAME", help="configuration to vary (default: 2d)")
    grid.add_argument("-p", "--plans", default="nnUNetPlans", metavar="NAME", help="base plans (default: nnUNetPlans)")
    grid.add_argument(
        "--variants", metavar="NAME", help=f"plans with the variants, to write or extend (default: {VARIANT_PLANS})"
    )
    grid.add_argument("-o", dest="former_variants", help=argparse.SUPPRESS)
    grid.add_argument(
        "--network", nargs="+", choices=[*NETWORKS, "all"], metavar="NAME",
        help=f"{', '.join(NETWORKS)} or all (default: that of the base plans)",
    )  # fmt: skip
    grid.add_argument("--output", type=Path, metavar="FOLDER", help="folder of the study (default: ablation_DATASET)")
    grid.add_argument(
        "--convention", choices=("nnunet", "transunet"), default="nnunet", help="as in evaluate (default: nnunet)"
    )
    add_rules(grid, nsd="adds NSD to the scores")
    where = parser.add_argument_group("where to run it")
    where.add_argument("--executor", choices=("local", "slurm"), default="local", help="where to run (default: local)")
    where.add_argument(
        "--gpus",
        type=int,
        metavar="N",
        help="local: GPUs, one cell at a time on each, 0 for the CPU (default: all); slurm: GPUs per cell (default: 1)",
    )
    where.add_argument("--partition", metavar="NAME", help="slurm: partition (default: that of SLURM)")
    where.add_argument("--time", type=int, metavar="MINUTES", help="slurm: time limit (default: %(default)s)")
    where.add_argument("--memory", metavar="SIZE", help="slurm: memory per job, such as 32G (default: that of SLURM)")
    where.add_argument("--cpus", type=int, metavar="N", help="slurm: CPU cores per cell (default: %(default)s)")
    where.add_argument(
        "--sbatch",
        action="append",
        metavar="OPTION",
        help="slurm: further option of sbatch, such as account=lab; may be given several times",
    )
    where.add_argument("--detach", action="store_true", help="slurm: submit the jobs and return")
    where.add_argument("--poll", type=float, metavar="SECONDS", help="slurm: query interval (default: %(default)g)")
    parser.set_defaults(**_SLURM)
    other = parser.add_argument_group("instead of running")
    other.add_argument("--status", action="store_true", help="list the cells and their states")
    other.add_argument("--dry-run", action="store_true", help="check and list the study, and write nothing")
    other.add_argument(
        "--report", action="store_true", help="write the report of the complete cells, as every run does at its end"
    )


def run(args: argparse.Namespace) -> int:
    """Plan a study, run its incomplete cells, list it and write its report; returns 1 if cells are not complete."""
    folder = (args.output or Path(f"ablation_{args.dataset}")).resolve()  # commands and jobs run in other folders
    if args.status or args.report:
        study = Study.load(folder)
        if study is None:
            raise InputError(f"there is no study in {folder}: start one, or name its folder with --output")
        if args.report:
            _report(study)
            return 0
        return int(State.FAILED in _show(study))
    where = _where(args)
    study = _plan(args, folder)
    if args.dry_run:
        return int(State.FAILED in _show(study))
    study.save()
    _run(args, study, where)
    states = _show(study)
    if args.detach:
        return int(State.FAILED in states)
    if State.COMPLETE in states:
        _report(study)
    return int(states != {State.COMPLETE})


def _where(args: argparse.Namespace) -> list[Device] | Resources:
    """The devices of this machine, or what each job asks of SLURM; checked before anything is written or submitted."""
    if args.executor == "local":
        if ignored := [f"--{name}" for name, default in _SLURM.items() if getattr(args, name) != default]:
            raise InputError(f"{', '.join(ignored)}: for --executor slurm only. Add that, or leave these options out")
        from nnunetv2_xattnres.ablation.local import devices

        return devices(args.gpus)
    from nnunetv2_xattnres.ablation.slurm import Resources, check_system

    problems = [
        f"--{name} {getattr(args, name)}: give at least 1" for name in ("time", "cpus") if getattr(args, name) < 1
    ]
    if not 0 < args.poll <= _LONGEST_POLL:
        problems.append(f"--poll {args.poll:g}: give more than 0 and at most {_LONGEST_POLL:.0f} seconds")
    problems += [
        f"--sbatch {option}: give NAME or NAME=VALUE, without dashes before it"
        for option in args.sbatch
        if not _SBATCH_OPTION.fullmatch(option)
    ]
    if problems:
        raise InputError("These options cannot be used for SLURM: nothing was planned", problems)
    gpus = 1 if args.gpus is None else args.gpus
    check_system(gpus)
    extra = tuple((key, value or True) for key, _, value in (option.partition("=") for option in args.sbatch))
    return Resources(gpus, args.partition, args.time, args.memory, args.cpus, extra)


def _plan(args: argparse.Namespace, folder: Path) -> Study:
    from nnunetv2_xattnres.ablation.planning import Request, plan_study

    _take_former_option(args)
    if args.seeds < 1:
        raise InputError(f"--seeds {args.seeds}: it is 1 or more")
    request = Request(
        dataset=args.dataset,
        configuration=args.configuration,
        base_plans=args.plans,
        plans=args.variants or VARIANT_PLANS,
        studies=parse_names(args.study, "--study"),
        trainer=args.trainer,
        folds=parse_folds(args.folds),
        seeds=range(args.seeds),
        networks=args.network,
        convention=args.convention,
        tolerance=args.tolerance,
        missing=args.missing,
    )
    return plan_study(folder, request, dry=args.dry_run)


def _take_former_option(args: argparse.Namespace) -> None:
    """Accept ``-o PLANS``, the old name of ``--variants PLANS``, which users mistook for the study's folder."""
    name = args.former_variants
    if name is None:
        return
    if args.variants or not (dataset_folder(args.dataset) / f"{name}.json").is_file():
        raise InputError(
            f"-o {name}: give the study's folder with --output FOLDER, or the plans with the variants with "
            "--variants PLANS"
        )
    print(f"note: -o {name} is taken as --variants {name}, its new name", file=sys.stderr)
    args.variants = name


def _run(args: argparse.Namespace, study: Study, where: list[Device] | Resources) -> None:
    seen = observe(study)
    todo = [each.cell for each in seen if each.state != State.COMPLETE]
    print(f"{study.folder}: {summary(seen)}", flush=True)
    events = Events(len(seen), len(seen) - len(todo))
    if not todo:
        return
    if not isinstance(where, list):
        _run_slurm(args, study, where, events)
        return
    from nnunetv2_xattnres.ablation.local import run_local

    stop = Event()
    with told_of(("SIGTERM", "SIGHUP"), interrupt):
        try:
            run_local(study, todo, where, events, stop)
        except KeyboardInterrupt:
            print("\nstopped: the same command continues the study", flush=True)
            print(table(observe(study)))
            raise


def _run_slurm(args: argparse.Namespace, study: Study, resources: Resources, events: Events) -> None:
    from nnunetv2_xattnres.ablation.slurm import follow, submit

    states = submit(study, resources, events)
    if args.detach:
        return
    try:
        follow(study, states, events, args.poll)
    except KeyboardInterrupt:
        print("\nthe jobs continue: the same command follows them again, scancel stops them", flush=True)
        raise


def _show(study: Study) -> set[State]:
    """List the cells; returns the set of their states."""
    seen = observe(study)
    print(table(seen))
    print(summary(seen))
    for each in seen:
        if each.state == State.FAILED:
            log = study.log_file(each.cell)
            print(f"{each.cell.name} failed: {each.detail}" + (f"\n  log: {log}" if log.is_file() else ""))
    return {each.state for each in seen}


def _report(study: Study) -> None:
    from nnunetv2_xattnres.ablation.report import write_report

    print(f"report: {write_report(study.folder)}")
