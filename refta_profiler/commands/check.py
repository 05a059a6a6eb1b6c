"""Does a method pay off for one model and batch? The winner, by how much of the whole step's peak, why, and up to which batch.

Peaks are dry runs of every order of the method, of LoRA and PiSSA at equal rank, parameters and step cost where such ranks exist, and of
the head alone. The best other order that runs is always in the answer. ReFTA is judged as the public code runs it (`shared`) and as the
paper writes it (`slices`). With --exit-code the exit is 4 where it does not pay off: against --against where that is given, otherwise
against the best other order that runs, or, for a method with one order, against LoRA and PiSSA. `--order auto` judges the order that auto
takes at this batch.
"""

from __future__ import annotations

from typing import Annotated

import typer

from refta_profiler.commands.answer import Answer
from refta_profiler.commands.options import (
    CheckpointingOption,
    JsonOption,
    ModelOption,
    ParallelOption,
    PrecisionOption,
    RankOption,
    SeqOption,
    SettingOption,
    StepOption,
    TargetsOption,
)


def command(
    model: ModelOption,
    batch: Annotated[int, typer.Option(help="examples of a step")],
    method: Annotated[str, typer.Option(help="the method that is asked about")] = "refta",
    rank: RankOption = None,
    order: Annotated[str | None, typer.Option(help="judge this order alone")] = None,
    against: Annotated[str | None, typer.Option(help="an order of the method, or another method", metavar="ORDER|METHOD")] = None,
    target: Annotated[str, typer.Option(help="the device that is predicted for")] = "h100",
    seq: SeqOption = None,
    targets: TargetsOption = None,
    precision: PrecisionOption = "fp32",
    checkpointing: CheckpointingOption = False,
    parallel: ParallelOption = None,
    settings: SettingOption = None,
    step: StepOption = None,
    quick: Annotated[bool, typer.Option("--quick", help="at this batch alone, without the largest batch for which it stays true")] = False,
    exit_code: Annotated[
        bool, typer.Option("--exit-code", help="exit 4 unless it pays off (5% less peak and no slower), also where no verdict is possible")
    ] = False,
    json_: JsonOption = False,
) -> Answer:
    """Whether the method pays off."""
    from refta_profiler.commands import check_answer, check_closed, check_runs, check_words, options

    chosen = options.method_settings(rank, settings)
    roles = options.roles(model, targets)
    question = check_runs.Question(
        model,
        batch,
        method,
        chosen,
        against,
        order,
        target,
        seq,
        roles,
        precision,
        checkpointing,
        options.ranks(parallel),
        options.step_settings(step),
    )
    found = check_answer.of(check_runs.ask(question), with_largest=not quick)
    if isinstance(found, check_closed.ClosedAnswer):
        return Answer(check_closed.entries(found), check_closed.text(found), f"no dry run: {found.reason}" if exit_code else "")
    failed = check_answer.why_it_fails(found) if exit_code else ""
    return Answer(check_answer.entries(found), check_words.text(found), failed)
