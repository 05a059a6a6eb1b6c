"""The most one can afford: the largest batch, sequence or rank whose training step fits, over methods, orders and checkpointing.

By dry runs alone: every answer was dry-run and fits, and the next larger was dry-run and does not, or cannot be had. What fits is the
whole step's peak (reserved by the allocator where that is known) beside the CUDA context where that is known. --memory is the card's whole
memory; kernels are --target's (h100 where it is left out), and without --memory so is the memory. --measure then bisects over real steps
on the device at hand, which must be the --target.
"""

from __future__ import annotations

from typing import Annotated

import typer

from refta_profiler.commands.answer import Answer
from refta_profiler.commands.options import (
    JsonOption,
    ModelOption,
    PrecisionOption,
    RankOption,
    SeqOption,
    SettingOption,
    StepOption,
    TargetsOption,
)


def command(
    model: ModelOption,
    solve: Annotated[str, typer.Option(help="what is to be as large as can be: batch, seq or rank")] = "batch",
    memory: Annotated[str | None, typer.Option(help="the card's memory, e.g. 24GiB")] = None,
    target: Annotated[str | None, typer.Option(help="a device (list devices)")] = None,
    methods: Annotated[list[str] | None, typer.Option("--method", help="a method, several times for several (head, lora, refta)")] = None,
    rank: RankOption = None,
    batch: Annotated[int | None, typer.Option(help="examples of a step, where another is solved for (default 8)")] = None,
    seq: SeqOption = None,
    targets: TargetsOption = None,
    precision: PrecisionOption = "fp32",
    settings: SettingOption = None,
    step: StepOption = None,
    measured: Annotated[bool, typer.Option("--measure", help="look for the largest batch by real steps here, too")] = False,
    json_: JsonOption = False,
) -> Answer:
    """What fits."""
    from refta_profiler.commands import fit_measured, fit_solve, options

    chosen = options.method_settings(rank, settings)
    fit_solve.refuse_solved(solve, {"batch": batch, "seq": seq, "rank": chosen.get("rank")})
    roles = options.roles(model, targets)
    named = tuple(methods or fit_solve.METHODS)
    said = options.step_settings(step)
    batch = fit_solve.BATCH if batch is None else batch
    question = fit_solve.Question(model, solve, memory, target, named, chosen, batch, seq, roles, precision, said)
    if measured:
        fit_measured.check(question)
    budget, rows = fit_solve.solve_all(question)
    entries, text = [one.entry(question, budget) for one in rows], fit_solve.text(question, budget, rows)
    if measured:
        real = fit_measured.measure_all(fit_solve.points_of(question), rows, budget)
        entries += [{"kind": "measured fit", **vars(one)} for one in real]
        text += f"\n\n{fit_measured.text(real, budget)}"
    return Answer(entries, text)
