"""What the model of this project keeps to. `pytest` runs it; what fails is shown in report/index.html."""

from pathlib import Path

from whycam.testing import assert_accuracy, assert_exact, assert_looks_at, assert_no_shortcut

HERE = Path(__file__).parents[1]
MODEL, PHOTOS, MASKS = HERE / "model", HERE / "photos", HERE / "masks"


def test_it_names_the_flowers():
    assert_accuracy(MODEL, PHOTOS, at_least=0.8)


def test_it_looks_at_the_flowers():
    assert_looks_at(MODEL, PHOTOS, MASKS, share=0.25, each_class=True)


def test_it_knows_no_flower_by_a_mark():
    assert_no_shortcut(MODEL, PHOTOS, kinds=["mark"])


def test_its_maps_are_its_scores():
    assert_exact(MODEL)
