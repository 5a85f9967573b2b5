"""Counts what models launch: operators that reach the dispatcher and are no views."""

from collections import Counter

from torch.utils._python_dispatch import TorchDispatchMode


class Launches(TorchDispatchMode):
    """Counts operators by name within the block, while it is `on`; on a GPU each is a kernel or more."""

    def __init__(self):
        super().__init__()
        self.names, self.on = Counter(), True

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket._qualified_op_name.removeprefix("aten::")
        if self.on and not function.is_view and name != "_unsafe_view":
            self.names[name] += 1
        return function(*args, **(kwargs or {}))


def launches(step):
    """Return the names of what one step launches, and how often."""
    with Launches() as counted:
        step()
    return counted.names
