"""What to run, and what counts as an answer. Importing this never imports torch or ray."""
