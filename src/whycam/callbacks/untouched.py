"""leave_untouched(): whatever is asked of a module inside, training goes on as if nobody had asked."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import numpy as np
import torch
from torch import nn

from whycam.model.cut.tail import undisturbed


@contextmanager
def leave_untouched(network: nn.Module) -> Iterator[None]:
    """Each part's train or eval mode, requires_grad, gradients, buffers, and the random states are as before after it.

    Within, the module is in eval mode, outside of inference mode and autocast. Weights are not copied: whoever writes
    into them inside changes them.
    """
    parameters = [(one, one.requires_grad, one.grad) for one in network.parameters()]
    buffers = [(one, one.detach().clone()) for one in network.buffers()]
    state, legacy = random.getstate(), np.random.get_state()
    kinds = {one.device.type for one, *_ in parameters} | {"cpu"}
    try:
        with ExitStack() as stack:
            stack.enter_context(undisturbed(network, with_grad=True))
            for kind in sorted(kinds - {"meta"}):
                stack.enter_context(torch.autocast(kind, enabled=False))
            yield
    finally:
        random.setstate(state)
        np.random.set_state(legacy)
        with torch.no_grad():
            for parameter, requires_grad, grad in parameters:
                parameter.requires_grad_(requires_grad)
                parameter.grad = grad
            for buffer, before in buffers:
                if not torch.equal(buffer, before):
                    buffer.copy_(before)
