"""`refta_profiler.TrainerCallback`: the same measurement within a Trainer of transformers."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from typing import Any

import transformers

from refta_profiler.errors import ScenarioError
from refta_profiler.measure import loop_start
from refta_profiler.measure.loop import Asked, profile
from refta_profiler.results import Row


@dataclass(eq=False)
class TrainerCallback(Asked, transformers.TrainerCallback):
    """Measures the training that a Trainer runs; `print(callback)` is a summary, `callback.rows` the rows, `folder` as in `profile`.

    Example:

        callback = refta_profiler.TrainerCallback(label="lora", folder="reports/mine")
        trainer = transformers.Trainer(model, arguments, train_dataset=data, callbacks=[callback])
        trainer.train()
        print(callback)

    The Trainer tells its callbacks nothing of an exception: where training broke off, `callback.stop(error)` takes the hooks off.
    """

    profiled: profile | None = field(init=False, default=None)
    _examples: int | None = field(init=False, default=None)  # of a batch, in the training that is under way

    def on_train_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Hooks on the Trainer's model and optimizer; of a training that is begun anew before it has ended, the rows say so."""
        examples = getattr(state, "train_batch_size", None)
        self._begun_anew(examples)
        self._examples = examples
        if args.n_gpu > 1:
            loop_start.refuse_data_parallel(args.n_gpu, f"TrainerCallback(label={self.label!r})")
        asked = {name: getattr(self, name) for name in Asked.__dataclass_fields__}
        self.profiled = profile(given["model"], given["optimizer"], **asked).__enter__()

    def on_train_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Hooks off; the rows are there, and the folder. One that cannot be written is a warning: the model is not saved yet."""
        try:
            self.stop()
        except ScenarioError as fault:
            warnings.warn(f"TrainerCallback(label={self.label!r}): {fault}; its `rows` hold what was measured", stacklevel=2)

    def _begun_anew(self, examples: int | None) -> None:
        """What was under way has broken off. A Trainer that goes on with a smaller batch has run out of memory (auto_find_batch_size)."""
        what = "the training was begun anew before it had ended"
        smaller = examples is not None and self._examples is not None and examples < self._examples
        error = MemoryError(f"{what}, with {examples} examples instead of {self._examples}") if smaller else RuntimeError(what)
        self.stop(error)
        for note in getattr(error, "__notes__", []):  # the training that begins is not to end by what could not be written
            warnings.warn(f"TrainerCallback(label={self.label!r}): {note}", stacklevel=3)

    def stop(self, error: BaseException | None = None) -> None:
        """End the measurement that is under way, if one is; `error` is what broke the training off."""
        if self.profiled is not None:
            self.profiled.stop(error)

    @property
    def rows(self) -> list[Row]:
        """The rows of the last training."""
        return [] if self.profiled is None else self.profiled.rows

    def to_pandas(self) -> Any:
        """The rows as a table; AttributeError before the first training."""
        if self.profiled is None:
            raise AttributeError("TrainerCallback: no training ran yet")
        return self.profiled.to_pandas()

    def __str__(self) -> str:
        return f"{self.label}: nothing was measured yet" if self.profiled is None else str(self.profiled)
