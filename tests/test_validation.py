"""What measures an epoch, a sample or all held-out photos, and which epoch is kept."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from whycam.config import make_train_options
from whycam.show import plots
from whycam.train.draws import choose_sample, split_batches
from whycam.train.epochs import Epoch, find_best
from whycam.train.loop import Batches, Phase, fit, measure

LABELS = torch.arange(5).repeat_interleave(torch.tensor([100, 90, 80, 60, 20]))


def test_all_photos_measure_an_epoch_that_trains_longer_than_they_take() -> None:
    options = make_train_options(head="conv", batch_size=32)
    assert choose_sample(LABELS, 6, options) is None
    assert choose_sample(LABELS, 32, options) is None
    assert choose_sample(LABELS, 2, make_train_options(head="conv", val_photos=350)) is None


def test_a_short_epoch_is_measured_by_as_many_photos_as_it_trains_on() -> None:
    """The original experiment: 2 batches of 32 train, so 2 measure, each class with its share of them."""
    options = make_train_options(recipe="vgg16-gap")
    rows = choose_sample(LABELS, 2, options)
    assert rows is not None
    assert len(set(rows.tolist())) == 64
    wanted = torch.bincount(LABELS) * 64 / 350
    assert float((torch.bincount(LABELS[rows]) - wanted).abs().max()) <= 1
    again, other = (choose_sample(LABELS, 2, make_train_options(recipe="vgg16-gap", seed=seed)) for seed in (0, 1))
    assert again is not None
    assert other is not None
    assert torch.equal(rows, again)
    assert not torch.equal(rows, other)
    few = choose_sample(LABELS, 2, make_train_options(val_photos=10))
    assert few is not None
    assert len(few) == 10


def test_a_sample_of_many_classes_is_not_of_the_first_ones() -> None:
    labels = torch.arange(400).repeat_interleave(3)
    rows = choose_sample(labels, 1, make_train_options(head="conv"))
    assert rows is not None
    assert len(labels[rows].unique()) == 32
    assert 120 < float(labels[rows].double().mean()) < 280


@pytest.mark.parametrize("count", [1, 31, 32, 33, 34, 64, 65, 97])
def test_each_photo_is_in_one_batch_and_none_is_alone(count: int) -> None:
    batches = split_batches(range(count), 32)
    assert sorted(row for batch in batches for row in batch) == list(range(count))
    assert all(len(batch) > 1 for batch in batches) or count == 1
    assert max(len(batch) for batch in batches) <= 33


class Line(nn.Module):
    """Two classes; the second's logit is offset + slope * t, for inputs (offset, slope)."""

    def __init__(self) -> None:
        super().__init__()
        self.t = nn.Parameter(torch.zeros(()))

    def forward(self, inputs: Tensor) -> Tensor:
        """(N, 2) logits."""
        z = inputs[:, 0] + self.t * inputs[:, 1]
        return torch.stack([torch.zeros_like(z), z], dim=1)


def make_phase(model: Line, **words: object) -> Phase:
    """Adam moves t up by 0.1 a step, 0.2 an epoch."""
    phase = Phase("head", model, model, [{"params": [model.t], "lr": 0.1}], 12, 2, 0, "constant", 0.0, 0)
    return replace(phase, **words)  # type: ignore[arg-type]


def train_batches(_epoch: int) -> Iterator[tuple[Tensor, ...]]:
    for _ in range(2):
        yield torch.tensor([[0.0, 1.0]]), torch.tensor([1])


def make_val(photos: list[list[float]], seen: Counter[int] | None = None) -> Batches:
    """Validation photos of the second class."""

    def val(epoch: int) -> Iterator[tuple[Tensor, ...]]:
        if seen is not None:
            seen[epoch] += len(photos)
        yield torch.tensor(photos), torch.ones(len(photos), dtype=torch.int64)

    return val


def run_fit(path: Path, val: Batches, sample: Batches | None, **words: object) -> tuple[list[Epoch], Line, list[Epoch]]:
    model, told = Line(), []
    path.mkdir(exist_ok=True)
    lines = fit(
        make_phase(model, **words),
        train_batches,
        val,
        path / "head.pt",
        on_epoch=told.append,
        on_step=lambda: None,
        val_sample=sample,
    )
    return lines, model, told


# Right only at the beginning, right only at the end, and 6 others like the latter.
EARLY, LATE = [0.5, -1.0], [-2.1, 1.0]
PHOTOS = [EARLY, LATE, *[[-1.9 + i / 100, 1.0] for i in range(6)]]


def test_the_sample_names_the_best_few_and_all_photos_choose_among_them(tmp_path: Path) -> None:
    """The sample has only the photo that training unlearns; the last epoch is far better, and is kept."""
    seen: Counter[int] = Counter()
    lines, model, told = run_fit(tmp_path, make_val(PHOTOS, seen), make_val([EARLY]))
    assert seen == dict.fromkeys([0, 1, 2, 11], 8)
    whole = [line.epoch for line in lines if line.is_val_whole]
    assert whole == sorted(seen)
    assert {line.val_photos for line in lines if line.is_val_whole} == {8}
    assert {line.val_photos for line in lines if not line.is_val_whole} == {1}
    assert find_best(lines) == 11
    assert measure(model, make_val(PHOTOS)(0))[:3] == (lines[11].val_loss, lines[11].val_accuracy, 8)
    assert lines[11].val_accuracy == 7 / 8
    assert [line.epoch for line in told] == [*range(12), *whole]


