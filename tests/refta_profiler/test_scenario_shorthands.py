"""Settings that may be written as mappings: quantised weights, lengths of texts."""

import pytest

from refta_profiler import plan, scenario
from refta_profiler.errors import ScenarioError
from refta_profiler.measure import rows as measuring
from refta_profiler.predict import rows

TEXT = "model: roberta-tiny\nmethods: [{{name: lora, rank: 4}}, {{name: refta, rank: 4}}]\nbatch: [2]\n{}\n"


@pytest.fixture
def load(tmp_path):
    def write(*lines):
        path = tmp_path / "s.yaml"
        path.write_text(TEXT.format("\n".join(lines)))
        return scenario.load(path)

    return write


def test_given_lengths_are_sequences_of_padded_batches_and_survive_being_frozen(load, tmp_path):
    loaded = load("seq: {lengths: [32, 16, 32]}")
    assert loaded.seq == [16, 32] and loaded.loop.attention_mask
    (tmp_path / "again.yaml").write_text(loaded.text)
    again = scenario.load(tmp_path / "again.yaml")
    assert (again.seq, again.loop) == (loaded.seq, loaded.loop)


def test_a_loop_that_is_written_stays(load):
    loaded = load("seq: {lengths: [16]}", "loop: {attention_mask: false, use_cache: true}")
    assert not loaded.loop.attention_mask and loaded.loop.use_cache


@pytest.mark.parametrize("line", ["attention: eager", "seq: {lengths: [16]}"])
def test_an_older_version_is_refused_where_it_is_not_known(tmp_path, line):
    path = tmp_path / "s.yaml"
    path.write_text(f"model: gpt2-tiny\nmethods: [{{name: lora, rank: 4}}]\nbatch: [2]\nloop: {{transformers: 4.46}}\n{line}\n")
    with pytest.raises(ScenarioError, match="is known of attention: sdpa without a mask alone"):
        scenario.load(path)


def test_an_older_version_need_not_be_quoted_and_is_in_points_only_where_it_is_asked_for(tmp_path):
    path = tmp_path / "s.yaml"
    text = "model: gpt2-tiny\nmethods: [{name: lora, rank: 4}]\nbatch: [2]\nloop: {use_cache: true, keep_outputs: next"
    path.write_text(text + ", transformers: 4.46}\n")
    loaded = scenario.load(path)
    (asked,) = plan.points(loaded)
    assert asked.loop["transformers"] == "4.46" and asked.loop["keep_outputs"] == "next"
    path.write_text(loaded.text)
    assert plan.points(scenario.load(path)) == [asked]
    path.write_text(text + "}\n")
    (plain,) = plan.points(scenario.load(path))
    assert "transformers" not in plain.loop and plain.id != asked.id


@pytest.mark.parametrize("head", ["", "id,length\n"])
def test_a_files_median_95th_percentile_and_longest(load, tmp_path, head):
    lengths = "\n".join(f"{number},{number}" if head else str(number) for number in range(1, 61))
    (tmp_path / "lengths.csv").write_text(f"{head}{lengths}\n\n")
    assert load("seq: {file: lengths.csv}").seq == [30, 57, 60]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("seq: {lengths: [16, x]}", "seq.lengths: 'x'; write whole numbers of tokens"),
        ("seq: {lengths: [0]}", "seq.lengths: 0; write whole numbers of tokens"),
        ("seq: {lengths: []}", "seq.lengths: []; write whole numbers of tokens"),
        ("seq: {length: [16]}", "write {lengths: [64, 128]}, or {file: lengths.txt} with a length a line"),
        ("seq: {file: nothing.txt}", "seq.file: 'nothing.txt' cannot be read: No such file"),
        ("seq: {file: bad.txt}", "seq.file: 'bad.txt': line 2: 'long' is not a number of tokens"),
        ("seq: {file: empty.txt}", "seq.file: 'empty.txt': holds no lengths"),
        ("seq: {lengths: [16, 100000]}", "100000 tokens are more than the"),
        (
            "weights: {quantised: nf5}",
            "weights: unknown kind 'nf5'; did you mean 'nf4'? write random, pretrained, or {quantised: nf4|fp4|int8}",
        ),
        ("weights: {quantized: nf4}", "weights: unknown key 'quantized'; write random"),
        ("loop: {transformers: 4.46}", "loop.transformers: is known of GPT-2 with causal-lm alone, not of roberta-tiny; leave it out"),
        ('loop: {transformers: "4.50"}', "loop.transformers: unknown value '4.50'; there is '4.46'"),
        ('loop: {keep_outputs: "true"}', "loop.keep_outputs: 'true' is text; write true"),
        ("loop: {attention_mask: 'no'}", "loop.attention_mask: 'no' is text; write false"),
        ("loop: {keep_outputs: nxt}", "loop.keep_outputs: unknown value 'nxt'"),
        ("weights: pretrainde", "weights: unknown value 'pretrainde'; did you mean 'pretrained'?"),
    ],
)
def test_every_mistake_is_one_message(load, tmp_path, line, message):
    (tmp_path / "bad.txt").write_text("12\nlong\n")
    (tmp_path / "empty.txt").write_text("\n")
    with pytest.raises(ScenarioError) as caught:
        load(line)
    assert message in str(caught.value) and len(str(caught.value).splitlines()) == 1


def test_a_quantised_base_is_unsupported_with_its_reason_and_more_of_one_for_what_changes_it(load):
    lora, refta = plan.points(load("weights: {quantised: nf4}"))
    for point in (lora, refta):
        closed, dry, run = rows.predict(point)
        assert (closed, run) == ([], None)
        assert {(row.status, row.value) for row in dry} == {("unsupported", None)} and all("quantised to nf4" in row.note for row in dry)
    assert "quantised anew" in refta.unsupported and "quantised anew" not in lora.unsupported
    assert {row.status for row in measuring.failed(lora, "cpu", "unsupported", lora.unsupported)} == {"unsupported"}
