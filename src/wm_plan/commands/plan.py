"""`wm-plan`: plan to a goal picture, and write a video, a figure, the result and the config."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .front import DONE, NOT_REACHED, Command, Job, UserInputError, as_json, positive_int

if TYPE_CHECKING:
    from wm_plan.envs import CameraEnv
    from wm_plan.imagined import Imagined, Imaginings
    from wm_plan.planners import MPC
    from wm_plan.planning import Goal, PlanResult, Step

VIEW_SIZE = 320
"""Side of the pictures in the video and the figure [pixels]."""


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of this command."""
    parser.add_argument("--camera", metavar="NAME", help="whose view is planned in (default: the model's)")
    parser.add_argument("--goal", metavar="IMAGE", help="picture of the goal: any PNG or JPEG")
    parser.add_argument(
        "--goal-state",
        metavar="VALUES",
        help='position of the goal, as in "0.3,-1.2": the tolerance judges; drawn if there is no --goal',
    )
    parser.add_argument(
        "--start-state", metavar="VALUES", help="position at the start (default: by the seed)"
    )
    parser.add_argument("--planner", metavar="NAME", help="cem (default), mppi, ...; --list names them")
    parser.add_argument("--max-steps", type=positive_int, metavar="N", help="env steps at most")
    parser.add_argument(
        "--landscape",
        action="store_true",
        default=None,
        help="also draw the first plan: the cost around it over two actions, and what the search tried",
    )


def select(flags: argparse.Namespace) -> list[str]:
    """Choose the presets of the task and the planner."""
    from wm_plan.planning import task_choice

    flags.env = task_of(flags)
    chosen = task_choice(flags.env)
    if flags.planner:
        from wm_plan.planners import planner_names
        from wm_plan.suggestion import did_you_mean

        known = planner_names()
        if flags.planner not in known:
            meant = did_you_mean(flags.planner, known)
            raise UserInputError(
                f"unknown planner {flags.planner!r}.{meant} Known planners: {', '.join(known)}."
            )
        chosen.append(f"planner={flags.planner}")
    return chosen


def task_of(flags: argparse.Namespace) -> str:
    """Give the task's name: from --env, or the one that --model was trained on.

    Raises:
        ValueError: neither is given, or the name is unknown.
    """
    from wm_plan.envs import env_kind

    if not flags.env and not flags.model:
        raise UserInputError("no task was named. Add --env NAME, or --model DIR; --list names what exists.")
    name = flags.env
    if not name:
        from wm_plan.world_model import load_model

        name = load_model(flags.model).env_name
        if ":" in name:
            raise UserInputError(
                f"the model was trained on {name!r}, and to import a package is for you to say:"
                f" add --env {name}."
            )
    env_kind(name)
    return name


def configure(config: Any, flags: argparse.Namespace) -> None:  # noqa: ANN401
    """Set what the flags say."""
    config.env = flags.env
    names = ("model", "camera", "goal", "goal_state", "start_state", "seed", "max_steps", "device", "threads")
    for name in (*names, "landscape"):
        value = getattr(flags, name)
        if value is not None:
            config[name] = value


