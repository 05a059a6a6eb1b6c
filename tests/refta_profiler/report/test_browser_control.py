"""The page's control in Chromium: its numbers are those of `check --json` for the same model, method, rank, batch and target."""

from dataclasses import replace

import chromium
import pytest

from refta_profiler import report, run, scenario
from refta_profiler.commands import check_answer, check_runs
from refta_profiler.progress import Lines
from refta_profiler.run_folder import RunFolder

pytestmark = [pytest.mark.browser, pytest.mark.skipif(chromium.found() is None, reason="chromium is not here")]

ORDERS = ["shared", "slices", "reconstruct", "reconstruct_recompute", "reconstruct_stack"]
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
    return page.value(f"({SET})({chromium.json.dumps(choices)})")


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
