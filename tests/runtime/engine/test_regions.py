"""Which modules of a stage are compiled by themselves."""

from torch import nn

from pipecut.runtime.engine.regions import regions


class Block(nn.Module):
    """A layer."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 2)

    def forward(self, x: object) -> object:
        """Two operators."""
        return self.linear(x)


class Head(Block):
    """What follows the layers."""

    def forward(self, x: object) -> object:
        """Two operators."""
        return self.linear(x)


class Stage(nn.Module):
    """Layers in a container, and what is around them."""

    def __init__(self, layers: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(4, 2)
        self.layers = nn.ModuleDict({str(number): Block() for number in range(3, 3 + layers)})
        self.head = Head()

    def forward(self, x: object) -> object:
        """Not called."""
        return x


def test_layers_that_are_alike_are_regions_and_so_is_what_follows_them() -> None:
    stage = Stage(2)
    assert regions(stage) == [stage.layers["3"], stage.layers["4"], stage.head]


def test_a_stage_of_one_layer_is_compiled_whole() -> None:
    assert regions(Stage(1)) == []