def run(job: Job) -> int:
    """Plan; exit code 0 if the goal was reached, 3 if not."""
    if job.flags.list:
        return _list(job)
    from wm_plan import envs
    from wm_plan.controller import check_settings, make_controller, planner_name
    from wm_plan.imagined import imaginings_of
    from wm_plan.machine import use_device
    from wm_plan.output_folder import check_output_folder, filled_at_once, next_numbered
    from wm_plan.planning import camera_for, check_fits, find_model, run_to_goal
    from wm_plan.world_model import load_model

    config, flags = job.config, job.flags
    check_settings(config)
    out = job.folder or flags.out or next_numbered(f"plan-{envs.short_name(config.env)}")
    if not flags.dry_run:
        check_output_folder(out, overwrite=flags.overwrite)
    device = use_device(config.device, config.threads)
    model = load_model(find_model(config.env, config.model), device=str(device))
    trained_with = camera_for(config.env, model)
    task = envs.make(config.env, camera=config.camera or trained_with)
    task.observe()  # so that a machine that cannot render says so before anything is begun
    goal, remarks = _goal(task, config)
    start = None if config.start_state is None else task.parse_goal(config.start_state)
    controller = make_controller(model, config)
    if trained_with is not None and task.camera != trained_with:
        remarks.append(f"the model was trained on the camera {trained_with!r}, not on {task.camera!r}")
    check_fits(task, controller)
    if flags.dry_run:
        return _show_config(job)
    for remark in remarks:
        job.warn(remark)
    search = _SearchPictures(controller) if config.landscape else None
    imaginings = imaginings_of(controller, job.warn)
    with filled_at_once(out, overwrite=flags.overwrite) as folder:
        with _ProgressBar(job, config.max_steps or task.far_budget) as bar:
            result = run_to_goal(
                task,
                controller,
                goal,
                start=start,
                seed=config.seed,
                max_steps=config.max_steps,
                on_step=lambda step: _watch(step, bar, search, imaginings),
            )
        for line in result.warnings:
            job.warn(line)
        result.warnings = [*remarks, *result.warnings]
        written = {
            **result.as_json(task.num_positions),
            "camera": task.camera,
            **_circumstances(config, controller.model, planner_name(config)),
        }
        files = ["plan.mp4", "plan.png", "result.json", "config.yaml"]
        if search is not None:
            files += search.write(folder)
        imagined = None if imaginings is None else imaginings.drawn()
        if imagined is not None:
            files.append("imagined.png")
        written["files"] = {name: str(out / name) for name in files}
        _write_files(folder, written, result, task, job, imagined)
    job.objective = result.costs[-1]
    job.print_result(written, "\n".join([*_summary(result, task), f"  {out}: {', '.join(files)}"]))
    task.close()
    return DONE if result.reached else NOT_REACHED


def _goal(task: CameraEnv, config: Any) -> tuple[Goal, list[str]]:  # noqa: ANN401
    """Find the goal, and what is to be remarked about its picture."""
    import warnings

    from wm_plan.planning import find_goal

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        goal = find_goal(task, config.goal, config.goal_state)
    return goal, [str(entry.message) for entry in caught]


def _circumstances(config: Any, model: Any, planner: str) -> dict[str, Any]:  # noqa: ANN401
    """Give what else a reader of the result must know to repeat or to judge it."""
    from wm_plan.machine import versions

    return {
        "planner": planner,
        "seed": config.seed,
        "goal": config.goal or config.goal_state,
        "model": config.model or config.env,
        "frame_skip": model.frame_skip,
        "reach_error_rate": model.reach_error_rate,
        "device": config.device,
        "threads": config.threads,
        "versions": versions(),
    }


def _write_files(
    folder: Path,
    written: dict[str, Any],
    result: PlanResult,
    task: CameraEnv,
    job: Job,
    imagined: Imagined | None,
) -> None:
    from wm_plan.machine import peak_memory_mb
    from wm_plan.pictures import write_figure, write_imagined, write_video

    assert result.goal_image is not None
    (folder / "config.yaml").write_text(job.config_file, encoding="utf-8")
    views = result.frames
    if task.has_state:
        views = [task.render_goal(state, image_size=VIEW_SIZE) for state in result.states]
    goal = result.goal_image
    if job.config.goal is None and result.goal_state is not None:
        goal = task.render_goal(result.goal_state, image_size=VIEW_SIZE)
    job.say("writing the video and the figure ...")
    write_video(folder / "plan.mp4", result, views, goal, 1 / task.control_timestep, imagined)
    if imagined is not None:
        write_imagined(folder / "imagined.png", result, views, imagined, task.control_timestep)
    write_figure(folder / "plan.png", result, views[0], views[-1], goal, task.control_timestep)
    written["peak_memory_mb"] = peak_memory_mb()
    (folder / "result.json").write_text(json.dumps(as_json(written), indent=1) + "\n", encoding="utf-8")


class _ProgressBar:
    """Step, latent cost, error and plan time, on stderr."""

    def __init__(self, job: Job, max_steps: int) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

        self._progress = Progress(
            TextColumn("step"),
            MofNCompleteColumn(),
            BarColumn(bar_width=28),
            TextColumn("latent cost {task.fields[cost]:.3g}{task.fields[error]}"),
            TextColumn("plan {task.fields[plan_ms]:.0f} ms"),
            console=job.console,
        )
        self._task = self._progress.add_task("", total=max_steps, cost=float("nan"), error="", plan_ms=0.0)

    def update(self, step: Any) -> None:  # noqa: ANN401
        """Show one env step."""
        fields: dict[str, Any] = {"cost": step.cost}
        if step.error is not None and step.error == step.error:
            fields["error"] = f"  error {step.error:.1f} x tolerance"
        if step.plan_ms:
            fields["plan_ms"] = step.plan_ms
        self._progress.update(self._task, completed=step.index, **fields)

    def __enter__(self) -> _ProgressBar:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()


