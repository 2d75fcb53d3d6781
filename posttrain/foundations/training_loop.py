"""Train a language model from the command line, and go on where it was cut off.

    python -m posttrain.foundations.training_loop --preset cpu --out runs/shakespeare
    python -m posttrain.foundations.training_loop --preset cpu --out runs/shakespeare \
        --resume

`--out` holds the recipe, the tokenizer, the log (`log.jsonl`, `--tensorboard`) and the
checkpoints. Every field of `Recipe` is an option: `--steps 200 --lr 3e-3`. A resumed
run must have the same recipe and text; it then gives the same weights, to the last bit
on a CPU, as a run that was never cut off.
"""

from __future__ import annotations

import argparse
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, fields, replace
from pathlib import Path

import torch

from posttrain.foundations.checkpoint import CheckpointError
from posttrain.foundations.language_model import parameter_count
from posttrain.foundations.run_log import RunLog, quiet_profiler
from posttrain.foundations.trainer import StepRecord, fit
from posttrain.foundations.training_run import PRESETS, Recipe, Run

HELP = {  # of each field of the recipe
    "model": "modern (Llama's block) or gpt2",
    "depth": "layers, and 32 channels for each: the dial of size",
    "context": "positions that the model has",
    "T": "tokens of a training window",
    "B": "windows of a micro-batch",
    "micro_batches": "micro-batches of a step; their gradients are added up",
    "steps": "steps of the whole run; the schedule depends on it",
    "optimizer": "muon (with AdamW for what is no hidden matrix) or adamw",
    "lr": "peak learning rate",
    "weight_decay": "of matrices; norms and biases do not decay",
    "warmup": "steps until the peak",
    "decay": "share of the steps, at the end, in which the rate falls to 2 %%",
    "max_norm": "longest gradient; longer ones are shortened",
    "dropout": "share of activations set to 0 in training",
    "precision": "fp32, bf16 or fp16 (with loss scaling)",
    "data": "name of the text, see posttrain.data",
    "seed": "of weights, windows and dropout",
}


def main(argv: list[str] | None = None) -> int:
    """Train as the options say; 0 at the end, 1 for what cannot be done, 130 if cut."""
    options = parser().parse_args(argv)
    changes = {
        field.name: getattr(options, field.name)
        for field in fields(Recipe)
        if getattr(options, field.name) is not None
    }
    recipe = replace(PRESETS[options.preset], **changes)
    try:
        begin = Run.resume if options.resume else Run.begin
        run = begin(recipe, options.out, options.device)
        train(run, options)
    except (ValueError, FloatingPointError, CheckpointError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"stopped at step {run.trainer.step}; go on with --resume")
        return 130
    return 0


def parser() -> argparse.ArgumentParser:
    """The options: a preset, every field of `Recipe`, and where things go."""
    parser = argparse.ArgumentParser(
        prog="python -m posttrain.foundations.training_loop",
        description=__doc__.splitlines()[0],
    )
    parser.add_argument(
        "--preset",
        choices=PRESETS,
        default="cpu",
        help="the recipe to start from (%(default)s)",
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of the run")
    parser.add_argument("--resume", action="store_true", help="go on with --out")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--device", default=device, help="cpu, cuda (%(default)s)")
    parser.add_argument(
        "--eval-every",
        type=int,
        default=100,
        metavar="N",
        help="steps between two losses on validation text (%(default)s)",
    )
    parser.add_argument(
        "--save-every",
        type=int,
        default=200,
        metavar="N",
        help="steps between two checkpoints (%(default)s)",
    )
    parser.add_argument(
        "--tensorboard", action="store_true", help="write out/tensorboard as well"
    )
    parser.add_argument(
        "--profile", action="store_true", help="write trace.json of three steps"
    )
    recipe = parser.add_argument_group("the recipe (default: the preset's)")
    for field in fields(Recipe):
        kind = {"int": int, "float": float, "str": str}[field.type]
        name = "--" + field.name.replace("_", "-")
        metavar, words = field.type.upper(), HELP[field.name]
        recipe.add_argument(name, type=kind, metavar=metavar, help=words)
    return parser


def train(run: Run, options: argparse.Namespace) -> None:
    """Train a run to its end, with log, checkpoints and messages."""
    done = run.trainer.step
    log = RunLog(options.out, after=done, tensorboard=options.tensorboard)
    print(described(run))
    started = time.perf_counter()

    def evaluate() -> None:
        step, seconds = run.trainer.step, time.perf_counter() - started
        values = {"val_loss": run.validate()}
        per_step = run.recipe.B * run.recipe.T * run.recipe.micro_batches
        speed = (step - done) * per_step / seconds
        log.write(step, values)
        log.text(step, "sample", run.sample("\n", 200))
        print(
            f"step {step:6,} of {run.trainer.steps:,}  validation"
            f" {values['val_loss']:.4f} nats  {speed:,.0f} tokens/s",
            flush=True,
        )

    with stop_request() as asked, tracing(options) as tick:

        def on_step(record: StepRecord) -> None:
            values = asdict(record)
            log.write(values.pop("step"), values)
            tick()
            if asked():
                run.save()
                raise KeyboardInterrupt

        hooks = [(options.eval_every, evaluate), (options.save_every, run.save)]
        try:
            fit(run.trainer, on_step, hooks)
        finally:
            log.close()
    print(run.sample("\n", 300))


def described(run: Run) -> str:
    """One line: what is trained, on what, from where."""
    trainer, about = run.trainer, run.text.about
    return (
        f"{parameter_count(trainer.model):,} parameters,"
        f" {len(run.text.train):,} tokens of {about['name']} ({about['source']}),"
        f" steps {trainer.step:,} to {trainer.steps:,}"
    )


@contextmanager
def stop_request() -> Iterator[Callable[[], bool]]:
    """Turn Ctrl-C and SIGTERM into a wish that is granted between two steps.

    An interrupt in the middle of `optimizer.step()` would leave half a step behind. A
    second Ctrl-C stops at once.
    """
    wishes: list[int] = []

    def wish(number, frame) -> None:
        if wishes:
            raise KeyboardInterrupt
        wishes.append(number)
        print("stopping after this step ...", flush=True)

    before = {n: signal.signal(n, wish) for n in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(wishes)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def tracing(options: argparse.Namespace) -> Iterator[Callable[[], None]]:
    """With --profile, record steps 3 to 5 into out/trace.json (chrome://tracing)."""
    if not options.profile:
        yield lambda: None
        return
    quiet_profiler()
    path = options.out / "trace.json"
    with torch.profiler.profile(
        schedule=torch.profiler.schedule(wait=1, warmup=1, active=3, repeat=1),
        on_trace_ready=lambda made: made.export_chrome_trace(str(path)),
        profile_memory=True,
    ) as profiler:
        yield profiler.step


if __name__ == "__main__":
    sys.exit(main())
