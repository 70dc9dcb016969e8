"""One process's share in a run: what is left to do, who gets it, what is lost and paid, what a person sees."""
