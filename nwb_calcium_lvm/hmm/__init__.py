"""Hidden Markov models of calcium imaging."""
