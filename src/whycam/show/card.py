"""The model card: evidence in Markdown, with the front matter that Hugging Face reads."""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib import resources

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from whycam.show.evidence import NO_CLAIM, Evidence, Fact, Section, tell_value

# So many findings are told; the evidence has all.
_FINDINGS = 10
# A card is published: folders and commands name places on somebody's disk.
_PRIVATE = ("folder", "list or shards", "what was left out of these", "command")


def render_card(evidence: Evidence, head: str, license_name: str | None) -> str:
    """The card as Markdown.

    Args:
        evidence: what it tells.
        head: of the model; with a linear one plain timm loads it.
        license_name: as Hugging Face names it; None where the owner does not say it.
    """
    data = ModelCardData(
        model_name=evidence.name,
        license=license_name,
        library_name="timm" if head == "linear" else "whycam",
        pipeline_tag="image-classification",
        tags=["image-classification", "class-activation-map", "whycam"],
        metrics=["accuracy"],
        eval_results=[_make_result(evidence)],
    )
    findings = evidence["findings"]
    found = [part for part in findings.parts if part.key not in {"done", "edits"}]
    others = [part for part in findings.parts if part.key in {"done", "edits"} and part.facts]
    card = ModelCard.from_template(
        data,
        template_str=(resources.files("whycam.show") / "templates" / "card.md").read_text(encoding="utf-8"),
        title=escape(evidence.name),
        head=head,
        model=_to_rows(evidence["model"].facts),
        purpose=next((escape(str(one.value)) for one in evidence["model"].facts if one.name.startswith("purpose")), ""),
        quality=_to_rows(evidence["quality"].facts),
        quality_parts=[(escape(part.title), _to_rows(part.facts)) for part in evidence["quality"].parts if part.facts],
        measures=escape(evidence["measures"].note),
        audit=_to_rows(findings.facts),
        has_audit=bool(findings.facts),
        audit_note=escape(findings.note),
        findings=[(escape(part.title), _sum_up(part)) for part in found[:_FINDINGS]],
        more=max(0, len(found) - _FINDINGS),
        # Their notes say who said it.
        done=[(escape(part.title), _to_rows(part.facts, has_notes=False)) for part in others],
        making=[(escape(part.title), _to_rows(part.facts)) for part in evidence["making"].parts[:2]],
        versions=[(escape(part.title), _to_rows(part.facts)) for part in evidence["changes"].parts],
        made=f"{evidence.versions['whycam']}, {evidence.made[:10]}",
        no_claim=NO_CLAIM,
    )
    return str(card).rstrip() + "\n"


def _make_result(evidence: Evidence) -> EvalResult:
    accuracy = evidence["quality"].facts[0]
    data = next(part for part in evidence["making"].parts if part.key == "data")
    folder, digest = (
        next(one.value for one in data.facts if one.name.startswith(w)) for w in ("folder", "fingerprint")
    )
    return EvalResult(
        task_type="image-classification",
        dataset_type="imagefolder",
        dataset_name=re.split(r"[/\\]", str(folder).rstrip("/\\"))[-1] or "photos",
        dataset_split="held out",
        dataset_revision=str(digest),
        metric_type="accuracy",
        metric_name="accuracy",
        metric_value=accuracy.value,
    )


def _to_rows(facts: Sequence[Fact], *, has_notes: bool = True) -> list[tuple[str, str]]:
    """(what, value and note) of each, fit for a cell of a table; without what says where things lie on a disk."""
    rows = []
    for fact in facts:
        note = f"; {fact.note}" if has_notes and fact.note else ""
        if fact.name not in _PRIVATE:
            rows.append((escape(fact.name), escape(tell_value(fact) + note)))
    return rows


def _sum_up(finding: Section) -> str:
    """A sentence on how sure and how costly it is, and on what was done."""
    told = {fact.name: tell_value(fact) for fact in finding.facts}
    return escape(f"cost {told['cost']}, certainty {told['certainty']}; {told['what was done']}")


def escape(text: str) -> str:
    """Text that Markdown and HTML take as it is, in one line; also in a table's cell."""
    return (
        re.sub(r"([\\`*_\[\]<>|#~&])", r"\\\1", " ".join(text.split())).replace("\\<", "&lt;").replace("\\&", "&amp;")
    )
