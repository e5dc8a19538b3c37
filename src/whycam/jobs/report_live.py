"""`whycam report --live`: the network in the page, if the page stays small enough to be sent."""

from __future__ import annotations

import shlex

from whycam.config import ReportOptions
from whycam.errors import UserError
from whycam.explainer.model import Model
from whycam.intake.door import open_classifier
from whycam.show.web.embedded import TEXT_SHARE, EmbeddedNetwork, embed_network
from whycam.show.web.runtime import PACKED, find_runtime

# What goes by e-mail or opens by a double click without a long wait.
LIMIT_MB = 40.0


def make_live(name: str, options: ReportOptions) -> EmbeddedNetwork:
    """The network for the page, exported as `whycam export --format web` does.

    Args:
        name: the model's.
        options: of the report.

    Raises:
        UserError: a model without exact maps, one that can't be exported, one that is too large, or no
            onnxruntime-web.
    """
    model = Model(open_classifier(name, **options.describe_model() | {"device": "cpu"}, engine="torch"))
    network = model.classifier.exact_network
    runtime = find_runtime(options.runtime)
    weights_mb = sum(4 * values.numel() for values in network.state_dict().values()) / 1e6
    # Weights can be packed by a tenth at the most.
    least_mb = TEXT_SHARE * (0.9 * weights_mb + len(runtime.files[PACKED]) / 1e6)
    if least_mb > LIMIT_MB:
        raise _make_size_error(name, f"over {least_mb:.0f} MB, {weights_mb:.0f} MB of weights as text among them")
    return embed_network(model, runtime)


def check_page(page: str, live: EmbeddedNetwork, name: str) -> None:
    """Refuses a page that is too large.

    Raises:
        UserError: it is.
    """
    size_mb = len(page.encode("utf-8", errors="backslashreplace")) / 1e6
    if size_mb > LIMIT_MB:
        told = (
            f"{size_mb:.1f} MB, {live.size_mb:.1f} MB of the network and {size_mb - live.size_mb:.1f} MB of the report"
        )
        raise _make_size_error(name, told, "Show fewer photos (--limit). Or: ")


def _make_size_error(name: str, told: str, first: str = "") -> UserError:
    export = shlex.join(["whycam", "export", name, "-o", "site", "--format", "web"])
    return UserError(
        f"With the network in it the page would have {told}; expected {LIMIT_MB:g} MB at the most. {first}Make a site "
        f"of the network, which has room for more: {export}; and the report without --live."
    )
