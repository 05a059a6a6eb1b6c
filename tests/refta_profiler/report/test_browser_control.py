"""The page's control in Chromium: its numbers are those of `check --json` for the same model, method, rank, batch and target."""

import json
from dataclasses import replace
from random import Random

import chromium
import pytest
from stored_steps import peaks

from refta_profiler import report, run, scenario
from refta_profiler.commands import check_answer, check_runs
from refta_profiler.predict import steps
from refta_profiler.predict.roofline import estimate
from refta_profiler.predict.storage import ODD, ON_THE_HOST, Operation
from refta_profiler.progress import Lines
from refta_profiler.rates import Rates
from refta_profiler.report.material import mebibytes
from refta_profiler.run_folder import RunFolder
from refta_profiler.units import format_bytes, format_percent, format_seconds

pytestmark = [pytest.mark.browser, pytest.mark.skipif(chromium.found() is None, reason="chromium is not here")]

ORDERS = ["shared", "fused", "fused_fold", "slices", "reconstruct", "reconstruct_recompute", "reconstruct_stack"]
TINY = {
    "model": "roberta-tiny",
    "methods": [{"name": "head"}, {"name": "lora", "rank": 4}, {"name": "refta", "rank": 4, "order": ORDERS}],
    "seq": [16],
    "batch": [2, 4, 8],
    "target": "h100",
    "measure": {"when": "never"},
}
LARGER = TINY | {
    "model": "vit-tiny",
    "methods": [
        {"name": "head"},
        *({"name": name, "rank": 8} for name in ("lora", "pissa")),
        *({"name": "refta", "rank": rank, "order": ORDERS} for rank in (4, 8)),
    ],
    "precision": ["fp32", "bf16"],
    "checkpointing": [False, True],
    "batch": [1, 4],
}
LARGER.pop("seq")
SET = """(choices) => {
  const form = document.getElementById("control");
  for (const [name, value] of Object.entries(choices)) {
    form.elements[name].value = value;
    form.elements[name].dispatchEvent(new Event("input", { bubbles: true }));
  }
  const numbers = (row) => ({ peak: Number(row.cells[1].dataset.value), flops: Number(row.cells[4].dataset.value) });
  const verdict = (cell) => ({ outcome: cell.className, against: cell.dataset.against ?? null });
  const cells = (row) => ({ ...row.dataset, ...numbers(row), fits: row.cells[5].textContent, ...verdict(row.cells[6]) });
  const answer = document.getElementById("control-answer");
  return {
    rows: [...document.querySelectorAll("#control-table tbody tr")].map(cells),
    winner: { ...answer.querySelector(".winner").dataset },
    verdicts: [...answer.querySelectorAll("[data-outcome]")].map((line) => ({ ...line.dataset })),
  };
}"""


def written(tmp_path_factory, values):
    """The page of a predicted run of that scenario."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "in_processes", lambda jobs: ((job, run.predict_job(job)) for group in run.by_variant(jobs) for job in group))
        loaded = scenario.from_values(values, "page")
        folder = RunFolder.create(tmp_path_factory.mktemp("page"), loaded.text)
        run.run(loaded, folder, run.Options(only="predict"), Lines())
    return report.write(folder)[0]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return written(tmp_path_factory, TINY)


@pytest.fixture(scope="module")
def larger(tmp_path_factory):
    return written(tmp_path_factory, LARGER)


@pytest.fixture(scope="module")
def connection():
    with chromium.browser() as found:
        yield found


def opened(connection, path):
    page = chromium.Page(connection, path)
    page.until("!document.querySelector('.control').hidden")
    return page


def asked(page, choices):
    return page.value(f"({SET})({json.dumps(choices)})")


def answered(question):
    """What `check --quick --json` prints, by kind; run in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "in_processes", lambda jobs: ((job, run.predict_job(job)) for job in jobs))
        found = check_answer.of(check_runs.ask(question), with_largest=False)
    entries = check_answer.entries(found)
    return {kind: [entry for entry in entries if entry["kind"] == kind] for kind in ("peak", "winner", "verdict")}


def key_of(entry):
    return entry["method"], entry["order"], entry["rank"]


