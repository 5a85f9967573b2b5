import pytest
import torch


@pytest.fixture(scope="session")
def redrawn():
    """A function that gives each weight, norms too, a value that shows a wrong mapping, centred as training does."""

    def redraw(model):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.1)
        return model.center_residual_()

    return redraw
