"""Whether the weights of a model have changed since something was derived from them."""

from torch import nn


class Source:
    """Remembers the parameters, buffers and modules of a model, and whether their numbers changed since."""

    def __init__(self, module: nn.Module) -> None:
        """Remember their current values."""
        self._entries = [
            (held, name, value)
            for one in module.modules()
            for held in (one._parameters, one._buffers, one._modules)  # noqa: SLF001 - a walk by names takes far longer
            for name, value in held.items()
        ]
        tensors = [*module.parameters(), *module.buffers()]
        self._versions = [(tensor, tensor._version, tensor.data_ptr()) for tensor in tensors]  # noqa: SLF001 - as above
        self._numel = sum(tensor.numel() for tensor in tensors)

    def numel(self) -> int:
        """Return how many numbers there are."""
        return self._numel

    def unchanged(self) -> bool:
        """Say whether they are the same objects with the same numbers, as far as torch counts changes in place."""
        return all(held.get(name) is value for held, name, value in self._entries) and all(
            tensor._version == version and tensor.data_ptr() == address  # noqa: SLF001 - as above
            for tensor, version, address in self._versions
        )
