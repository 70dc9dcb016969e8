"""Synthetic subjects: an engine without a model, whose every answer follows from what is known of the subject."""
