"""Property tests are judged by their properties: a busy machine must not fail them."""

from hypothesis import settings

settings.register_profile("data", deadline=None, max_examples=50)
settings.load_profile("data")
