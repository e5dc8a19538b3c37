"""What the curves of a training count: in pictures, and on the report's page."""

from __future__ import annotations

# What a curve counts: of one class a photo, and of classes that go together, each at one half.
CURVES = {
    False: {"accuracy": "share of photos", "loss": "cross entropy, nats"},
    True: {"accuracy": "share of yes and no answers", "loss": "binary cross entropy, nats"},
}