def test_an_earlier_epoch_is_kept_where_all_photos_say_so(tmp_path: Path) -> None:
    """Of the epochs that the sample names, the best is not the last, and its state comes back."""
    lines, model, _ = run_fit(tmp_path, make_val([EARLY, EARLY, LATE]), make_val([EARLY]))
    best = find_best(lines)
    assert best == 0
    assert float(model.t.detach()) == pytest.approx(0.2, abs=0.01)
    assert measure(model, make_val([EARLY, EARLY, LATE])(0))[1] == lines[best].val_accuracy == 2 / 3


def test_without_a_sample_each_epoch_is_measured_on_all_photos_once(tmp_path: Path) -> None:
    seen: Counter[int] = Counter()
    lines, model, told = run_fit(tmp_path, make_val(PHOTOS, seen), None)
    assert seen == dict.fromkeys(range(12), 8)
    assert told == lines
    assert all(line.is_val_whole and line.val_photos == 8 for line in lines)
    ranks = [(line.val_accuracy, -line.val_loss) for line in lines]
    best = ranks.index(max(ranks))
    assert find_best(lines) == best
    assert measure(model, make_val(PHOTOS)(0))[0] == lines[best].val_loss


def test_a_lucky_sample_does_not_end_a_training_whose_loss_still_falls(tmp_path: Path) -> None:
    """Both photos are right by chance or wrong for good; with t the loss falls by more than it rises."""
    photos = [EARLY, [-10.0, 2.0]]
    whole, _, _ = run_fit(tmp_path / "whole", make_val(photos), None, patience=3)
    sampled, _, _ = run_fit(tmp_path / "sampled", make_val(photos), make_val(photos), patience=3)
    assert len(whole) == 5
    assert len(sampled) == 12
    flat, _, _ = run_fit(tmp_path / "flat", make_val([EARLY]), make_val([EARLY]), patience=3)
    assert len(flat) == 4


@pytest.mark.parametrize("stop_at", [0, 5, 11, 13])
def test_interrupted_training_goes_on_to_the_same_end(tmp_path: Path, stop_at: int) -> None:
    """After the first, a middle and the last epoch, and while the best ones are measured on all photos."""
    val, sample = make_val(PHOTOS), make_val([EARLY, LATE])
    expected, model, _ = run_fit(tmp_path / "whole", val, sample)
    left = iter(range(stop_at))

    def stop(_: Epoch) -> None:
        if next(left, None) is None:
            raise KeyboardInterrupt

    (tmp_path / "cut").mkdir()
    with pytest.raises(KeyboardInterrupt):
        fit(
            make_phase(Line()),
            train_batches,
            val,
            tmp_path / "cut" / "head.pt",
            on_epoch=stop,
            on_step=lambda: None,
            val_sample=sample,
        )
    lines, again, told = run_fit(tmp_path / "cut", val, sample)
    assert len(told) == len(expected) - min(stop_at + 1, 12) + sum(line.is_val_whole for line in lines)
    assert [replace(line, time_s=0) for line in lines] == [replace(line, time_s=0) for line in expected]
    assert torch.equal(again.t, model.t)
    kept = {path.name for path in (tmp_path / "cut").iterdir()}
    assert kept == {"head.pt", *(f"head-{line.epoch}.pt" for line in lines if line.is_val_whole)}


def test_a_checkpoint_without_its_states_is_not_gone_on_with(tmp_path: Path) -> None:
    expected, model, _ = run_fit(tmp_path, make_val(PHOTOS), None)
    (tmp_path / f"head-{find_best(expected)}.pt").unlink()
    lines, again, told = run_fit(tmp_path, make_val(PHOTOS), None)
    assert len(told) == len(lines) == 12
    assert torch.equal(again.t, model.t)


def test_the_curves_say_what_is_of_a_sample(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figures: list[Figure] = []
    monkeypatch.setattr(plots, "save_figure", lambda figure, _: figures.append(figure))
    line = Epoch("head", 0, 1.0, 0.5, 1.0, 0.5, 0.1, 1.0, 64, is_val_whole=False)
    lines = [replace(line, epoch=i, val_accuracy=0.9 - i / 10) for i in range(4)]
    lines[2:] = [replace(one, val_photos=350, is_val_whole=True) for one in lines[2:]]
    plots.plot_curves(lines, tmp_path)
    plots.plot_curves([replace(one, is_val_whole=True) for one in lines], tmp_path)
    drawn = [{str(one.get_label()): list(one.get_xdata()) for one in figure.axes[0].lines} for figure in figures]
    assert drawn[0]["val, a sample of 64 photos"] == [1, 2]
    assert drawn[0]["val, all 350 photos"] == [3, 4]
    assert "best epoch (3)" in drawn[0]
    assert drawn[2]["val"] == [1, 2, 3, 4]
    assert "best epoch (1)" in drawn[2]
