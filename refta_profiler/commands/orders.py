"""Every contraction order of a method on a model, and what it costs. Costs are functions of the tokens t; regimes say which order is the
least from which t on, crossovers where the costs of two are equal.

From the closed form alone: no torch, milliseconds. Costs are the adapters' own, beyond the frozen base. The envelope is over backwards
as autograd derives them. `--json` gives the same as one array of entries: cost, regime, crossover,
tree_regimes, statement.
"""

from __future__ import annotations

from typing import Annotated

import typer

from refta_profiler.commands.answer import Answer
from refta_profiler.commands.options import JsonOption, ModelOption, RankOption, SeqOption, SettingOption, TargetsOption


def command(
    method: Annotated[str, typer.Argument(help="a method, e.g. refta", metavar="METHOD")],
    model: ModelOption,
    rank: RankOption = None,
    targets: TargetsOption = None,
    seq: SeqOption = None,
    settings: SettingOption = None,
    trees: Annotated[bool, typer.Option("--trees", help="the envelope over all binary trees, also where they are many")] = False,
    json_: JsonOption = False,
) -> Answer:
    """The orders of a method on a model."""
    from refta_profiler.commands import options, order_table, order_trees, order_words

    chosen = options.method_settings(rank, settings)
    stacks = options.stacks(model, method, options.roles(model, targets))
    found = order_table.of(method, chosen, stacks, seq=options.tokens(model, seq), model=model)
    over_trees = order_trees.entries(found.network, stacks[0]) if trees or order_trees.is_quick(found.network) else []
    words = [one["sentence"] for one in over_trees] or ["`--trees` adds the envelope over all binary trees."]
    return Answer([*order_table.entries(found), *over_trees], order_words.text(found, words))
