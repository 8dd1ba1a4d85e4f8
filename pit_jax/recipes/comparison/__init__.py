"""From trained models to answers, verdicts and tables."""
