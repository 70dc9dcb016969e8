"""What a model knows of itself: tests that are held against observers of equal cost, their verdicts and figures.

`measured` gives the trials as frames; `readout` and `ladder` put every observer on one axis; `faithfulness`,
`reasoning` and `unusual` are for the tests that need more; `exam` gathers all that is known of one model under one
test, `verdict` says it in a line, and `section` is what a report shows of it."""
