import pytest

from skqprobe.losses import LOSSES, PairwiseHinge, get_loss


@pytest.mark.parametrize("name", LOSSES)
def test_get_loss_by_name(name):
    assert type(get_loss(name)) is LOSSES[name]


def test_get_loss_returns_a_loss_object_unchanged():
    loss = PairwiseHinge(margin=3)
    assert get_loss(loss) is loss