class _SearchPictures:
    """The first plan's search, noted before the first env step and drawn at the end."""

    def __init__(self, controller: MPC) -> None:
        planner: Any = controller.planner  # a registered one: all of them can record
        planner.record = True
        self._controller, self._planner = controller, planner

    def note(self) -> None:
        """Look at the newest plan, and record no further ones."""
        from wm_plan.planners.diagnostics import energy_landscape

        self._planner.record = False
        plan = self._controller.last_plan
        assert plan is not None
        self._plan = plan
        self._landscape = energy_landscape(
            self._controller.cost_fn(), plan.searched[0].cpu(), self._planner.bounds
        )

    def write(self, folder: Path) -> list[str]:
        """Write the pictures, and give their names."""
        from wm_plan.planners.diagnostics import landscape_figure, save_figure, search_figure

        save_figure(landscape_figure(self._landscape), folder / "landscape.png")
        save_figure(search_figure(self._plan), folder / "search.png")
        return ["landscape.png", "search.png"]


def _watch(
    step: Step, bar: _ProgressBar, search: _SearchPictures | None, imaginings: Imaginings | None
) -> None:
    bar.update(step)
    if imaginings is not None and step.plan_ms:
        imaginings.note(step.index)
    if search is not None and step.index == 0:
        search.note()


def _summary(result: PlanResult, task: CameraEnv) -> list[str]:
    from wm_plan.planning import percentiles

    if result.reached:
        held = " and held" if result.held else ", not held"
        head = f"reached at env step {result.first_reached}{held}"
    else:
        head = f"not reached in {result.steps} env steps"
    judged = (
        f"the task's tolerance ({task.tolerance_text})" if result.reached_by == "state" else "latent distance"
    )
    plan_ms = percentiles(result.plan_ms, 50, 99)
    return [
        f"{result.env}: {head}, judged by {judged}",
        f"  latent cost {result.costs[0]:.3g} -> {result.costs[-1]:.3g}",
        f"  {len(result.plan_ms)} plans, {plan_ms['p50']:.0f} ms each (p99 {plan_ms['p99']:.0f} ms)",
    ]


def _show_config(job: Job) -> int:
    from wm_plan.configuration import as_values, as_yaml

    job.print_result(as_values(job.config), as_yaml(job.config).rstrip())
    return DONE


def _list(job: Job) -> int:
    from wm_plan import envs
    from wm_plan.planners import planner_names
    from wm_plan.world_model import encoder_names, predictor_names

    found: dict[str, Any] = {
        "envs": list(envs.task_names()),
        "models": list(predictor_names()),
        "without_model": [name for name in envs.task_names() if name not in predictor_names()],
        "encoders": list(encoder_names()),
        "planners": planner_names(),
    }
    lines = [
        f"{'envs':<9} {', '.join(found['envs'])}; or {envs.FOREIGN}",
        f"{'models':<9} {', '.join(found['models'])}",
        *(f"{'':<9} none is shipped yet for {name}: --model DIR" for name in found["without_model"]),
        *(f"{key:<9} {', '.join(found[key])}" for key in ("encoders", "planners")),
    ]
    job.print_result(found, "\n".join(lines))
    return DONE


COMMAND = Command(
    "wm-plan",
    "Plan to a goal picture with a world model, and write a video, a figure and the result;"
    " with a model that has a decoder (wm-train --also decoder), also what it imagined.",
    run=run,
    add_flags=add_flags,
    flags=("env", "model", "seed", "out", "device", "list"),
    config="plan",
    select=select,
    configure=configure,
    examples=(
        "wm-plan --env reacher --goal examples/goals/reacher.png",
        "wm-plan --env reacher --goal-state 0.3,-1.2 --planner mppi --landscape",
        "wm-plan --env two_room --goal goal.png planner.num_samples=512",
        "wm-plan --env reacher --goal goal.png -m planner=cem,mppi planner.horizon=4,8,12",
    ),
)
main = COMMAND.main
