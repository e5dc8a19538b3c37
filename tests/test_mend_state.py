"""What edits come to: the later counts, what is undone does not, and the order of what is sent twice is no matter."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from whycam.data.folder import PhotoFolder, Sample
from whycam.errors import UserError
from whycam.mend.apply import Applied, find_photos
from whycam.mend.edits import Edit, make_edit
from whycam.mend.journal import read_lines
from whycam.mend.state import State, replay
from whycam.runs import to_json

A, B, C = "a" * 32, "b" * 32, "c" * 32
LEFT, RIGHT = {"boxes": [[0, 0, 0.4, 1]]}, {"boxes": [[0.6, 0, 1, 1]]}
MARK = {"id": "shortcut-x-1", "kind": "shortcut", "class": "x", "region": {"name": "corner", "boxes": [[0, 0, 1, 1]]}}
MARK |= {"numbers": {"found_by": "mark"}, "photos": []}


def say(*lines: tuple[str, dict[str, Any]]) -> State:
    return replay([make_edit(kind, id=str(k), who="Ann", **words) for k, (kind, words) in enumerate(lines)])


def test_the_later_counts_and_both_are_listed() -> None:
    state = say(
        ("label", {"photo": A, "label": "x", "path": "y/a.jpg"}),
        ("label", {"photo": A, "label": "z"}),
        ("label", {"photo": B, "label": "x"}),
        ("right", {"photo": B, "label": "x"}),
        ("leave-out", {"photo": C}),
        ("leave-out", {"photo": C}),
    )
    assert {photo: said.label for photo, said in state.photos.items()} == {A: "z", B: "x", C: None}
    assert state.photos[C].is_left_out
    assert [(one.photo, one.first.id, one.later.id) for one in state.conflicts] == [(A, "0", "1")]
    assert "On 'y/a.jpg' two disagree: Ann at " in state.conflicts[0].tell()
    assert "it is 'x'" in state.conflicts[0].tell()


def test_what_is_undone_does_not_count_and_no_longer_disagrees() -> None:
    lines = [("label", {"photo": A, "label": "x"}), ("leave-out", {"photo": A}), ("undo", {"of": "1"})]
    state = say(*lines)
    assert state.photos[A].label == "x"
    assert state.conflicts == ()
    # An undoing edit may be undone, too.
    state = say(*lines, ("undo", {"of": "2"}))
    assert state.photos[A].is_left_out
    assert len(state.conflicts) == 1


@pytest.mark.parametrize("of", ["none", "1", "0"])
def test_what_undoes_nothing_is_told(of: str) -> None:
    """One that is not there, a later one, and itself."""
    state = say(("undo", {"of": of}), ("leave-out", {"photo": A}))
    assert state.photos[A].is_left_out
    assert f"undoes {of!r}, which is no edit before it" in state.notes[0]


def test_drawings_add_up_and_of_two_that_lie_over_each_other_the_later_counts() -> None:
    state = say(("not-object", {"photo": A, "region": LEFT}), ("not-object", {"photo": A, "region": RIGHT}))
    assert len(state.photos[A].not_object) == 2
    assert state.conflicts == ()
    state = say(
        ("not-object", {"photo": A, "region": LEFT}),
        ("not-object", {"photo": A, "region": RIGHT}),
        ("object", {"photo": A, "region": LEFT}),
    )
    assert [one.boxes for one in state.photos[A].not_object] == [((0.6, 0, 1, 1),)]
    assert [one.boxes for one in state.photos[A].object] == [((0, 0, 0.4, 1),)]
    assert [(one.first.id, one.later.id) for one in state.conflicts] == [("0", "2")]


def test_a_cause_counts_once_whoever_found_it_and_may_be_dismissed() -> None:
    again = MARK | {"id": "shortcut-x-2", "region": {"name": "corner", "boxes": [[0, 0, 0.9, 1]]}}
    state = say(("cure", {"finding": MARK}), ("cure", {"finding": again}))
    assert [(edit.finding or {})["id"] for edit in state.cures] == ["shortcut-x-2"]
    state = say(("cure", {"finding": MARK}), ("dismiss", {"finding": again}))
    assert state.cures == ()
    assert len(state.dismissed) == len(state.conflicts) == 1
    told = {"kind": "data", "id": "data-x-1", "class": "x", "numbers": {"properties": ["file-size", "jpeg-quality"]}}
    proven = {
        "kind": "shortcut",
        "id": "s",
        "class": "x",
        "numbers": {"found_by": "property", "property": "jpeg-quality"},
    }
    assert len(say(("cure", {"finding": told}), ("cure", {"finding": proven})).cures) == 1


EDITS = st.one_of(
    st.builds(dict, kind=st.just("label"), photo=st.sampled_from([A, B, C]), label=st.sampled_from(["x", "y", "z"])),
    st.builds(dict, kind=st.just("right"), photo=st.sampled_from([A, B, C]), label=st.sampled_from(["x", "y"])),
    st.builds(dict, kind=st.just("leave-out"), photo=st.sampled_from([A, B, C])),
    st.builds(
        dict, kind=st.sampled_from(["object", "not-object"]), photo=st.just(A), region=st.sampled_from([LEFT, RIGHT])
    ),
    st.builds(dict, kind=st.sampled_from(["cure", "dismiss"]), finding=st.just(MARK)),
    st.builds(dict, kind=st.just("undo"), of=st.integers(0, 12).map(str)),
)


def number(words: list[dict[str, Any]]) -> list[Edit]:
    return [make_edit(**{"time": f"t{k}", **one}, id=str(k), who="Ann") for k, one in enumerate(words)]


@settings(max_examples=60, deadline=None)
@given(st.lists(EDITS, max_size=12), st.integers(0, 5000), st.randoms())
def test_any_part_of_a_journal_replays_to_what_was_said_so_far(
    words: list[dict[str, Any]], end: int, draw: Any
) -> None:
    """A file that is cut anywhere, with lines sent again anywhere behind themselves, is its whole lines, each once."""
    edits = number(words)
    lines = [to_json(edit.to_json()) for edit in edits]
    cut = b"".join(lines)[:end]
    found = read_lines(cut)
    assert replay(found.edits) == replay(edits[: len(found.edits)])
    again = list(lines)
    for _ in range(draw.randint(0, 6) if lines else 0):
        line = draw.choice(lines)
        again.insert(draw.randint(again.index(line) + 1, len(again)), line)
    assert replay(read_lines(b"".join(again)).edits) == replay(edits)


@settings(max_examples=40, deadline=None)
@given(st.lists(EDITS, max_size=12))
def test_the_state_is_that_of_a_slow_reference(words: list[dict[str, Any]]) -> None:
    """Verdicts, one by one from the back: the last that nothing undoes."""
    edits = number(words)
    state = replay(edits)

    def counts(edit: Edit) -> bool:
        later = edits[edits.index(edit) + 1 :]
        return not any(one.kind == "undo" and one.of == edit.id and counts(one) for one in later)

    for photo in (A, B, C):
        verdicts = [e for e in edits if e.photo == photo and e.kind in {"label", "right", "leave-out"} and counts(e)]
        said = state.photos.get(photo)
        assert (said.verdict if said else None) == (verdicts[-1] if verdicts else None)
    assert state.edits == tuple(edit for edit in edits if counts(edit))
    assert json.dumps([one.to_json() for one in state.conflicts])


ROOT = Path("/photos")
PATHS = {ROOT / "x" / f"{k}.jpg": A[:-1] + str(k) for k in range(4)} | {
    ROOT / "y" / f"{k}.jpg": B[:-1] + str(k) for k in range(4)
}


def make_photos(**about: Any) -> PhotoFolder:
    samples = [Sample(path, int(path.parent.name == "y")) for path in PATHS]
    held = [sample for sample in samples if sample.path.stem == "3"]
    train = [sample for sample in samples if sample not in held]
    return PhotoFolder(ROOT, ("x", "y"), tuple(train), tuple(held), True, **about)


def apply(*lines: tuple[str, dict[str, Any]]) -> Applied:
    return find_photos(say(*lines), ROOT, PATHS)


def label_all(folder: PhotoFolder) -> dict[str, str]:
    return {str(s.path.relative_to(ROOT)): folder.class_names[s.label] for s in folder.samples}


def test_labels_change_photos_go_and_the_split_stays() -> None:
    photos = make_photos()
    assert apply().edit(photos) == photos
    edited = apply(
        ("label", {"photo": PATHS[ROOT / "x" / "0.jpg"], "label": "y"}),
        ("leave-out", {"photo": PATHS[ROOT / "y" / "1.jpg"]}),
        ("right", {"photo": PATHS[ROOT / "y" / "2.jpg"], "label": "y"}),
    ).edit(photos)
    before = label_all(photos)
    assert label_all(edited) == {k: v for k, v in before.items() if k != "y/1.jpg"} | {"x/0.jpg": "y"}
    assert edited.val == photos.val
    assert [sample.label for sample in edited.train] == sorted(sample.label for sample in edited.train)


def test_a_class_is_made_up_only_where_that_is_said() -> None:
    content = PATHS[ROOT / "x" / "0.jpg"]
    held = PATHS[ROOT / "x" / "3.jpg"]
    with pytest.raises(UserError, match=r"Unknown class 'yy'.*Did you mean 'y'.*is_new"):
        apply(("label", {"photo": content, "label": "yy"})).edit(make_photos())
    new = {"label": "a-new", "is_new": True}
    with pytest.raises(UserError, match=r"'a-new', which an edit says is new, has 1 photo to train on and 0 held out"):
        apply(("label", {"photo": content, **new})).edit(make_photos())
    lines = [("label", {"photo": photo, **new}) for photo in (content, held)]
    with pytest.raises(UserError, match="After the edits the class 'x' has 2 photos to train on and 0 held out"):
        apply(*lines).edit(make_photos())
    kept = apply(*lines).edit(make_photos(), allow_empty=True)
    assert kept.class_names == ("a-new", "y")
    assert kept.left_out == ("x",)
    assert {path for path, name in label_all(kept).items() if name == "a-new"} == {"x/0.jpg", "x/3.jpg"}
    both = apply(*lines, ("label", {"photo": PATHS[ROOT / "y" / "3.jpg"], "label": "x"}))
    with pytest.raises(UserError, match="After the edits the class 'y' has 3 photos to train on and 0 held out"):
        both.edit(make_photos())


def test_a_class_of_which_all_is_left_out_is_told() -> None:
    lines = [("leave-out", {"photo": PATHS[ROOT / "x" / f"{k}.jpg"]}) for k in range(4)]
    with pytest.raises(UserError, match=r"'x' has 0 photos to train on.*Undo edits.*--allow-empty"):
        apply(*lines).edit(make_photos())


def test_a_moved_photo_is_found_and_one_that_is_gone_or_changed_is_skipped(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "changed.jpg").write_bytes(b"other")
    state = say(
        ("label", {"photo": A, "label": "y", "path": "x/old-place.jpg"}),
        ("label", {"photo": B, "label": "y", "path": "x/changed.jpg"}),
        ("leave-out", {"photo": C, "path": "x/gone.jpg"}),
        ("leave-out", {"photo": "d" * 32, "path": "x/gone too.jpg"}),
    )
    applied = find_photos(state, tmp_path, {tmp_path / "y" / "new.jpg": A})
    assert applied.skipped.keys() == {B, C, "d" * 32}
    assert applied.notes == (
        "Edits of 2 photos were skipped, as they are no longer in the folder: 'x/gone too.jpg', 'x/gone.jpg'.",
        "Edits of 1 photo were skipped, as its file was changed since: 'x/changed.jpg'.",
    )
    assert list(applied.list_photos(tmp_path)) == ["y/new.jpg"]
