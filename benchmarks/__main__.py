"""ReFTA in every order beside LoRA and PiSSA of the peft library, a naive rebuild, and the floor, in one process.

    .venv/bin/python -m benchmarks                            # ViT-B, ViT-L, RoBERTa-B at batches 1 to 64
    .venv/bin/python -m benchmarks --quick                    # tiny models: that it runs, in half a minute
    .venv/bin/python -m benchmarks --models roberta-base --batches 8 --only lora,refta/fused,refta/auto,naive,head,floor --budget 1200
    .venv/bin/python -m benchmarks.setup                      # set-up against full SVDs

Steps of all contenders are interleaved, so that times are compared within a round and a drift of the machine moves none of them against
another. A cell whose three rounds would take longer than the budget is not timed: its peaks are dry-run, which equals the profiler to the
byte. Exit code 4 where something that must hold does not.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict

import torch

from benchmarks import cells, contenders, floors, tables
from benchmarks.contenders import Contender
from benchmarks.tables import Cell
from refta_profiler import models
from refta_profiler.predict import closed_form, dryrun

MODELS = ("roberta-base", "vit-base", "vit-large")
BATCHES = (1, 2, 4, 8, 16, 32, 64)
QUICK = {"models": ["roberta-tiny", "vit-tiny"], "batches": [1, 4], "steps": 3, "budget": 20.0}
SEQUENCE = {"roberta-base": 128, "roberta-large": 128, "roberta-tiny": 32}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, print, and say whether the claims hold."""
    chosen = _options(arguments)
    device = torch.device(chosen.device)
    print(f"torch {torch.__version__} on {_called(device)}, float32, rank {contenders.RANK} on {', '.join(contenders.TARGETS)}\n")
    start, found = time.perf_counter(), []
    for cell in run(chosen.models, chosen.batches, steps=chosen.steps, budget_seconds=chosen.budget, device=device, only=chosen.only):
        found.append(cell)
        print(tables.cell_table(cell), f"\n({time.perf_counter() - start:.0f} s)\n", flush=True)
    if chosen.json:
        with open(chosen.json, "w", encoding="utf-8") as file:
            json.dump([asdict(one) for one in found], file)
    claims = tables.claims(found)
    for one in claims:
        print(f"- {'not tried' if one.holds is None else 'holds' if one.holds else 'DOES NOT HOLD'}: {one.sentence} ({one.figures})")
    return 4 if any(one.holds is False for one in claims) else 0


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="tiny models, three steps")
    parser.add_argument("--models", type=_words, default=list(MODELS), help="presets, by commas")
    parser.add_argument("--batches", type=lambda text: [int(one) for one in text.split(",")], default=list(BATCHES))
    parser.add_argument("--steps", type=int, default=tables.ROUNDS, help="interleaved steps of a cell, at most")
    parser.add_argument("--budget", type=float, default=300.0, help="seconds of a cell's steps; a cell that cannot do three is dry-run")
    parser.add_argument("--only", type=_words, default=[], help="contenders whose label starts with one of these")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=["cpu", "cuda"])
    parser.add_argument("--json", help="a file for all numbers, raw samples among them")
    chosen = parser.parse_args(arguments)
    if chosen.quick:
        for name, value in QUICK.items():
            setattr(chosen, name, value)
    if chosen.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: torch sees no CUDA device here")
    unknown = [one for one in chosen.models if one not in models.presets()]
    if unknown:
        parser.error(f"--models {','.join(unknown)}: there are {', '.join(models.presets())}")
    labels = [*contenders.points("roberta-tiny", 1, seq=8, target="cpu"), contenders.NAIVE, contenders.FLOOR]
    if stray := [one for one in chosen.only if not any(label.startswith(one) for label in labels)]:
        parser.error(f"--only {','.join(stray)}: the contenders are {', '.join(labels)}")
    return chosen


def _words(text: str) -> list[str]:
    return [one.strip() for one in text.split(",") if one.strip()]


def _called(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"the CPU, {torch.get_num_threads()} threads"


def run(
    names: Sequence[str], batches: Sequence[int], *, steps: int, budget_seconds: float, device: torch.device, only: Sequence[str]
) -> Iterator[Cell]:
    """Every cell, batches from small to large, a model's contenders built once."""

    def wanted(label: str) -> bool:
        return not only or label.startswith(tuple(only))

    for name in names:
        with models.without_packing():
            made = list(contenders.contenders(name, seq=SEQUENCE.get(name), device=device, only=wanted))
            yield from _batches(name, sorted(batches), made, steps, budget_seconds)
        del made
        gc.collect()


def _batches(name: str, batches: Sequence[int], made: list[Contender], steps: int, budget_seconds: float) -> Iterator[Cell]:
    shapes = closed_form.shapes(name, list(contenders.TARGETS))
    assert shapes is not None
    round_seconds = 0.0  # of one example, from the batch before
    for batch in batches:
        points = contenders.points(name, batch, seq=SEQUENCE.get(name), target="cpu")
        tokens = points[contenders.HEAD].tokens
        assert tokens is not None
        cell = Cell(name, batch, tokens, [], floors.model_flops(shapes, contenders.RANK, tokens), {})
        if round_seconds * batch * 3 > budget_seconds:
            there = [one.label for one in made if one.label in points]
            cell.predicted = {label: dryrun.dry_run(points[label], "cpu").peak_allocated_bytes for label in there}
        else:
            cell.measured = cells.measure([contenders.with_batch(one, batch) for one in made], steps=steps, budget_seconds=budget_seconds)
            round_seconds = sum(one.seconds for one in cell.measured) / batch
        yield cell


if __name__ == "__main__":
    sys.exit(main())
