"""What cleanlab's and CleanVision's checks say of the photos that the audit's benchmark planted causes in.

Both are under the AGPL, so nothing of ours imports them: this file runs in an environment of its own
(`python -m venv PEERS; PEERS/bin/pip install "cleanlab[image]"`), imports nothing of whycam, and reads the folders that
`audit.py prepare` left.

    PEERS/bin/python benchmarks/audit_peers.py --work FOLDER --part 1/2
    PEERS/bin/python benchmarks/audit_peers.py --work FOLDER --summary      results/audit_peers.md and .json
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import time
import traceback
from collections import Counter
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from common import RESULTS, save, write_table

# cleanlab warns of a property whose score is under this, its default; 1 is no correlation, 0 a perfect one.
THRESHOLD = 0.3
PROPERTIES = ("dark", "light", "low_information", "odd_aspect_ratio", "odd_size", "grayscale", "blurry")
# What of CleanVision's properties would be the right name for a planted cause; of the others there is none.
RIGHT = {
    "compression": ("blurry", "low_information"),
    "resolution": ("blurry", "low_information"),
    "darkness": ("dark", "light"),
    "noise": ("blurry", "low_information"),
    "contrast": ("low_information", "dark", "light"),
    "saturation": ("grayscale",),
    "vignette": ("dark", "light"),
    "tint": (),
}
ABOUT = """Datalab's spurious-correlations check (cleanlab {cleanlab}, on the scores of CleanVision {cleanvision}) on
the audited photos of the trainings of audit.md, with its default threshold. It tells of each of seven properties of the
photos how well it alone predicts the label, over all classes; it asks no model and names no class. Asked by us for each
class against as many photos of the rest, it names one (of unequal numbers its score is near 0 for every property).
CleanVision alone flags photos and reads no labels. Right is a warning of a property that the cause would be called:
darkness dark or light; resolution, compression and noise blurry or low_information; contrast low_information, dark or
light; saturation grayscale; vignette dark or light; it has no name for a tint, nor for marks, things and grounds. A
training counts where the cause is on one class and on at least 0.6 of its photos, whether the model relies on it or
not: the check knows no model."""


def check(about: dict[str, Any]) -> dict[str, Any]:
    """The scores of each property, for all labels and for each class against the rest; what is flagged."""
    from cleanlab import Datalab  # noqa: PLC0415 - the summary needs none of them
    from cleanlab.datalab.internal.adapter.imagelab import handle_spurious_correlations  # noqa: PLC0415
    from cleanvision import Imagelab  # noqa: PLC0415
    from datasets import Dataset, Image  # noqa: PLC0415

    paths, labels = (list(values) for values in zip(*about["samples"], strict=True))
    start = time.perf_counter()
    photos = Dataset.from_dict({"image": paths, "label": labels}).cast_column("image", Image())
    with contextlib.redirect_stdout(io.StringIO()):
        lab = Datalab(data=photos, label_name="label", image_key="image", verbosity=0)
        every = {"image_issue_types": {name: {} for name in PROPERTIES}}
        lab.find_issues(issue_types=every | {"spurious_correlations": {"threshold": THRESHOLD}})
        found = {"": lab.get_info("spurious_correlations")}
        seconds = time.perf_counter() - start
        # The same check of a class against as many photos of the rest (of unequal numbers its score says nothing).
        images = Imagelab(hf_dataset=photos, image_key="image")
        images.find_issues(issue_types={name: {} for name in PROPERTIES}, verbose=False)
        for row, name in enumerate(about["class_names"]):
            is_own = np.array(labels) == row
            rest = np.random.default_rng(row).permutation(np.flatnonzero(~is_own))[: is_own.sum()]
            rows = np.sort([*np.flatnonzero(is_own), *rest])
            some = images.issues.iloc[rows].reset_index(drop=True)
            found[name] = handle_spurious_correlations(
                imagelab_issues=some, labels=is_own[rows].astype(int), threshold=THRESHOLD
            )
    tables = {name: one["correlations_df"] for name, one in found.items()}
    scores = {
        name: {str(p).removesuffix("_score"): float(v) for p, v in zip(one["property"], one["score"], strict=True)}
        for name, one in tables.items()
    }
    issues = images.issues
    kinds = [column.removeprefix("is_").removesuffix("_issue") for column in issues if column.startswith("is_")]
    planted = [path in about["planted"] for path in paths]
    flagged = {}
    for kind in kinds:
        said = issues[f"is_{kind}_issue"].tolist()
        own = [one for one, is_planted in zip(said, planted, strict=True) if is_planted]
        rest = [one for one, is_planted in zip(said, planted, strict=True) if not is_planted]
        flagged[kind] = [sum(own) / max(1, len(own)), sum(rest) / max(1, len(rest))]
    causes = [[about["class_names"][k] for k in one["labels"]] for one in about["causes"]]
    kept = ("key", "kind", "pool", "classes", "audited", "share", "where", "network")
    return {key: about[key] for key in kept} | {
        "causes": causes,
        "scores": scores,
        "flagged": flagged,
        "check_s": seconds,
    }


def warn(scores: dict[str, float]) -> list[str]:
    """The properties that cleanlab warns of."""
    return [name for name, score in scores.items() if score < THRESHOLD]


def count(rows: list[dict[str, Any]]) -> tuple[list[list[object]], dict[str, Any]]:
    """A line for each kind of cause, and the totals."""
    table, totals = [], Counter[str]()
    for kind in sorted({row["kind"] for row in rows} - {"clean"}, key=lambda kind: (kind not in RIGHT, kind)):
        own = [row for row in rows if row["kind"] == kind and row["where"] == "one" and row["share"] >= 0.6]
        right = sum(bool(set(warn(row["scores"][""])) & set(RIGHT.get(kind, ()))) for row in own)
        by_class = sum(
            any(set(warn(row["scores"][name])) & set(RIGHT.get(kind, ())) for name in row["causes"][0]) for row in own
        )
        other = sum(bool(set(warn(row["scores"][""])) - set(RIGHT.get(kind, ()))) for row in own)
        best = [max((row["flagged"][p][0] - row["flagged"][p][1] for p in row["flagged"]), default=0.0) for row in own]
        table.append([kind, len(own), right, by_class, other, sum(best) / len(best) if best else 0.0])
        totals.update(cases=len(own), right=right, by_class=by_class)
        if kind in RIGHT:
            totals.update(properties=len(own), properties_right=right, properties_by_class=by_class)
    clean = [row for row in rows if row["kind"] == "clean"]
    small = [row for row in clean if row["audited"] <= 24]
    totals.update(
        clean=len(clean),
        clean_warned=sum(bool(warn(row["scores"][""])) for row in clean),
        clean_warned_by_class=sum(any(warn(row["scores"][name]) for name in row["scores"] if name) for row in clean),
        clean_small=len(small),
        clean_small_warned=sum(bool(warn(row["scores"][""])) for row in small),
    )
    return table, dict(totals)


def write_summary(work: Path, out: Path) -> None:
    """results/audit_peers.md and .json."""
    rows = [json.loads(path.read_text()) for path in sorted((work / "peers").glob("*.json"))]
    table, n = count(rows)
    head = ["cause", "trainings", "warned rightly", "by class", "warned of others", "flagged more by"]
    pools = []
    for pool in sorted({row["pool"] for row in rows}):
        own = [row for row in rows if row["kind"] == "clean" and row["pool"] == pool]
        said = Counter(name for row in own for name in warn(row["scores"][""]))
        pools.append([pool, len(own), sum(bool(warn(row["scores"][""])) for row in own), dict(said.most_common())])
    lines = [
        "# cleanlab and CleanVision on the photos of the audit's benchmark",
        ABOUT.format(cleanlab=version("cleanlab"), cleanvision=version("cleanvision")),
        "",
        f"Warned rightly of properties: **{n.get('properties_right', 0)} of {n.get('properties', 0)}** (with the class "
        f"named {n.get('properties_by_class', 0)}); of all causes {n.get('right', 0)} of {n.get('cases', 0)}. Warned "
        f"on clean photos: **{n['clean_warned']} of {n['clean']}**, with classes against the rest "
        f"{n['clean_warned_by_class']}; of those of 24 photos a class or fewer {n['clean_small_warned']} of "
        f"{n['clean_small']}.",
        "",
        *write_table(head, table),
        "",
        "The last column: the share of planted photos that CleanVision flags by its best check, less that of others.",
        "",
        *write_table(["clean photos", "trainings", "warned", "of"], pools),
        "",
    ]
    save("audit_peers", lines, {"figures": n, "rows": rows}, out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="the folder of audit.py")
    parser.add_argument("--part", default="1/1", help="2/4: the second of four parts")
    parser.add_argument("--only", help="a kind or a case")
    parser.add_argument("--summary", action="store_true")
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    if args.summary:
        write_summary(args.work, args.out)
        return
    number, parts = (int(text) for text in args.part.split("/"))
    (args.work / "peers").mkdir(exist_ok=True)
    for path in sorted(args.work.glob("cases/*/case.json"))[number - 1 :: parts]:
        about, target = json.loads(path.read_text()), args.work / "peers" / f"{path.parent.name}.json"
        if target.exists() or args.only not in {None, about["kind"], about["key"]}:
            continue
        try:
            row = check(about)
        except Exception:  # noqa: BLE001 - one set of two hundred; told, and not counted
            print(about["key"], traceback.format_exc(limit=-2), flush=True)
            continue
        target.write_text(json.dumps(row, indent=1))
        print(about["key"], warn(row["scores"][""]), f"{row['check_s']:.1f} s", flush=True)


if __name__ == "__main__":
    main()
