"""A comparison in sentences, the same on the screen and on the page."""

from __future__ import annotations

from collections.abc import Iterator

from whycam.metrics.pairs.comparison import Comparison
from whycam.metrics.pairs.reader import GAINED, LOST, MOVED
from whycam.metrics.pairs.seeds import Line, SeedNoise

_FLIPS = {LOST: "right to wrong", GAINED: "wrong to right", MOVED: "wrong to another wrong"}
_NOISY = {True: "within noise", False: "beyond noise"}


def tell_points(value: float) -> str:
    """A difference of shares in points of a hundred, with its sign."""
    return f"{100 * value:+.1f}".replace("-", "−")


def tell_result(found: Comparison) -> Iterator[str]:
    """Who wins by how much, and how sure that is; how many photos flip."""
    yield from tell_difference(found)
    yield tell_flips(found)
    if found.noise:
        yield from tell_noise(found.noise)


def tell_difference(found: Comparison) -> Iterator[str]:
    """Who is right more often; without labels how often both say the same."""
    change, accuracy = found.difference, found.accuracy
    if change is None or accuracy is None:
        share, least, most = found.agreement
        yield (
            f"A and B name {share:.1%} of {len(found):,} photos alike (95 % interval {least:.1%} to {most:.1%}). The "
            "classes of the photos are not known, so it can't be said which of them is right."
        )
        return
    value, low, high = (tell_points(one) for one in (change.value, change.low, change.high))
    yield (
        f"B is right on {accuracy[1]:.1%} of {change.photos:,} photos, A on {accuracy[0]:.1%}: {value} points (95 % "
        f"interval {low} to {high}; McNemar's exact p {change.p:.2g})."
    )
    yield tell_verdict(found)


def tell_verdict(found: Comparison) -> str:
    """Whether other photos of the kind would show the same winner."""
    change = found.difference
    if change is None or not change.is_clear:
        return "Which of them is better can't be told from these photos."
    return f"{'B' if change.value > 0 else 'A'} is better: by chance alone so clear a difference is rare."


def tell_flips(found: Comparison) -> str:
    """How many photos flip, and how."""
    total = len(found.flips)
    listed = "; ".join(f"{count:,} {_FLIPS[kind]}" for kind, count in found.counts.items() if kind in _FLIPS)
    return f"{total:,} of {len(found):,} photos flip{f': {listed}' if listed else ''}."


def tell_noise(noise: SeedNoise) -> Iterator[str]:
    """What seeds alone give, and whether the pair is more than that."""
    others = noise.runs - noise.belongs
    who = f"A and {others} other runs of its training" if noise.belongs else f"{others} other runs of one training"
    if (line := noise.accuracy) is not None:
        about = f"{who} are right on {min(line.runs):.1%} to {max(line.runs):.1%}; "
        if noise.belongs:
            low, high = max(line.low, 0), min(line.high, 1)
            about += f"one more seed would be on {low:.1%} to {high:.1%}, and B is on {line.value:.1%}"
        else:
            about += f"two seeds would differ by {100 * line.high:.1f} points at the most, and B differs from A by "
            about += f"{tell_points(line.value)}"
        yield f"{about}: {_NOISY[line.is_within]}."
    yield f"{_tell_flip_line(noise.flips, noise, who)}: {_NOISY[noise.flips.is_within]}."
    yield tell_noise_verdict(noise)


def _tell_flip_line(line: Line, noise: SeedNoise, who: str) -> str:
    begin = "Two of them" if noise.accuracy is not None else f"Two of {who}"
    end = "B differs from them in" if noise.belongs else "A and B differ in"
    return (
        f"{begin} differ in {line.usual:.1%} of the photos, and one more seed would in {line.high:.1%} at the most; "
        f"{end} {line.value:.1%}"
    )


def tell_noise_verdict(noise: SeedNoise) -> str:
    """One sentence: is it more than another seed?"""
    if noise.is_within:
        return "Within noise: another seed of the same training differs as much."
    lines = {"the accuracy": noise.accuracy, "the flips": noise.flips}
    beyond = " and ".join(name for name, line in lines.items() if line is not None and not line.is_within)
    return f"Beyond noise: another seed would not explain {beyond}, but for one time in twenty."
