"""Readers that are fitted to the hidden states a run kept, and what they say of each trial."""
