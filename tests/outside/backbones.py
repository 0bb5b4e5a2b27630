"""Models with a head of their own, from outside the package: with views and without."""

import flax.linen as nn

from noisy_student_jax.models import views as views_of
from noisy_student_jax.models.head import Head


class Striped(nn.Module):
    """One convolution, whose pooled output the classifier reads."""

    outputs: int
    views: int = 1

    @nn.compact
    def __call__(self, images, train=False, noise=None):
        count = 1 if train else self.views
        hidden = nn.relu(nn.Conv(6, (3, 3))(views_of.stacked(images, count)))
        pooled = views_of.averaged(hidden.mean((1, 2)), count)
        logits = nn.Dense(self.outputs, name="classifier")(pooled)
        return {"logits": logits, "pooled": pooled, "features": {}}

    @property
    def head(self):
        return Head(self.outputs, 0.0)


def in_views(*, outputs, views=1):
    return Striped(outputs, views)


def in_one(*, outputs):
    return Striped(outputs)


def in_any(**given):
    return Striped(**given)


for one in (in_views, in_one, in_any):
    one.default_resolution = 8