def compare(page, question, choices):
    """Every number and outcome that both the page and `check` have."""
    shown, told = asked(page, choices), answered(question)
    labels = page.value("JSON.parse(document.getElementById('control-data').textContent).variants")
    own = {key_of(one): one["label"] for one in labels}
    named = {entry["label"]: own[key_of(entry)] for entry in told["peak"] if key_of(entry) in own}
    rows = {row["label"]: row for row in shown["rows"]}
    assert len(named) >= 6
    for entry in told["peak"]:
        if entry["label"] in named:
            row = rows[named[entry["label"]]]
            fits = {True: "yes", False: "no", None: "not known"}[entry["fits"]]
            assert (row["peak"], row["flops"], row["fits"]) == (entry[row["quantity"]], entry["step_flops"], fits), entry
    winner = told["winner"][0]
    assert shown["winner"] == {
        "winner": named[winner["label"]],
        "runnerUp": named[winner["runner_up"]],
        "marginBytes": str(winner["margin_bytes"]),
        "marginFraction": shown["winner"]["marginFraction"],
    }
    assert float(shown["winner"]["marginFraction"]) == winner["margin_fraction_of_peak"]
    compare_verdicts(rows, shown["verdicts"], told["verdict"], named)


def compare_verdicts(rows, lines, verdicts, named):
    """The outcome of every order against its best other, and of the first against LoRA and PiSSA."""
    best = [one for one in verdicts if one["comparison"] == "best other order"]
    assert best
    for one in best:
        row = rows[named[one["subject"]]]
        assert (row["against"], row["outcome"]) == (named[one["against"]], one["outcome"]), one["sentence"]
    first = lines[0]["subject"]
    told = {named[one["against"]]: one["outcome"] for one in verdicts if one["against"] in named and named[one["subject"]] == first}
    assert {one["against"]: one["outcome"] for one in lines}.items() <= told.items()


def question(model, batch, **changes):
    seq = 16 if model == "roberta-tiny" else None
    asked = check_runs.Question(model, batch, "refta", {"rank": 4}, None, None, "h100", seq, ["query", "value"], "fp32", False)
    return replace(asked, **changes)


def test_its_numbers_are_checks_at_four_settings(connection, tiny):
    page = opened(connection, tiny)
    for batch in (1, 2, 13, 700):
        compare(page, question("roberta-tiny", batch), {"batch": batch})
    assert page.complaints == []
    page.close()


def made_up(random, memory):
    """A variant with a random step: small and large blocks, freed in any order, some never."""
    sizes = [[random.choice([1, 600, 2**19, 3 * 2**20, 2**23]), random.choice([0, 512, 77_777, 2**20])] for _ in range(12)]
    events, live = [], 0
    for _ in range(400):
        if live and random.random() < 0.48:
            events.append(-random.randint(1, live))
            live -= 1
        else:
            events.append(random.randrange(len(sizes)))
            live += 1
    operations = [
        [
            *(phase, dtype, [0, random.choice([0, 10**6, 10**9])], [random.choice([0, 10**5]), random.choice([0, 10**4])]),
            random.randint(1, 9),
            *random.choice(
                [
                    [],
                    [[[0, 197], [1024, 0]]],
                    [[[0, 16], [197, 0], [64, 0]]],
                    [[[0, 197], [15, 0]], ODD],
                    [0, (0.25, 1.0)],
                    [0, ON_THE_HOST],
                ]
            ),
        ]
        for phase in ("forward", "backward", "optimizer")
        for dtype in ("float32", "bfloat16")
        for _ in range(5)
    ]
    step = {"sizes": sizes, "initial": [0, -2, 1, 2, -4, 3], "events": events, "products": [5, 90], "biased": [5], "step_flops": [1, 2]}
    step["operations"] = operations
    step["row_sums"] = [
        [
            place,
            [random.choice([0, 197]), random.choice([197, 2048, 2**20])],
            [random.choice([768, 3072, 50]), 0],
            *random.choice([(4, 4), (2, 2), (8, 1)]),
        ]
        for place in sorted([5, len(events), *random.sample(range(len(events)), 20)])
    ]
    workspace = 0 if memory == "plain" else 2**23 + 512
    variant = {"memory": memory, "workspace_bytes": workspace, "biased_workspace_bytes": workspace and 2**20}
    variant["scratch"] = None if memory == "plain" else random.choice([(132, 2048), (40, 1024)])
    return {**variant, "rates": steps._rates(RATES), "first": step, "following": step}


