"""SPA: a few gold pairs, then the model's own."""
