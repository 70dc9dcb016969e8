"""What holds for every test."""

from hypothesis import settings

settings.register_profile("here", deadline=None)  # no test is about the time that a busy machine takes
settings.load_profile("here")
