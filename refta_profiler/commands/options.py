"""The options that several commands take, and what they mean: a method's settings, a model's shapes. No torch."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import typer

from refta.shapes import StackShape
from refta_profiler import models, parallel, scenario, scenario_yaml
from refta_profiler.errors import ScenarioError
from refta_profiler.suggest import closest

TEXT_TOKENS = 128  # tokens of a text example where none are given, as in a scenario

ModelOption = Annotated[str, typer.Option("--model", help="a preset, a hub name, or a folder with a config.json")]
RankOption = Annotated[int | None, typer.Option("--rank", help="the method's rank (by default the method's own)")]
TargetsOption = Annotated[str | None, typer.Option("--targets", help="what is adapted (query,value, or qkv where they are one)")]
SeqOption = Annotated[int | None, typer.Option("--seq", help="tokens of a text (default 128, or all its positions); images have their own")]
SettingOption = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="a setting of the method, e.g. alpha=16")]
JsonOption = Annotated[bool, typer.Option("--json", help="the answer as one JSON array")]
PrecisionOption = Annotated[str, typer.Option("--precision", help="fp32, bf16 or amp-bf16")]
ExecutorOption = Annotated[str, typer.Option("--executor", help="what runs the processes: local, ray or slurm")]
AddressOption = Annotated[str | None, typer.Option("--address", help="of a Ray cluster (default RAY_ADDRESS, or one started here)")]
CpusOption = Annotated[int | None, typer.Option("--cpus", help="of a Ray or SLURM node for a CPU point, and its threads (default 1)")]
PartitionOption = Annotated[str | None, typer.Option("--partition", help="of SLURM, that the jobs go to")]
TimeOption = Annotated[str | None, typer.Option("--time", help="of a SLURM job, at most: minutes or hours:minutes:seconds")]
AccountOption = Annotated[str | None, typer.Option("--account", help="of SLURM, that the jobs are charged to")]
SlurmOption = Annotated[list[str] | None, typer.Option("--slurm", metavar="KEY=VALUE", help="more of SLURM's, e.g. constraint=h100")]
StepOption = Annotated[
    list[str] | None,
    typer.Option(
        "--step", metavar="KEY=VALUE", help="the step as a scenario has it, e.g. optimizer=sgd, accumulate=4, loop.keep_outputs=next"
    ),
]
CheckpointingOption = Annotated[bool, typer.Option("--checkpointing", help="with gradient checkpointing")]

ParallelOption = Annotated[str | None, typer.Option("--parallel", help="one rank of several: ddp:2, fsdp:4; the batch is a rank's")]


def method_settings(rank: int | None, given: Sequence[str] | None) -> dict[str, Any]:
    """The method's settings as they were given: `--rank` and every `--set key=value`, a value read as a scenario's YAML."""
    found: dict[str, Any] = {} if rank is None else {"rank": rank}
    for one in given or []:
        key, equals, value = one.partition("=")
        if not equals or not key.strip():
            raise ScenarioError(f"--set {one}: write KEY=VALUE, e.g. --set alpha=16")
        found[key.strip()] = scenario_yaml.parse(value, f"--set {key.strip()}")
    return found


def step_settings(given: Sequence[str] | None) -> dict[str, Any]:
    """What every `--step key=value` says of the step, as a scenario has it: loop.use_cache=true is {"loop": {"use_cache": True}}."""
    found: dict[str, Any] = {}
    for one in given or []:
        key, equals, value = one.partition("=")
        parts = [part.strip() for part in key.split(".")]
        if not equals or not all(parts):
            raise ScenarioError(f"--step {one}: write KEY=VALUE, e.g. --step optimizer=sgd or --step loop.use_cache=true")
        if parts[0] not in scenario.STEP:
            near = closest(parts[0], scenario.STEP)
            hint = f"did you mean '{near}'? " if near else ""
            raise ScenarioError(f"--step {one}: '{parts[0]}' is none of a step's settings; {hint}there are {', '.join(scenario.STEP)}")
        place = found
        for part in parts[:-1]:
            place = place.setdefault(part, {})
            if not isinstance(place, dict):
                raise ScenarioError(f"--step {one}: --step {parts[0]}=… has given all of it already")
        place[parts[-1]] = scenario_yaml.parse(value, f"--step {key.strip()}")
    return found


def step_words(settings: Mapping[str, Any], prefix: str = "") -> str:
    """What was said of the step, for a heading: 'optimizer=sgd, loop.use_cache=true'."""
    inner = [
        step_words(value, f"{prefix}{key}.") if isinstance(value, dict) else f"{prefix}{key}={json.dumps(value).strip(chr(34))}"
        for key, value in settings.items()
    ]
    return ", ".join(inner)


def slurm_settings(partition: str | None, time: str | None, account: str | None, given: Sequence[str] | None) -> dict[str, str]:
    """What SLURM jobs ask for, by name: the three options and every `--slurm key=value`."""
    found = {name: text for name, text in (("partition", partition), ("time", time), ("account", account)) if text is not None}
    for one in given or []:
        key, equals, value = one.partition("=")
        if not equals or not key.strip():
            raise ScenarioError(f"--slurm {one}: write KEY=VALUE, e.g. --slurm constraint=h100")
        found[key.strip()] = value.strip()
    return found


def ranks(given: str | None) -> str:
    """How `--parallel` spreads a step over ranks, as points have it; '' for one process."""
    try:
        return parallel.checked(given)
    except ScenarioError as error:
        raise ScenarioError(f"--parallel {given}: {error}") from None


def roles(model: str, targets: str | None) -> list[str]:
    """The targets that were named; by default query and value, or qkv where the model has them in one."""
    if targets is not None:
        found = [one.strip() for one in targets.split(",") if one.strip()]
        if not found:
            raise ScenarioError("--targets: names nothing; write e.g. --targets query,value")
        return found
    return ["qkv"] if "qkv" in (models.roles(model) or []) else ["query", "value"]


def stacks(model: str, method: str, targets: list[str]) -> list[StackShape]:
    """The stacks of layers that the method adapts; ScenarioError where the model's shapes are not known as data."""
    from refta_profiler.predict import closed_form

    found = closed_form.shapes(model, closed_form.sites(model, method, targets))
    if found is None:
        kind = models.describe(model).model_type
        raise ScenarioError(
            f"--model {model}: the shapes of a '{kind}' model are not known as data; try one of {', '.join(models.presets())}"
        )
    return found


def tokens(model: str, seq: int | None) -> int:
    """Tokens of one example: an image's own, or a text's `--seq`, of which a model has no more than its positions."""
    own = models.tokens_per_sequence(model, None)
    if own is not None and seq is not None:
        raise ScenarioError(f"--seq {seq}: {model} reads images of {own} tokens; leave --seq out")
    if seq is not None and seq < 1:
        raise ScenarioError(f"--seq {seq}: it must be at least 1")
    most = models.longest_sequence(model)
    if most is not None and seq is not None and seq > most:
        raise ScenarioError(f"--seq {seq}: it is more than the {most} positions of {model}")
    return own or seq or min(TEXT_TOKENS, most or TEXT_TOKENS)