RATES = Rates(
    {"float32": [(1e6, 1e12), (1e9, 3e13)], "bfloat16": [(0.0, 5e14)]},
    *(2e12, 2e-6, {"forward": 7e-6, "backward": 7e-6, "optimizer": 5e-6}, 7e-7),
    overlaps=True,
    note="made up",
    calibrated=True,
    multiprocessors=132,
)


@pytest.mark.parametrize("memory", ["plain", "default", "expandable_segments"])
def test_the_pages_replay_is_the_dry_runs(connection, tiny, memory):
    page = opened(connection, tiny)
    random = Random(7)
    for _ in range(12):
        variant = made_up(random, memory)
        for batch in (1, 3, 50):
            found = page.value(f"replay({json.dumps(variant)}, {batch})")
            assert (found["allocated"], found["reserved"]) == peaks(variant, batch)
            expected = estimate(operations_of(variant, batch), RATES)
            assert found["time"]["seconds"] == pytest.approx(expected.seconds, rel=1e-9)
            assert found["time"]["launch"] == pytest.approx(expected.by_bound["launch"], rel=1e-9)
    page.close()


@pytest.mark.parametrize(
    ("name", "written", "values"),
    [
        ("bytes", format_bytes, [0, 1, 1023, 1024, 14_336, 100.5 * 2**20, 1_771_674_009, 99.95 * 2**30, 2**40, -3_000_000]),
        (
            "percent",
            format_percent,
            [0, 1e-7, 4e-5, 0.0496, 0.049999, 0.01, 0.00996, 0.0201, 0.02, 0.05, 0.0612, 0.0995, 0.134, 12, -0.3],
        ),
        ("seconds", format_seconds, [1.23e-5, 0.0456, 0.9994, 0.9996, 1.234, 99.5, 119.9, 245.0]),
        ("mebibytes", mebibytes, [0, 70_000, 2**20, 2.5 * 2**20, 100.5 * 2**20, 2843 * 2**20]),
        ("whole", lambda value: f"{value:,.0f}", [0.5, 1.5, 2.5, 1234.5, 61_470]),
    ],
)
def test_numbers_are_written_as_everywhere_else(connection, tiny, name, written, values):
    page = opened(connection, tiny)
    random = Random(3)
    many = [*values, *(random.choice(values[-4:]) * random.random() for _ in range(300))]
    assert page.value(f"{json.dumps(many)}.map(units.{name})") == [written(value) for value in many]
    page.close()


def operations_of(variant, batch):
    """The operations of a stored step, one by one."""

    def at(line):
        return line[0] + line[1] * batch

    return [
        Operation(phase, "any", dtype, at(flops), at(size), tuple(map(at, behind[0])) if behind and behind[0] else (), *behind[1:])
        for phase, dtype, flops, size, count, *behind in variant["following"]["operations"]
        for _ in range(count)
    ]


@pytest.mark.slow
def test_its_numbers_are_checks_at_twenty_settings(connection, larger):
    page = opened(connection, larger)
    tried = 0
    for precision in ("fp32", "bf16"):
        for checkpointing in (False, True):
            for rank, batch in ((4, 1), (4, 7), (8, 2), (8, 33), (8, 1000)):
                changes = {"settings": {"rank": rank}, "precision": precision, "checkpointing": checkpointing}
                choices = {
                    "precision": precision,
                    "checkpointing": "on" if checkpointing else "off",
                    "method": "refta",
                    "rank": rank,
                    "batch": batch,
                }
                compare(page, question("vit-tiny", batch, **changes), choices)
                tried += 1
    assert tried == 20
    assert page.complaints == []
    page.close()


def test_a_batch_that_is_none_is_refused_in_words(connection, tiny):
    page = opened(connection, tiny)
    for batch in ("0", "2.5", "", "100000"):
        page.value(f"""(() => {{ const box = document.getElementById('control').elements.batch; box.value = '{batch}';
            box.dispatchEvent(new Event('input', {{ bubbles: true }})); }})()""")
        assert "from 1 to 1,024" in page.value("document.getElementById('control-answer').textContent")
        assert page.value("document.getElementById('control-table').hidden")
        assert page.value("document.getElementById('control').elements.batch.getAttribute('aria-invalid')") == "true"
    page.close()


def test_without_javascript_the_table_of_the_runs_batches_stands(connection, tiny):
    page = chromium.Page(connection, tiny, script=False)
    text = tiny.read_text()
    assert 'class="control" hidden' in text
    assert 'id="table-winners"' in text
    page.close()
